//! What can go wrong here, in the terms of the API.

use std::time::Duration;

use nearfield_api::{Error, ErrorKind, Prompt, Request};
use nearfield_engine::EngineError;
use nearfield_hub::HubError;
use nearfield_model::tokenizer::TokenizerError;
use nearfield_model::{ModelError, TextError};

/// The least wait that is asked for: less would only make clients knock more often.
const LEAST_WAIT: Duration = Duration::from_secs(1);
/// The wait for models that are busy to make room for another one.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// The field that holds the prompt.
pub(super) const fn prompt_field(prompt: &Prompt) -> &'static str {
    match prompt {
        Prompt::Chat(_) => "messages",
        Prompt::Text { .. } | Prompt::Tokens(_) => "prompt",
    }
}

/// The hub does not have the model, or not in order.
pub(super) fn hub_error(error: &HubError) -> Error {
    match error {
        HubError::UnknownModel { .. } | HubError::NotInstalled { .. } | HubError::InvalidReference { .. } => {
            not_found(error.to_string())
        }
        HubError::NotAModel { .. } => not_found(error.to_string()),
        _ => Error::new(ErrorKind::Internal, error.to_string()).with_code("model_unusable"),
    }
}

/// There is no such model here.
pub(super) fn not_found(message: String) -> Error {
    Error::new(ErrorKind::NotFound, message).with_param("model").with_code("model_not_found")
}

/// The model's files cannot be used.
pub(super) fn model_error(error: &ModelError) -> Error {
    Error::new(ErrorKind::Internal, format!("the model cannot be loaded: {error}"))
        .with_code("model_unusable")
}

/// The model does not fit into the memory there is. While other models are busy it may fit later.
pub(super) fn out_of_memory(needed: u64, available: u64, others_busy: bool) -> Error {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let numbers =
        format!("the model needs {} MiB of memory and {} MiB are available", mib(needed), available >> 20);
    if others_busy {
        let message = format!("{numbers} while other models are answering; try again in a few seconds");
        return Error::new(ErrorKind::Overloaded, message)
            .with_code("insufficient_memory")
            .with_retry_after(ROOM_WAIT);
    }
    let message = format!("{numbers}; use a smaller --context, fewer slots, or a smaller model");
    Error::new(ErrorKind::Internal, message).with_code("insufficient_memory")
}

/// An engine could not be started.
pub(super) fn start_error(error: &EngineError) -> Error {
    match error {
        EngineError::InvalidSetting { .. } | EngineError::Kernels(_) => {
            Error::new(ErrorKind::Internal, format!("the engine's settings do not fit this model: {error}"))
        }
        _ => Error::new(ErrorKind::Internal, format!("the model cannot be loaded: {error}")),
    }
    .with_code("model_unusable")
}

/// The prompt cannot become tokens.
pub(super) fn text_error(error: &TextError, prompt: &Prompt) -> Error {
    let invalid = |param: &str| Error::invalid(param, error.to_string());
    match error {
        TextError::NoChatTemplate => invalid("messages").with_code("no_chat_template"),
        TextError::NoFillInTheMiddle => invalid("suffix").with_code("no_fill_in_the_middle"),
        TextError::Refused { .. } | TextError::PromptTooLong { .. } | TextError::Render { .. } => {
            invalid(prompt_field(prompt))
        }
        TextError::Tokenizer(TokenizerError::Unencodable { .. } | TokenizerError::UnknownId { .. }) => {
            invalid(prompt_field(prompt))
        }
        TextError::TemplateOption { .. } => invalid("chat_template_kwargs"),
        TextError::BadTemplate { .. } => invalid("messages").with_code("bad_chat_template"),
        _ => Error::new(ErrorKind::Internal, error.to_string()),
    }
}

/// The engine does not take the request.
pub(super) fn refused(error: EngineError, request: &Request) -> Error {
    let prompt = prompt_field(&request.prompt);
    let text = error.to_string();
    match error {
        EngineError::EmptyPrompt => Error::invalid(prompt, text),
        EngineError::UnknownToken { token, .. } => {
            let in_prompt = matches!(&request.prompt, Prompt::Tokens(tokens) if tokens.contains(&token));
            Error::invalid(if in_prompt { prompt } else { "logit_bias" }, text)
        }
        EngineError::TooManyChoices { .. } => Error::invalid("n", text),
        EngineError::InvalidSetting { name, .. } => Error::invalid(name, text),
        other => engine_error(other).with_prompt_field(prompt),
    }
}

/// The engine failed, at once or while it answered.
pub(super) fn engine_error(error: EngineError) -> Error {
    let text = error.to_string();
    match error {
        EngineError::ContextOverflow { .. } => {
            Error::new(ErrorKind::ContextLength, text).with_code("context_length_exceeded")
        }
        EngineError::Overloaded { retry_after, .. } => Error::new(ErrorKind::Overloaded, text)
            .with_code("engine_busy")
            .with_retry_after(retry_after.max(LEAST_WAIT)),
        EngineError::OutOfMemory { needed, available } => out_of_memory(needed, available, false),
        _ => Error::new(ErrorKind::Internal, text),
    }
}

trait WithPromptField {
    fn with_prompt_field(self, field: &str) -> Self;
}

impl WithPromptField for Error {
    /// Names the prompt's field where the prompt's length is at fault.
    fn with_prompt_field(self, field: &str) -> Self {
        if self.kind == ErrorKind::ContextLength { self.with_param(field) } else { self }
    }
}
