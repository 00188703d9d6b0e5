//! The fault suite: how each way to fail looks to a caller, streaming and not, and what the ledger says of it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nearfield_api::Backend;
use nearfield_providers::{
    CloudConfig, CloudKind, OpenAiCompatible, OpenAiCompatibleOptions, Secret, Timeouts,
};
use nearfield_router::PolicyMode;
use nearfield_router::attempts::Resilience;
use nearfield_store::{Outcome, Row};
use nearfield_testkit::cloud_faults::{FLAPPING, Fault, RETRY_AFTER, TOKENS, whole_text};
use nearfield_testkit::cloud_server::CloudServer;
use serde_json::json;

use crate::support::{Reply, Running, Setup, chat_with};

/// Times in tests.
const SCALE: f64 = 1.0 / 20.0;

/// What a fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Score {
    /// The whole answer, or the refusal that it is.
    Pass,
    /// A part, and one error event that says so.
    Safe,
    /// Anything else.
    Fail,
}

/// What is asked of a fault.
fn wanted(fault: Fault, streamed: bool) -> Score {
    let seen = matches!(fault, Fault::Cut | Fault::Stall | Fault::Malformed | Fault::RejectsPrefill);
    if seen && streamed { Score::Safe } else { Score::Pass }
}

struct Suite {
    primary: CloudServer,
    stand_in: CloudServer,
    server: Running,
}

impl Suite {
    /// Two clouds, of which the first fails as the fault says.
    async fn new(fault: Fault, scale: f64) -> Self {
        let primary = CloudServer::start().await.unwrap();
        let stand_in = CloudServer::start().await.unwrap();
        primary.misbehave(scale);
        stand_in.misbehave(scale);
        let seconds = |count: f64| Duration::from_secs_f64(count * scale);
        let openai = |name: &str, server: &CloudServer, model: &str| -> Arc<dyn Backend> {
            let mut options = OpenAiCompatibleOptions::new(name, server.base_url());
            options.key = Some(Secret::new("sk-fault-suite"));
            options.model_map = [("m".to_owned(), model.to_owned())].into();
            options.timeouts =
                Timeouts { first_byte: seconds(10.0), idle: seconds(10.0), ..Timeouts::default() };
            Arc::new(OpenAiCompatible::new(options).unwrap())
        };
        let root = format!("http://{}", primary.address());
        let configured = |kind, path: &str, rest: &str| -> Arc<dyn Backend> {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("key"), "sk-fault-suite").unwrap();
            let text = format!(
                "base_url = \"{root}{path}\"\nkey = \"file:key\"\nmodel_map = {{ m = \"{}\" }}\n{rest}",
                fault.model()
            );
            let config: CloudConfig = toml_of(&text);
            Arc::new(config.build(kind, "primary", folder.path()).unwrap())
        };
        let first = match fault {
            Fault::ResponseFailed => configured(CloudKind::OpenAi, "/v1", ""),
            Fault::ExceptionFrame | Fault::BadChecksum => {
                configured(CloudKind::Bedrock, "", "region = \"us-east-1\"")
            }
            _ => openai("primary", &primary, &fault.model()),
        };
        let second = openai("stand-in", &stand_in, "stand-in");
        let mut setup = Setup::new(PolicyMode::CloudOnly, vec![first, second]);
        setup.resilience = Resilience {
            backoff: seconds(0.25),
            first_token: Some(seconds(8.0)),
            circuit_rest: seconds(10.0),
            ..Resilience::default()
        };
        let server = setup.limits(|limits| limits.first_event = Duration::from_millis(100)).start().await;
        Self { primary, stand_in, server }
    }

    async fn ask(&self, streamed: bool) -> Reply {
        let body = json!({ "stream": streamed, "stream_options": { "include_usage": true } });
        let body = if streamed { body } else { json!({ "stream": false }) };
        self.server.post("/v1/chat/completions", &chat_with(body)).await
    }
}

fn toml_of<T: serde::de::DeserializeOwned>(text: &str) -> T {
    toml::from_str(text).unwrap()
}

/// The text of a reply and how many events of it are errors.
fn read(reply: &Reply, streamed: bool) -> (String, usize, bool) {
    if !streamed {
        let body = reply.json();
        let text = body["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
        return (text, usize::from(body.get("error").is_some()), reply.status == 200);
    }
    let (mut text, mut errors, mut done) = (String::new(), 0, false);
    for event in reply.events() {
        if event == "[DONE]" {
            done = true;
            continue;
        }
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        text.push_str(event["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        errors += usize::from(event.get("error").is_some());
    }
    (text, errors, done)
}

fn score(fault: Fault, streamed: bool, reply: &Reply, row: &Row) -> Score {
    if fault == Fault::ContentFilter {
        // A refusal reaches the caller as what it is.
        let refused = reply.status == 400 && reply.error()["code"] == "content_filter";
        let told = row.outcome == Some(Outcome::Error("invalid_request".to_owned()));
        return if refused && told { Score::Pass } else { Score::Fail };
    }
    let (text, errors, done) =
        if reply.status == 200 { read(reply, streamed) } else { (String::new(), 1, false) };
    match (errors, done) {
        (0, true) if text == whole_text() && row.outcome == Some(Outcome::Done) => Score::Pass,
        (1, false)
            if reply.status == 200
                && whole_text().starts_with(&text)
                && row.outcome == Some(Outcome::Truncated) =>
        {
            Score::Safe
        }
        _ => Score::Fail,
    }
}

/// One line of the table.
struct Line {
    fault: Fault,
    scores: [Score; 2],
    attempts: [usize; 2],
    seconds: [f64; 2],
}

async fn run(fault: Fault, scale: f64) -> Line {
    let mut line = Line { fault, scores: [Score::Fail; 2], attempts: [0; 2], seconds: [0.0; 2] };
    for (at, streamed) in [true, false].into_iter().enumerate() {
        let suite = Suite::new(fault, scale).await;
        let began = Instant::now();
        let (reply, row) = if fault == Fault::Flaps {
            flaps(&suite, scale, streamed).await
        } else {
            let reply = suite.ask(streamed).await;
            (reply, suite.server.ended_rows(1).await.remove(0))
        };
        line.seconds[at] = began.elapsed().as_secs_f64();
        line.attempts[at] = row.attempts.len();
        line.scores[at] = score(fault, streamed, &reply, &row);
        accounts(fault, streamed, &suite, &row, began);
    }
    line
}

/// What else has to be true of single faults.
fn accounts(fault: Fault, streamed: bool, suite: &Suite, row: &Row, began: Instant) {
    let (asked, stood_in) = (suite.primary.seen().len(), suite.stand_in.seen().len());
    let name = fault.name();
    match fault {
        Fault::RateLimitedOnce => {
            assert_eq!((asked, stood_in), (2, 0), "{name}");
            assert!(began.elapsed() >= Duration::from_secs(RETRY_AFTER), "{name}: asked too early");
        }
        Fault::FailsOnce => assert_eq!((asked, stood_in), (2, 0), "{name}"),
        Fault::ContextLength => assert_eq!((asked, stood_in), (1, 1), "{name}"),
        Fault::ContentFilter => assert_eq!((asked, stood_in), (1, 0), "{name}"),
        Fault::NoDone => assert_eq!((asked, stood_in), (1, 0), "{name}"),
        Fault::Cut | Fault::Stall | Fault::Malformed | Fault::RejectsPrefill => {
            assert_eq!(stood_in, usize::from(!streamed), "{name}");
        }
        Fault::Accounting => {
            assert_eq!(row.backend.as_deref(), Some("stand-in"));
            let usage = row.usage.unwrap();
            assert_eq!(
                (usage.prompt_tokens(), usage.completion_tokens(), usage.measured),
                (TOKENS.0, TOKENS.1, true)
            );
            assert_eq!(row.attempts.last().unwrap().usage, row.usage);
        }
        _ => {}
    }
    if !streamed && wanted(fault, true) == Score::Safe {
        assert!(
            row.attempts[0].usage.is_some_and(|usage| usage.output > 0),
            "{name}: a discarded part is counted"
        );
    }
}

/// Asks while the primary flaps and until it is back; the last reply and its row.
async fn flaps(suite: &Suite, scale: f64, streamed: bool) -> (Reply, Row) {
    let began = Instant::now();
    let end = FLAPPING.mul_f64(scale);
    let pause = Duration::from_secs_f64(2.0 * scale);
    let mut count = 0;
    let reply = loop {
        let reply = suite.ask(streamed).await;
        count += 1;
        assert_eq!(reply.status, 200, "{reply:?}");
        let back = reply.header("x-nearfield-backend") == Some("primary");
        assert!(!back || began.elapsed() >= end, "the primary fails still");
        if back {
            break reply;
        }
        assert!(began.elapsed() < end * 2, "the circuit does not close");
        tokio::time::sleep(pause).await;
    };
    let rows = suite.server.ended_rows(count).await;
    assert_eq!(rows.len(), count);
    // While it rested only probes reached it: without a circuit each request would have asked three times.
    let asked = suite.primary.seen().len();
    assert!(asked < count, "{asked} of {count}");
    let metrics = suite.server.send("GET", "/metrics", "").await.body;
    for line in
        [r#"event="circuit_open"}"#, r#"event="probe"}"#, r#"nearfield_circuit_open{backend="primary"} 0"#]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let row = rows.into_iter().find(|row| row.backend.as_deref() == Some("primary")).unwrap();
    (reply, row)
}

/// All faults, each beside the others.
async fn table(scale: f64) -> String {
    let runs: Vec<_> = Fault::ALL.into_iter().map(|fault| tokio::spawn(run(fault, scale))).collect();
    let mut text =
        String::from("| fault | | streaming | whole | attempts | seconds |\n|---|---|---|---|---:|---:|\n");
    let mut wrong = Vec::new();
    for run in runs {
        let Line { fault, scores, attempts, seconds } = run.await.unwrap();
        let word = |score: Score| match score {
            Score::Pass => "pass",
            Score::Safe => "safe",
            Score::Fail => "FAIL",
        };
        writeln!(
            text,
            "| {} | {} | {} | {} | {} / {} | {:.1} / {:.1} |",
            fault.name(),
            fault.words(),
            word(scores[0]),
            word(scores[1]),
            attempts[0],
            attempts[1],
            seconds[0],
            seconds[1]
        )
        .unwrap();
        if scores != [wanted(fault, true), wanted(fault, false)] {
            wrong.push(fault.name());
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}\n{text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_comes_to_what_it_should() {
    table(SCALE).await;
}

/// `bench/faults/run` prints this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn faults_at_true_scale() {
    println!("{}", table(1.0).await);
}
