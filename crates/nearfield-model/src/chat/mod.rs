//! Chat templates: the Jinja programs, shipped with models, that write a conversation as the model was trained to read it.
//!
//! They are rendered as the `transformers` library does it in Python, filters and string methods included. Templates come
//! from strangers, so what they may compute and write is limited; conversations come from other strangers, so control
//! tokens are recognised only where the template itself wrote them. A text in a message that merely looks like one is
//! different from it for the template's own comparisons too; all else that a template sees of a message is unchanged.

mod families;
mod filters;
mod functions;
mod json;
mod message;
mod methods;
mod python;
mod source;
mod strings;

use std::io;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

pub(crate) use families::template_of;
pub use message::{ChatMessage, ChatOptions};

use crate::text::TextError;
use crate::tokenizer::{PromptText, Special, SpecialMatcher, Tokenizer};

/// Longest template source in bytes; published ones have at most some ten thousand.
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Longest prompt in bytes that a template may write.
const MAX_PROMPT_BYTES: usize = 64 << 20;
/// Instructions that a template may execute for one prompt; a long conversation takes some hundred thousand.
const MAX_INSTRUCTIONS: u64 = 20_000_000;
/// Deepest nesting of macros and loops; the stack of a thread must hold it.
const MAX_RECURSION: usize = 120;
/// Name of the only template in its environment; errors show it.
const NAME: &str = "chat template";
/// Variables that are not options.
const RESERVED: [&str; 8] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "raise_exception",
    "strftime_now",
];

/// A chat template, checked and ready.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    control: Arc<SpecialMatcher>,
    bos: Option<String>,
    eos: Option<String>,
    prepared: Prepared,
}

/// A compiled template whose control tokens are marked.
#[derive(Debug)]
struct Prepared {
    mark: char,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Checks a template for use with a tokenizer: it knows that vocabulary's control tokens and the texts of its
    /// beginning and end tokens.
    ///
    /// # Errors
    /// [`TextError::BadTemplate`] for a template that is too long or no Jinja.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.decode(&[id], Special::Parse).ok());
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        Self::with_control(source, Arc::clone(tokenizer.control()), bos, eos)
    }

    /// Checks a template on its own: no text in it is a control token, and `bos_token` and `eos_token` are as given.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn without_vocabulary(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TextError> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self::with_control(source, Arc::default(), owned(bos), owned(eos))
    }

    fn with_control(
        source: &str,
        control: Arc<SpecialMatcher>,
        bos: Option<String>,
        eos: Option<String>,
    ) -> Result<Self, TextError> {
        if source.len() > MAX_SOURCE_BYTES {
            let problem = format!("it has {} bytes, more than the {MAX_SOURCE_BYTES} allowed", source.len());
            return Err(TextError::BadTemplate { problem });
        }
        let mark = free_mark(|mark| source.contains(mark));
        let prepared = Prepared::new(source, mark, &control)?;
        Ok(Self { source: source.to_owned(), control, bos, eos, prepared })
    }

    /// The template as the model's files have it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// [`TextError::Refused`] with the template's own words, [`TextError::Render`], [`TextError::PromptTooLong`],
    /// [`TextError::TemplateOption`].
    pub fn render(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String, TextError> {
        let (text, mark) = self.render_marked(messages, options)?;
        Ok(text.replace(mark, ""))
    }

    /// As [`ChatTemplate::render`], knowing which control tokens are the template's own.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_prompt(
        &self,
        messages: &[ChatMessage],
        options: &ChatOptions,
    ) -> Result<PromptText, TextError> {
        let (text, mark) = self.render_marked(messages, options)?;
        Ok(PromptText::from_marked(&text, mark, &self.control))
    }

    /// The prompt with a mark, which is returned too, in front of each of the template's control tokens.
    fn render_marked(
        &self,
        messages: &[ChatMessage],
        options: &ChatOptions,
    ) -> Result<(String, char), TextError> {
        let given = |mark| occurs(mark, messages, options);
        if !given(self.prepared.mark) {
            return Ok((self.render_with(&self.prepared, messages, options)?, self.prepared.mark));
        }
        let mark = free_mark(|mark| self.source.contains(mark) || given(mark));
        let prepared = Prepared::new(&self.source, mark, &self.control)?;
        Ok((self.render_with(&prepared, messages, options)?, mark))
    }

    fn render_with(
        &self,
        prepared: &Prepared,
        messages: &[ChatMessage],
        options: &ChatOptions,
    ) -> Result<String, TextError> {
        let variables = self.variables(prepared.mark, messages, options)?;
        let mut output = Bounded::default();
        let template = prepared.environment.get_template(NAME).map_err(|error| failure(&error))?;
        match template.render_captured_to(variables, &mut output) {
            Ok(_) => {}
            Err(_) if output.overflowed => {
                return Err(TextError::PromptTooLong { limit: MAX_PROMPT_BYTES });
            }
            Err(error) => return Err(without_mark(failure(&error), prepared.mark)),
        }
        String::from_utf8(output.bytes)
            .map_err(|_| TextError::Render { problem: "it wrote bytes that are not UTF-8".to_owned() })
    }

    fn variables(
        &self,
        mark: char,
        messages: &[ChatMessage],
        options: &ChatOptions,
    ) -> Result<Value, TextError> {
        let messages: Vec<Value> = messages.iter().map(ChatMessage::value).collect();
        let tools = match options.tools.as_slice() {
            [] => Value::from(()),
            tools => Value::from(tools.iter().map(message::value_of).collect::<Vec<_>>()),
        };
        // The vocabulary's own tokens, written by the template: trusted.
        let token = |text: &Option<String>| match text {
            Some(text) if self.control.at_start(text.as_bytes()).any(|(length, _)| length == text.len()) => {
                Value::from(format!("{mark}{text}"))
            }
            Some(text) => Value::from(text.as_str()),
            None => Value::UNDEFINED,
        };
        let mut variables: Vec<(String, Value)> = vec![
            ("messages".to_owned(), Value::from(messages)),
            ("tools".to_owned(), tools),
            ("documents".to_owned(), Value::from(())),
            ("add_generation_prompt".to_owned(), Value::from(options.add_generation_prompt)),
            ("bos_token".to_owned(), token(&self.bos)),
            ("eos_token".to_owned(), token(&self.eos)),
            ("strftime_now".to_owned(), functions::strftime_now(options.now.clone())),
        ];
        for (name, value) in &options.template_options {
            if RESERVED.contains(&name.as_str()) {
                let problem = "is set by this program and cannot be given".to_owned();
                return Err(TextError::TemplateOption { name: name.clone(), problem });
            }
            variables.push((name.clone(), message::value_of(value)));
        }
        Ok(Value::from_pairs(variables))
    }
}

impl Prepared {
    fn new(source: &str, mark: char, control: &SpecialMatcher) -> Result<Self, TextError> {
        let bad = |error: &minijinja::Error| TextError::BadTemplate {
            problem: error.to_string().replace(mark, ""),
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| bad(&error))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(MAX_INSTRUCTIONS));
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_debug(false);
        functions::install(&mut environment);
        environment
            .add_template_owned(NAME, source::prepare(source, mark, control))
            .map_err(|error| bad(&error))?;
        Ok(Self { mark, environment })
    }
}

/// A character that `used` does not know: one that Unicode keeps free for programs' own use.
fn free_mark(used: impl Fn(char) -> bool) -> char {
    let mut free = ('\u{FDD0}'..='\u{FDEF}').chain('\u{100000}'..='\u{10FFFD}');
    free.find(|&mark| !used(mark)).unwrap_or('\u{10FFFF}')
}

/// Whether a character stands anywhere in what is to be rendered.
fn occurs(mark: char, messages: &[ChatMessage], options: &ChatOptions) -> bool {
    fn within(mark: char, value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::String(text) => text.contains(mark),
            serde_json::Value::Array(values) => values.iter().any(|value| within(mark, value)),
            serde_json::Value::Object(map) => {
                map.iter().any(|(key, value)| key.contains(mark) || within(mark, value))
            }
            _ => false,
        }
    }
    messages.iter().any(|message| {
        let name = message.name.as_deref().unwrap_or_default();
        [&message.role, &message.content, name].iter().any(|text| text.contains(mark))
            || message.fields.iter().any(|(key, value)| key.contains(mark) || within(mark, value))
    }) || options.tools.iter().any(|tool| within(mark, tool))
        || options.template_options.values().any(|value| within(mark, value))
}

/// The error of this crate for one of the template engine.
fn failure(error: &minijinja::Error) -> TextError {
    if let Some(message) = functions::refusal(error) {
        return TextError::Refused { message };
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return TextError::Render { problem: format!("it takes more than {MAX_INSTRUCTIONS} steps") };
    }
    let mut problem = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        problem = format!("{problem}: {cause}");
        source = cause.source();
    }
    TextError::Render { problem }
}

fn without_mark(error: TextError, mark: char) -> TextError {
    match error {
        TextError::Refused { message } => TextError::Refused { message: message.replace(mark, "") },
        TextError::Render { problem } => TextError::Render { problem: problem.replace(mark, "") },
        other => other,
    }
}

/// Output that ends in an error when it grows beyond the limit.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_PROMPT_BYTES {
            self.overflowed = true;
            return Err(io::Error::other("the prompt is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
