//! `nearfield run`.

use anyhow::Result;
use clap::Args;
use nearfield_api::{FinishReason, Message, Prompt, Request, Role};
use nearfield_hub::Installed;
use nearfield_model::TextError;
use nearfield_server::local::Prepared;

use super::options::{AnswerArgs, ConfigArgs, EngineArgs, OfflineArgs};
use crate::answer::{Answered, Ending, ask};
use crate::app::App;
use crate::failure::{Interrupted, UsageError};
use crate::gateway::{Opened, local_model};
use crate::output::{Stdout, Style, receipt_line};
use crate::prompt;
use crate::signals::stop_requested;

/// Base models rarely end by themselves: tokens that they get unless more are asked for.
const COMPLETION_TOKENS: u32 = 256;

/// Answer one prompt and print a receipt
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunCommand {
    /// The model; pulled when it is not here
    #[arg(value_name = "MODEL")]
    model: String,

    /// The prompt; what is piped in comes behind it
    #[arg(value_name = "PROMPT")]
    prompt: Vec<String>,

    /// Continue the text as it is, without the model's chat template
    #[arg(long, conflicts_with = "system")]
    raw: bool,

    /// Fill the gap between the prompt and this text, with models that can
    #[arg(long, value_name = "TEXT", conflicts_with = "system")]
    suffix: Option<String>,

    /// Fail (or go where the policy says) when the model is not here, instead of pulling it
    #[arg(long)]
    no_pull: bool,

    /// Print one JSON object with text, usage and receipt when the answer is complete
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) offline: OfflineArgs,

    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    answer: AnswerArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

const EXAMPLES: &str = "\
Examples:
  nearfield run smollm2:135m \"Why is the sky blue?\"
  git diff | nearfield run qwen2.5-coder:1.5b \"Write a commit message for this:\" > message.txt
  nearfield run qwen2.5-coder:0.5b --suffix \"    return total\" \"def sum(numbers):\"

The answer goes to standard output and nothing else does; the receipt goes to standard error. Base models, which have \
no chat template, continue the text, for 256 tokens unless --max-tokens says otherwise.";

impl RunCommand {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let config = self.config.load()?;
        let prompt = prompt::read(app, &self.prompt).await?;
        let hub = app.hub()?;
        let installed = local_model(
            app,
            &config,
            &hub,
            &self.model,
            !self.no_pull && !app.is_offline(),
            stop_requested(),
        )
        .await?;
        let mut engine = self.engine.options(&config.local);
        engine.slots = 1;
        let opened = Box::pin(Opened::new(app, config, hub, engine, true)).await?;
        let mut stdout = Stdout::new();
        let result = Box::pin(self.answer(app, &opened, installed.as_ref(), prompt, &mut stdout)).await;
        opened.close().await?;
        self.finish(app, &mut stdout, result?)
    }

    async fn answer(
        &self,
        app: &App,
        opened: &Opened,
        installed: Option<&Installed>,
        prompt: String,
        stdout: &mut Stdout,
    ) -> Result<Answered> {
        let prepared = opened.prepare(installed, stop_requested()).await?;
        let chat = match prepared {
            _ if self.raw || self.suffix.is_some() => false,
            Some(prepared) if !prepared.chat => self.wants_chat(app, &prepared)?,
            _ => true,
        };
        let request = self.request(prompt, chat);
        ask(&opened.gateway, request, stop_requested(), |text| {
            if self.json { Ok(()) } else { stdout.model_text(text) }
        })
        .await
    }

    /// Whether to treat the prompt as a message to a model whose chat template cannot be used.
    fn wants_chat(&self, app: &App, prepared: &Prepared) -> Result<bool> {
        let name = &prepared.name;
        match &prepared.template_problem {
            problem if self.answer.system.is_some() => {
                let problem = problem.clone().unwrap_or_else(|| TextError::NoChatTemplate.to_string());
                Err(UsageError(format!("--system cannot be used with {name}: {problem}")).into())
            }
            None => Ok(false),
            Some(problem) => {
                app.note(&format!("{name}: {problem}; the text is continued instead"));
                Ok(false)
            }
        }
    }

    fn request(&self, text: String, chat: bool) -> Request {
        let message = |role, content: &str| Message::new(role, content);
        let prompt = if chat {
            let system = self.answer.system.iter().map(|system| message(Role::System, system));
            Prompt::Chat(system.chain([message(Role::User, &text)]).collect())
        } else {
            Prompt::Text { text, suffix: self.suffix.clone() }
        };
        let completion = (!chat).then_some(COMPLETION_TOKENS);
        Request {
            sampling: self.answer.sampling(),
            max_tokens: self.answer.sampling.max_tokens.or(completion),
            stop: self.answer.stop.clone(),
            stream: true,
            ..Request::new(self.model.clone(), prompt)
        }
    }

    fn finish(&self, app: &App, stdout: &mut Stdout, answered: Answered) -> Result<()> {
        let cut = answered.finish == Some(FinishReason::Length);
        if self.json {
            if matches!(answered.ending, Ending::Complete) {
                stdout.json(&answered.json())?;
            }
        } else if !answered.text.is_empty() && !answered.text.ends_with('\n') {
            stdout.line("")?;
        }
        if let Some(receipt) = &answered.receipt {
            app.note(&Style::stderr().dim(&receipt_line(receipt, answered.finish)));
        }
        match answered.ending {
            Ending::Complete if cut && self.answer.sampling.max_tokens.is_none() => {
                app.note("the answer goes on: --max-tokens allows more");
                Ok(())
            }
            Ending::Complete => Ok(()),
            Ending::Stopped => Err(Interrupted("").into()),
            Ending::Failed(error) => Err(error.into()),
        }
    }
}
