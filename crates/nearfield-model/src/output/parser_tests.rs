use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::output::CallSyntax;

const QWEN35: OutputFormat =
    OutputFormat { thoughts: Some(ThoughtMarks::Think), calls: Some(CallSyntax::Functions) };
const HERMES: OutputFormat =
    OutputFormat { thoughts: Some(ThoughtMarks::Think), calls: Some(CallSyntax::Json) };
const GEMMA4: OutputFormat =
    OutputFormat { thoughts: Some(ThoughtMarks::Channel), calls: Some(CallSyntax::Gemma4) };

fn tools() -> Arc<ToolTypes> {
    let schema = json!({"properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "metric": {"type": "boolean"},
        "places": {"type": "array"}, "more": {"type": "object"},
    }});
    Arc::new(ToolTypes::new([("weather", Some(&schema)), ("now", None)]))
}

/// Parts of the same kind joined, as a client sees them.
fn joined(events: Vec<OutputEvent>) -> Vec<OutputEvent> {
    let mut out: Vec<OutputEvent> = Vec::new();
    for event in events {
        match (out.last_mut(), event) {
            (Some(OutputEvent::Text(text)), OutputEvent::Text(more))
            | (Some(OutputEvent::Reasoning(text)), OutputEvent::Reasoning(more)) => text.push_str(&more),
            (_, event) => out.push(event),
        }
    }
    out
}

fn pieces<'a>(
    format: OutputFormat,
    in_thought: bool,
    texts: impl IntoIterator<Item = &'a str>,
) -> Vec<OutputEvent> {
    let mut parser = OutputParser::new(format, tools(), in_thought);
    let mut events = Vec::new();
    for text in texts {
        parser.push(text, &mut events);
    }
    parser.finish(&mut events);
    joined(events)
}

/// The parts of an output, which must not depend on how it is cut.
fn parsed(format: OutputFormat, in_thought: bool, output: &str) -> Vec<OutputEvent> {
    let whole = pieces(format, in_thought, [output]);
    let mut buffer = [0; 4];
    let letters: Vec<String> = output.chars().map(|at| at.encode_utf8(&mut buffer).to_owned()).collect();
    assert_eq!(
        pieces(format, in_thought, letters.iter().map(String::as_str)),
        whole,
        "letter by letter: {output}"
    );
    whole
}

fn text(text: &str) -> OutputEvent {
    OutputEvent::Text(text.to_owned())
}

fn reasoning(text: &str) -> OutputEvent {
    OutputEvent::Reasoning(text.to_owned())
}

fn call(index: u32, name: &str, arguments: Value) -> OutputEvent {
    OutputEvent::Call { index, name: name.to_owned(), arguments: arguments.to_string() }
}

#[test]
fn thoughts_are_apart_from_answers() {
    for format in [QWEN35, HERMES] {
        assert_eq!(
            parsed(format, true, "Let me see.\n\nYes\n</think>\n\nIt is one.\n"),
            [reasoning("Let me see.\n\nYes"), text("It is one.\n")]
        );
        assert_eq!(parsed(format, false, "<think>\nHm\n</think>\n\nOne"), [reasoning("Hm"), text("One")]);
        assert_eq!(parsed(format, false, "<think>\n\n</think>\n\nOne"), [text("One")]);
        assert_eq!(parsed(format, true, "cut off  "), [reasoning("cut off")]);
        assert_eq!(parsed(format, false, "a <think> b </think> c"), [text("a <think> b </think> c")]);
    }
    assert_eq!(
        parsed(GEMMA4, false, "<|channel>thought\nHm, <b\n<channel|>One"),
        [reasoning("Hm, <b"), text("One")]
    );
    assert_eq!(parsed(GEMMA4, false, "<|channel>thought\n<channel|>One"), [text("One")]);
}

#[test]
fn calls_of_functions_have_the_types_of_their_schema() {
    let output = "I look.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nSão\n Paulo\n</parameter>\n\
        <parameter=days>\n3\n</parameter>\n<parameter=metric>\nTrue\n</parameter>\n<parameter=places>\n[1, {\"a\": null}]\n\
        </parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>";
    let first = json!({"city": "São\n Paulo", "days": 3, "metric": true, "places": [1, {"a": null}]});
    assert_eq!(
        parsed(QWEN35, false, output),
        [text("I look."), call(0, "weather", first), call(1, "now", json!({}))]
    );
}

#[test]
fn values_may_hold_what_looks_like_an_end() {
    let value = "<tool_call>\nx</parameter> </function>?\n</tool_call>";
    let output = format!(
        "<tool_call><function=weather><parameter=city>\n{value}\n</parameter></function></tool_call>"
    );
    assert_eq!(parsed(QWEN35, false, &output)[0], call(0, "weather", json!({"city": value})));
    let output = r#"<tool_call>{"name": "weather", "arguments": {"city": "a</tool_call>b"}}</tool_call>"#;
    assert_eq!(parsed(HERMES, false, output), [call(0, "weather", json!({"city": "a</tool_call>b"}))]);
    let output = "<|tool_call>call:weather{city:<|\"|>a<tool_call|>}b<|\"|>}<tool_call|>";
    assert_eq!(parsed(GEMMA4, false, output), [call(0, "weather", json!({"city": "a<tool_call|>}b"}))]);
}

#[test]
fn json_calls_are_read() {
    let output = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"days\": \"2\", \"city\": \"Köln\"}}\n</tool_call>\n\
        <tool_call>\n{\"name\": \"now\", \"arguments\": \"{}\"}\n</tool_call>";
    let first = call(0, "weather", json!({"days": 2, "city": "Köln"}));
    assert_eq!(parsed(HERMES, false, output), [first, call(1, "now", json!({}))]);
    let unclosed = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n";
    assert_eq!(parsed(HERMES, false, unclosed), [call(0, "now", json!({}))]);
}

#[test]
fn calls_of_gemma_are_read() {
    let output = "<|channel>thought\nNeeds it.\n<channel|><|tool_call>call:weather{city:<|\"|>a, {b}: \"c\"<|\"|>,days:3,\
        metric:false,more:{x:[1,<|\"|>y<|\"|>,{}],z:null}}<tool_call|><|tool_call>call:now{}<tool_call|>";
    let first =
        json!({"city": "a, {b}: \"c\"", "days": 3, "metric": false, "more": {"x": [1, "y", {}], "z": null}});
    assert_eq!(
        parsed(GEMMA4, false, output),
        [reasoning("Needs it."), call(0, "weather", first), call(1, "now", json!({}))]
    );
}

#[test]
fn what_is_no_call_stays_text() {
    for (format, output) in [
        (HERMES, "a\n<tool_call>\n{\"name\": 5}\n</tool_call> b"),
        (HERMES, "<tool_call>no json</tool_call>"),
        (HERMES, "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": "),
        (HERMES, "<tool_call>{\"name\": \"now</tool_call> and on"),
        (HERMES, "look: <tool_call"),
        (QWEN35, "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</function>\n</tool_call>"),
        (QWEN35, "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"),
        (QWEN35, "<tool_call>\n<function=>\n</function>\n</tool_call> "),
        (GEMMA4, "<|tool_call>call:weather{city:<|\"|>Paris}<tool_call|>"),
        (GEMMA4, "<|tool_call>weather(1)<tool_call|> x"),
        (GEMMA4, "<|tool_call>call:weather{city}<tool_call|>"),
        (GEMMA4, "<|tool_call>call:weather{a:1 b:2}<tool_call|>"),
    ] {
        assert_eq!(parsed(format, false, output), [text(output)]);
    }
}

#[test]
fn a_broken_call_does_not_hide_the_next_one() {
    let broken = "<tool_call>{\"name\": \"x</tool_call>";
    let output = format!("{broken}<tool_call>{{\"name\": \"now\"}}</tool_call>");
    assert_eq!(parsed(HERMES, false, &output), [text(broken), call(0, "now", json!({}))]);
}

#[test]
fn a_call_without_end_is_given_up() {
    let output = format!("<tool_call>{{\"name\": \"{}", "x".repeat(MAX_CALL + 9));
    assert_eq!(pieces(HERMES, false, [output.as_str()]), [text(&output)]);
    let deep = format!("<|tool_call>call:now{{a:{}<tool_call|>", "[".repeat(100_000));
    assert_eq!(pieces(GEMMA4, false, [deep.as_str()]), [text(&deep)]);
}

#[test]
fn formats_are_recognised_in_templates() {
    assert_eq!(OutputFormat::of_template("{{ '<tool_call>' }}").calls, Some(CallSyntax::Json));
    assert_eq!(OutputFormat::of_template("<think></think><tool_call>\n<function=example>"), QWEN35);
    assert_eq!(OutputFormat::of_template("<|channel>thought <|tool_call>call:"), GEMMA4);
    assert_eq!(OutputFormat::of_template("<|im_start|>"), OutputFormat::PLAIN);
    assert!(QWEN35.begins_in_thought("<|im_start|>assistant\n<think>\n"));
    assert!(!QWEN35.begins_in_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
}

fn output() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<function=weather>",
        "</function>",
        "<parameter=days>",
        "</parameter>",
        "\n",
        " ",
        "3",
        "é",
        "<",
        "{\"name\": \"now\"",
        ", \"arguments\": {}}",
        "\"",
        "}",
        "<|channel>thought",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
        "call:now{",
        "<|\"|>",
        "a:",
        ",",
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "<|tool_call>call:now{a:1}<tool_call|>",
        "<tool_call>{\"name\": \"now\"}</tool_call>",
    ]);
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn cuts_change_nothing(output in output(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        in_thought in any::<bool>()) {
        let characters: Vec<char> = output.chars().collect();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(characters.len() + 1)).collect();
        places.extend([0, characters.len()]);
        places.sort_unstable();
        let cut: Vec<String> =
            places.windows(2).map(|pair| characters[pair[0]..pair[1]].iter().collect()).collect();
        for format in [QWEN35, HERMES, GEMMA4] {
            let whole = pieces(format, in_thought, [output.as_str()]);
            prop_assert_eq!(pieces(format, in_thought, cut.iter().map(String::as_str)), whole);
        }
    }
}
