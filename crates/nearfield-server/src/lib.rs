//! Nearfield's server: the gateway that joins policy, ledger and backends, and the HTTP API in front of it.

pub mod changes;
pub mod gateway;
pub mod http;
pub mod keys;
pub mod limits;
pub mod local;
mod metrics;
pub mod offline;
pub mod tls;
