//! What `nearfield.toml` says of a provider's own API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nearfield_api::Dialect;
use nearfield_api::openai::MaxTokensField;
use serde::Deserialize;

use crate::auth::Auth;
use crate::cloud::{Cloud, CloudParts};
use crate::connection::Connection;
use crate::google_token::{METADATA_SERVER, TokenSource};
use crate::labels::LabelRule;
use crate::sigv4::Signer;
use crate::{ProviderError, Secret, SecretRef, Timeouts};

/// The providers whose own APIs are spoken, as `kind` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudKind {
    /// OpenAI: Responses, or chat completions with `api = "chat"`.
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's Gemini API.
    Gemini,
    /// Google's Vertex AI.
    Vertex,
    /// AWS Bedrock: Converse, or its OpenAI-compatible endpoints with `api = "chat"` or `"responses"`.
    Bedrock,
}

impl CloudKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::OpenAi, Self::Anthropic, Self::Gemini, Self::Vertex, Self::Bedrock];

    /// The value of `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Vertex => "vertex",
            Self::Bedrock => "bedrock",
        }
    }
}

/// Which of a provider's APIs to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Chat completions.
    Chat,
    /// Responses.
    Responses,
    /// Converse.
    Converse,
}

/// What becomes of callers' labels: see [`LabelRule`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelChoice {
    /// None is sent.
    #[default]
    Drop,
    /// Pseudonyms under `label_key` are sent.
    Pseudonym,
}

/// The settings of a section `[backend.NAME]` whose `kind` is a provider's name; the `kind` itself is the reader's.
///
/// ```toml
/// # kind = "anthropic", "openai" or "gemini"
/// key = "env:ANTHROPIC_API_KEY"
///
/// # kind = "vertex"
/// project = "my-project"
/// location = "europe-west4"
/// service_account = "file:account.json"      # or metadata_server = true, or key
///
/// # kind = "bedrock"
/// region = "eu-central-1"
/// access_key_id = "env:AWS_ACCESS_KEY_ID"    # with secret_access_key, or key for a Bedrock API key
/// secret_access_key = "env:AWS_SECRET_ACCESS_KEY"
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CloudConfig {
    /// The address of the API, in place of the provider's own.
    pub base_url: Option<String>,
    /// Which API, where the provider has several.
    pub api: Option<Api>,
    /// Where the key is to be had.
    pub key: Option<SecretRef>,
    /// Vertex: the JSON key of a service account.
    pub service_account: Option<SecretRef>,
    /// Vertex: ask the metadata server of the machine, which must be one of Google's.
    pub metadata_server: bool,
    /// Vertex: the project.
    pub project: Option<String>,
    /// Vertex: the region, or `global`.
    pub location: Option<String>,
    /// Bedrock: the region.
    pub region: Option<String>,
    /// Bedrock: the id of the key that signs.
    pub access_key_id: Option<SecretRef>,
    /// Bedrock: the key that signs.
    pub secret_access_key: Option<SecretRef>,
    /// Bedrock: the token of a session, with temporary keys.
    pub session_token: Option<SecretRef>,
    /// Models that may be asked for by their own names. Without these and `model_map`, any model may.
    pub models: Vec<String>,
    /// Further models that may be asked for, with their names at the backend.
    pub model_map: BTreeMap<String, String>,
    /// What becomes of callers' labels.
    pub labels: LabelChoice,
    /// The key of their pseudonyms.
    pub label_key: Option<SecretRef>,
    /// Lets the provider keep answers where it does so by default.
    pub store: bool,
    /// Asks for whole answers in one body.
    pub whole_answers: bool,
    /// The provider's name in the price table.
    pub prices: Option<String>,
    /// A PEM file of the only certificate authorities to trust, in place of the system's.
    pub certificates: Option<PathBuf>,
    /// Allows plain http to other machines.
    pub allow_plaintext: bool,
    /// A proxy to go through; the environment's are ignored.
    pub proxy: Option<String>,
    /// See [`Timeouts::connect`].
    pub connect_timeout_seconds: Option<u64>,
    /// See [`Timeouts::first_byte`].
    pub first_byte_timeout_seconds: Option<u64>,
    /// See [`Timeouts::first_token`].
    pub first_token_timeout_seconds: Option<u64>,
    /// See [`Timeouts::idle`].
    pub idle_timeout_seconds: Option<u64>,
}

/// What the making of a backend needs to know beside its settings.
struct Making<'a> {
    kind: CloudKind,
    name: &'a str,
    folder: &'a Path,
    /// Where the metadata server is.
    metadata_server: &'a str,
}

impl Making<'_> {
    fn wrong(&self, setting: &'static str, reason: impl Into<String>) -> ProviderError {
        ProviderError::Setting { backend: self.name.to_owned(), setting, reason: reason.into() }
    }

    fn secret(&self, reference: &SecretRef, long: bool) -> Result<Secret, ProviderError> {
        let reference = reference.clone().relative_to(self.folder);
        let secret = if long { reference.resolve_text() } else { reference.resolve() };
        secret.map_err(|source| ProviderError::Key { backend: self.name.to_owned(), source })
    }
}

impl CloudConfig {
    /// The backend `name`, with its keys fetched. Relative paths are taken from `folder`, the configuration file's.
    ///
    /// # Errors
    /// [`ProviderError`] when a key cannot be had, settings are missing or do not fit the kind, or TLS cannot be set
    /// up.
    pub fn build(&self, kind: CloudKind, name: &str, folder: &Path) -> Result<Cloud, ProviderError> {
        self.make(&Making { kind, name, folder, metadata_server: METADATA_SERVER })
    }

    fn make(&self, making: &Making<'_>) -> Result<Cloud, ProviderError> {
        let &Making { kind, name, folder, .. } = making;
        self.check(making)?;
        let dialect = self.dialect(making)?;
        let connection = Connection {
            name: name.to_owned(),
            base_url: self.base_url(making)?,
            auth: self.auth(making)?,
            certificates: self.certificates.as_ref().map(|path| folder.join(path)),
            allow_plaintext: self.allow_plaintext,
            proxy: self.proxy.clone(),
            socket: None,
            timeouts: self.timeouts(),
        };
        let labels = match (self.labels, &self.label_key) {
            (LabelChoice::Drop, _) => LabelRule::Drop,
            (LabelChoice::Pseudonym, Some(key)) => LabelRule::Pseudonyms(making.secret(key, false)?),
            (LabelChoice::Pseudonym, None) => {
                return Err(making.wrong("label_key", "is missing; pseudonyms need a key of their own"));
            }
        };
        Cloud::new(CloudParts {
            connection,
            dialect,
            models: self.models.clone(),
            model_map: self.model_map.clone(),
            max_tokens_field: MaxTokensField::MaxCompletionTokens,
            labels,
            forget: keeps_answers(kind, dialect).then_some(!self.store),
            stream: !self.whole_answers,
        })
    }

    /// The names that may be asked for; `None` when any may.
    pub fn served_models(&self) -> Option<Vec<String>> {
        let names: Vec<String> = self.models.iter().chain(self.model_map.keys()).cloned().collect();
        (!names.is_empty()).then_some(names)
    }

    /// Where requests go; empty when settings that decide it are missing.
    pub fn address(&self, kind: CloudKind) -> String {
        self.base_url(&Making { kind, name: "", folder: Path::new(""), metadata_server: METADATA_SERVER })
            .unwrap_or_default()
    }

    /// Whether a setting holds a key itself and no reference to one.
    pub fn holds_a_literal_key(&self) -> bool {
        [
            &self.key,
            &self.service_account,
            &self.access_key_id,
            &self.secret_access_key,
            &self.session_token,
            &self.label_key,
        ]
        .into_iter()
        .flatten()
        .any(SecretRef::is_literal)
    }

    /// Settings that belong to another kind are an error: they would be ignored.
    fn check(&self, making: &Making<'_>) -> Result<(), ProviderError> {
        let kind = making.kind;
        let (vertex, bedrock) = (kind == CloudKind::Vertex, kind == CloudKind::Bedrock);
        for (set, fits, setting) in [
            (self.service_account.is_some(), vertex, "service_account"),
            (self.metadata_server, vertex, "metadata_server"),
            (self.project.is_some(), vertex, "project"),
            (self.location.is_some(), vertex, "location"),
            (self.region.is_some(), bedrock, "region"),
            (self.access_key_id.is_some(), bedrock, "access_key_id"),
            (self.secret_access_key.is_some(), bedrock, "secret_access_key"),
            (self.session_token.is_some(), bedrock, "session_token"),
            (self.store, kind == CloudKind::OpenAi || self.api == Some(Api::Responses), "store"),
        ] {
            if set && !fits {
                let reason = format!("means nothing for kind = \"{}\"; remove it", kind.as_str());
                return Err(making.wrong(setting, reason));
            }
        }
        Ok(())
    }

    fn dialect(&self, making: &Making<'_>) -> Result<Dialect, ProviderError> {
        Ok(match (making.kind, self.api) {
            (CloudKind::OpenAi, None | Some(Api::Responses)) => Dialect::OpenAiResponses,
            (CloudKind::OpenAi | CloudKind::Bedrock, Some(Api::Chat)) => Dialect::OpenAiChat,
            (CloudKind::Bedrock, Some(Api::Responses)) => Dialect::OpenAiResponses,
            (CloudKind::Bedrock, None | Some(Api::Converse)) => Dialect::Bedrock,
            (CloudKind::Anthropic, None) => Dialect::Anthropic,
            (CloudKind::Gemini | CloudKind::Vertex, None) => Dialect::Gemini,
            (kind, Some(_)) => {
                let reason = format!("is not one that kind = \"{}\" has; remove it", kind.as_str());
                return Err(making.wrong("api", reason));
            }
        })
    }

    fn base_url(&self, making: &Making<'_>) -> Result<String, ProviderError> {
        let needed = |setting: &'static str, value: &Option<String>| match value {
            Some(value) if is_label(value) || setting == "project" && is_project(value) => Ok(value.clone()),
            Some(_) => Err(making.wrong(setting, "has characters that no such name has")),
            None => {
                let reason = format!("is missing; kind = \"{}\" needs it", making.kind.as_str());
                Err(making.wrong(setting, reason))
            }
        };
        let own = self.base_url.as_deref().map(|url| url.trim().trim_end_matches('/').to_owned());
        Ok(match making.kind {
            CloudKind::OpenAi => own.unwrap_or_else(|| "https://api.openai.com/v1".to_owned()),
            CloudKind::Anthropic => own.unwrap_or_else(|| "https://api.anthropic.com/v1".to_owned()),
            CloudKind::Gemini => {
                own.unwrap_or_else(|| "https://generativelanguage.googleapis.com/v1beta".to_owned())
            }
            CloudKind::Vertex => {
                let (project, location) =
                    (needed("project", &self.project)?, needed("location", &self.location)?);
                let base = own.unwrap_or_else(|| match location.as_str() {
                    "global" => "https://aiplatform.googleapis.com".to_owned(),
                    region => format!("https://{region}-aiplatform.googleapis.com"),
                });
                format!("{base}/v1/projects/{project}/locations/{location}/publishers/google")
            }
            CloudKind::Bedrock => {
                let region = needed("region", &self.region)?;
                let base = own.unwrap_or_else(|| format!("https://bedrock-runtime.{region}.amazonaws.com"));
                match self.api {
                    None | Some(Api::Converse) => base,
                    // The whole address, as the endpoint that AWS calls Mantle has it.
                    Some(_) if base.ends_with("/v1") => base,
                    Some(_) => format!("{base}/openai/v1"),
                }
            }
        })
    }

    fn auth(&self, making: &Making<'_>) -> Result<Auth, ProviderError> {
        let key = self.key.as_ref().map(|key| making.secret(key, false)).transpose()?;
        match making.kind {
            CloudKind::OpenAi => key.map_or(Ok(Auth::None), |key| Auth::bearer(making.name, &key)),
            CloudKind::Anthropic => {
                key.map_or(Ok(Auth::None), |key| Auth::header(making.name, "x-api-key", &key))
            }
            CloudKind::Gemini => {
                key.map_or(Ok(Auth::None), |key| Auth::header(making.name, "x-goog-api-key", &key))
            }
            CloudKind::Vertex => match (key, &self.service_account, self.metadata_server) {
                (Some(key), None, false) => Auth::header(making.name, "x-goog-api-key", &key),
                (None, Some(file), false) => {
                    let source = TokenSource::service_account(making.name, &making.secret(file, true)?)?;
                    Ok(Auth::Google(Arc::new(source)))
                }
                (None, None, true) => {
                    let source = TokenSource::metadata_server(making.name, making.metadata_server)?;
                    Ok(Auth::Google(Arc::new(source)))
                }
                _ => Err(making.wrong(
                    "service_account",
                    "or `key` or `metadata_server = true` must be set, and only one of them",
                )),
            },
            CloudKind::Bedrock => {
                match (key, &self.access_key_id, &self.secret_access_key) {
                    (Some(key), None, None) => Auth::bearer(making.name, &key),
                    (None, Some(id), Some(secret)) => Ok(Auth::Aws(Signer {
                        access_key_id: making.secret(id, false)?.expose().to_owned(),
                        secret: making.secret(secret, false)?,
                        session_token: self
                            .session_token
                            .as_ref()
                            .map(|token| making.secret(token, false))
                            .transpose()?,
                        region: self.region.clone().unwrap_or_default(),
                    })),
                    _ => Err(making
                        .wrong("key", "must be set, or else both `access_key_id` and `secret_access_key`")),
                }
            }
        }
    }

    fn timeouts(&self) -> Timeouts {
        let otherwise = Timeouts::default();
        let seconds = |set: Option<u64>, default: Duration| set.map_or(default, Duration::from_secs);
        Timeouts {
            connect: seconds(self.connect_timeout_seconds, otherwise.connect),
            first_byte: seconds(self.first_byte_timeout_seconds, otherwise.first_byte),
            first_token: seconds(self.first_token_timeout_seconds, otherwise.first_token),
            idle: seconds(self.idle_timeout_seconds, otherwise.idle),
        }
    }
}

/// Whether a text can be a project of Google's, which may belong to a domain, as `example.com:name`.
fn is_project(text: &str) -> bool {
    text.split_once(':').is_some_and(|(domain, name)| is_label(name) && domain.split('.').all(is_label))
}

/// Whether the provider keeps answers unless a request says `store: false`.
fn keeps_answers(kind: CloudKind, dialect: Dialect) -> bool {
    kind == CloudKind::OpenAi || dialect == Dialect::OpenAiResponses
}

/// Whether a text can be one label of a host's name or one segment of a path.
fn is_label(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b':')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nearfield_testkit::cloud_dialects::METADATA_TOKEN;
    use nearfield_testkit::cloud_server::CloudServer;
    use nearfield_testkit::conformance::{Subject, run};

    use super::*;

    /// The suite of all backends, here since only from here the metadata server can be another one than Google's.
    #[tokio::test]
    async fn vertex_with_the_metadata_server_does_all_of_it() {
        let server = Arc::new(CloudServer::start().await.unwrap());
        let root = format!("http://{}", server.address());
        let config = CloudConfig {
            base_url: Some(root.clone()),
            metadata_server: true,
            project: Some("p-1".to_owned()),
            location: Some("europe-west4".to_owned()),
            ..CloudConfig::default()
        };
        let folder = Path::new("");
        let making = Making { kind: CloudKind::Vertex, name: "cloud", folder, metadata_server: &root };
        let backend = Arc::new(config.make(&making).unwrap());
        let name = "vertex with the metadata server";
        let report = run(&Subject::of_dialect(name, Dialect::Gemini, backend, Arc::clone(&server))).await;
        println!("{report}");
        assert!(report.passed(), "{report}");
        let (tokens, asked): (Vec<_>, Vec<_>) =
            server.seen().into_iter().partition(|request| request.target.starts_with("/computeMetadata/"));
        assert_eq!(tokens.len(), 1);
        let bearer = format!("Bearer {METADATA_TOKEN}");
        assert!(asked.iter().all(|request| request.header("authorization") == Some(&bearer)));
    }
}
