//! Takes an output apart as it comes.

use std::sync::Arc;

use super::{Broken, Call, OutputFormat, ThoughtMarks, ToolTypes};

/// Longest call in bytes; what goes on longer is text.
const MAX_CALL: usize = 256 << 10;
/// Ends that are tried for one call, in case those before were part of a value.
const MAX_ENDS: usize = 16;

/// A part of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputEvent {
    /// More of the answer.
    Text(String),
    /// More of a thought.
    Reasoning(String),
    /// A whole call of a tool.
    Call {
        /// Which call of the output, from 0.
        index: u32,
        /// The tool's name.
        name: String,
        /// The arguments: a JSON object.
        arguments: String,
    },
}

/// Takes one output apart.
///
/// However the output is cut into pieces, the same parts come out. A call is told when it is complete, since until then
/// it may turn out to be none; one that is malformed or cut off stays text. White space around thoughts and calls belongs
/// to neither.
#[derive(Debug, Clone)]
pub struct OutputParser {
    format: OutputFormat,
    tools: Arc<ToolTypes>,
    state: State,
    /// What is not decided yet.
    buffer: String,
    calls: u32,
    /// Whether white space that comes next is dropped.
    skips_space: bool,
    /// White space in front of a call, which is text when the call turns out to be none.
    space: String,
    /// Ends of the call that were tried.
    tried: usize,
    /// Whether there was text since the beginning or the last call: then a thought does not begin any more.
    answers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    Thought,
    Call,
}

impl OutputParser {
    /// A parser for one output. `in_thought` says that the prompt ends inside a thought.
    pub fn new(format: OutputFormat, tools: Arc<ToolTypes>, in_thought: bool) -> Self {
        let thought = in_thought && format.thoughts.is_some();
        let state = if thought { State::Thought } else { State::Text };
        Self {
            format,
            tools,
            state,
            buffer: String::new(),
            calls: 0,
            skips_space: thought,
            space: String::new(),
            tried: 0,
            answers: false,
        }
    }

    /// Whether the output is inside a thought.
    pub fn in_thought(&self) -> bool {
        self.state == State::Thought
    }

    /// How many calls there were.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Takes more of the output; what is decided now is appended to `into`.
    pub fn push(&mut self, text: &str, into: &mut Vec<OutputEvent>) {
        if self.format == OutputFormat::PLAIN {
            tell(into, OutputEvent::Text, text);
            return;
        }
        self.buffer.push_str(text);
        while self.advance(false, into) {}
    }

    /// The output is complete.
    pub fn finish(&mut self, into: &mut Vec<OutputEvent>) {
        while self.advance(true, into) {}
        let rest = std::mem::take(&mut self.buffer);
        let rest = if self.skips_space { rest.trim_start() } else { &rest };
        match self.state {
            State::Thought => tell(into, OutputEvent::Reasoning, rest.trim_end()),
            State::Text | State::Call => tell(into, OutputEvent::Text, rest),
        }
    }

    /// One step; whether another may follow. At the end a call that is not closed is decided.
    fn advance(&mut self, ended: bool, into: &mut Vec<OutputEvent>) -> bool {
        if self.skips_space {
            let kept = self.buffer.trim_start().len();
            self.buffer.drain(..self.buffer.len() - kept);
            if self.buffer.is_empty() {
                return false;
            }
        }
        match self.state {
            State::Text => self.text(into),
            State::Thought => self.thought(into),
            State::Call => self.call(ended, into),
        }
    }

    fn text(&mut self, into: &mut Vec<OutputEvent>) -> bool {
        let marks = self.format.thoughts.filter(|marks| *marks == ThoughtMarks::Channel || !self.answers);
        let thought = marks.map(|marks| (marks.texts().0, State::Thought));
        let call = self.format.calls.map(|syntax| (syntax.texts().0, State::Call));
        let opens = [thought, call].into_iter().flatten();
        let found = opens.clone().filter_map(|open| Some((self.buffer.find(open.0)?, open)));
        if let Some((place, (mark, state))) = found.min_by_key(|(place, _)| *place) {
            let before: String = self.buffer.drain(..place).collect();
            self.buffer.drain(..mark.len());
            let (text, space) = before.split_at(before.trim_end().len());
            if state == State::Thought && !text.is_empty() && marks == Some(ThoughtMarks::Think) {
                // Only the beginning of an output is a place for such a thought.
                (self.answers, self.skips_space) = (true, false);
                self.buffer.insert_str(0, &(space.to_owned() + mark));
                tell(into, OutputEvent::Text, text);
                return true;
            }
            self.answers |= !text.is_empty();
            tell(into, OutputEvent::Text, text);
            (self.space, self.tried) = (space.to_owned(), 0);
            self.state = state;
            // The inside of a call is looked at as a whole.
            self.skips_space = state == State::Thought;
            return true;
        }
        let held = opens.map(|(mark, _)| held_back(&self.buffer, mark)).max().unwrap_or(0);
        self.answers |= self.tell_decided(held, OutputEvent::Text, into);
        false
    }

    fn thought(&mut self, into: &mut Vec<OutputEvent>) -> bool {
        let Some(end) = self.format.thoughts.map(|marks| marks.texts().1) else { return false };
        if let Some(place) = self.buffer.find(end) {
            let thought = self.buffer.get(..place).unwrap_or_default().trim_end();
            tell(into, OutputEvent::Reasoning, thought);
            self.buffer.drain(..place + end.len());
            (self.state, self.skips_space) = (State::Text, true);
            return true;
        }
        self.tell_decided(held_back(&self.buffer, end), OutputEvent::Reasoning, into);
        false
    }

    /// Tells all but the last `held` bytes and the white space in front of them; whether that is anything.
    fn tell_decided(
        &mut self,
        held: usize,
        kind: fn(String) -> OutputEvent,
        into: &mut Vec<OutputEvent>,
    ) -> bool {
        let free = self.buffer.get(..self.buffer.len() - held).unwrap_or_default();
        let decided = free.trim_end().len();
        if decided > 0 {
            self.skips_space = false;
            let text: String = self.buffer.drain(..decided).collect();
            tell(into, kind, &text);
        }
        decided > 0
    }

    fn call(&mut self, ended: bool, into: &mut Vec<OutputEvent>) -> bool {
        let Some(syntax) = self.format.calls else { return false };
        let (open, close) = syntax.texts();
        let ends = self.buffer.match_indices(close).map(|(place, _)| place).take(MAX_ENDS);
        let ends: Vec<usize> = ends.filter(|place| place + close.len() <= MAX_CALL).collect();
        let first = ends.first().map_or(0, |first| first + close.len());
        for &place in ends.iter().skip(self.tried) {
            self.tried += 1;
            match syntax.parse(self.buffer.get(..place).unwrap_or_default(), &self.tools) {
                Ok(call) => {
                    self.take_call(call, place + close.len(), into);
                    return true;
                }
                Err(Broken::Unfinished) if self.tried < MAX_ENDS => {}
                Err(_) => return self.give_up(open, first, into),
            }
        }
        if ended
            && ends.is_empty()
            && let Ok(call) = syntax.parse(&self.buffer, &self.tools)
        {
            // The end of the turn stood for the end of the call.
            self.take_call(call, self.buffer.len(), into);
            return true;
        }
        if ended || self.buffer.len() > MAX_CALL {
            return self.give_up(open, first, into);
        }
        false
    }

    fn take_call(&mut self, call: Call, length: usize, into: &mut Vec<OutputEvent>) {
        self.buffer.drain(..length);
        let arguments = serde_json::Value::Object(call.arguments).to_string();
        into.push(OutputEvent::Call { index: self.calls, name: call.name, arguments });
        self.calls += 1;
        self.answers = false;
        (self.state, self.skips_space) = (State::Text, true);
    }

    /// It is no call: its mark is text, and so is what follows up to `length`. All behind it is looked at again.
    fn give_up(&mut self, open: &str, length: usize, into: &mut Vec<OutputEvent>) -> bool {
        let text: String = self.buffer.drain(..length).collect();
        let space = std::mem::take(&mut self.space);
        tell(into, OutputEvent::Text, &(space + open + &text));
        self.answers = true;
        (self.state, self.skips_space) = (State::Text, false);
        true
    }
}

fn tell(into: &mut Vec<OutputEvent>, kind: fn(String) -> OutputEvent, text: &str) {
    if !text.is_empty() {
        into.push(kind(text.to_owned()));
    }
}

/// Length of the longest end of a text that begins a mark.
fn held_back(text: &str, mark: &str) -> usize {
    let longest = mark.len().saturating_sub(1).min(text.len());
    (1..=longest)
        .rev()
        .find(|&length| text.as_bytes().ends_with(mark.as_bytes().get(..length).unwrap_or_default()))
        .unwrap_or(0)
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
