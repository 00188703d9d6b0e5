use nearfield_testkit::file_server::{FileServer, ServedFile};
use serde_json::Value;

use super::support::{CHAT, Done, Home};

/// Pulls the tiny model from a server into the home; gives the name under which it is installed.
pub(crate) fn pull(home: &Home) -> String {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = FileServer::start().await.unwrap();
        server.put("/tiny.gguf", ServedFile::new(CHAT.clone()));
        let url = server.url("/tiny.gguf");
        let mut command = home.command(&["pull", &url, "--json"]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(Done::of(output).json()["model"], Value::from(url.as_str()));
        url
    })
}

#[test]
fn a_model_is_pulled_listed_shown_run_and_removed() {
    let home = Home::new();
    let done = home.run(&["list"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{done:?}");
    let name = pull(&home);
    let list = home.run(&["list", "--json"]).json();
    assert_eq!((&list[0]["name"], &list[0]["installed"]), (&name.as_str().into(), &true.into()));
    assert!(home.run(&["list"]).stdout.contains(&name));
    let all = home.run(&["list", "--all", "--json"]).json();
    assert!(
        all.as_array().unwrap().iter().any(|row| row["name"] == "smollm2:135m" && row["installed"] == false)
    );
    let shown = home.run(&["show", &name, "--verify", "--json"]).json();
    assert_eq!(shown["installed"]["verified"], true);
    // The server has gone; nothing is asked of it any more.
    assert_eq!(home.run(&["run", &name, "hi", "--max-tokens", "2"]).code, 0);
    let path = shown["installed"]["path"].as_str().unwrap();
    let mut damaged = CHAT.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(path, damaged).unwrap();
    let done = home.run(&["show", &name, "--verify"]);
    assert!(done.error(1).contains("SHA-256"), "{done:?}");
    assert_eq!(home.run(&["rm", &name]).code, 0);
    assert!(home.run(&["show", &name]).error(1).contains("not on this machine"));
}

#[test]
fn a_server_that_is_not_there_is_one_line() {
    let home = Home::new();
    let done = home.run(&["pull", "http://127.0.0.1:9/m.gguf", "-q"]);
    assert!(done.error(1).contains("127.0.0.1:9"), "{done:?}");
}

#[test]
fn keys_are_shown_once() {
    let home = Home::new();
    let key = home.run(&["keys", "add", "laptop"]).stdout.trim().to_owned();
    assert!(key.starts_with("nf-") && key.len() > 40, "{key}");
    let list = home.run(&["keys", "list", "--json"]);
    assert!(!list.stdout.contains(&key));
    assert_eq!(list.json()[0]["name"], "laptop");
    let everything = walk(&home.path("data"));
    assert!(everything.iter().all(|bytes| !String::from_utf8_lossy(bytes).contains(&key)));
    let again = home.run(&["keys", "add", "laptop"]);
    assert!(again.error(1).contains("exists already"), "{again:?}");
    assert_eq!(home.run(&["keys", "revoke", "laptop"]).code, 0);
    assert!(home.run(&["keys", "list"]).stdout.contains("revoked"));
    assert!(home.run(&["keys", "revoke", "laptop"]).error(1).contains("laptop"));
}

fn walk(folder: &std::path::Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![std::fs::read(path).unwrap()] })
        .collect()
}
