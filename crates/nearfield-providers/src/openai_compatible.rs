//! A backend that speaks OpenAI's dialect.

use nearfield_api::{Backend, Dialect, Error, EventStream, Locality, ModelInfo, Request};

use crate::auth::Auth;
use crate::cloud::{Cloud, CloudParts};
use crate::connection::Connection;
use crate::labels::LabelRule;
use crate::{OpenAiCompatibleOptions, ProviderError};

/// One account at one endpoint that speaks OpenAI's chat completions and completions: vLLM, Ray Serve, llama-server,
/// another Nearfield, and many providers. All that holds of [`Cloud`] holds of it.
#[derive(Debug)]
pub struct OpenAiCompatible(Cloud);

impl OpenAiCompatible {
    /// A backend. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ProviderError`] when the options make no sense or TLS cannot be set up.
    pub fn new(options: OpenAiCompatibleOptions) -> Result<Self, ProviderError> {
        let auth = match &options.key {
            Some(key) => Auth::bearer(&options.name, key)?,
            None => Auth::None,
        };
        let connection = Connection {
            name: options.name,
            base_url: options.base_url,
            auth,
            certificates: options.certificates,
            allow_plaintext: options.allow_plaintext,
            proxy: options.proxy,
            socket: options.socket,
            timeouts: options.timeouts,
        };
        Cloud::new(CloudParts {
            connection,
            dialect: Dialect::OpenAiChat,
            models: options.models,
            model_map: options.model_map,
            max_tokens_field: options.max_tokens_field,
            labels: LabelRule::Drop,
            forget: None,
            stream: true,
        })
        .map(Self)
    }
}

impl OpenAiCompatible {
    /// See [`Cloud::check`].
    pub(crate) async fn check(&self, wait: std::time::Duration) -> Result<(), Error> {
        self.0.check(wait).await
    }

    /// See [`Cloud::generate_salted`].
    pub(crate) async fn generate_salted(
        &self,
        request: Box<Request>,
        cache_salt: Option<String>,
    ) -> Result<EventStream, Error> {
        self.0.generate_salted(request, cache_salt).await
    }
}

#[async_trait::async_trait]
impl Backend for OpenAiCompatible {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn locality(&self) -> Locality {
        self.0.locality()
    }

    async fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        self.0.models().await
    }

    async fn generate(&self, request: Box<Request>) -> Result<EventStream, Error> {
        self.0.generate_salted(request, None).await
    }
}
