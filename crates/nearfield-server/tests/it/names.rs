//! Names and places: a local model looks for them before a request leaves.

use std::sync::Arc;

use nearfield_api::{Error, ErrorKind, Event, FinishReason};
use nearfield_router::rules::Claim;
use nearfield_server::gateway::Caller;
use nearfield_store::Outcome;

use crate::ruled::{Case, asking, rules};
use crate::scripted::{Play, Script, Scripted, delta, done, finished, refuse, started};
use crate::support::rows;

const POLICY: &str = r#"{
    "key": { "k": { "class": "internal" } },
    "detection": { "names": { "backend": "local", "model": "m", "seconds": 2 } },
    "rule": [
        { "name": "names stay", "when": { "class": ["health"] }, "deny": true },
        { "name": "names are masked", "when": { "class": ["public", "internal", "personal"] },
          "backends": ["far"], "mask": ["personal"], "keep_local": [], "find_names": true }
    ]
}"#;

fn says(text: &str) -> Script {
    Script::Play(vec![started(), delta(text), finished(), done()])
}

fn cut(text: &str) -> Script {
    let end = Play::Event(Event::Finished { choice: 0, reason: FinishReason::Length });
    Script::Play(vec![started(), delta(text), end, done()])
}

async fn case(policy: &str, local: impl IntoIterator<Item = Script>) -> Case {
    Case::new(policy, [says("Dear [PERSON_1] of [LOCATION_1]")], local).await
}

async fn ask(case: &Case, text: &str) -> Result<(String, String), Error> {
    case.ask(&Caller::new("k"), asking(text)).await
}

impl Case {
    /// What the cloud was sent.
    fn left(&self) -> String {
        format!("{:?}", self.far.seen.lock().unwrap())
    }

    fn refused(&self, answer: Result<(String, String), Error>) {
        assert_eq!(answer.unwrap_err().code.as_deref(), Some("names_unknown"));
        assert_eq!(self.far.calls(), 0);
    }
}

#[tokio::test]
async fn names_and_places_are_masked_and_come_back() {
    let case = case(POLICY, [says("person: Jo Marlow\nplace: Leiden")]).await;
    let answer = ask(&case, "Write to Jo Marlow, Leiden. Marlow knows jo@x.org.").await.unwrap();
    assert_eq!(answer, ("far".to_owned(), "Dear Jo Marlow of Leiden".to_owned()));
    let left = case.left();
    assert!(left.contains("Write to [PERSON_1], [LOCATION_1]. [PERSON_2] knows [EMAIL_1]."), "{left}");
    let rows = rows(&case.ledger).await;
    assert_eq!(rows.len(), 2, "the search has a row of its own");
    let search = rows.iter().find(|row| row.reason.starts_with("names and places are looked for")).unwrap();
    assert_eq!((search.backend.as_deref(), &search.outcome), (Some("local"), &Some(Outcome::Done)));
    assert!(rows.iter().any(|row| row.reason == "names are masked (personal)"));
}

#[tokio::test]
async fn a_name_that_the_rule_keeps_stays_here() {
    let kept = POLICY
        .replace(r#""keep_local": []"#, r#""keep_local": ["PERSON"]"#)
        .replace(r#"["far"]"#, r#"["far", "local"]"#);
    let case = case(&kept, [says("person: Jo Marlow"), says("hello"), says("none")]).await;
    assert_eq!(ask(&case, "Write to Jo Marlow").await.unwrap().0, "local");
    assert_eq!(case.far.calls(), 0);
    assert_eq!(ask(&case, "Write a poem").await.unwrap().0, "far");
    assert!(case.left().contains("Write a poem"));
}

#[tokio::test]
async fn what_names_raise_the_class_to_is_decided_by_its_own_rule() {
    let own = POLICY.replace(r#"["health"]"#, r#"["health", "personal"]"#);
    let own = own.replace(r#""internal", "personal"]"#, r#""internal"]"#);
    let case = case(&own, [says("person: Jo Marlow")]).await;
    let denied = ask(&case, "Write to Jo Marlow").await.unwrap_err();
    assert_eq!((denied.code.as_deref(), case.far.calls()), (Some("policy_forbids"), 0));
}

#[tokio::test]
async fn nothing_leaves_while_names_are_not_known() {
    for script in [
        refuse(ErrorKind::Overloaded),
        says("I am sorry, I cannot do that."),
        cut("person: Jo Marlow\nperson: Jo Marlow\nperson:"),
        Script::Play(vec![started(), delta("person: Jo")]),
        Script::Silence,
    ] {
        let case = case(POLICY, [script]).await;
        let answer = ask(&case, "Write to Jo Marlow").await;
        case.refused(answer);
    }
    let local = POLICY.replace(r#"["far"]"#, r#"["far", "local"]"#);
    let case = case(&local, [refuse(ErrorKind::Overloaded), says("hello")]).await;
    assert_eq!(ask(&case, "Write to Jo Marlow").await.unwrap().0, "local");
}

#[tokio::test]
async fn every_passage_is_read_and_a_list_that_was_cut_is_asked_for_in_halves() {
    let case = case(POLICY, [says("none")]).await;
    let text = "some words and then some. ".repeat(150);
    ask(&case, &format!("{text}Jo Marlow")).await.unwrap();
    let asked = case.local.calls();
    assert!(asked >= 4, "{asked} passages");
    assert!(format!("{:?}", case.local.seen.lock().unwrap()).contains("Jo Marlow"));

    let halved = self::case(POLICY, [cut("person: Jo"), says("person: Jo Marlow"), says("none")]).await;
    ask(&halved, &format!("Jo Marlow wrote. {}", "some words and then some. ".repeat(20))).await.unwrap();
    assert_eq!(halved.local.calls(), 3);
    assert!(!halved.left().contains("Marlow"));

    let long = self::case(POLICY, [says("none")]).await;
    let answer = ask(&long, &"many words ".repeat(30_000)).await;
    long.refused(answer);
    assert_eq!(long.local.calls(), 0);
}

#[tokio::test]
async fn nobody_looks_for_names_in_what_stays_here() {
    let local = POLICY.replace(r#"["far"]"#, r#"["far", "local"]"#);
    let case = case(&local, [says("hello")]).await;
    let claim = Claim { local_only: true, ..Claim::default() };
    let (backend, said) =
        case.ask(&Caller { claim, ..Caller::new("k") }, asking("Write to Jo Marlow")).await.unwrap();
    assert_eq!((backend.as_str(), said.as_str(), case.local.calls()), ("local", "hello", 1));
    assert_eq!(case.ask(&Caller::new("nobody"), asking("Write to Jo")).await.unwrap().0, "local");
    assert_eq!(case.local.calls(), 2);
}

#[tokio::test]
async fn rules_that_name_no_model_of_this_machine_are_refused() {
    let case = case(POLICY, [says("none")]).await;
    for (from, to, word) in [
        (r#""backend": "local""#, r#""backend": "far""#, "of this machine"),
        (r#""seconds": 2"#, r#""seconds": 0"#, "seconds"),
        (r#""names": { "backend": "local", "model": "m", "seconds": 2 }"#, "", "find_names"),
    ] {
        let changed = POLICY.replace(from, to);
        assert_ne!(changed, POLICY);
        let error = case.gateway.replace_rules(rules(&changed)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[tokio::test]
async fn rules_that_begin_to_ask_for_names_hold_for_attempts_to_come() {
    let before = POLICY.replace(r#", "find_names": true"#, "").replace(r#"["far"]"#, r#"["slow", "far"]"#);
    let late = Script::Play(vec![
        Play::Wait(std::time::Duration::from_millis(400)),
        Play::Fail(Error::new(ErrorKind::Upstream, "as the script says")),
    ]);
    let slow = Scripted::cloud("slow", [late]);
    let case = Case::beside(vec![slow.clone()], &before, [says("hello")], [says("none")]).await;
    let gateway = Arc::clone(&case.gateway);
    let answer = tokio::spawn(async move {
        let answer = gateway.answer(&Caller::new("k"), asking("Write to Jo Marlow")).await;
        answer.map(|answer| answer.backend)
    });
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while slow.calls() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let after = before.replace(r#""keep_local": []"#, r#""keep_local": [], "find_names": true"#);
    case.gateway.replace_rules(rules(&after)).unwrap();
    assert_eq!(answer.await.unwrap().unwrap_err().code.as_deref(), Some("policy_changed"));
    assert_eq!(case.far.calls(), 0);
}
