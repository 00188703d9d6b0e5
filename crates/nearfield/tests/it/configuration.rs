use super::support::Home;

const CLOUD: &str = "[policy]\nmode = \"cloud-only\"\nleaves = \"public\"\n[backend.away]\nkind = \"openai-compatible\"\nbase_url = \"http://127.0.0.1:9/v1\"\n";

#[test]
fn a_literal_key_is_refused_and_not_shown() {
    let home = Home::new();
    let config = home.write("c.toml", format!("{CLOUD}key = \"sk-very-secret\"\n"));
    let done = home.run(&["run", "m", "hi", "--config", &config, "-vvv"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("c.toml:7: backend `away`: key: must be a reference"), "{done:?}");
    assert!(!done.stderr.contains("sk-very"), "{done:?}");
}

#[test]
fn a_key_that_is_missing_is_named_when_it_is_needed() {
    let home = Home::new();
    let config = home.write("c.toml", format!("{CLOUD}key = \"env:THE_KEY\"\n"));
    let done = home.run(&["run", "m", "hi", "--config", &config]);
    let error = done.error(2);
    assert!(error.contains("c.toml:4: ") && error.contains("THE_KEY is not set"), "{error}");
    // A policy that keeps everything here does not need it.
    let local = CLOUD.replace("cloud-only", "local-only");
    let config = home.write("l.toml", format!("{local}key = \"env:THE_KEY\"\n"));
    let model = home.chat_model();
    let done = home.run(&["run", &model, "hi", "--max-tokens", "1", "--config", &config]);
    assert_eq!(done.code, 0, "{done:?}");
}

#[test]
fn the_file_is_found_by_flag_environment_and_place_and_never_in_the_working_folder() {
    let home = Home::new();
    let model = home.chat_model();
    let ask = ["run", &model, "hi", "--max-tokens", "1"];
    // The working folder is the home.
    home.write("nearfield.toml", "broken");
    assert_eq!(home.run(&ask).code, 0);
    std::fs::create_dir_all(home.path("config/nearfield")).unwrap();
    home.write("config/nearfield/nearfield.toml", "[polisy]\n");
    let done = home.run(&ask);
    assert!(
        done.error(2).contains("nearfield.toml:1: there is no setting `polisy` here; did you mean `policy`?")
    );
    let good = home.write("good.toml", "");
    let with_variable = home.command(&ask).env("NEARFIELD_CONFIG", &good).output().unwrap();
    assert!(with_variable.status.success());
    let done = home.run(&[&ask[..], &["--config", &good]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    let done = home.run(&[&ask[..], &["--config", "missing.toml"]].concat());
    assert!(done.error(2).contains("missing.toml"), "{done:?}");
    // Commands that need no configuration do not read it.
    assert_eq!(home.run(&["list"]).code, 0);
}

#[test]
fn environment_goes_before_the_file_and_flags_before_both() {
    let home = Home::new();
    let model = home.chat_model();
    let config = home.write("c.toml", "[local]\ncontext = 16\nkv = \"f32\"\n");
    let ask = ["run", &model, "hello", "--max-tokens", "1", "--json", "--config", &config];
    let done = home.run(&ask);
    assert!(done.error(1).contains("the context holds 16"), "{done:?}");
    let output = home.command(&ask).env("NEARFIELD_CONTEXT", "64").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\"numerics\": \"1-default-f32\""), "{text}");
    let flags = [&ask[..], &["--context", "16", "--kv", "q8"]].concat();
    let output = home.command(&flags).env("NEARFIELD_CONTEXT", "64").output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("the context holds 16"));
}
