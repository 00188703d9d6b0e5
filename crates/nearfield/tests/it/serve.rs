use std::io::Read as _;

use serde_json::Value;

use super::models::pull;
use super::support::{Home, KEY};

#[test]
fn requests_are_answered_and_recorded() {
    let home = Home::new();
    let model = pull(&home);
    let serving = home.serve(&["--model", &model]);
    assert_eq!(serving.exchange("GET", "/health", None, "").0, 200);
    assert_eq!(serving.exchange("GET", "/v1/models", None, "").0, 401);
    let (status, models) = serving.exchange("GET", "/v1/models", Some(KEY), "");
    assert!(status == 200 && models.contains(&model), "{models}");
    let body = serde_json::json!({
        "model": model,
        "messages": [{ "role": "user", "content": "hello" }],
        "max_tokens": 4,
        "seed": 1,
    });
    let (status, reply) = serving.exchange("POST", "/v1/chat/completions", Some(KEY), &body.to_string());
    assert_eq!(status, 200, "{reply}");
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(reply["usage"]["completion_tokens"], 4);
    assert_eq!(reply["nearfield"]["backend"], "local");
    // A path is for the person at the keyboard.
    let path = home.chat_model();
    let body = body.to_string().replace(&model, &path);
    assert_eq!(serving.exchange("POST", "/v1/chat/completions", Some(KEY), &body).0, 404);
    // Their ends are written a moment after the answers, and then survive a kill.
    assert_eq!(home.rows_once(2).len(), 2);
    drop(serving);
    let rows = home.rows();
    let outcomes: Vec<_> = rows.iter().map(|row| (row["key_id"].clone(), row["outcome"].clone())).collect();
    assert_eq!(outcomes, [("env".into(), "done".into()), ("env".into(), "error:not_found".into())]);
}

#[cfg(unix)]
#[test]
fn a_signal_stops_the_server_in_order() {
    let home = Home::new();
    let mut serving = home.serve(&[]);
    let process = serving.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "TERM", &process]).status().unwrap().success());
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_generated_key_is_in_a_file_and_not_in_the_output() {
    use std::io::BufRead as _;
    use std::process::Stdio;
    let home = Home::new();
    let mut command = home.command(&["serve", "--port", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let shown: Vec<String> = (0..3).map(|_| lines.next().unwrap().unwrap()).collect();
    child.kill().unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    child.wait().unwrap();
    let path = shown[1].strip_prefix("the key is in ").unwrap();
    let key = std::fs::read_to_string(path).unwrap();
    assert!(shown[0].starts_with("listening on http://127.0.0.1:"), "{shown:?}");
    assert!(!(shown.join("\n") + &log).contains(key.trim()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
