//! What callers say of their own requests, over HTTP and under a policy file: headers raise the class or narrow the
//! candidates, never the reverse.

use std::sync::Arc;

use nearfield_privacy::HashKey;
use nearfield_router::PolicyMode;
use nearfield_router::rules::Rules;

use crate::scripted::{Scripted, cloud_hello, hello};
use crate::support::{KEY, Reply, Running, Setup, chat};

/// The key of these tests has the id `env`.
const RULES: &str = r#"{
    "key": { "env": { "class": "internal" } },
    "rule": [
        { "name": "refused", "when": { "class": ["secret"] }, "deny": true },
        { "name": "stays", "when": { "class": ["personal"] }, "backends": ["local"] },
        { "name": "health", "when": { "class": ["health"] }, "backends": ["far", "local"] },
        { "name": "public alone", "when": { "class": ["public"] }, "backends": ["other"] },
        { "name": "usual", "backends": ["far", "local"] }
    ]
}"#;

struct Case {
    server: Running,
    backends: [Arc<Scripted>; 3],
}

async fn case(rules: &str) -> Case {
    let far = Scripted::cloud("far", [cloud_hello()]);
    let other = Scripted::cloud("other", [cloud_hello()]);
    let local = Scripted::local([hello()]);
    let mut setup = Setup::new(PolicyMode::PreferLocal, vec![local.clone(), far.clone(), other.clone()]);
    let rules: Rules = serde_json::from_str(rules).unwrap();
    setup.rules = Some((rules, HashKey::new([7; 32])));
    Case { server: setup.start().await, backends: [local, far, other] }
}

impl Case {
    async fn send(&self, headers: &str, text: &str) -> Reply {
        let body = chat(text).to_string();
        let mut client = self.server.connect().await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n{headers}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        client.write(head.as_bytes()).await;
        client.reply().await
    }

    /// The backend that answers, or the status and the code of the refusal.
    async fn outcome(&self, headers: &[&str], text: &str) -> String {
        let lines: Vec<String> = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let before: usize = self.backends.iter().map(|backend| backend.calls()).sum();
        let reply = self.send(&lines.concat(), text).await;
        let asked = self.backends.iter().map(|backend| backend.calls()).sum::<usize>() - before;
        if reply.status == 200 {
            assert_eq!(asked, 1, "{reply:?}");
            return reply.header("x-nearfield-backend").unwrap().to_owned();
        }
        assert_eq!(asked, 0, "a refusal reaches nobody: {reply:?}");
        format!("{} {}", reply.status, reply.error()["code"].as_str().unwrap_or("none"))
    }
}

const PERSONAL: &str = "Answer jo@example.org";
const FORBIDDEN: &str = "403 policy_forbids";

#[tokio::test]
async fn a_claim_raises_the_class_and_never_lowers_it() {
    let case = case(RULES).await;
    for (headers, text, outcome) in [
        (&[][..], "hello", "far"),
        (&["x-nearfield-class: internal"], "hello", "far"),
        (&["x-nearfield-class: personal"], "hello", "local"),
        (&["X-Nearfield-Class: secret"], "hello", FORBIDDEN),
        // No agreement is declared for any backend.
        (&["x-nearfield-class: health"], "hello", "local"),
        // Below the key's floor, and below what was found.
        (&["x-nearfield-class: public"], "hello", "far"),
        (&["x-nearfield-class: public"], PERSONAL, "local"),
        (&["x-nearfield-class: internal"], "password: hunter2!", FORBIDDEN),
        // What is not understood is refused, not passed over.
        (&["x-nearfield-class: secrt"], "hello", "400 none"),
        (&["x-nearfield-class:"], "hello", "400 none"),
        (&["x-nearfield-class: public", "x-nearfield-class: health"], "hello", "400 none"),
    ] {
        assert_eq!(case.outcome(headers, text).await, outcome, "{headers:?} {text}");
    }
    let rows = case.server.ended_rows(8).await;
    let reasons: Vec<&str> = rows.iter().map(|row| row.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "usual (internal)",
            "usual (internal)",
            "stays (personal)",
            "refused (secret)",
            "health (health)",
            "usual (internal)",
            "stays (personal)",
            "refused (secret)",
        ],
        "each row has the class that was decided with"
    );
}

#[tokio::test]
async fn a_claim_narrows_the_candidates_and_never_widens_them() {
    let case = case(RULES).await;
    for (headers, text, outcome) in [
        (&["x-nearfield-backends: local"][..], "hello", "local"),
        (&["x-nearfield-backends: far"], "hello", "far"),
        // The rule's order holds, not the caller's.
        (&["x-nearfield-backends: local, far"], "hello", "far"),
        (&["x-nearfield-local-only: true"], "hello", "local"),
        (&["x-nearfield-local-only: false"], "hello", "far"),
        // Backends that the rule does not have.
        (&["x-nearfield-backends: other"], "hello", FORBIDDEN),
        (&["x-nearfield-backends: far"], PERSONAL, FORBIDDEN),
        (&["x-nearfield-backends: far, other"], PERSONAL, FORBIDDEN),
        (&["x-nearfield-backends: nobody"], "hello", FORBIDDEN),
        (&["x-nearfield-local-only: false"], PERSONAL, "local"),
        // Both hold together.
        (&["x-nearfield-backends: far", "x-nearfield-local-only: true"], "hello", FORBIDDEN),
        (&["x-nearfield-backends: far", "x-nearfield-class: personal"], "hello", FORBIDDEN),
        // A lower class does not lead to the rule that is for it.
        (&["x-nearfield-class: public", "x-nearfield-backends: other"], "hello", FORBIDDEN),
        (&["x-nearfield-local-only: maybe"], "hello", "400 none"),
    ] {
        assert_eq!(case.outcome(headers, text).await, outcome, "{headers:?} {text}");
    }
    assert_eq!(case.backends[2].calls(), 0, "nobody got to the third backend");
}

#[tokio::test]
async fn a_claim_cannot_undo_what_the_key_is_bound_to() {
    let bound =
        RULES.replace(r#"{ "class": "internal" }"#, r#"{ "class": "public", "backends": ["local", "far"] }"#);
    let bound = case(&bound).await;
    // The rule for public text has another backend, to which the key is not bound.
    assert_eq!(bound.outcome(&[], "hello").await, FORBIDDEN);
    assert_eq!(bound.outcome(&["x-nearfield-backends: other"], "hello").await, FORBIDDEN);
    assert_eq!(bound.outcome(&["x-nearfield-class: internal"], "hello").await, "far");
    assert_eq!(
        bound.outcome(&["x-nearfield-class: internal", "x-nearfield-backends: other"], "hello").await,
        FORBIDDEN
    );

    let bare = case(&RULES.replace(r#"{ "class": "internal" }"#, "{}")).await;
    for headers in [
        &["x-nearfield-class: internal"][..],
        &["x-nearfield-class: internal", "x-nearfield-local-only: false"],
    ] {
        assert_eq!(bare.outcome(headers, "hello").await, "local", "a key without a class stays: {headers:?}");
    }
    assert_eq!(
        bare.outcome(&["x-nearfield-class: internal", "x-nearfield-backends: far"], "hello").await,
        FORBIDDEN
    );
}
