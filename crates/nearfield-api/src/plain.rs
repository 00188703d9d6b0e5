//! What a backend for nothing but text says to requests for more.

use serde_json::Value;

use crate::{Content, Error, Message, OutputFormat, Prompt, Request, Role, Tool, ToolChoice};

/// Fields that are known and not supported, and what to do instead.
const UNSUPPORTED: [(&str, &str); 10] = [
    ("functions", "send the request without tools"),
    ("function_call", "send the request without tools"),
    ("modalities", "only text can be generated"),
    ("audio", "only text can be generated"),
    ("prediction", "leave it out"),
    ("verbosity", "only \"medium\" is"),
    ("web_search_options", "nothing is searched; leave it out"),
    ("moderation", "nothing is moderated; leave it out"),
    ("service_tier", "only \"auto\" and \"default\" are"),
    ("refusal", "send its text as content"),
];

impl Request {
    /// Checks that only text is asked for, made from text: what every model can do.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidRequest`] that names the first field which asks for more.
    pub fn require_text_only(&self) -> Result<(), Error> {
        self.require_text(false)
    }

    /// As [`Request::require_text_only`], for a model that can call functions and think, as far as nobody has to force
    /// it: the caller looks at [`Request::reasoning`].
    ///
    /// # Errors
    /// As [`Request::require_text_only`].
    pub fn require_text_and_tools(&self) -> Result<(), Error> {
        self.require_text(true)?;
        for (i, tool) in self.tools.iter().enumerate() {
            let path = format!("tools[{i}]");
            let Tool::Function(function) = tool else {
                return Err(unsupported(&format!("{path}.type"), "only \"function\" is"));
            };
            if function.strict == Some(true) {
                let instead = "arguments cannot be forced into a schema here; send false or leave it out";
                return Err(unsupported(&format!("{path}.function.strict"), instead));
            }
            if let Some((name, value)) = function.extra.iter().find(|(_, value)| !value.is_null()) {
                return Err(extra_field(&format!("{path}.function.{}", crate::json::shorten(name)), value));
            }
        }
        match &self.tool_choice {
            None
            | Some(ToolChoice::Auto | ToolChoice::None | ToolChoice::Allowed { required: false, .. }) => {
                Ok(())
            }
            Some(_) => Err(unsupported(
                "tool_choice",
                "a model here cannot be forced to call a tool; send \"auto\" and ask for the call in the messages",
            )),
        }
    }

    fn require_text(&self, and_tools: bool) -> Result<(), Error> {
        let no_tools = "send the request without tools";
        if !and_tools && !self.tools.is_empty() {
            return Err(unsupported("tools", no_tools));
        }
        // Without tools there is nothing to choose: "none" and "auto" come to the same.
        if !and_tools && !matches!(self.tool_choice, None | Some(ToolChoice::Auto | ToolChoice::None)) {
            return Err(unsupported("tool_choice", no_tools));
        }
        if !matches!(self.format, None | Some(OutputFormat::Text)) {
            return Err(unsupported("response_format", "only {\"type\": \"text\"} is"));
        }
        if !and_tools && !self.reasoning.is_unset() {
            return Err(unsupported("reasoning_effort", "leave it out"));
        }
        if let Some((name, value)) = self.extra.iter().find(|(_, value)| !value.is_null()) {
            return Err(extra_field(name, value));
        }
        match &self.prompt {
            Prompt::Chat(messages) => {
                messages.iter().enumerate().try_for_each(|(i, message)| plain(i, message, and_tools))
            }
            Prompt::Text { .. } | Prompt::Tokens(_) => Ok(()),
        }
    }
}

fn plain(index: usize, message: &Message, and_tools: bool) -> Result<(), Error> {
    let at = format!("messages[{index}]");
    if message.role == Role::Tool && !and_tools {
        return Err(unsupported(&format!("{at}.role"), "send the conversation without tool results"));
    }
    if let Some((name, value)) = message.extra.iter().find(|(_, value)| !value.is_null()) {
        return Err(extra_field(&format!("{at}.{}", crate::json::shorten(name)), value));
    }
    for (i, part) in message.content.iter().enumerate() {
        let path = format!("{at}.content[{i}]");
        match &part.content {
            Content::Text(_) => {}
            Content::ToolCall(_) if and_tools => {}
            Content::ToolResult(result) if and_tools => {
                if result.content.iter().any(|part| part.as_text().is_none()) {
                    return Err(unsupported(&format!("{at}.content"), "only text can be a tool's result"));
                }
            }
            Content::ToolCall(_) => {
                return Err(unsupported(
                    &format!("{at}.tool_calls"),
                    "send the conversation without tool calls",
                ));
            }
            Content::Refusal(_) => {
                return Err(unsupported(&format!("{at}.refusal"), "send its text as content"));
            }
            // What other models thought is no part of the conversation, and templates leave it out.
            Content::Reasoning(_) => continue,
            _ => return Err(unsupported(&format!("{path}.type"), "only text parts are")),
        }
        if let Some((name, value)) = part.extra.iter().find(|(_, value)| !value.is_null()) {
            return Err(extra_field(&format!("{path}.{}", crate::json::shorten(name)), value));
        }
    }
    Ok(())
}

fn extra_field(path: &str, _value: &Value) -> Error {
    let name = path.rsplit('.').next().unwrap_or(path);
    match UNSUPPORTED.iter().find(|(known, _)| *known == name) {
        Some((_, instead)) => unsupported(path, instead),
        None => Error::invalid(
            &crate::json::shorten(path),
            format!("`{}` is not a field that Nearfield knows here; remove it.", crate::json::shorten(path)),
        )
        .with_code("unknown_parameter"),
    }
}

fn unsupported(path: &str, instead: &str) -> Error {
    crate::fields::unsupported(path, instead)
}
