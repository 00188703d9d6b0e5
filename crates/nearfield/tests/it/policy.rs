//! `nearfield policy`: what its commands say, and how they end.

use serde_json::{Value, json};

use super::support::{Done, Home, KEY, provider, ruled};

const BASE: &str = "http://127.0.0.1:9/v1";

const POLICY: &str = r#"
[backend.away]
dpa = true

[key.desk]
subject = "the front desk"
class = "internal"
purpose = "support"

[key.metered]
class = "internal"
dollars_per_month = 20

[key.bare]

[[rule]]
name = "long or with tools"
when = { tokens_from = 1000, tools = true }
backends = ["away"]

[[rule]]
name = "at night"
when = { hours = "22:00-06:00", days = ["sat", "sun"] }
deny = true

[[rule]]
name = "busy"
when = { queue_from = 4, free_cache_to = 0.2, first_token_from = 3 }
backends = ["away", "local"]

[[rule]]
name = "no network"
when = { connectivity = "offline" }
backends = ["local"]

[[rule]]
name = "little money"
when = { key = ["metered"], dollars_left = 15 }
backends = ["away"]

[[rule]]
name = "everything else"
when = { class = ["public", "internal", "personal"] }
backends = ["local", "away"]
mask = ["personal"]
"#;

/// A home with a policy file; gives the path of its configuration.
fn with(home: &Home, policy: &str) -> String {
    home.write("policy.toml", policy);
    home.write(
        "nearfield.toml",
        format!(
            "[policy]\nfile = \"policy.toml\"\n[backend.away]\nkind = \"openai-compatible\"\nbase_url = \"{BASE}\"\n"
        ),
    )
}

fn run(home: &Home, config: &str, arguments: &[&str]) -> Done {
    home.run(&[&["policy"], arguments, &["--config", config]].concat())
}

#[test]
fn check_warns_where_detection_is_trusted_and_succeeds() {
    let home = Home::new();
    let config = with(&home, POLICY);
    let done = run(&home, &config, &["check"]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    let warned = |place: &str, what: &str| {
        lines.iter().any(|line| line.starts_with(&format!("warning: {place}")) && line.contains(what))
    };
    assert!(warned("rule 1 (long or with tools): ", "detection finds nothing"), "{lines:#?}");
    assert!(warned("rule 6 (everything else): ", "masks what patterns find"), "{lines:#?}");
    assert!(warned("key.bare: ", "declares no class"), "{lines:#?}");
    assert!(!warned("key.desk", "") && !warned("rule 2", ""), "{lines:#?}");
    let last = lines.last().unwrap();
    assert!(last.contains("policy.toml: 6 rules, hash "), "{last}");
    assert!(last.ends_with(&format!("{} warnings", lines.len() - 1)), "{last}");

    let told = run(&home, &config, &["check", "--json"]).json();
    assert_eq!((&told["rules"], told["hash"].as_str().unwrap().len()), (&json!(6), 16));
    assert_eq!(told["warnings"].as_array().unwrap().len(), lines.len() - 1, "{told}");
    assert_eq!(told["warnings"].as_array().unwrap().last().unwrap()["place"], "key.bare");
}

#[test]
fn check_fails_where_the_declared_region_is_not_the_endpoints() {
    let home = Home::new();
    let config = |declared: &str, backend: &str| {
        let policy = format!("{declared}.toml");
        home.write(&policy, format!("[backend.away]\nregion = \"{declared}\"\n"));
        home.write("nearfield.toml", format!("[policy]\nfile = \"{policy}\"\n[backend.away]\n{backend}"))
    };
    let bedrock = |model: &str| {
        format!(
            "kind = \"bedrock\"\nregion = \"eu-central-1\"\nkey = \"env:AWAY_KEY\"\n\
             model_map = {{ claude = \"{model}\" }}\n"
        )
    };
    let vertex = |location: &str| {
        format!("kind = \"vertex\"\nproject = \"p\"\nlocation = \"{location}\"\nmetadata_server = true\n")
    };
    for (declared, backend, code, said) in [
        ("eu", bedrock("eu.anthropic.claude-sonnet-5-v1:0"), 0, ""),
        ("eu", bedrock("us.anthropic.claude-sonnet-5-v1:0"), 2, "any region of us"),
        ("eu", bedrock("global.anthropic.claude-sonnet-5-v1:0"), 2, "anywhere in the world"),
        ("us", bedrock("anthropic.claude-sonnet-5-v1:0"), 2, "its endpoint is in eu-central-1"),
        ("eu", vertex("europe-west4"), 0, ""),
        ("eu", vertex("global"), 2, "`global` is no residency"),
    ] {
        let config = config(declared, &backend);
        let done = run(&home, &config, &["check"]);
        assert_eq!(done.code, code, "{said} {done:?}");
        if code != 0 {
            let error = done.error(code);
            assert!(error.contains(".toml: backend.away: region") && error.contains(said), "{error}");
            // What check refuses no server starts with.
            let refused = home.run(&["serve", "--port", "0", "--config", &config]);
            assert_eq!(refused.error(code), error);
        }
    }
}

#[test]
fn check_refuses_what_cannot_be_meant_as_the_server_does() {
    let home = Home::new();
    for (policy, said) in [
        ("[[rule]]\nname = \"x\"\nbackends = [\"awry\"]\n", "there is no backend `awry`"),
        ("[[rule]]\nname = \"x\"\nbackend = [\"away\"]\n", "policy.toml:3: there is no setting `backend`"),
        ("[[rule]\n", "policy.toml:1: "),
        ("[key.desk]\ndollars_per_month = -1\n", "dollars_per_month"),
    ] {
        let config = with(&home, policy);
        let done = run(&home, &config, &["check"]);
        assert!(done.error(2).contains(said), "{done:?}");
    }
    // No engine here, no backend of that name.
    let config = ruled(&home, BASE);
    home.write("policy.toml", "[[rule]]\nname = \"x\"\nbackends = [\"local\", \"away\"]\n");
    let done = run(&home, &config, &["check"]);
    assert!(done.error(2).contains("there is no backend `local`"), "{done:?}");
    let none = home.write("none.toml", "");
    assert!(run(&home, &none, &["check"]).error(2).contains("names no policy file"));
}

#[test]
fn check_and_test_say_that_complexity_is_never_known() {
    let home = Home::new();
    let policy = "[key.desk]\nclass = \"public\"\n[[rule]]\nname = \"hard\"\n\
                  when = { key = [\"desk\"], complexity_from = 0.7 }\nbackends = [\"away\"]\n\
                  [[rule]]\nname = \"rest\"\nwhen = { key = [\"desk\"] }\nbackends = [\"local\"]\n";
    let config = with(&home, policy);
    let done = run(&home, &config, &["check"]);
    assert_eq!(done.code, 0, "{done:?}");
    let never = "warning: rule 1 (hard): never applies: no measure of complexity is on";
    assert!(done.stdout.lines().any(|line| line.starts_with(never)), "{done:?}");
    assert!(!done.stdout.contains("rule 2"), "{done:?}");
    let told = run(&home, &config, &["check", "--json"]).json();
    assert_eq!(told["warnings"][0]["place"], "rule 1 (hard)");

    // Decided as live traffic is.
    let example = |expect: &str| {
        home.write(
            "examples.toml",
            format!(
                "[[example]]\nname = \"proof\"\nkey = \"desk\"\ntext = \"Prove it.\"\ncomplexity = 0.9\n\
                 expect = [\"{expect}\"]\n"
            ),
        )
    };
    let warning = "warning: `complexity` is left out of account: no measure of complexity is on";
    let done = run(&home, &config, &["test", &example("local")]);
    assert!(done.code == 0 && done.stdout.contains(warning), "{done:?}");
    let done = run(&home, &config, &["test", &example("away")]);
    assert!(done.code == 1 && done.stdout.contains(warning), "{done:?}");
    let told = run(&home, &config, &["test", "--json", &example("local")]).json();
    assert!(told["examples"][0]["warnings"][0].as_str().unwrap().contains("complexity"), "{told}");
}

#[test]
fn test_tells_examples_that_come_out_from_those_that_do_not() {
    let home = Home::new();
    let config = with(&home, POLICY);
    let right = "[[example]]\nname = \"a letter\"\nkey = \"desk\"\ntext = \"Answer jo@example.org\"\n\
                 expect = [\"local\", \"away\"]\nexpect_class = \"personal\"\nexpect_masked = [\"EMAIL\"]\n\
                 [[example]]\nname = \"a month that begins\"\nkey = \"metered\"\ntext = \"hello\"\n\
                 expect = [\"away\"]\nexpect_rule = \"little money\"\n\
                 [[example]]\nname = \"a month that is spent\"\nkey = \"metered\"\ntext = \"hello\"\n\
                 dollars_left = 0\nexpect = [\"local\"]\n";
    let file = home.write("right.toml", right);
    let done = run(&home, &config, &["test", &file]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(
        done.stdout,
        "ok: a letter\nok: a month that begins\nok: a month that is spent\n3 examples came out as expected\n"
    );

    let wrong = "[[example]]\nname = \"no limit\"\nkey = \"desk\"\ntext = \"hello\"\ndollars_left = 15\n\
                 expect = [\"away\"]\nexpect_rule = \"little money\"\n";
    let file = home.write("wrong.toml", format!("{right}{wrong}"));
    let done = run(&home, &config, &["test", &file]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(done.stderr, "error: 1 of 4 examples came out differently\n");
    let told = "ok: a month that is spent\nDIFFERS: no limit\n  expected away, decided local, away\n  \
                expected the rule \"little money\", decided \"everything else\"\n  warning: `dollars_left`";
    assert!(done.stdout.contains(told), "{done:?}");
    let done = run(&home, &config, &["test", "--json", &file]);
    assert_eq!(done.code, 1);
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&told["failed"], told["examples"].as_array().unwrap().len()), (&json!(1), 4));
    assert_eq!(told["examples"][3]["candidates"], json!(["local", "away"]));

    for (text, code, said) in [
        ("[[example]]\nnme = \"x\"\n", 2, "is not a file of examples"),
        ("[[example]]\nname = \"x\"\ntime = \"noon\"\n", 1, "`time` is written as 14:30"),
    ] {
        let file = home.write("broken.toml", text);
        let done = run(&home, &config, &["test", &file]);
        assert!(done.error(code).contains(said), "{done:?}");
    }
    assert!(run(&home, &config, &["test", "missing.toml"]).error(1).contains("cannot read missing.toml"));
}

/// What `explain` decides: rule and candidates.
fn decided(home: &Home, config: &str, arguments: &[&str]) -> (Value, Value) {
    let mut told = run(home, config, &[&["explain", "--json"], arguments].concat()).json();
    (told["rule"].take(), told["candidates"].take())
}

#[test]
fn explain_takes_every_condition_that_rules_know() {
    let home = Home::new();
    let config = with(&home, POLICY);
    let day = ["--time", "14:30", "--day", "wed"];
    let desk = |more: &[&str]| {
        let arguments = [&["hello", "--key", "desk"], &day[..], more].concat();
        let (rule, candidates) = decided(&home, &config, &arguments);
        (rule.as_str().unwrap().to_owned(), candidates)
    };
    let both = || json!(["local", "away"]);
    assert_eq!(desk(&[]), ("everything else".to_owned(), both()));
    assert_eq!(desk(&["--tools"]).0, "everything else");
    assert_eq!(desk(&["--tokens", "1000"]).0, "everything else");
    assert_eq!(desk(&["--tools", "--tokens", "1000"]), ("long or with tools".to_owned(), json!(["away"])));
    let busy = ["--queued", "4", "--free-cache", "0.2", "--first-token", "3"];
    assert_eq!(desk(&busy), ("busy".to_owned(), json!(["away", "local"])));
    assert_eq!(desk(&["--queued", "3", "--free-cache", "0.2", "--first-token", "3"]).0, "everything else");
    assert_eq!(desk(&["--connectivity", "offline"]), ("no network".to_owned(), json!(["local"])));
    assert_eq!(desk(&["--local-only"]).1, json!(["local"]));
    assert_eq!(desk(&["--want", "away"]).1, json!(["away"]));
    assert_eq!(desk(&["--unscannable", "1"]).1, json!(["local"]));
    assert_eq!(desk(&["--claim", "personal"]).1, both());
    let night = ["hello", "--key", "desk", "--time", "23:10", "--day", "sat"];
    assert_eq!(decided(&home, &config, &night), (json!("at night"), json!([])));

    let metered =
        |more: &[&str]| decided(&home, &config, &[&["hello", "--key", "metered"], &day[..], more].concat());
    // Nothing was spent, as the ledger has it.
    assert_eq!(metered(&[]), (json!("little money"), json!(["away"])));
    assert_eq!(metered(&["--dollars-left", "14"]), (json!("everything else"), both()));
    assert_eq!(metered(&["--dollars-left", "0"]).1, json!(["local"]));

    for wrong in [
        &["--time", "25:00"][..],
        &["--day", "someday"],
        &["--free-cache", "2"],
        &["--connectivity", "maybe"],
        &["--dollars-left", "nan"],
    ] {
        let done = run(&home, &config, &[&["explain", "hello"], wrong].concat());
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
    }
    let unlimited = run(&home, &config, &["explain", "hello", "--key", "desk", "--dollars-left", "9"]);
    assert!(unlimited.error(2).contains("the key `desk` has no `dollars_per_month`"), "{unlimited:?}");
    let said = run(&home, &config, &[&["explain", "hello", "--key", "desk"], &day[..]].concat());
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines[0], "key: desk of the front desk for support");
    assert_eq!(lines[1], "asked at: wed 14:30");
    assert_eq!(lines[2], "class: internal (floor of the key internal, claim none, found nothing)");
    assert_eq!(lines[4], "at night: does not apply: `hours` does not hold");
    assert_eq!(*lines.last().unwrap(), "candidates: local, away");
}

#[test]
fn explain_counts_what_a_key_has_spent_this_month() {
    let home = Home::new();
    let made = home.run(&["keys", "add", "metered", "--json"]).json();
    home.write(
        "policy.toml",
        "[key.metered]\nclass = \"internal\"\ndollars_per_month = 1\n[[rule]]\nname = \"paid\"\n\
         backends = [\"away\"]\n",
    );
    let text = std::fs::read_to_string(ruled(&home, &provider())).unwrap();
    // Nine tokens in and three out, at a dollar for ten.
    let prices = "prices = \"own\"\n[prices.\"own/m\"]\ninput = 100000\noutput = 100000\n\
                  effective_from = \"2026-01-01\"\n";
    let config = home.write("nearfield.toml", format!("{text}{prices}"));
    let explain = || run(&home, &config, &["explain", "hello", "--key", "metered"]);
    let done = explain();
    assert!(done.code == 0 && done.stdout.contains("money: $1.0000 of $1.0000 a month are left"), "{done:?}");
    assert!(done.stdout.ends_with("candidates: away\n"), "{done:?}");
    let serving = home.serve_with(&["--config", &config], &[("AWAY_KEY", "k")]);
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "h" }], "max_tokens": 1 });
    let key = made["key"].as_str();
    let (status, reply) = serving.exchange("POST", "/v1/chat/completions", key, &body.to_string());
    assert_eq!(status, 200, "{reply}");
    home.rows_once(1);
    let done = explain();
    assert!(done.stdout.contains("money: $-0.2000 of $1.0000 a month are left"), "{done:?}");
    assert!(
        done.stdout.contains("away: may not answer: the key's money for this month is spent"),
        "{done:?}"
    );
}

#[test]
fn explain_says_why_a_request_went_where_it_went() {
    let home = Home::new();
    let policy = "[key.env]\nclass = \"internal\"\n[[rule]]\nname = \"no secrets\"\nwhen = { class = [\"secret\"] }\n\
                  deny = true\n[[rule]]\nname = \"masked\"\nwhen = { class = [\"internal\", \"personal\"] }\n\
                  backends = [\"dead\", \"away\"]\nmask = [\"personal\"]\nrequire = [\"dpa\"]\nretention = \"short\"\n\
                  [backend.away]\ndpa = true\n[backend.dead]\ndpa = true\n";
    home.write("policy.toml", policy);
    let text = std::fs::read_to_string(ruled(&home, &provider())).unwrap();
    let dead = "[backend.dead]\nkind = \"openai-compatible\"\nbase_url = \"http://127.0.0.1:9/v1\"\n";
    let config = home.write("nearfield.toml", format!("{text}{dead}"));
    let serving = home.serve_with(&["--config", &config], &[("AWAY_KEY", "k")]);
    let ask = |content: &str| {
        let body = json!({ "model": "gpt-x", "messages": [{ "role": "user", "content": content }] });
        serving.exchange("POST", "/v1/chat/completions", Some(KEY), &body.to_string())
    };
    let (status, reply) = ask("Answer jo@example.org about plums");
    assert_eq!(status, 200, "{reply}");
    let id = serde_json::from_str::<Value>(&reply).unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(ask("password: hunter2!").0, 403);
    let rows = home.rows_once(2);
    let hash = rows[0]["policy_hash"].as_str().unwrap();

    // The reply's own id, and the ledger's.
    let done = run(&home, &config, &["explain", "--request", &id]);
    assert_eq!(done.code, 0, "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    let row_id = rows[0]["id"].as_str().unwrap();
    assert!(lines[0].starts_with(&format!("request: {row_id}, asked at 20")), "{lines:#?}");
    assert!(lines[0].ends_with(" with the key env for the model gpt-x"), "{lines:#?}");
    assert_eq!(lines[1], format!("policy: {hash}, the one that the file still says"));
    assert_eq!(lines[2], "class: personal");
    assert_eq!(lines[3], "rule: masked");
    assert_eq!(lines[4], "  backends in order: dead, away; demands: dpa; masks: personal");
    assert!(lines[5].starts_with("attempt 1: dead (cloud), since masked (personal)"), "{lines:#?}");
    assert!(lines[5].contains("; error:"), "{lines:#?}");
    assert!(lines[6].starts_with("attempt 2: away (cloud), since "), "{lines:#?}");
    assert!(lines[6].contains(" bytes of content left this machine; done after "), "{lines:#?}");
    assert_eq!(lines[7], "retention: short");
    assert_eq!(lines[8], "outcome: done, answered by away");
    assert_eq!(lines[9], "content is never stored, so none is shown");
    assert!(!done.stdout.contains("plums") && !done.stdout.contains("jo@"), "{done:?}");

    let told = run(&home, &config, &["explain", "--json", "--request", row_id]).json();
    assert_eq!((&told["class"], &told["rule"]), (&json!("personal"), &json!("masked")));
    assert_eq!((&told["policy_hash"], &told["policy_is_current"]), (&json!(hash), &json!(true)));
    assert_eq!((&told["outcome"], told["attempts"].as_array().unwrap().len()), (&json!("done"), 2));
    assert_eq!(told["attempts"][1]["backend"], "away");

    // Refused, and the policy has changed since.
    home.write("policy.toml", policy.replace("short", "long"));
    let done = run(&home, &config, &["explain", "--request", rows[1]["id"].as_str().unwrap()]);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(
        lines[1].starts_with(&format!("policy: {hash}; the file says something else by now")),
        "{lines:#?}"
    );
    assert_eq!((lines[2], lines[3]), ("class: secret", "rule: no secrets"));
    assert_eq!(lines[4], "attempts: none; nothing was sent to any backend");
    assert_eq!(lines[5], "outcome: error:permission_denied");
    assert!(!done.stdout.contains("hunter2"), "{done:?}");

    let done = run(&home, &config, &["explain", "--request", "0"]);
    assert!(done.error(1).contains("no request 0"), "{done:?}");
    assert_eq!(run(&home, &config, &["explain"]).code, 2, "nothing to explain");
    assert_eq!(run(&home, &config, &["explain", "hello", "--request", row_id]).code, 2, "one or the other");
    for flags in [&["--tools"][..], &["--key", "env"], &["--time", "14:30"]] {
        assert_eq!(run(&home, &config, &[&["explain", "--request", row_id], flags].concat()).code, 2);
    }

    // Without a policy file the mode has decided.
    let plain = home.write("plain.toml", "[policy]\nmode = \"local-only\"\n");
    home.run(&["run", "missing", "hi", "--no-pull", "--config", &plain]);
    let model = home.chat_model();
    assert_eq!(home.run(&["run", &model, "hi", "--max-tokens", "1", "--config", &plain]).code, 0);
    let rows = home.rows();
    let last = rows.last().unwrap()["id"].as_str().unwrap();
    let done = run(&home, &plain, &["explain", "--request", last]);
    assert!(
        done.stdout.contains("decided: local-only\nattempt 1: local (local), since local-only; "),
        "{done:?}"
    );
}

#[test]
fn a_start_under_another_policy_leaves_a_line() {
    let home = Home::new();
    let model = home.chat_model();
    let away = format!("[backend.away]\nkind = \"openai-compatible\"\nbase_url = \"{BASE}\"\n");
    let config = |policy: &str| home.write("nearfield.toml", format!("[policy]\n{policy}{away}"));
    home.write("here.toml", "[[rule]]\nname = \"here\"\nbackends = [\"local\"]\n");
    let modes = ["local-only", "prefer-local"].map(|mode| format!("start, mode {mode}"));
    let starts = [
        ("mode = \"local-only\"\n", modes[0].as_str()),
        ("mode = \"prefer-local\"\nleaves = \"internal\"\n", modes[1].as_str()),
        ("mode = \"prefer-local\"\nleaves = \"public\"\n", modes[1].as_str()),
        ("file = \"here.toml\"\n", "start"),
        ("mode = \"local-only\"\n", modes[0].as_str()),
    ];
    for (policy, _) in starts {
        let config = config(policy);
        // The second start changes nothing, and neither does a server.
        for _ in 0..2 {
            let done = home.run(&["run", &model, "hi", "--max-tokens", "1", "--config", &config]);
            assert_eq!(done.code, 0, "{done:?}");
        }
        drop(home.serve(&["--config", &config]));
    }
    let text = std::fs::read_to_string(home.path("data/changes.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<&Value> = lines.iter().filter(|line| line["changed"] == "policy").collect();
    let rows = home.rows();
    assert_eq!((lines.len(), rows.len()), (starts.len(), 2 * starts.len()), "{text}");
    let mut old = Value::Null;
    for ((line, (policy, by)), pair) in lines.iter().zip(starts).zip(rows.chunks(2)) {
        assert_eq!((&line["by"], &line["old"]), (&json!(by), &old), "{policy}");
        assert!(line["actor"].is_string() && line["time"].is_string(), "{line}");
        assert!(pair.iter().all(|row| row["policy_hash"] == line["new"]), "each row has the recorded policy");
        old = line["new"].clone();
    }
    assert_eq!(lines[0]["new"], lines[4]["new"], "one hash for one policy");
}
