//! The functions that `transformers` adds to Jinja.

use std::error::Error as _;

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, escape_formatter};

use super::{filters, json, methods, python};

/// Adds functions, filters, tests and methods to an environment.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", json::tojson);
    filters::install(environment);
    environment.add_test("sequence", is_sequence);
    environment.set_formatter(write_value);
    environment.set_unknown_method_callback(methods::call);
}

/// Writes the value of an expression; only floats look different in Python.
fn write_value(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Number
        && !value.is_integer()
        && let Ok(number) = f64::try_from(value.clone())
    {
        return output.write_str(&python::float(number)).map_err(Error::from);
    }
    escape_formatter(output, state, value)
}

/// Jinja takes everything with a length and places for a sequence.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

/// What a template says when it refuses a conversation.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, "the template refuses this conversation")
        .with_source(Refusal(message)))
}

/// The message of `raise_exception`, if that is what an error comes from.
pub(super) fn refusal(error: &Error) -> Option<String> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Refusal(message)) = cause.downcast_ref() {
            return Some(message.clone());
        }
        source = cause.source();
    }
    None
}

/// The function `strftime_now`, telling the given time or the system's.
pub(super) fn strftime_now(now: Option<jiff::Zoned>) -> Value {
    Value::from_function(move |format: &str| {
        let now = now.clone().unwrap_or_else(jiff::Zoned::now);
        jiff::fmt::strtime::format(format, &now).map_err(|error| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"))
        })
    })
}
