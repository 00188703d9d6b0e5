//! The text side of a model: its tokenizer, chat template, stop tokens and generation settings.

mod error;
mod open;

pub use error::TextError;

use crate::chat::{ChatMessage, ChatOptions, ChatTemplate};
use crate::output::OutputFormat;
use crate::tokenizer::{GenerationConfig, Special, StopTokens, Tokenizer};

/// What turns requests into tokens and says where an answer ends. Opened apart from the weights, it is small and quick.
#[derive(Debug)]
pub struct Text {
    tokenizer: Tokenizer,
    template: Template,
    stop_tokens: StopTokens,
    generation: GenerationConfig,
    output: OutputFormat,
}

/// The model's chat template. One that cannot be used does not keep the model from completing text.
#[derive(Debug)]
enum Template {
    None,
    Good(Box<ChatTemplate>),
    Bad { problem: String },
}

impl Template {
    fn new(source: Option<&str>, tokenizer: &Tokenizer) -> Self {
        match source.map(|source| ChatTemplate::new(source, tokenizer)) {
            None => Self::None,
            Some(Ok(template)) => Self::Good(Box::new(template)),
            Some(Err(TextError::BadTemplate { problem })) => Self::Bad { problem },
            Some(Err(error)) => Self::Bad { problem: error.to_string() },
        }
    }
}

impl Text {
    /// Puts the parts together.
    pub fn new(tokenizer: Tokenizer, generation: GenerationConfig, template: Option<&str>) -> Self {
        let stop_tokens = StopTokens::collect(&tokenizer, &generation, template);
        let output = template.map_or(OutputFormat::PLAIN, OutputFormat::of_template);
        let template = Template::new(template, &tokenizer);
        Self { tokenizer, template, stop_tokens, generation, output }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template; `None` for base models, and for models whose template cannot be used.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        match &self.template {
            Template::Good(template) => Some(template),
            Template::None | Template::Bad { .. } => None,
        }
    }

    /// Why messages cannot be written with the model's chat template although it has one. `None` for base models too.
    pub fn template_problem(&self) -> Option<TextError> {
        match &self.template {
            Template::Bad { problem } => Some(TextError::BadTemplate { problem: problem.clone() }),
            Template::None | Template::Good(_) => None,
        }
    }

    /// The tokens that end an answer.
    pub fn stop_tokens(&self) -> &StopTokens {
        &self.stop_tokens
    }

    /// The sampling that the model's makers advise, as far as its files say.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// How the model marks thoughts and calls of tools in its answers to conversations.
    pub fn output(&self) -> OutputFormat {
        self.output
    }

    /// Whether an answer to a conversation begins inside a thought that the prompt has opened.
    pub fn begins_in_thought(&self, prompt: &[u32]) -> bool {
        // The mark is one token in the vocabularies that have one, else some few.
        let end = prompt.get(prompt.len().saturating_sub(8)..).unwrap_or_default();
        let end = self.tokenizer.decode(end, Special::Parse).unwrap_or_default();
        self.output.begins_in_thought(&end)
    }

    /// Tokens of a conversation, written by the model's chat template.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`] for base models; else what the template or the tokenizer says.
    pub fn encode_chat(
        &self,
        messages: &[ChatMessage],
        options: &ChatOptions,
    ) -> Result<Vec<u32>, TextError> {
        let template = match &self.template {
            Template::Good(template) => template,
            Template::None => return Err(TextError::NoChatTemplate),
            Template::Bad { problem } => return Err(TextError::BadTemplate { problem: problem.clone() }),
        };
        let prompt = template.render_prompt(messages, options)?;
        Ok(self.tokenizer.encode_prompt(&prompt).exact()?)
    }

    /// Tokens of a text to continue or, with a suffix, of a gap to fill.
    ///
    /// A text to continue is the caller's whole prompt, as the completions API has it: control tokens written in it are
    /// recognised, and the beginning-of-text token is added where the vocabulary asks for one and the text does not have
    /// it. Around a gap stands code of others, in which nothing is a control token.
    ///
    /// # Errors
    /// [`TextError::NoFillInTheMiddle`] for a suffix with a model that does not know gaps.
    pub fn encode_completion(&self, text: &str, suffix: Option<&str>) -> Result<Vec<u32>, TextError> {
        let mut ids: Vec<u32> = self.tokenizer.bos_to_add().into_iter().collect();
        let Some(suffix) = suffix else {
            let encoded = self.tokenizer.encode(text, Special::Parse).exact()?;
            let has_bos = !ids.is_empty() && encoded.first() == ids.first();
            ids.extend(encoded.into_iter().skip(usize::from(has_bos)));
            return Ok(ids);
        };
        let tokens = self.tokenizer.fill_in_the_middle().ok_or(TextError::NoFillInTheMiddle)?;
        ids.push(tokens.prefix);
        ids.extend(self.tokenizer.encode(text, Special::AsText).exact()?);
        ids.push(tokens.suffix);
        ids.extend(self.tokenizer.encode(suffix, Special::AsText).exact()?);
        ids.push(tokens.middle);
        Ok(ids)
    }
}
