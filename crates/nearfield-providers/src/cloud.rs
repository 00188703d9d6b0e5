//! One account at one provider, whichever dialect it speaks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nearfield_api::openai::{Endpoint, MaxTokensField, UpstreamOptions, decode_models};
use nearfield_api::{
    AnswerDecoder, Backend, Dialect, Error, ErrorKind, EventStream, Locality, ModelInfo, Prompt, Request,
    anthropic, bedrock, gemini,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::answer::Answer;
use crate::connection::Connection;
use crate::labels::LabelRule;
use crate::upstream::Upstream;
use crate::{ProviderError, Timeouts};

/// How long a list of models is taken to be true.
const LIST_LIVES: Duration = Duration::from_mins(1);
/// How long a failure to get one is: a backend that is down must not slow every listing.
const FAILURE_LIVES: Duration = Duration::from_secs(5);
const LONGEST_LISTING: Duration = Duration::from_secs(10);
const LARGEST_LIST: usize = 8 * 1024 * 1024;

/// A cloud backend of any dialect.
///
/// Answers are asked for as streams unless the configuration says otherwise, so that silence is noticed early and the
/// usage is the provider's own. [`Backend::generate`] returns when the first token is there: an error until then means
/// that nothing was produced and another backend may be tried. Nothing is tried twice; to try again, or elsewhere, is
/// the caller's matter.
///
/// Its locality is [`Locality::Cloud`], also for an address of this machine, since where that leads is not known. Only
/// one behind a Unix socket counts as this machine.
#[derive(Debug)]
pub struct Cloud {
    upstream: Arc<Upstream>,
    dialect: Dialect,
    /// The names that may be asked for, with the backend's own; empty when any may.
    models: BTreeMap<String, String>,
    max_tokens_field: MaxTokensField,
    labels: LabelRule,
    /// Whether the provider, which keeps answers unless told otherwise, is told not to. `None` for a provider that has
    /// no word for it.
    forget: Option<bool>,
    stream: bool,
    list: Mutex<Option<List>>,
}

/// All that a [`Cloud`] is made from.
#[derive(Debug)]
pub(crate) struct CloudParts {
    pub(crate) connection: Connection,
    pub(crate) dialect: Dialect,
    pub(crate) models: Vec<String>,
    pub(crate) model_map: BTreeMap<String, String>,
    pub(crate) max_tokens_field: MaxTokensField,
    pub(crate) labels: LabelRule,
    pub(crate) forget: Option<bool>,
    pub(crate) stream: bool,
}

#[derive(Clone, Debug)]
struct List {
    until: Instant,
    models: Result<Vec<ModelInfo>, Error>,
}

impl Cloud {
    /// A backend. Nothing is sent yet.
    pub(crate) fn new(parts: CloudParts) -> Result<Self, ProviderError> {
        check(&parts)?;
        let own = parts.models.into_iter().map(|name| (name.clone(), name));
        Ok(Self {
            upstream: Arc::new(Upstream::new(&parts.connection)?),
            dialect: parts.dialect,
            models: own.chain(parts.model_map).collect(),
            max_tokens_field: parts.max_tokens_field,
            labels: parts.labels,
            forget: parts.forget,
            stream: parts.stream,
            list: Mutex::new(None),
        })
    }

    /// Asks for something that costs nothing, to see whether it works.
    pub(crate) async fn check(&self, wait: Duration) -> Result<(), Error> {
        self.upstream.get("/models", LARGEST_LIST, wait, self.headers()).await.map(drop)
    }

    /// The dialect that it speaks.
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The backend's name for a model.
    fn upstream_model(&self, asked: &str) -> Result<String, Error> {
        if self.models.is_empty() {
            return Ok(asked.to_owned());
        }
        self.models.get(asked).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "The backend `{}` is not configured for this model; ask for one that /v1/models lists, or add it to \
                     the backend's `models`.",
                    self.upstream.name
                ),
            )
            .with_param("model")
            .with_code("model_not_found")
        })
    }

    /// The route below the base URL.
    fn route(&self, request: &Request, model: &str) -> String {
        match self.dialect {
            Dialect::OpenAiChat => Endpoint::of(&request.prompt).path().to_owned(),
            Dialect::OpenAiResponses => "/responses".to_owned(),
            Dialect::Anthropic => "/messages".to_owned(),
            Dialect::Gemini => gemini::route(model, self.stream),
            Dialect::Bedrock => bedrock::route(model, self.stream),
        }
    }

    /// The headers that the dialect wants beside those of every request.
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self.dialect {
            Dialect::Anthropic => &[
                ("accept", "text/event-stream, application/json"),
                ("anthropic-version", anthropic::VERSION),
            ],
            Dialect::Bedrock => &[("accept", "application/vnd.amazon.eventstream, application/json")],
            _ => &[("accept", "text/event-stream, application/json")],
        }
    }

    /// Asks the provider for its models.
    async fn list(&self) -> Result<Vec<ModelInfo>, Error> {
        let route = match self.dialect {
            Dialect::Bedrock => {
                return Err(Error::new(
                    ErrorKind::Upstream,
                    format!(
                        "The backend `{}` cannot list its models here; name them in its `models`.",
                        self.upstream.name
                    ),
                ));
            }
            Dialect::Anthropic => "/models?limit=1000",
            Dialect::Gemini => "/models?pageSize=1000",
            Dialect::OpenAiChat | Dialect::OpenAiResponses => "/models",
        };
        let wait = LONGEST_LISTING.min(self.upstream.timeouts.first_byte);
        let body = self.upstream.get(route, LARGEST_LIST, wait, self.headers()).await?;
        let models =
            if self.dialect == Dialect::Gemini { gemini::decode_models(&body) } else { decode_models(&body) };
        models.map_err(|error| self.upstream.error(error))
    }
}

fn check(parts: &CloudParts) -> Result<(), ProviderError> {
    let wrong = |setting, reason: &str| ProviderError::Setting {
        backend: parts.connection.name.clone(),
        setting,
        reason: reason.to_owned(),
    };
    let Timeouts { connect, first_byte, first_token, idle } = parts.connection.timeouts;
    for (setting, time) in [
        ("connect_timeout_seconds", connect),
        ("first_byte_timeout_seconds", first_byte),
        ("first_token_timeout_seconds", first_token),
        ("idle_timeout_seconds", idle),
    ] {
        if time.is_zero() || time > Duration::from_hours(24) {
            return Err(wrong(setting, "must be at least 1 and at most 86400"));
        }
    }
    if parts.models.iter().any(String::is_empty) {
        return Err(wrong("models", "holds an empty name"));
    }
    if parts.model_map.iter().any(|(asked, name)| asked.is_empty() || name.is_empty()) {
        return Err(wrong("model_map", "holds an empty name"));
    }
    Ok(())
}

#[async_trait::async_trait]
impl Backend for Cloud {
    fn name(&self) -> &str {
        &self.upstream.name
    }

    fn locality(&self) -> Locality {
        if self.upstream.by_socket { Locality::Local } else { Locality::Cloud }
    }

    /// The configured models, or the backend's own list, which is kept for a minute.
    async fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        if !self.models.is_empty() {
            let names = self.models.keys();
            return Ok(names.map(|id| ModelInfo { id: id.clone(), context_length: None }).collect());
        }
        // Held while the list is fetched: whoever comes meanwhile waits for the same list.
        let mut list = self.list.lock().await;
        if let Some(list) = list.as_ref().filter(|list| Instant::now() < list.until) {
            return list.models.clone();
        }
        let models = self.list().await;
        let lives = if models.is_ok() { LIST_LIVES } else { FAILURE_LIVES };
        *list = Some(List { until: Instant::now() + lives, models: models.clone() });
        models
    }

    async fn generate(&self, request: Box<Request>) -> Result<EventStream, Error> {
        self.generate_salted(request, None).await
    }
}

impl Cloud {
    /// The same with a salt for the server's prefix cache.
    pub(crate) async fn generate_salted(
        &self,
        request: Box<Request>,
        cache_salt: Option<String>,
    ) -> Result<EventStream, Error> {
        let Written { route, body, decoder, choices } = self.write(request, cache_salt)?;
        let sent = Instant::now();
        let response = self.upstream.post(&route, body, self.headers()).await?;
        let mut answer = Answer::new(Arc::clone(&self.upstream), response, decoder, choices, sent)?;
        answer.wait_for_token().await?;
        Ok(answer.into_stream())
    }

    /// Writes a request as it leaves. The request itself ends here: while an answer is waited for, what was written is
    /// enough.
    fn write(&self, mut request: Box<Request>, cache_salt: Option<String>) -> Result<Written, Error> {
        let model = self.upstream_model(&request.model)?;
        if !request.terms.labels_ready {
            self.labels.apply(&mut request.labels);
        }
        let chat = matches!(request.prompt, Prompt::Chat(_));
        let forget = self.forget.map(|own| request.terms.store.map_or(own, |keep| !keep));
        request.labels.store = match forget.filter(|_| chat) {
            None => None,
            Some(true) => Some(false),
            Some(false) => request.labels.store.filter(|store| !store),
        };
        let route = self.route(&request, &model);
        let decoder = self.dialect.decoder(&request, &model);
        let options = UpstreamOptions {
            model,
            stream: self.stream,
            max_tokens_field: self.max_tokens_field,
            cache_salt,
        };
        let body = self.dialect.encode_request(&request, &options)?;
        Ok(Written { route, body, decoder, choices: request.choices })
    }
}

/// A request as it leaves, and what reads the answer to it.
struct Written {
    /// Below the base URL.
    route: String,
    body: String,
    decoder: Box<dyn AnswerDecoder>,
    choices: u32,
}
