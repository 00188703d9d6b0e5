//! Calls of tools, and their results.

use nearfield_api::{
    Content, FinishReason, Function, Message, Part, Prompt, Request, Role, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use serde_json::{Value, json};

use super::answer::{Choice, answer};
use super::said::{hello, says};
use super::{Held, Subject, ensure, same};
use crate::plays::{ARGUMENTS, SUNNY};

const TOOL: &str = "weather";

pub(super) fn weather(subject: &Subject) -> Request {
    let function = Function {
        name: TOOL.to_owned(),
        description: Some("Tells the weather".to_owned()),
        parameters: Some(json!({"type": "object", "properties": {"city": {"type": "string"}}})),
        ..Function::default()
    };
    let tools = vec![Tool::Function(function)];
    Request { tools, tool_choice: Some(ToolChoice::Auto), ..hello(subject) }
}

pub(super) fn one(subject: &Subject) -> Request {
    Request { parallel_tools: Some(false), ..weather(subject) }
}

pub(super) fn forced(subject: &Subject) -> Request {
    Request { tool_choice: Some(ToolChoice::Required), ..weather(subject) }
}

/// A conversation in which a tool was called, as a client may send it to another backend.
pub(super) fn with_results(subject: &Subject) -> Request {
    let call = ToolCall {
        id: "call_1".to_owned(),
        name: TOOL.to_owned(),
        arguments: ARGUMENTS.concat(),
        opaque: None,
    };
    let call = Message::of(Role::Assistant, vec![Content::ToolCall(call).into()]);
    with(hello(subject), [call, result("call_1".to_owned())])
}

fn with(mut request: Request, more: impl IntoIterator<Item = Message>) -> Request {
    if let Prompt::Chat(messages) = &mut request.prompt {
        messages.extend(more);
    }
    request
}

fn result(call_id: String) -> Message {
    let result = ToolResult { call_id, name: None, content: vec![Part::text("sunny")], is_error: None };
    Message::of(Role::Tool, vec![Content::ToolResult(result).into()])
}

/// So many calls, each with its own arguments.
pub(super) async fn calls(subject: &Subject, request: Request, count: usize) -> Held {
    are_calls(answer(subject, request).await?.only()?, count)
}

fn are_calls(only: &Choice, count: usize) -> Held {
    same("the reason", only.reason, Some(FinishReason::ToolCalls))?;
    same("the text", only.text.trim(), "")?;
    same("the number of calls", only.calls.len(), count)?;
    for (call, arguments) in only.calls.iter().zip(ARGUMENTS) {
        same("the tool", call.name.as_str(), TOOL)?;
        let json =
            |text: &str| serde_json::from_str::<Value>(text).map_err(|error| format!("{error} in {text:?}"));
        same("the arguments", json(&call.arguments)?, json(arguments)?)?;
    }
    let mut ids: Vec<&str> = only.calls.iter().map(|call| call.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure(ids.len() == count, || format!("calls share an id: {ids:?}"))
}

/// The calls come back with a result for each.
pub(super) async fn results(subject: &Subject) -> Held {
    let request = weather(subject);
    let answer = answer(subject, request.clone()).await?;
    let only = answer.only()?;
    are_calls(only, ARGUMENTS.len())?;
    let results = only.calls.iter().map(|call| result(call.id.clone()));
    let more: Vec<Message> = std::iter::once(only.message()).chain(results).collect();
    says(subject, with(request, more), &SUNNY.concat()).await
}
