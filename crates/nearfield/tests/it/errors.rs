//! What can go wrong gives one clear line and the right exit code.

use std::net::TcpListener;

use super::support::{CHAT, Home};

#[test]
fn a_malformed_model_is_named() {
    let home = Home::new();
    for (name, content) in [
        ("text.gguf", b"this is no model".as_slice()),
        ("cut.gguf", CHAT.get(..3000).unwrap()),
        ("short.gguf", CHAT.get(..CHAT.len() - 100).unwrap()),
    ] {
        let path = home.write(name, content);
        for arguments in [["run", &path, "hello"].as_slice(), &["chat", &path], &["bench", &path]] {
            let done = home.run(arguments);
            assert!(done.error(1).contains(name), "{done:?}");
        }
    }
    // The request that met it has its row.
    assert!(home.rows().iter().all(|row| row["outcome"] == "error:internal"));
    assert_eq!(home.rows().len(), 3);
}

#[test]
fn names_that_are_not_known_are_told_from_wrong_ones() {
    let home = Home::new();
    for arguments in
        [["run", "smolm2:135m", "hi"].as_slice(), &["pull", "smolm2:135m"], &["show", "smolm2:135m"]]
    {
        let done = home.run(arguments);
        assert!(done.error(1).contains("did you mean `smollm2:135m`?"), "{done:?}");
    }
    let done = home.run(&["pull", "Qwen/Qwen3"]);
    assert!(done.error(2).contains("write `hf:Qwen/Qwen3`"), "{done:?}");
    let done = home.run(&["run", "./missing.gguf", "hi"]);
    assert!(done.error(1).contains("missing.gguf"), "{done:?}");
    let done = home.run(&["run", "smollm2:135m", "hi", "--no-pull"]);
    assert!(done.error(1).contains("`nearfield pull smollm2:135m` gets it"), "{done:?}");
    let done = home.run(&["rm", "smollm2:135m"]);
    assert!(done.error(1).contains("not on this machine"), "{done:?}");
}

#[test]
fn a_context_that_does_not_fit_says_both_numbers() {
    let home = Home::new();
    let model = home.chat_model();
    let long = "word ".repeat(200);
    let done = home.run(&["run", &model, &long]);
    let error = done.error(1);
    assert!(error.contains("the context holds 512") && error.contains("--context"), "{error}");
    let done = home.run(&["run", &model, "hello", "--context", "16"]);
    assert!(done.error(1).contains("the context holds 16"), "{done:?}");
    let done = home.run(&["run", &model, "hello", "--context", "100000"]);
    assert!(done.error(1).contains("context"), "{done:?}");
    let rows = home.rows();
    assert_eq!(rows[0]["outcome"], "error:context_length");
    assert_eq!(rows.len(), 3);
}

#[test]
fn memory_that_is_not_there_is_told_before_loading() {
    let home = Home::new();
    let model = home.chat_model();
    let config = home.write("c.toml", "[local]\nmemory = \"100 kB\"\n");
    let done = home.run(&["run", &model, "hello", "--config", &config]);
    assert!(done.error(1).contains("memory"), "{done:?}");
}

#[test]
fn wrong_usage_has_code_2() {
    let home = Home::new();
    for arguments in [
        ["run"].as_slice(),
        &["run", "m", "--temperature", "hot"],
        &["run", "m", "--kv", "f8"],
        &["serve", "--port", "70000"],
        &["ledger", "--since", "yesterday"],
        &["eval", "perplexity", "m"],
        &["frobnicate"],
        &[],
    ] {
        let done = home.run(arguments);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
    }
    let done = home.run(&["serve", "--tls-key", "key.pem", "--port", "0"]);
    assert!(done.error(2).contains("--tls-cert"), "{done:?}");
}

#[test]
fn a_port_in_use_is_named() {
    let home = Home::new();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let done = home.run(&["serve", "--port", &port]);
    let error = done.error(1);
    assert!(error.contains(&format!("port {port} on 127.0.0.1 is in use")), "{error}");
}

#[test]
fn a_server_is_closed_by_default() {
    let home = Home::new();
    let done = home.run(&["serve", "--host", "0.0.0.0", "--port", "0"]);
    assert!(done.error(1).contains("--plaintext"), "{done:?}");
    let done = home.run(&["serve", "--model", "smollm2:135m", "--port", "0"]);
    assert!(done.error(1).contains("nearfield pull smollm2:135m"), "{done:?}");
}

#[test]
fn the_data_folder_must_be_usable() {
    let home = Home::new();
    let file = home.write("file", "");
    let done = home.run(&["list", "--data-dir", &file]);
    assert!(done.error(1).contains("file"), "{done:?}");
}
