//! The local engine as a backend: models of the hub, loaded on first use, answering on this machine.

mod answer;
mod energy;
mod errors;
mod logprobs;
mod models;
mod prediction;
mod prompt;
mod sampling;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use nearfield_api::{
    Backend, BackendLoad, EngineFacts, Error, Event, EventStream, Locality, ModelInfo, Request,
};
use nearfield_engine::{CacheDomain, EngineOptions, Generate, NUMERICS_VERSION, Plan};
use nearfield_hub::Hub;
use nearfield_model::stop::StopMatcher;

use answer::Answering;
use energy::Meter;
use errors::refused;
use models::{Lease, Models};
use tools::AnswerForm;

/// How the local backend works.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The backend's name.
    pub name: String,
    /// How engines are started. Its memory is the budget of all loaded models together.
    pub engine: EngineOptions,
    /// Whether a model may be named by a path. Right for a person at a shell; callers of a server shall not make it
    /// open any file.
    pub allow_paths: bool,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self { name: "local".to_owned(), engine: EngineOptions::default(), allow_paths: false }
    }
}

/// A model that is ready to answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prepared {
    /// The model's name in the hub.
    pub name: String,
    /// What it takes of this machine's memory.
    pub plan: Plan,
    /// The kernels that compute it.
    pub kernels: &'static str,
    /// Whether it has a chat template that can be used. Base models have none: they continue text.
    pub chat: bool,
    /// What is wrong with a chat template that cannot be used; `None` for base models, which have none.
    pub template_problem: Option<String>,
    /// Whether it can fill in what stands between two texts.
    pub fill_in_the_middle: bool,
    /// The time that loading took, whenever that was.
    pub load_time: Duration,
}

/// The local engine. Each model has an engine of its own, started when it is first asked for.
///
/// Settings that neither the request nor the model's files give are those that users of local models know from other
/// programs: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, no penalties. A model whose makers advise against
/// sampling is greedy.
pub struct LocalBackend {
    name: String,
    options: EngineOptions,
    models: Arc<Models>,
    meter: Arc<Meter>,
}

impl LocalBackend {
    /// The backend over the models of a hub. Nothing is loaded yet.
    pub fn new(hub: Hub, options: LocalOptions) -> Self {
        let LocalOptions { name, engine, allow_paths } = options;
        let models = Arc::new(Models::new(hub, engine.clone(), allow_paths));
        Self { name, options: engine, models, meter: Arc::new(Meter::new()) }
    }

    /// Loads a model, unless it is loaded, and says what it takes.
    ///
    /// # Errors
    /// As for a request: the model is not here, cannot be used, or does not fit.
    pub async fn prepare(&self, model: &str) -> Result<Prepared, Error> {
        let lease = self.models.lease(model).await?;
        Ok(Prepared {
            name: lease.name().to_owned(),
            plan: *lease.engine().plan(),
            kernels: lease.engine().kernels().name(),
            chat: lease.text().chat_template().is_some(),
            template_problem: lease.text().template_problem().map(|problem| problem.to_string()),
            fill_in_the_middle: lease.text().tokenizer().fill_in_the_middle().is_some(),
            load_time: lease.load_time(),
        })
    }

    fn facts(&self, lease: &Lease, seed: u64) -> EngineFacts {
        let (arithmetic, cache) =
            (self.options.arithmetic.name(), lease.engine().plan().key_value_type.name());
        EngineFacts {
            numerics: format!("{NUMERICS_VERSION}-{arithmetic}-{cache}"),
            kernels: lease.engine().kernels().name().to_owned(),
            seed,
        }
    }
}

#[async_trait::async_trait]
impl Backend for LocalBackend {
    fn name(&self) -> &str {
        &self.name
    }

    fn locality(&self) -> Locality {
        Locality::Local
    }

    fn is_engine(&self) -> bool {
        true
    }

    async fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        self.models.list().await
    }

    fn load(&self, model: &str, prompt_tokens: u64) -> Option<BackendLoad> {
        self.models.load_of(model, usize::try_from(prompt_tokens).ok()?)
    }

    async fn generate(&self, mut request: Box<Request>) -> Result<EventStream, Error> {
        let prediction = prediction::take(&mut request)?;
        let variables = tools::take_variables(&mut request)?;
        request.require_text_and_tools()?;
        let stop =
            StopMatcher::new(&request.stop).map_err(|error| Error::invalid("stop", error.to_string()))?;
        let lease = self.models.lease(&request.model).await?;
        let asked = tools::asked(&request, variables, lease.text())?;
        let tokens = prompt::encode(&lease, &request.prompt, asked).await?;
        let seed = request.sampling.seed.unwrap_or_else(sampling::draw_seed);
        let form = AnswerForm::new(&request, lease.text(), &tokens, seed, prediction.is_some());
        let generate = Generate {
            tokens,
            prediction: prediction::encode(&lease, prediction).await?,
            max_tokens: request.max_tokens.map(|count| count as usize),
            sampling: sampling::complete(&request.sampling, seed, lease.text().generation(), lease.unknown()),
            stop_tokens: lease.text().stop_tokens().ids().to_vec(),
            logprobs: request.logprobs,
            choices: request.choices,
            cache_domain: CacheDomain::new(&request.cache_domain),
        };
        let session = lease.engine().submit(generate).map_err(|error| refused(error, &request))?;
        let facts = self.facts(&lease, seed);
        let started = Event::Started { model: lease.name().to_owned(), engine: Some(facts) };
        let meter = Arc::clone(&self.meter);
        let choices = request.choices.max(1);
        Ok(Box::pin(Answering::new(lease, session, started, choices, form, &stop, meter)))
    }
}
