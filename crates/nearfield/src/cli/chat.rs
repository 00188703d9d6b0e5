//! `nearfield chat`.

use std::fs;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use nearfield_api::{Prompt, Request};
use nearfield_hub::Installed;
use nearfield_model::{Text, TextError};
use nearfield_server::local::Prepared;

use super::options::{AnswerArgs, ConfigArgs, EngineArgs, OfflineArgs};
use crate::answer::{Ending, ask};
use crate::app::App;
use crate::chat::{Conversation, Editor, HELP, Input, Slash};
use crate::failure::one_text;
use crate::gateway::{Opened, local_model};
use crate::output::{Stdout, Style, receipt_line, stderr_line};
use crate::signals::interrupted;

/// Hold a conversation
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ChatCommand {
    /// The model; pulled when it is not here
    #[arg(value_name = "MODEL")]
    model: String,

    /// Fail (or go where the policy says) when the model is not here, instead of pulling it
    #[arg(long)]
    no_pull: bool,

    /// Neither read nor write the history of what was typed (chat_history in the data folder)
    #[arg(long)]
    no_history: bool,

    /// Print one JSON object with text, usage and receipt for each answer
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
  nearfield chat smollm2:135m
  nearfield chat qwen2.5-coder:1.5b --system \"Answer with code only.\" --temperature 0

A line that ends in \\ is continued on the next; \"\"\" begins and ends a text of several lines. Ctrl-C stops an answer, \
Ctrl-D leaves, /help lists the commands.";

impl ChatCommand {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let config = self.config.load()?;
        let hub = app.hub()?;
        let installed =
            local_model(app, &config, &hub, &self.model, !self.no_pull && !app.is_offline(), interrupted())
                .await?;
        let mut engine = self.engine.options(&config.local);
        engine.slots = 1;
        let opened = Box::pin(Opened::new(app, config, hub, engine, true)).await?;
        let result = match opened.prepare(installed.as_ref(), interrupted()).await {
            Ok(prepared) => match refusal(installed.as_ref(), prepared) {
                Some(error) => Err(error),
                None => Box::pin(self.converse(app, &opened)).await,
            },
            Err(error) => Err(error),
        };
        opened.close().await?;
        result
    }

    async fn converse(&self, app: &App, opened: &Opened) -> Result<()> {
        let history = (!self.no_history).then(|| app.data_folder().join("chat_history"));
        fs::create_dir_all(app.data_folder())
            .with_context(|| format!("cannot make the data folder {}", app.data_folder().display()))?;
        let mut editor = Editor::new(history)?;
        let mut conversation = Conversation::new(self.answer.system.clone());
        let mut stdout = Stdout::new();
        if stdout.is_terminal() {
            app.note(&format!("{}: /help lists the commands, Ctrl-D leaves", self.model));
        }
        loop {
            // The editor waits for the keyboard; what else runs has threads of its own.
            match tokio::task::block_in_place(|| editor.read())? {
                Input::Text(text) => {
                    self.turn(app, opened, &mut conversation, &mut stdout, text).await?;
                }
                Input::Command(Slash::Help) => stderr_line(HELP),
                Input::Command(Slash::Clear) => {
                    conversation.clear();
                    app.note("the conversation begins anew");
                }
                Input::Command(Slash::System(text)) => app.note(&conversation.set_system(text)),
                Input::Command(Slash::Unknown(problem)) => stderr_line(&problem),
                Input::Interrupted => app.note("Ctrl-D or /quit leaves"),
                Input::Command(Slash::Quit) | Input::End => return Ok(()),
            }
        }
    }

    /// One question and its answer. What fails is said, and the conversation goes on without it.
    async fn turn(
        &self,
        app: &App,
        opened: &Opened,
        conversation: &mut Conversation,
        stdout: &mut Stdout,
        text: String,
    ) -> Result<()> {
        conversation.ask(text);
        let request = self.request(conversation);
        let streamed = !self.json;
        let answer = ask(&opened.gateway, request, interrupted(), |text| {
            if streamed { stdout.model_text(text) } else { Ok(()) }
        });
        let answered = Box::pin(answer).await?;
        if self.json {
            if !matches!(answered.ending, Ending::Failed(_)) {
                stdout.json_line(&answered.json())?;
            }
        } else if !answered.text.is_empty() && !answered.text.ends_with('\n') {
            stdout.line("")?;
        }
        if let Some(receipt) = &answered.receipt {
            app.note(&Style::stderr().dim(&receipt_line(receipt, answered.finish)));
        }
        conversation.answered(&answered.text);
        if let Ending::Failed(error) = answered.ending {
            let hint = if error.kind == nearfield_api::ErrorKind::ContextLength {
                "; /clear begins anew"
            } else {
                ""
            };
            let label = Style::stderr().error("error:");
            stderr_line(&format!("{label} {}{hint}", one_text(&error.into())));
        }
        Ok(())
    }

    fn request(&self, conversation: &Conversation) -> Request {
        Request {
            sampling: self.answer.sampling(),
            max_tokens: self.answer.sampling.max_tokens,
            stop: self.answer.stop.clone(),
            stream: true,
            ..Request::new(self.model.clone(), Prompt::Chat(conversation.messages()))
        }
    }
}

/// A base model, or one whose text side is damaged, is refused before the first question.
fn refusal(installed: Option<&Installed>, prepared: Option<Prepared>) -> Option<anyhow::Error> {
    let Some(prepared) = prepared else {
        return installed.and_then(|installed| Text::open(&installed.path).err()).map(Into::into);
    };
    if prepared.chat {
        return None;
    }
    let problem = prepared.template_problem.unwrap_or_else(|| TextError::NoChatTemplate.to_string());
    Some(anyhow!("{}: {problem}", prepared.name))
}
