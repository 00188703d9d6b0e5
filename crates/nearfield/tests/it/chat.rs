use super::support::Home;

#[test]
fn a_conversation_can_be_piped_in() {
    let home = Home::new();
    let model = home.chat_model();
    let input = "first question\n/help\n\"\"\"\nsecond\nquestion\"\"\"\n/nonsense\n/clear\nthird";
    let done = home.run_with_input(&["chat", &model, "--json", "--max-tokens", "3", "--seed", "1"], input);
    assert_eq!(done.code, 0, "{done:?}");
    let answers: Vec<serde_json::Value> =
        done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let prompts: Vec<u64> =
        answers.iter().map(|answer| answer["usage"]["prompt_tokens"].as_u64().unwrap()).collect();
    assert_eq!(prompts.len(), 3, "{done:?}");
    assert!(prompts[1] > prompts[0], "the second has the first before it: {prompts:?}");
    assert!(prompts[2] < prompts[0], "after /clear nothing is before it: {prompts:?}");
    assert!(
        done.stderr.contains("/system [TEXT]") && done.stderr.contains("no command `/nonsense`"),
        "{done:?}"
    );
    assert_eq!(home.rows().len(), 3);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let history = std::fs::metadata(home.path("data/chat_history")).unwrap();
        assert_eq!(history.permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_conversation_outgrows_its_context_and_goes_on() {
    let home = Home::new();
    let model = home.chat_model();
    let input = format!("{}\nshort\n", "long ".repeat(200));
    let done = home.run_with_input(&["chat", &model, "--max-tokens", "2", "--no-history"], &input);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("; /clear begins anew"), "{done:?}");
    assert!(!done.stdout.is_empty(), "the short question is answered");
    assert!(!home.path("data/chat_history").exists());
    let outcomes: Vec<_> = home.rows().iter().map(|row| row["outcome"].clone()).collect();
    assert_eq!(outcomes, ["error:context_length", "done"]);
}

#[test]
fn a_base_model_does_not_chat() {
    let home = Home::new();
    let done = home.run(&["chat", &home.base_model()]);
    assert!(done.error(1).contains("base model without a chat template"), "{done:?}");
}
