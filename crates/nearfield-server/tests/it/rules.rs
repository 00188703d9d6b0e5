//! A policy file in the gateway: what leaves is masked, what comes back is restored, what is denied reaches nobody.

use std::sync::Arc;

use futures_util::StreamExt as _;
use nearfield_api::{
    Content, Dialect, Error, Event, Message, Opaque, Part, Prompt, Reasoning, Request, Role,
    TokenAlternative, TokenLogprob,
};
use nearfield_privacy::{DataClass, HashKey};
use nearfield_providers::{OpenAiCompatible, OpenAiCompatibleOptions};
use nearfield_router::rules::{Address, Rules};
use nearfield_router::{Policy, PolicyMode};
use nearfield_server::gateway::{Caller, ConfiguredBackend};
use nearfield_store::{Ledger, Outcome};
use nearfield_testkit::cloud_server::CloudServer;
use serde_json::{Value, json};

use crate::ruled::{Case, asking, rules};
use crate::scripted::{Play, Script, Scripted, delta, done, finished, hello, refuse, started_as, wait};
use crate::support::{Setup, chat, of_backends, rows};

const MASKED: &str = r#"{
    "key": { "k": { "class": "internal" }, "other": { "class": "internal" }, "ward": { "class": "health" }, "bare": {} },
    "rule": [
        { "name": "nothing odd", "when": { "class": ["secret"] }, "deny": true },
        { "name": "masked", "when": { "class": ["public", "internal", "personal", "health"] },
          "backends": ["far", "local"], "mask": ["personal", "health"], "max_tokens": 9, "retention": "short" }
    ]
}"#;

fn piecewise(pieces: &[&str]) -> Script {
    let mut plays = vec![started_as("gpt-5.4-nano")];
    plays.extend(pieces.iter().map(|piece| delta(piece)));
    plays.extend([finished(), done()]);
    Script::Play(plays)
}

async fn case(policy: &str, far: Script, local: Script) -> Case {
    Case::new(policy, [far], [local]).await
}

#[tokio::test]
async fn what_leaves_is_masked_and_what_comes_back_is_restored() {
    let script = piecewise(&["Write to [EM", "AIL_1", "] or [EMAIL_2], [", "x] [EMAI"]);
    let case = case(MASKED, script, hello()).await;
    let (backend, text) = case.ask(&Caller::new("k"), asking("Mail jo@x.org today")).await.unwrap();
    assert_eq!((backend.as_str(), text.as_str()), ("far", "Write to jo@x.org or [EMAIL_2], [x] [EMAI"));
    let seen = case.far.seen.lock().unwrap().remove(0);
    assert_eq!(seen.prompt, asking("Mail [EMAIL_1] today").prompt);
    assert_eq!(seen.max_tokens, Some(9));
    let row = rows(&case.ledger).await.remove(0);
    assert_eq!((row.reason.as_str(), row.retention.as_deref()), ("masked (personal)", Some("short")));
    assert_eq!(row.policy_hash, rules(MASKED).hash());
    assert_eq!(row.attempts[0].bytes_out, "Mail [EMAIL_1] today".len() as u64);
}

#[tokio::test]
async fn labels_leave_as_the_rule_says_and_not_as_they_came() {
    let labelled = |user: &str| {
        let mut request = asking("hello");
        request.labels.user = Some(user.to_owned());
        request.labels.metadata = Some(serde_json::Map::from_iter([("team".to_owned(), json!("blue"))]));
        request.labels.store = Some(true);
        request
    };
    for (said, store) in
        [("\"labels\": \"pseudonym\", \"store\": true", true), ("\"labels\": \"drop\"", false)]
    {
        let policy = MASKED.replace("\"max_tokens\": 9", said);
        let case = case(&policy, piecewise(&["hi"]), hello()).await;
        for user in ["jo@x.org", "al@x.org", "jo@x.org"] {
            case.ask(&Caller::new("k"), labelled(user)).await.unwrap();
        }
        let seen = case.far.seen.lock().unwrap().clone();
        let users: Vec<_> = seen.iter().map(|request| request.labels.user.clone()).collect();
        assert!(seen.iter().all(|request| request.terms.labels_ready && request.labels.metadata.is_none()));
        assert!(seen.iter().all(|request| request.terms.store == store.then_some(true)));
        assert!(!format!("{seen:?}").contains("x.org"));
        if store {
            assert!(users[0].as_ref().is_some_and(|user| user.starts_with("nf-")), "{users:?}");
            assert!(users[0] == users[2] && users[0] != users[1], "{users:?}");
        } else {
            assert_eq!(users, [None, None, None]);
        }
    }
}

#[tokio::test]
async fn arguments_of_tools_are_restored_inside_their_json() {
    let call = |arguments: &str| {
        Play::Event(Event::ToolCall {
            choice: 0,
            index: 0,
            id: None,
            name: None,
            arguments: arguments.to_owned(),
            opaque: None,
        })
    };
    let plays = vec![started_as("m"), call(r#"{"a":"[CUST"#), call(r#"OM_1]"}"#), finished(), done()];
    let with_term = MASKED.replace(
        r#""key":"#,
        r#""detection": { "terms": [{ "class": "personal", "words": ["say \"hi\""] }] }, "key":"#,
    );
    let case = case(&with_term, Script::Play(plays), hello()).await;
    let (_, text) = case.ask(&Caller::new("k"), asking("please say \"hi\" now")).await.unwrap();
    assert_eq!(text, r#"{"a":"say \"hi\""}"#);
}

#[tokio::test]
async fn the_local_candidate_sees_the_request_as_it_was() {
    let case = case(MASKED, refuse(nearfield_api::ErrorKind::Overloaded), hello()).await;
    let (backend, _) = case.ask(&Caller::new("k"), asking("Mail jo@x.org")).await.unwrap();
    assert_eq!(backend, "local");
    assert_eq!(case.local.seen.lock().unwrap()[0].prompt, asking("Mail jo@x.org").prompt);
    assert!(!format!("{:?}", case.far.seen.lock().unwrap()).contains("jo@x.org"));
}

#[tokio::test]
async fn what_the_rules_do_not_let_leave_reaches_no_cloud() {
    let case = case(MASKED, piecewise(&["x"]), hello()).await;
    let ward = Caller::new("ward");
    let raised = Caller {
        claim: nearfield_router::rules::Claim { class: Some(DataClass::Health), ..Default::default() },
        ..Caller::new("k")
    };
    for (caller, text) in [
        (&Caller::new("bare"), "hello"),
        (&Caller::new("nobody"), "hello"),
        (&ward, "hello"),
        (&raised, "hello"),
        (&Caller::new("k"), "MRN: 12345678"),
    ] {
        let (backend, _) = case.ask(caller, asking(text)).await.unwrap();
        assert_eq!(backend, "local", "{caller:?} {text}");
    }
    let denied = case.ask(&Caller::new("k"), asking("password: hunter2!")).await.unwrap_err();
    assert_eq!(denied.code.as_deref(), Some("policy_forbids"));
    assert_eq!(case.far.calls(), 0);
    let rows = rows(&case.ledger).await;
    assert_eq!(rows.len(), 6);
    assert_eq!(rows.iter().filter(|row| row.outcome != Some(Outcome::Done)).count(), 1);
}

/// Two rules for one cloud: one masks, one does not, and no other backend is named.
const PICTURES: &str = r#"{
    "key": { "env": { "class": "internal", "purpose": "PURPOSE" } },
    "rule": [
        { "name": "masked", "when": { "purpose": ["masked"] }, "backends": ["far"], "mask": ["personal"] },
        { "name": "plain", "backends": ["far"] }
    ]
}"#;

#[tokio::test]
async fn what_cannot_be_looked_into_leaves_only_where_nothing_is_masked() {
    let cloud = CloudServer::start().await.unwrap();
    let options = OpenAiCompatibleOptions::new("far", cloud.base_url());
    let far = Arc::new(OpenAiCompatible::new(options).unwrap());
    let parts = [
        json!({"type": "image_url", "image_url": {"url": "https://host.example/scan.png"}}),
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}),
        json!({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
        json!({"type": "file", "file": {"file_id": "file-abc123"}}),
        json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}}),
        json!({"type": "video_url", "video_url": {"url": "https://host.example/visit.mp4"}}),
    ];
    let body = |part: &Value| {
        json!({ "model": "m", "messages": [{ "role": "user", "content":
            [{ "type": "text", "text": "what is this?" }, part] }] })
    };
    for (purpose, leaves) in [("masked", false), ("none", true)] {
        let mut setup = Setup::new(PolicyMode::PreferLocal, vec![far.clone()]);
        setup.rules = Some((rules(&PICTURES.replace("PURPOSE", purpose)), HashKey::new([3; 32])));
        let server = setup.start().await;
        for part in &parts {
            let reply = server.post("/v1/chat/completions", &body(part)).await;
            let seen = cloud.take_seen();
            if leaves {
                assert_eq!(reply.status, 200, "{part} {reply:?}");
                let sent: Value = serde_json::from_slice(&seen[0].body).unwrap();
                assert_eq!(&sent["messages"][0]["content"][1], part);
            } else {
                assert_eq!((reply.status, &reply.error()["code"]), (403, &json!("cannot_mask")), "{part}");
                assert!(seen.is_empty(), "{part} left: {seen:?}");
            }
        }
        let text = server.post("/v1/chat/completions", &chat("hello")).await;
        assert_eq!((text.status, cloud.take_seen().len()), (200, 1));
        assert_eq!(server.ended_rows(parts.len() + 1).await.len(), parts.len() + 1);
    }
}

#[tokio::test]
async fn a_model_that_is_answered_in_another_region_is_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path().join("ledger")).await.unwrap();
    let (far, local) = (Scripted::cloud("far", [piecewise(&["x"])]), Scripted::local([hello()]));
    let mut configured = ConfiguredBackend::new(far.clone());
    configured.facts.model_map =
        [("anywhere".to_owned(), "global.anthropic.claude-haiku-4-5-v1:0".to_owned())].into();
    configured.facts.addresses = vec![Address::new("https://bedrock-runtime.eu-central-1.amazonaws.com")];
    let backends = vec![configured, ConfiguredBackend::new(local)];
    let rules = rules(
        r#"{
        "backend": { "far": { "region": "eu" } },
        "key": { "k": { "class": "internal" } },
        "rule": [{ "name": "in the union", "backends": ["far", "local"], "require": ["region:eu"] }]
    }"#,
    );
    let gateway = of_backends(backends, Policy::default(), ledger);
    let gateway = gateway.with_rules(rules, HashKey::new([3; 32])).unwrap();
    for (model, backend) in [
        ("eu.anthropic.claude-haiku-4-5-v1:0", "far"),
        ("us.anthropic.claude-haiku-4-5-v1:0", "local"),
        ("global.anthropic.claude-haiku-4-5-v1:0", "local"),
        ("anywhere", "local"),
    ] {
        let request = Request { model: model.to_owned(), ..asking("hello") };
        let answer = gateway.answer(&Caller::new("k"), request).await.unwrap();
        assert_eq!(answer.backend, backend, "{model}");
    }
    assert_eq!(far.calls(), 1);
}

#[tokio::test]
async fn a_class_that_a_rule_blocks_is_blocked_whoever_says_it() {
    let blocking = MASKED.replace(r#""mask": ["personal", "health"]"#, r#""block": ["health"]"#);
    let case = case(&blocking, piecewise(&["x"]), hello()).await;
    let claim = nearfield_router::rules::Claim { class: Some(DataClass::Health), ..Default::default() };
    let raised = Caller { claim, ..Caller::new("k") };
    for caller in [&Caller::new("ward"), &raised] {
        let denied = case.ask(caller, asking("hello")).await.unwrap_err();
        assert_eq!(denied.code.as_deref(), Some("policy_forbids"), "{caller:?}");
    }
    assert_eq!(case.ask(&Caller::new("k"), asking("hello")).await.unwrap().0, "far");
    assert_eq!((case.far.calls(), case.local.calls()), (1, 0));
}

#[tokio::test]
async fn no_attempt_starts_that_the_newest_policy_denies() {
    let local_first = MASKED.replace(r#"["far", "local"]"#, r#"["local", "far"]"#);
    let with = |term: &str| rules(&local_first.replace(r#""mask""#, &format!(r#"{term}, "mask""#)));
    let newest = [Rules::default(), with(r#""labels": "drop""#), with(r#""store": true"#)];
    for newest in newest {
        another_policy_comes(&local_first, newest).await;
    }
}

/// A request waits for its first candidate while other rules come into force; its second must not be asked then.
async fn another_policy_comes(local_first: &str, newest: Rules) {
    let slow =
        Script::Play(vec![wait(150), Play::Fail(Error::new(nearfield_api::ErrorKind::Overloaded, "full"))]);
    let case = case(local_first, piecewise(&["x"]), slow).await;
    let running = tokio::spawn({
        let gateway = Arc::clone(&case.gateway);
        async move { gateway.answer(&Caller::new("k"), asking("hello")).await.map(|answer| answer.backend) }
    });
    while case.local.calls() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let change = case.gateway.replace_rules(newest).unwrap();
    assert_eq!(change.old, rules(local_first).hash());
    let denied = running.await.unwrap().unwrap_err();
    assert_eq!(denied.code.as_deref(), Some("policy_changed"));
    assert_eq!(case.far.calls(), 0);
    let unusable = rules(&MASKED.replace("\"far\", ", "\"fra\", "));
    assert!(case.gateway.replace_rules(unusable).is_err());
    assert_eq!(case.gateway.rule_failures(), Some(1));
}

#[tokio::test]
async fn headers_narrow_and_never_widen() {
    let far = Scripted::cloud("far", [piecewise(&["x"])]);
    let local = Scripted::local([hello()]);
    let setup = Setup::new(PolicyMode::CloudOnly, vec![local.clone(), far.clone()]);
    let server = setup.start().await;
    let body = chat("hello").to_string();
    for (header, status) in [
        ("x-nearfield-local-only: true", 403),
        ("x-nearfield-class: personal", 403),
        ("x-nearfield-class: secrt", 400),
        ("x-nearfield-backends: local", 403),
        ("x-nearfield-local-only: maybe", 400),
        ("x-nearfield-class: public\r\nx-nearfield-class: health", 400),
        ("x-nearfield-class: public", 200),
    ] {
        let mut client = server.connect().await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n{header}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            crate::support::KEY,
            body.len()
        );
        client.write(head.as_bytes()).await;
        assert_eq!(client.reply().await.status, status, "{header}");
    }
    assert_eq!(far.calls(), 1);
    assert_eq!(local.calls(), 0);
}

const ESCALATING: &str = r#"{
    "key": { "k": { "class": "internal" } },
    "rule": [{
        "name": "small first", "backends": ["local", "far"],
        "escalate": { "tokens": 2, "mean_logprob_below": -0.5 }
    }]
}"#;

/// An answer in three tokens of these log probabilities.
fn telling(logprobs: [f32; 3]) -> Script {
    let delta = |logprob: f32| {
        let alternatives = (0..20)
            .map(|at| TokenAlternative { token: at.to_string(), bytes: None, logprob: logprob - at as f32 })
            .collect();
        let token = TokenLogprob { token: "x".to_owned(), bytes: None, logprob, alternatives };
        Play::Event(Event::Delta { choice: 0, text: "x".to_owned(), logprobs: vec![token] })
    };
    let [one, two, three] = logprobs.map(delta);
    Script::Play(vec![started_as("m"), one, two, three, finished(), done()])
}

#[tokio::test]
async fn what_the_local_model_is_not_sure_of_is_asked_elsewhere() {
    let k = Caller::new("k");
    // The third token is not looked at.
    let sure = case(ESCALATING, piecewise(&["far"]), telling([-0.1, -0.8, -9.0])).await;
    assert_eq!(sure.ask(&k, asking("hello")).await.unwrap(), ("local".to_owned(), "xxx".to_owned()));
    assert_eq!(sure.far.calls(), 0);
    assert_eq!(sure.local.seen.lock().unwrap()[0].logprobs, Some(20));

    let unsure = case(ESCALATING, piecewise(&["far"]), telling([-0.1, -1.1, 0.0])).await;
    assert_eq!(unsure.ask(&k, asking("hello")).await.unwrap(), ("far".to_owned(), "far".to_owned()));
    assert_eq!(unsure.far.seen.lock().unwrap()[0].logprobs, None);
    let row = rows(&unsure.ledger).await.remove(0);
    let outcomes: Vec<String> =
        row.attempts.iter().map(|attempt| attempt.outcome.as_ref().unwrap().to_string()).collect();
    assert_eq!(outcomes, ["error:unsure", "done"]);
    assert!(row.reason.ends_with("mean log probability -0.60 of 2 tokens"), "{}", row.reason);
    assert!(row.attempts[0].usage.is_some(), "its work is accounted for");

    // A doubtful answer is better than none.
    let alone = case(ESCALATING, refuse(nearfield_api::ErrorKind::Upstream), telling([-3.0; 3])).await;
    assert_eq!(alone.ask(&k, asking("hello")).await.unwrap(), ("local".to_owned(), "xxx".to_owned()));
    let row = rows(&alone.ledger).await.remove(0);
    assert_eq!((row.attempts.len(), row.outcome), (3, Some(Outcome::Done)));

    // Who may not leave is answered here, however unsure.
    let kept = case(ESCALATING, piecewise(&["far"]), telling([-3.0; 3])).await;
    assert_eq!(kept.ask(&Caller::new("nobody"), asking("hello")).await.unwrap().0, "local");
    assert_eq!(rows(&kept.ledger).await[0].attempts.len(), 1);
}

#[tokio::test]
async fn log_probabilities_are_shown_as_they_were_asked_for() {
    for (asked, shown) in [(None, None), (Some(0), Some(0)), (Some(3), Some(3))] {
        let case = case(ESCALATING, piecewise(&["far"]), telling([-0.1; 3])).await;
        let request = Request { logprobs: asked, ..asking("hello") };
        let mut answer = case.gateway.answer(&Caller::new("k"), request).await.unwrap();
        let mut pieces = 0;
        while let Some(event) = answer.events.next().await {
            if let Event::Delta { logprobs, .. } = event.unwrap() {
                pieces += 1;
                assert_eq!(logprobs.first().map(|token| token.alternatives.len()), shown);
            }
        }
        assert_eq!(pieces, 3);
    }
}

#[tokio::test]
async fn what_nobody_can_read_goes_back_only_to_whom_it_came_from() {
    let opaque = |value: &str| Opaque {
        dialect: Dialect::Anthropic,
        kind: "signature".to_owned(),
        value: value.to_owned(),
        id: None,
    };
    let thought = Event::Reasoning { choice: 0, text: "hm".to_owned(), opaque: Some(opaque("c2lnbmF0dXJl")) };
    let script = Script::Play(vec![started_as("m"), Play::Event(thought), delta("x"), finished(), done()]);
    let case = case(MASKED, script, hello()).await;
    let mut answer = case.gateway.answer(&Caller::new("k"), asking("one")).await.unwrap();
    let mut issued = None;
    while let Some(event) = answer.events.next().await {
        if let Event::Reasoning { opaque, .. } = event.unwrap() {
            issued = opaque;
        }
    }
    let issued = issued.unwrap();
    assert!(issued.value.starts_with("nf1.") && issued.value.ends_with(".c2lnbmF0dXJl"), "{issued:?}");

    let back = |opaque: Opaque| {
        let mut message = Message::new(Role::Assistant, "x");
        let reasoning = Reasoning { text: "hm".to_owned(), opaque: Some(opaque) };
        message.content.insert(0, Part::from(Content::Reasoning(reasoning)));
        let user = |text| Message::new(Role::User, text);
        Request::new("m", Prompt::Chat(vec![user("one"), message, user("two")]))
    };
    let (backend, _) = case.ask(&Caller::new("k"), back(issued.clone())).await.unwrap();
    assert_eq!(backend, "far");
    let seen = format!("{:?}", case.far.seen.lock().unwrap().pop().unwrap());
    assert!(seen.contains("\"c2lnbmF0dXJl\"") && !seen.contains("nf1."), "the tag does not leave: {seen}");

    // Another key's, one without a tag, one that was changed, and one of another backend.
    let sealed_elsewhere = issued.value.replacen("nf1.", "nf1.0", 1);
    let changed = format!("{}x", issued.value);
    let case_of_another = Caller::new("other");
    for (caller, value) in [
        (&case_of_another, issued.value.as_str()),
        (&Caller::new("k"), "c2lnbmF0dXJl"),
        (&Caller::new("k"), &changed),
        (&Caller::new("k"), &sealed_elsewhere),
    ] {
        let (backend, _) = case.ask(caller, back(opaque(value))).await.unwrap();
        assert_eq!(backend, "local", "{value}");
    }
}
