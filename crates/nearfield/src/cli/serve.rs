//! `nearfield serve`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nearfield_hub::HubError;
use nearfield_server::http::{DEFAULT_PORT, Server, ServerOptions, Shutdown};
use nearfield_server::keys::Authenticator;
use nearfield_server::offline;
use nearfield_server::tls::TlsFiles;
use serde_json::json;

use super::options::{ConfigArgs, EngineArgs, OfflineArgs};
use crate::app::App;
use crate::config::ServerSection;
use crate::failure::UsageError;
use crate::folders::variable;
use crate::gateway::Opened;
use crate::output::Stdout;

/// The environment variable with a key that takes the place of the generated one.
const KEY_VARIABLE: &str = "NEARFIELD_API_KEY";
/// Requests that may wait unless said otherwise: a burst of twice the slots is answered without anybody asking again.
const QUEUE: usize = 64;

/// Serve an OpenAI-compatible API
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeCommand {
    /// Load this model at once instead of with its first request; may be given several times
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,

    /// Requests that run at once [default: 32]
    #[arg(long, value_name = "N")]
    slots: Option<NonZeroUsize>,

    /// Requests that may wait for a slot; others get 503 with Retry-After, or spill by policy [default: 64]
    #[arg(long, value_name = "N")]
    queue: Option<usize>,

    /// Print one JSON object with address and key file instead of lines for people
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) offline: OfflineArgs,

    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    listen: ListenArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Where to listen, and for whom. Each goes before `[server]` of the configuration.
#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
struct ListenArgs {
    /// Name or address to listen on; beyond this machine only with TLS or --plaintext [default: 127.0.0.1]
    #[arg(long, value_name = "HOST", env = "NEARFIELD_HOST", hide_env_values = true)]
    host: Option<String>,

    /// Port; 0 takes a free one [default: 8420]
    #[arg(long, value_name = "PORT", env = "NEARFIELD_PORT", hide_env_values = true)]
    port: Option<u16>,

    /// Certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Serve without TLS beyond this machine: the network between must be trusted
    #[arg(long)]
    plaintext: bool,

    /// A further name under which clients may call this server; may be given several times
    #[arg(long, value_name = "HOST")]
    allowed_host: Vec<String>,

    /// An origin whose web pages may call this server; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  nearfield serve
  nearfield serve --model smollm2:135m --port 9000
  nearfield serve --offline
  nearfield serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --allowed-host box.example

Every request needs a key: the generated one, whose file is printed at the start, or one of `nearfield keys add`. \
NEARFIELD_API_KEY, where it is set, takes the place of the generated one. Ctrl-C lets running answers finish, a \
second Ctrl-C ends them.";

impl ServeCommand {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let config = self.config.load()?;
        let options = self.listen.options(&config.server)?;
        let mut engine = self.engine.options(&config.local);
        engine.slots = self.slots.map_or(engine.slots, NonZeroUsize::get);
        engine.queue = self.queue.or(config.local.queue).unwrap_or(QUEUE);
        let given = match variable(KEY_VARIABLE) {
            Some(key) => Some(key.into_string().map_err(|_| bad_key())?),
            None => None,
        };
        let keys = Authenticator::new(app.keys()?, given.as_deref())?;
        let hub = app.hub()?;
        for model in &self.model {
            hub.find(model)?.ok_or_else(|| HubError::NotInstalled { name: model.clone() })?;
        }
        let shutdown = Shutdown::new();
        shutdown.on_signals().context("cannot listen for signals")?;
        let server = Server::bind(options).await?;
        if app.is_offline() {
            // The port is taken, which needs a socket; nothing after this does.
            offline::seal()?;
        }
        let policy = match &config.rules {
            None => config.policy.mode.to_string(),
            Some(file) => format!("{} ({})", file.path().display(), file.rules.hash()),
        };
        let opened = Box::pin(Opened::new(app, config, hub, engine, false)).await?;
        if let Err(error) = self.preload(&opened).await {
            opened.close().await?;
            return Err(error);
        }
        let config = self.config.clone();
        opened.watch(app, Box::new(move || config.load()))?;
        self.announce(&server, &keys, &policy)?;
        let gateway = std::sync::Arc::clone(&opened.gateway);
        let served = Box::pin(server.run(gateway, keys, shutdown)).await;
        opened.close().await?;
        Ok(served?)
    }

    async fn preload(&self, opened: &Opened) -> Result<()> {
        for model in &self.model {
            let Some(local) = &opened.local else {
                bail!("{model} cannot be loaded: the configuration has no local engine answer");
            };
            local.prepare(model).await?;
        }
        Ok(())
    }

    /// Says where the server is. The key itself is never printed.
    fn announce(&self, server: &Server, keys: &Authenticator, policy: &str) -> Result<()> {
        let address: SocketAddr = server.address();
        let base = server.base_url();
        let key_file = keys.server_key_path().map(|path| path.display().to_string());
        let mut stdout = Stdout::new();
        if self.json {
            return stdout.json_line(&json!({
                "address": address.to_string(),
                "base_url": base,
                "key_file": key_file,
                "policy": policy,
            }));
        }
        stdout.line(&format!("listening on {base}"))?;
        stdout.line(&match key_file {
            Some(path) => format!("the key is in {path}"),
            None => format!("the key is the one in {KEY_VARIABLE}"),
        })?;
        stdout.line(&format!("policy: {policy}"))
    }
}

fn bad_key() -> UsageError {
    UsageError(format!("{KEY_VARIABLE} cannot be used: it is not valid UTF-8"))
}

impl ListenArgs {
    /// Flags and environment over the configuration over the defaults.
    fn options(&self, section: &ServerSection) -> Result<ServerOptions, UsageError> {
        let defaults = ServerOptions::default();
        let or =
            |flags: &Vec<String>, file: &Vec<String>| if flags.is_empty() { file } else { flags }.clone();
        let certificate = self.tls_cert.as_ref().or(section.tls_cert.as_ref());
        let key = self.tls_key.as_ref().or(section.tls_key.as_ref());
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Some(TlsFiles { certificate: certificate.clone(), key: key.clone() })
            }
            (None, None) => None,
            _ => {
                let problem = "TLS needs both a certificate (--tls-cert) and its key (--tls-key)";
                return Err(UsageError(problem.to_owned()));
            }
        };
        Ok(ServerOptions {
            host: self.host.clone().or_else(|| section.host.clone()).unwrap_or(defaults.host),
            port: self.port.or(section.port).unwrap_or(DEFAULT_PORT),
            tls,
            plaintext: self.plaintext || section.plaintext,
            allowed_hosts: or(&self.allowed_host, &section.allowed_hosts),
            cors_origins: or(&self.cors_origin, &section.cors_origins),
            limits: defaults.limits,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        listen: ListenArgs,
    }

    fn options(line: &str, section: &ServerSection) -> Result<ServerOptions, UsageError> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().listen.options(section)
    }

    #[test]
    fn flags_go_before_the_file() {
        let section = ServerSection {
            host: Some("::1".into()),
            port: Some(1),
            tls_key: Some("key.pem".into()),
            allowed_hosts: vec!["a".into()],
            cors_origins: vec!["https://b".into()],
            ..ServerSection::default()
        };
        let merged = options("--port 2 --tls-cert cert.pem --allowed-host c", &section).unwrap();
        assert_eq!((merged.host.as_str(), merged.port), ("::1", 2));
        let tls = merged.tls.unwrap();
        assert_eq!((tls.certificate, tls.key), ("cert.pem".into(), "key.pem".into()));
        assert_eq!(merged.allowed_hosts, ["c"]);
        assert_eq!(merged.cors_origins, ["https://b"]);
        assert!(options("", &section).is_err(), "a key without a certificate");
        let plain = options("", &ServerSection::default()).unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.plaintext), ("127.0.0.1", 8420, false));
    }
}
