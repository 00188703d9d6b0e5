//! The scripted cloud as a program: `cargo run -p nearfield-testkit --example cloud_fake`.
//!
//! It prints its address, answers in the dialects of all providers, and under `GET /seen` tells what it was sent: method,
//! target, headers and body (in hexadecimal) of each request. A model whose name holds `breaks` fails in the middle of its
//! stream; one that a fault selects, such as `fault-S02`, does what that says, in a twentieth of its time. Checks under
//! `bench/` drive it with the providers' own client libraries. It ends with its standard input.

use std::io::Write as _;

use nearfield_testkit::cloud_server::CloudServer;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let server = CloudServer::start().await?;
    server.tell_what_was_seen();
    server.misbehave(1.0 / 20.0);
    writeln!(std::io::stdout(), "{}", server.address())?;
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()))
        .await
        .map_err(std::io::Error::other)?
        .map(|_| ())
}
