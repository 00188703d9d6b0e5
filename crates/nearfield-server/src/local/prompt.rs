//! From a request's prompt to the model's tokens.

use nearfield_api::{Error, ErrorKind, Message, Prompt, Role};
use nearfield_model::{ChatMessage, ChatOptions, Text};

use super::errors::text_error;
use super::models::Lease;

/// Prompts longer than this are encoded beside the threads that serve others.
const LONG_PROMPT: usize = 32 << 10;

/// The tokens of a prompt.
pub(super) async fn encode(lease: &Lease, prompt: &Prompt) -> Result<Vec<u32>, Error> {
    if length(prompt) <= LONG_PROMPT {
        return tokens(lease.text(), prompt);
    }
    let (text, prompt) = (lease.shared_text(), prompt.clone());
    tokio::task::spawn_blocking(move || tokens(&text, &prompt))
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the prompt could not be encoded")))
}

fn tokens(text: &Text, prompt: &Prompt) -> Result<Vec<u32>, Error> {
    match prompt {
        Prompt::Chat(messages) => {
            let messages: Vec<ChatMessage> = messages.iter().map(chat_message).collect();
            text.encode_chat(&messages, &ChatOptions::default())
        }
        Prompt::Text { text: before, suffix } => text.encode_completion(before, suffix.as_deref()),
        Prompt::Tokens(tokens) => return Ok(tokens.clone()),
    }
    .map_err(|error| text_error(&error, prompt))
}

fn chat_message(message: &Message) -> ChatMessage {
    let role = match message.role {
        // The newer spelling of the same; templates know only the older one.
        Role::Developer => Role::System,
        role => role,
    };
    ChatMessage {
        role: role.as_str().to_owned(),
        content: message.text().into_owned(),
        name: message.name.clone(),
    }
}

fn length(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Tokens(_) => 0,
        prompt => prompt.bytes(),
    }
}
