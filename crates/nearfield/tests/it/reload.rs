//! A policy file that is changed under a running server: by SIGHUP and by `nearfield policy reload`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Done, Home, KEY, Serving, provider, ruled};

const ALLOWS: &str =
    "[key.env]\nclass = \"internal\"\n[[rule]]\nname = \"everything may leave\"\nbackends = [\"away\"]\n";
const DENIES: &str = "[key.env]\nclass = \"internal\"\n[[rule]]\nname = \"nothing leaves\"\ndeny = true\n";

/// A server under a policy file, its log in a file.
struct Case {
    home: Home,
    config: String,
    serving: Serving,
}

impl Case {
    fn start() -> Self {
        let home = Home::new();
        let config = ruled(&home, &provider());
        home.write("policy.toml", ALLOWS);
        let log = std::fs::File::create(home.path("server.log")).unwrap();
        let serving = home.serve_logged(&["--config", &config], &[("AWAY_KEY", "k")], log);
        Self { home, config, serving }
    }

    /// One request's status, and which code its error has.
    fn ask(&self) -> (u16, Value) {
        let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] });
        let (status, reply) =
            self.serving.exchange("POST", "/v1/chat/completions", Some(KEY), &body.to_string());
        (status, serde_json::from_str::<Value>(&reply).unwrap()["error"]["code"].take())
    }

    fn hangup(&self) {
        let process = self.serving.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "HUP", &process]).status().unwrap().success());
    }

    fn reload(&self) -> Done {
        let arguments = ["policy", "reload", "--config", &self.config];
        Done::of(self.home.command(&arguments).env("AWAY_KEY", "k").output().unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path("server.log")).unwrap()
    }

    /// Lines of the log about reading the policy file.
    fn said(&self, what: &str) -> usize {
        self.log().lines().filter(|line| line.contains(what)).count()
    }

    fn failures(&self) -> String {
        let (_, metrics) = self.serving.exchange("GET", "/metrics", Some(KEY), "");
        let line = metrics.lines().find(|line| line.starts_with("nearfield_policy_reload_failures_total "));
        line.unwrap_or_else(|| panic!("{metrics}")).rsplit(' ').next().unwrap().to_owned()
    }

    fn hash(&self) -> String {
        let done = self.home.run(&["policy", "check", "--json", "--config", &self.config]);
        done.json()["hash"].as_str().unwrap().to_owned()
    }
}

/// Waits for something that happens within a few seconds.
#[track_caller]
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let held = (0..200).any(|_| {
        let now = holds();
        if !now {
            std::thread::sleep(Duration::from_millis(25));
        }
        now
    });
    assert!(held, "{what}");
}

/// The record of changes of one kind.
fn changes(home: &Home, changed: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(home.path("data/changes.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["changed"] == changed).collect()
}

const READ: &str = "the policy file was read again";
const UNUSABLE: &str = "the policy file cannot be used";

fn user() -> String {
    use std::os::unix::fs::MetadataExt as _;
    format!("uid {}", std::fs::metadata(Path::new("/proc/self")).unwrap().uid())
}

#[test]
fn a_changed_policy_holds_for_the_next_request_and_leaves_a_line() {
    let case = Case::start();
    let allowing = case.hash();
    assert_eq!(case.ask(), (200, Value::Null));
    assert_eq!(case.failures(), "0");

    case.home.write("policy.toml", DENIES);
    assert_eq!(case.ask().0, 200, "nobody has asked for it yet");
    let denying = case.hash();
    assert_ne!(denying, allowing);
    case.hangup();
    soon("the signal is heard", || case.said(READ) == 1);
    assert_eq!(case.ask(), (403, json!("policy_forbids")));

    case.home.write("policy.toml", ALLOWS);
    let done = case.reload();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("policy.toml") && done.stdout.contains(&allowing), "{done:?}");
    soon("the mark is seen", || case.said(READ) == 2);
    assert_eq!(case.ask(), (200, Value::Null));

    // Read again, and the same: nothing changed, so the record says nothing.
    case.hangup();
    soon("the signal is heard", || case.said(READ) == 3);
    assert_eq!(case.ask().0, 200);

    let changes = changes(&case.home, "policy");
    let told: Vec<_> = changes.iter().map(|line| (&line["by"], &line["old"], &line["new"])).collect();
    let (allowing, denying) = (json!(allowing), json!(denying));
    assert_eq!(
        told,
        [
            (&json!("start"), &Value::Null, &allowing),
            (&json!("SIGHUP"), &allowing, &denying),
            (&json!("nearfield policy reload"), &denying, &allowing),
        ]
    );
    let times: Vec<&str> = changes.iter().map(|line| line["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted() && times[0].starts_with("20"), "{times:?}");
    assert!(changes.iter().all(|line| line["actor"] == user()), "{changes:?}");

    let rows = case.home.rows_once(5);
    let hashes: Vec<_> = rows.iter().map(|row| &row["policy_hash"]).collect();
    assert_eq!(hashes, [&allowing, &allowing, &denying, &allowing, &allowing], "each row has its own policy");
}

#[test]
fn an_invalid_file_keeps_the_old_policy_logs_one_line_and_is_counted() {
    let case = Case::start();
    let hash = case.hash();
    let unusable = [
        // No TOML, a name that is nothing's, a rule that says nothing.
        "[[rule]\nname = \"torn\"\n".to_owned(),
        ALLOWS.replace("\"away\"", "\"awry\""),
        ALLOWS.replace("backends", "back"),
    ];
    for (text, count) in unusable.iter().zip(1..) {
        let lines = case.log().lines().count();
        case.home.write("policy.toml", text);
        case.hangup();
        soon("the failure is logged", || case.said(UNUSABLE) == count);
        assert_eq!(case.failures(), count.to_string(), "{text}");
        assert_eq!(case.ask(), (200, Value::Null), "{text}");
        soon("the request is logged", || case.log().lines().count() > lines + 1);
        let log = case.log();
        // What reads metrics and the request that was answered leave a line each.
        let new: Vec<_> = log.lines().skip(lines).filter(|line| !line.contains(" request ")).collect();
        assert!(new.len() == 1 && new[0].contains("policy.toml"), "{new:#?}");
        // The command tells whoever asks, and leaves the server alone.
        assert!(case.reload().error(2).contains("policy.toml"));
    }
    // Not there at all.
    std::fs::remove_file(case.home.path("policy.toml")).unwrap();
    case.hangup();
    soon("the failure is logged", || case.said(UNUSABLE) == 4);
    assert_eq!((case.failures().as_str(), case.ask().0), ("4", 200));
    assert_eq!(case.said(READ), 0);
    let changes = changes(&case.home, "policy");
    assert!(changes.len() == 1 && changes[0]["new"] == hash, "{changes:?}");

    // It goes on from there once the file can be used.
    case.home.write("policy.toml", DENIES);
    case.hangup();
    soon("the signal is heard", || case.said(READ) == 1);
    assert_eq!((case.ask().0, case.failures().as_str()), (403, "4"));
}

#[test]
fn changes_of_keys_leave_lines_and_hold_for_the_next_request() {
    let case = Case::start();
    let made = case.home.run(&["keys", "add", "laptop", "--json"]).json();
    let (key, id) = (made["key"].as_str().unwrap(), made["record"]["id"].as_str().unwrap());
    let models = || case.serving.exchange("GET", "/v1/models", Some(key), "").0;
    assert_ne!(models(), 401);
    assert_eq!(case.home.run(&["keys", "revoke", "laptop"]).code, 0);
    assert_eq!(models(), 401);
    let changes = changes(&case.home, "keys");
    assert_eq!(changes.len(), 2, "{changes:?}");
    for (line, did) in changes.iter().zip(["added", "revoked"]) {
        assert_eq!((&line["by"], &line["actor"]), (&json!(format!("{did} {id}")), &json!(user())));
        assert_ne!(line["old"], line["new"], "{line}");
    }
    assert_eq!(changes[0]["new"], changes[1]["old"], "one follows from the other");
    assert!(!std::fs::read_to_string(case.home.path("data/changes.jsonl")).unwrap().contains(key));
}

#[test]
fn who_asks_for_a_reload_where_no_server_runs_is_told() {
    let mut case = Case::start();
    assert_eq!(case.reload().code, 0);
    soon("the mark is seen", || case.said(READ) == 1);
    case.serving.child.kill().unwrap();
    case.serving.child.wait().unwrap();
    let done = case.reload();
    let error = done.error(1);
    assert!(error.contains("no server") && error.contains("`nearfield serve`"), "{error}");

    // A server that has no policy file does not listen either.
    let plain = case.home.write("plain.toml", "");
    let _serving = case.home.serve(&["--config", &plain]);
    assert!(case.reload().error(1).contains("no server"));
    let done = case.home.run(&["policy", "reload", "--config", &plain]);
    assert!(done.error(2).contains("names no policy file"), "{done:?}");
}

#[test]
fn pools_are_read_again_without_a_policy_file() {
    let home = Home::new();
    let base_url = provider();
    let write = |drain: bool| {
        let text = format!(
            "[policy]\nmode = \"cloud-only\"\nleaves = \"internal\"\n[backend.farm]\nkind = \"openai-compatible\"\n\
             endpoints = [{{ base_url = \"{base_url}\", drain = {drain} }}]\n[attempts]\nretries = 0\n"
        );
        home.write("pool.toml", text)
    };
    let config = write(false);
    let serving = home.serve(&["--config", &config]);
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] }).to_string();
    let status = || serving.exchange("POST", "/v1/chat/completions", Some(KEY), &body).0;
    assert_eq!(status(), 200);
    write(true);
    let done = home.run(&["policy", "reload", "--config", &config]);
    assert!(done.code == 0 && done.stdout.contains("drains of its pools"), "{done:?}");
    soon("the only endpoint is drained", || status() == 503);
}
