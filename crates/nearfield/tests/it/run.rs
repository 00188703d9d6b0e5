use std::io::Read as _;
use std::process::Stdio;

use super::support::{Done, Home};

#[test]
fn an_answer_goes_to_stdout_and_the_receipt_to_stderr() {
    let home = Home::new();
    let model = home.chat_model();
    let arguments = ["run", &model, "hello", "there", "--max-tokens", "8", "--seed", "1"];
    let done = home.run(&arguments);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.ends_with('\n'), "{done:?}");
    let receipt = done.stderr.lines().next().unwrap();
    assert!(receipt.starts_with(&format!("local · {model} · ")), "{receipt}");
    for part in
        [" tokens in, 8 out · ", " · first after ", " tok/s · ", " · in the cloud $", "(openai/gpt-5.4-nano)"]
    {
        assert!(receipt.contains(part), "{part} in {receipt}");
    }
    assert!(!done.stderr.contains('\x1b'), "{done:?}");
    // The same seed, quietly, gives the same bytes and nothing else.
    let again = home.run(&[&arguments[..], &["-q"]].concat());
    assert_eq!((again.stdout, again.stderr.as_str()), (done.stdout, ""));
    assert_eq!(home.rows().len(), 2);
}

#[test]
fn json_is_one_object_and_its_request_has_a_row() {
    let home = Home::new();
    let model = home.chat_model();
    let done = home.run(&["run", &model, "hello", "--json", "--max-tokens", "5", "--temperature", "0"]);
    let object = done.json();
    assert!(object["text"].is_string(), "{object}");
    assert_eq!(object["usage"]["completion_tokens"], 5);
    assert_eq!(object["finish_reason"], "length");
    assert_eq!(object["receipt"]["backend"], "local");
    let rows = home.rows();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(row["id"], object["receipt"]["id"]);
    assert_eq!(
        (&row["outcome"], &row["backend"], &row["key_id"]),
        (&"done".into(), &"local".into(), &"cli".into())
    );
    assert_eq!((&row["model"], &row["reason"]), (&model.as_str().into(), &"local-only".into()));
    assert_eq!(row["output_tokens"], 5);
    assert!(row["time"].is_string() && row["counterfactual_usd"].is_number(), "{row}");
}

#[test]
fn the_local_cost_follows_the_configured_power() {
    let home = Home::new();
    let model = home.chat_model();
    let config = home.write(
        "c.toml",
        "[cost]\nwatts = 1000\ndollars_per_kwh = 1000\nreference = \"openai/gpt-5.4-mini\"\n",
    );
    let done = home.run(&["run", &model, "hello", "--json", "--max-tokens", "5", "--config", &config]);
    let receipt = &done.json()["receipt"];
    assert!(receipt["cost_usd"].as_f64().unwrap() > 0.0, "{receipt}");
    assert_eq!(receipt["counterfactual"]["price"], "openai/gpt-5.4-mini");
}

#[test]
fn what_is_piped_in_is_part_of_the_prompt() {
    let home = Home::new();
    let model = home.chat_model();
    let tokens = |done: Done| done.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let flags = |words: &[&str]| -> Vec<String> {
        let fixed = ["run", model.as_str(), "--json", "--max-tokens", "1"];
        fixed.iter().chain(words).map(ToString::to_string).collect()
    };
    let ask = |words: &[&str], input: &str| {
        let arguments = flags(words);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        tokens(home.run_with_input(&arguments, input))
    };
    let words = ask(&["abc"], "");
    assert_eq!(ask(&[], "abc\n"), words, "piped alone");
    assert_eq!(ask(&["abc"], "defg\n"), words + 2 + 4, "both, with an empty line between");
    let nothing = home.run_with_input(&["run", &model], " \n");
    assert!(nothing.error(2).starts_with("there is no prompt: "), "{nothing:?}");
}

#[test]
fn a_base_model_continues_text() {
    let home = Home::new();
    let model = home.base_model();
    let done = home.run(&["run", &model, "abc", "--json", "--seed", "3"]);
    let object = done.json();
    assert_eq!(object["usage"]["prompt_tokens"], 3, "no template around it");
    assert!(object["usage"]["completion_tokens"].as_u64().unwrap() <= 256);
    let refused = home.run(&["run", &model, "abc", "--system", "be brief"]);
    assert!(refused.error(2).contains("base model without a chat template"), "{refused:?}");
    let no_gap = home.run(&["run", &model, "abc", "--suffix", "x"]);
    assert!(no_gap.error(1).contains("no fill-in-the-middle"), "{no_gap:?}");
}

#[test]
fn raw_text_gets_no_template() {
    let home = Home::new();
    let model = home.chat_model();
    let done = home.run(&["run", &model, "abc", "--raw", "--json", "--max-tokens", "1"]);
    assert_eq!(done.json()["usage"]["prompt_tokens"], 3);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = Home::new();
    let model = home.chat_model();
    let leave = || {
        let mut command = home.command(&["run", &model, "hello", "--max-tokens", "400", "--seed", "1"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut first).unwrap();
        drop(stdout);
        let done = Done::of(child.wait_with_output().unwrap());
        assert_eq!((done.code, done.stderr.as_str()), (0, ""));
        home.rows().iter().any(|row| row["outcome"] == "cancelled")
    };
    // On a busy machine an answer of a few hundredths of a second may be complete before its reader has left.
    assert!((0..5).any(|_| leave()));
}

#[test]
fn bench_takes_several_at_once_and_the_limits() {
    let home = Home::new();
    let model = home.chat_model();
    let arguments = ["bench", &model, "--runs", "2", "--prompt-tokens", "20", "--max-tokens", "12", "--json"];
    let alone = home.run(&[&arguments[..], &["--limits"]].concat()).json();
    let share = &alone["limits"]["share_of_reads"];
    assert!(share["min"].as_f64().unwrap() > 0.0 && share["max"].as_f64().unwrap() < 1.5, "{alone}");
    let (bytes, operations) = (&alone["limits"]["token_bytes"], &alone["limits"]["token_operations"]);
    assert!(bytes.as_f64().unwrap() > 1e3 && operations.as_f64().unwrap() > 1e3, "{alone}");
    let together = home.run(&[&arguments[..], &["--batch", "3"]].concat()).json();
    assert_eq!((&together["batch"], &together["limits"]), (&3.into(), &serde_json::Value::Null));
    // A model this small can be done with one answer before another's first token is seen: decode may be 0.
    assert!(together["prefill"]["tokens_per_second"]["min"].as_f64().unwrap() > 0.0, "{together}");
    let both = home.run(&[&arguments[..], &["--batch", "3", "--limits"]].concat());
    assert!(both.code == 2 && both.stderr.contains("cannot be used with"), "{both:?}");
}

#[test]
fn bench_and_perplexity_measure() {
    let home = Home::new();
    let model = home.chat_model();
    let done =
        home.run(&["bench", &model, "--runs", "2", "--prompt-tokens", "40", "--max-tokens", "4", "--json"]);
    let object = done.json();
    assert!(object["prefill"]["tokens_per_second"]["median"].as_f64().unwrap() > 0.0, "{object}");
    assert!(object["decode"]["tokens_per_second"]["min"].as_f64().unwrap() > 0.0, "{object}");
    let text = home.write("text.txt", "The quick brown fox jumps over the lazy dog. ".repeat(30));
    let arguments = ["eval", "perplexity", &model, "--text", &text, "--windows", "1", "--json"];
    let object = home.run(&arguments).json();
    let perplexity = object["ppl"].as_f64().unwrap();
    assert!(perplexity > 1.0 && object["standard_error"].as_f64().unwrap() > 0.0, "{object}");
    assert_eq!((&object["windows"], &object["scored_tokens"]), (&1.into(), &255.into()));
    let exact =
        home.run(&[&arguments[..], &["--arithmetic", "exact", "--threads", "1", "--kv", "f32"]].concat());
    let exact = exact.json()["ppl"].as_f64().unwrap();
    assert!((exact / perplexity - 1.0).abs() < 0.01, "{exact} {perplexity}");
    let arguments = ["eval", "kld", &model, "--text", &text, "--windows", "1", "--json"];
    let divergence = home.run(&arguments).json();
    assert_eq!((&divergence["ppl"], &divergence["ppl_reference"]), (&perplexity.into(), &exact.into()));
    let part = |name: &str| divergence[name].as_f64().unwrap();
    assert!(0.0 < part("mean") && part("mean") < part("percentile_99"), "{divergence}");
    assert!(part("same_choice") > 0.8 && part("percentile_99") < 0.1, "{divergence}");
    let same = home.run(&[&arguments[..], &["--arithmetic", "exact", "--kv", "f32"]].concat());
    assert!(same.error(1).contains("is the reference itself"), "{same:?}");
    let short = home.run(&["eval", "perplexity", &model, "--text", &home.write("short", "abc")]);
    assert!(short.error(1).contains("fewer than one window of 512"), "{short:?}");
}
