//! Outputs of models: the first byte says how the rest is cut; cuts must change nothing.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use nearfield_model::output::{CallSyntax, OutputEvent, OutputFormat, OutputParser, ThoughtMarks, ToolTypes};

fn parts(format: OutputFormat, pieces: &[&str]) -> Vec<OutputEvent> {
    let mut parser = OutputParser::new(format, Arc::new(ToolTypes::default()), false);
    let mut events = Vec::new();
    pieces.iter().for_each(|piece| parser.push(piece, &mut events));
    parser.finish(&mut events);
    let mut joined: Vec<OutputEvent> = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (Some(OutputEvent::Text(text)), OutputEvent::Text(more))
            | (Some(OutputEvent::Reasoning(text)), OutputEvent::Reasoning(more)) => text.push_str(&more),
            (_, event) => joined.push(event),
        }
    }
    joined
}

fuzz_target!(|input: (u8, &str)| {
    let (size, output) = (usize::from(input.0).max(1), input.1);
    let mut pieces = Vec::new();
    let mut rest = output;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(size.min(rest.len())));
        pieces.push(piece);
        rest = after;
    }
    for (thoughts, calls) in [
        (ThoughtMarks::Think, CallSyntax::Functions),
        (ThoughtMarks::Think, CallSyntax::Json),
        (ThoughtMarks::Channel, CallSyntax::Gemma4),
    ] {
        let format = OutputFormat { thoughts: Some(thoughts), calls: Some(calls) };
        assert_eq!(parts(format, &pieces), parts(format, &[output]));
    }
});
