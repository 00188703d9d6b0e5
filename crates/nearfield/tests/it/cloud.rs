//! Requests that leave: to a second server of ours, and to one that falls silent.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use super::models::pull;
use super::support::{Done, Home, KEY};

fn config(home: &Home, mode: &str, base_url: &str) -> String {
    home.write(
        "cloud.toml",
        format!(
            "[policy]\nmode = \"{mode}\"\nleaves = \"internal\"\n[backend.away]\nkind = \"openai-compatible\"\nbase_url = \"{base_url}\"\n\
             key = \"env:AWAY_KEY\"\n"
        ),
    )
}

fn ask(home: &Home, arguments: &[&str]) -> Done {
    Done::of(home.command(arguments).env("AWAY_KEY", KEY).output().unwrap())
}

#[test]
fn what_is_not_here_is_answered_away_where_the_policy_allows_it() {
    let away = Home::new();
    let model = pull(&away);
    let serving = away.serve(&["--model", &model]);
    let home = Home::new();
    let local = config(&home, "local-only", &serving.base_url);
    let done = ask(&home, &["run", &model, "hello", "--no-pull", "--config", &local]);
    assert!(done.error(1).contains("not on this machine"), "{done:?}");
    assert_eq!(away.rows().len(), 0, "nothing left this machine");

    let spill = config(&home, "prefer-local", &serving.base_url);
    let arguments = ["run", &model, "hello", "--no-pull", "--max-tokens", "3", "--config", &spill];
    let done = ask(&home, &arguments);
    assert_eq!(done.code, 0, "{done:?}");
    let receipt = done.stderr.lines().next().unwrap();
    assert!(
        receipt.starts_with("away (cloud; prefer-local: the model is not installed here) · "),
        "{receipt}"
    );
    let row = &home.rows()[0];
    assert_eq!((&row["backend"], &row["locality"]), (&"away".into(), &"cloud".into()));
    assert_eq!(row["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(away.rows_once(1).len(), 1);

    // The context does not fit here, but there.
    let tiny = home.chat_model();
    let long = "word ".repeat(20);
    let done = ask(&home, &["run", &tiny, &long, "--context", "32", "--config", &spill]);
    assert!(done.error(1).contains("away"), "a path means nothing to the other side: {done:?}");

    let only = config(&home, "cloud-only", &serving.base_url);
    let done = ask(&home, &["chat", &model, "--config", &only]);
    assert_eq!(done.code, 0, "{done:?}");
    let done = Done::of(home.command(&arguments).env("AWAY_KEY", "wrong").arg("-q").output().unwrap());
    assert!(!done.error(1).contains("wrong"), "{done:?}");
}

/// Starts a request to a server that sends a first piece of an answer and then nothing.
fn running(home: &Home) -> (Child, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let config = config(home, "cloud-only", &base_url);
    let mut command = home.command(&["run", "m", "hello", "--config", &config]);
    command.env("AWAY_KEY", KEY).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    let piece = "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[\
                 {\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"First\"},\"finish_reason\":null}]}\n\n";
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{piece}\r\n",
        piece.len()
    )
    .unwrap();
    let mut shown = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"First");
    (child, stream)
}

#[test]
fn a_killed_request_is_closed_as_unknown_at_the_next_start() {
    let home = Home::new();
    let (mut child, _stream) = running(&home);
    child.kill().unwrap();
    child.wait().unwrap();
    let rows = home.rows();
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0]["outcome"], &rows[0]["backend"]), (&"unknown".into(), &"away".into()));
}

#[cfg(unix)]
#[test]
fn an_interrupted_request_is_closed_as_cancelled() {
    let home = Home::new();
    let (child, _stream) = running(&home);
    let process = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "INT", &process]).status().unwrap().success());
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (130, "\n"), "{done:?}");
    assert!(done.stderr.contains("· stopped"), "{done:?}");
    assert_eq!(home.rows()[0]["outcome"], "cancelled");
}

#[test]
fn an_answer_that_is_cut_is_an_error() {
    let home = Home::new();
    let (child, stream) = running(&home);
    drop(stream);
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (1, "\n"), "{done:?}");
    assert!(done.stderr.lines().last().unwrap().starts_with("error: "), "{done:?}");
    assert_eq!(home.rows()[0]["outcome"], "truncated");
}

#[test]
fn two_servers_of_ours_are_a_pool() {
    let homes = [Home::new(), Home::new()];
    // The same model under the same name on both.
    let model = pull(&homes[0]);
    let mut copy = std::process::Command::new("cp");
    copy.arg("-r").args(homes.each_ref().map(|home| home.path("data")));
    assert!(copy.status().unwrap().success());
    let mut serving: Vec<_> = homes.iter().map(|home| home.serve(&["--model", &model])).collect();
    let home = Home::new();
    let endpoints: Vec<String> =
        serving.iter().map(|one| format!("{{ base_url = \"{}\" }}", one.base_url)).collect();
    let text = format!(
        "[policy]\nmode = \"cloud-only\"\nleaves = \"internal\"\n[backend.farm]\nkind = \"openai-compatible\"\n\
         key = \"env:AWAY_KEY\"\nendpoints = [{}]\ncheck_seconds = 1\n[attempts]\nretries = 3\n",
        endpoints.join(", ")
    );
    let config = home.write("pool.toml", &text);
    let front = home.serve_with(&["--config", &config], &[("AWAY_KEY", KEY)]);
    let ask = |texts: &[&str]| {
        let roles = ["user", "assistant"].into_iter().cycle();
        let messages: Vec<_> = texts
            .iter()
            .zip(roles)
            .map(|(text, role)| serde_json::json!({ "role": role, "content": text }))
            .collect();
        let body = serde_json::json!({ "model": model, "messages": messages, "max_tokens": 4 });
        let (status, reply) = front.exchange("POST", "/v1/chat/completions", Some(KEY), &body.to_string());
        assert_eq!(status, 200, "{reply}");
    };
    for turn in ["one", "two", "three", "four"] {
        ask(&[turn]);
        ask(&[turn, "yes", "and then?"]);
    }
    let counts = |wanted: [usize; 2]| [0, 1].map(|at| homes[at].rows_once(wanted[at]).len());
    assert_eq!(counts([4, 4]), [4, 4], "conversations are spread, and stay together");
    assert!(homes.iter().all(|home| home.rows().iter().all(|row| row["outcome"] == "done")));

    // One of them dies: what it had begun to talk about goes on at the other.
    drop(serving.remove(0));
    for turn in ["one", "two", "three", "four"] {
        ask(&[turn, "yes", "and then?", "so", "and now?"]);
    }
    assert_eq!(counts([4, 8]), [4, 8]);
    let rows = home.rows_once(12);
    assert_eq!(rows.len(), 12);
    assert!(rows.iter().all(|row| row["outcome"] == "done" && row["backend"] == "farm"));
    let state = |at: usize, up: usize| {
        format!("nearfield_pool_endpoint_up{{backend=\"farm\",endpoint=\"{at}\"}} {up}")
    };
    let known = (0..100).any(|_| {
        let (_, metrics) = front.exchange("GET", "/metrics", Some(KEY), "");
        std::thread::sleep(std::time::Duration::from_millis(50));
        metrics.contains(&state(1, 0)) && metrics.contains(&state(2, 1))
    });
    assert!(known, "the checks tell");
}

#[cfg(unix)]
#[test]
fn an_endpoint_is_drained_without_a_restart() {
    let away = Home::new();
    let model = pull(&away);
    let serving = away.serve(&["--model", &model]);
    let home = Home::new();
    let text = |drain: bool| {
        format!(
            "[policy]\nmode = \"cloud-only\"\nleaves = \"internal\"\n[backend.farm]\nkind = \"openai-compatible\"\n\
             key = \"env:AWAY_KEY\"\nendpoints = [{{ base_url = \"{}\", drain = {drain} }}]\n[attempts]\nretries = 0\n",
            serving.base_url
        )
    };
    let config = home.write("pool.toml", text(false));
    let front = home.serve_with(&["--config", &config], &[("AWAY_KEY", KEY)]);
    let body = serde_json::json!({
        "model": model, "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 2,
    });
    let status = || front.exchange("POST", "/v1/chat/completions", Some(KEY), &body.to_string()).0;
    assert_eq!(status(), 200);
    home.write("pool.toml", text(true));
    let process = front.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "HUP", &process]).status().unwrap().success());
    let drained = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        status() == 503
    });
    assert!(drained);
}
