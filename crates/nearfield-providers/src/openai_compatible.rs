//! A backend that speaks OpenAI's dialect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nearfield_api::openai::{Endpoint, MaxTokensField, UpstreamOptions, decode_models, encode_request};
use nearfield_api::{Backend, Error, ErrorKind, EventStream, Labels, Locality, ModelInfo, Request};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::answer::Answer;
use crate::upstream::Upstream;
use crate::{OpenAiCompatibleOptions, ProviderError};

/// How long a list of models is taken to be true.
const LIST_LIVES: Duration = Duration::from_mins(1);
/// How long a failure to get one is: a backend that is down must not slow every listing.
const FAILURE_LIVES: Duration = Duration::from_secs(5);
const LONGEST_LISTING: Duration = Duration::from_secs(10);
const LARGEST_LIST: usize = 8 * 1024 * 1024;

/// One account at one endpoint that speaks OpenAI's dialect.
///
/// Answers are always asked for as streams, so that silence is noticed early and the usage is the provider's own.
/// [`Backend::generate`] returns when the first token is there: an error until then means that nothing was produced
/// and another backend may be tried. Nothing is sent twice, except that a connection which does not come about is
/// tried once more; to try elsewhere is the caller's matter.
///
/// Its locality is always [`Locality::Cloud`], also for an address of this machine: where that leads is not known.
#[derive(Debug)]
pub struct OpenAiCompatible {
    upstream: Arc<Upstream>,
    /// The names that may be asked for, with the backend's own; empty when any may.
    models: BTreeMap<String, String>,
    max_tokens_field: MaxTokensField,
    list: Mutex<Option<List>>,
}

#[derive(Clone, Debug)]
struct List {
    until: Instant,
    models: Result<Vec<ModelInfo>, Error>,
}

impl OpenAiCompatible {
    /// A backend. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ProviderError`] when the options make no sense or TLS cannot be set up.
    pub fn new(options: OpenAiCompatibleOptions) -> Result<Self, ProviderError> {
        check(&options)?;
        let upstream = Arc::new(Upstream::new(&options)?);
        let own = options.models.into_iter().map(|name| (name.clone(), name));
        Ok(Self {
            upstream,
            models: own.chain(options.model_map).collect(),
            max_tokens_field: options.max_tokens_field,
            list: Mutex::new(None),
        })
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
}

fn check(options: &OpenAiCompatibleOptions) -> Result<(), ProviderError> {
    let wrong = |setting, reason: &str| ProviderError::Setting {
        backend: options.name.clone(),
        setting,
        reason: reason.to_owned(),
    };
    let timeouts = &options.timeouts;
    for (setting, time) in [
        ("connect_timeout_seconds", timeouts.connect),
        ("first_byte_timeout_seconds", timeouts.first_byte),
        ("first_token_timeout_seconds", timeouts.first_token),
        ("idle_timeout_seconds", timeouts.idle),
    ] {
        if time.is_zero() || time > Duration::from_hours(24) {
            return Err(wrong(setting, "must be at least 1 and at most 86400"));
        }
    }
    if options.models.iter().any(String::is_empty) {
        return Err(wrong("models", "holds an empty name"));
    }
    if options.model_map.iter().any(|(asked, name)| asked.is_empty() || name.is_empty()) {
        return Err(wrong("model_map", "holds an empty name"));
    }
    Ok(())
}

#[async_trait::async_trait]
impl Backend for OpenAiCompatible {
    fn name(&self) -> &str {
        &self.upstream.name
    }

    fn locality(&self) -> Locality {
        Locality::Cloud
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
        let wait = LONGEST_LISTING.min(self.upstream.timeouts.first_byte);
        let models = match self.upstream.get("/models", LARGEST_LIST, wait).await {
            Ok(body) => decode_models(&body).map_err(|error| self.upstream.error(error)),
            Err(error) => Err(error),
        };
        let lives = if models.is_ok() { LIST_LIVES } else { FAILURE_LIVES };
        *list = Some(List { until: Instant::now() + lives, models: models.clone() });
        models
    }

    async fn generate(&self, mut request: Request) -> Result<EventStream, Error> {
        // The caller's labels may name a person; nobody has decided that this backend may see them.
        request.labels = Labels::default();
        let model = self.upstream_model(&request.model)?;
        let options =
            UpstreamOptions { model: model.clone(), stream: true, max_tokens_field: self.max_tokens_field };
        let body = encode_request(&request, &options)?;
        let sent = Instant::now();
        let response = self.upstream.post(Endpoint::of(&request.prompt).path(), body).await?;
        let mut answer = Answer::new(Arc::clone(&self.upstream), response, request, model, sent)?;
        answer.wait_for_token().await?;
        Ok(answer.into_stream())
    }
}
