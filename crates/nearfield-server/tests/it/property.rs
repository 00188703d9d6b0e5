//! Requests end to end over drawn policies, backends and faults: no attempt leaves its candidate set, each request has
//! one row, and what the policy hides is in nothing that a cloud received.
//!
//! `NEARFIELD_PROPERTY_CASES` sets how many; with the feature `sabotage` the check is shown to turn red.

mod allowed;
mod check;
mod draw;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use nearfield_api::{Backend, ErrorKind};
use nearfield_privacy::HashKey;
use nearfield_providers::{CloudConfig, CloudKind, OpenAiCompatible, OpenAiCompatibleOptions, Secret};
use nearfield_router::PolicyMode;
use nearfield_router::attempts::Resilience;
use nearfield_router::rules::{Address, Rules};
use nearfield_server::gateway::Network;
use nearfield_testkit::cloud_server::{CloudRequest, CloudServer};
use serde_json::Value;

use crate::scripted::{Script as Local, Scripted, hello, refuse};
use crate::support::{KEY, Running, Setup};
use check::{Case, Changed, check, restrictions};
use draw::{Asked, Draw};

const CLOUDS: [&str; 7] = ["eu", "us", "clinic", "spare", "answers", "twins", "rock"];
/// The model that most requests ask for, and the only one that `spare` is configured for.
const MODEL: &str = "gpt-5.4-nano";
const WORKERS: u64 = 4;
/// The worker that has no network, and gets a small share of the cases on top.
const OFFLINE: u64 = WORKERS;
const DEFAULT_CASES: u64 = 5000;
const SECRET_WORDS: [&str; 3] = ["Zephyrine", "Quokkafall", "Marrowgate"];
/// What a cloud receives so long after a policy was replaced was not begun under it.
const SLACK: Duration = Duration::from_millis(60);

/// How often something happened.
#[derive(Default)]
struct Seen(BTreeMap<String, u64>);

impl Seen {
    fn add(&mut self, what: impl Into<String>, count: u64) {
        *self.0.entry(what.into()).or_default() += count;
    }
}

/// The key of a cloud: no other may see it.
fn key_of(cloud: &str) -> String {
    format!("sk-of-{cloud}-0123456789")
}

struct World {
    clouds: Vec<(&'static str, CloudServer)>,
    decoy: CloudServer,
    server: Running,
    offline: bool,
}

impl World {
    async fn new(worker: u64, rules: Rules) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut clouds = Vec::new();
        let locals = [refuse(ErrorKind::Overloaded), hello(), refuse(ErrorKind::Internal), hello()];
        // The last script is played again and again, so they are repeated for long enough.
        let scripts: Vec<Local> = locals.iter().cloned().cycle().take(20_000).collect();
        let mut backends: Vec<Arc<dyn Backend>> = vec![Scripted::local(scripts)];
        for name in CLOUDS {
            let server = CloudServer::start().await.unwrap();
            let root = format!("http://{}", server.address());
            let own = match name {
                "clinic" => Some((CloudKind::Anthropic, format!("base_url = \"{root}/v1\""))),
                "answers" => Some((CloudKind::OpenAi, format!("base_url = \"{root}/v1\""))),
                "twins" => Some((CloudKind::Gemini, format!("base_url = \"{root}/v1beta\""))),
                "rock" => {
                    Some((CloudKind::Bedrock, format!("base_url = \"{root}\"\nregion = \"us-east-1\"")))
                }
                _ => None,
            };
            backends.push(if let Some((kind, text)) = own {
                std::fs::write(folder.path().join("key"), key_of(name)).unwrap();
                let config: CloudConfig = toml::from_str(&format!("{text}\nkey = \"file:key\"")).unwrap();
                Arc::new(config.build(kind, name, folder.path()).unwrap())
            } else {
                let mut options = OpenAiCompatibleOptions::new(name, server.base_url());
                options.key = Some(Secret::new(key_of(name)));
                options.timeouts.idle = Duration::from_millis(200);
                Arc::new(OpenAiCompatible::new(options).unwrap())
            });
            clouds.push((name, server));
        }
        let mut setup = Setup::new(PolicyMode::PreferLocal, backends);
        for configured in &mut setup.backends {
            match configured.backend.name() {
                "spare" => configured.facts.models = Some(vec![MODEL.to_owned()]),
                // As if it were there.
                "rock" => {
                    let address = "https://bedrock-runtime.eu-central-1.amazonaws.com";
                    configured.facts.addresses.push(Address::new(address));
                }
                _ => {}
            }
        }
        let offline = worker == OFFLINE;
        if offline {
            setup.network = Network::refused();
        }
        setup.rules = Some((rules, HashKey::new([7; 32])));
        setup.resilience = Resilience {
            retries: 1,
            backoff: Duration::from_millis(2),
            first_token: Some(Duration::from_millis(100)),
            circuit_failures: if worker == 0 { 3 } else { 0 },
            circuit_rest: Duration::from_millis(20),
            hedge_after: (worker != 1).then_some(Duration::from_millis(25)),
            ..Resilience::default()
        };
        Self { clouds, decoy: CloudServer::start().await.unwrap(), server: setup.start().await, offline }
    }

    fn collect(&self, received: &mut Vec<(&'static str, CloudRequest)>) {
        for (name, cloud) in &self.clouds {
            received.extend(cloud.take_seen().into_iter().map(|request| (*name, request)));
        }
    }
}

/// A policy file as the server reads it, and its hash.
fn rules_of(policy: &Value) -> (Rules, String) {
    let rules: Rules = serde_json::from_value(policy.clone()).unwrap();
    let hash = rules.hash();
    (rules, hash)
}

async fn ask(world: &World, asked: &Asked) -> String {
    let mut client = world.server.connect().await;
    let (body, claim) = (asked.body.to_string(), asked.claim.headers());
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n{claim}\
         cookie: session=client-cookie-marker\r\nx-forwarded-for: 203.0.113.77\r\nbaggage: trace=client-baggage-marker\r\n\
         openai-organization: org-client-marker\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write(head.as_bytes()).await;
    client.reply().await.header("x-request-id").unwrap().to_owned()
}

async fn work(worker: u64, cases: u64) -> Result<Seen, String> {
    let mut draw = Draw(0x9E37_79B9 + worker * 0x1234_5677);
    let mut policy = draw::policy(&mut draw);
    let (rules, mut hash) = rules_of(&policy);
    let world = World::new(worker, rules).await;
    let mut seen = Seen::default();
    let (mut done, mut received) = (Vec::new(), Vec::new());
    for number in 0..cases {
        if draw.chance(6) {
            policy = draw::policy(&mut draw);
            let (rules, new) = rules_of(&policy);
            world.server.gateway.replace_rules(rules).unwrap();
            hash = new;
            seen.add("reload", 1);
        }
        let number = worker * 1_000_000 + number;
        let asked = draw::request(&mut draw, number);
        for (name, cloud) in &world.clouds {
            for _ in 0..2 {
                match draw::fault(&mut draw, name, &world.decoy) {
                    Some(script) => cloud.next(script),
                    None => break,
                }
            }
        }
        // Now and then the rules change while the request runs.
        let next = draw.chance(8).then(|| draw::next_policy(&mut draw, &policy));
        let mut changed = None;
        let (id, ()) = tokio::join!(ask(&world, &asked), async {
            if let Some(next) = next {
                let (rules, hash) = rules_of(&next);
                tokio::time::sleep(Duration::from_millis(1)).await;
                world.server.gateway.replace_rules(rules).unwrap();
                tokio::time::sleep(SLACK).await;
                world.collect(&mut received);
                changed = Some(Changed { policy: (next, hash), before: received.len() });
                seen.add("reload while running", 1);
            }
        });
        world.collect(&mut received);
        let new = changed.as_ref().map(|changed| changed.policy.clone());
        done.push(Case { number, id, asked, policy: (policy.clone(), hash.clone()), changed });
        if let Some((next, new)) = new {
            (policy, hash) = (next, new);
        }
    }
    // What a loser of a race had sent may still be on its way.
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.collect(&mut received);
    check(&world, done, received, &mut seen).await?;
    for (_, cloud) in &world.clouds {
        for (name, count) in cloud.played() {
            seen.add(format!("fault: {name}"), count);
        }
    }
    for (_, event, count) in world.server.gateway.attempt_counts() {
        seen.add(event, count);
    }
    Ok(seen)
}

fn cases() -> u64 {
    std::env::var("NEARFIELD_PROPERTY_CASES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(DEFAULT_CASES)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_stay_inside_their_policy() {
    let (each, offline) = (cases().div_ceil(WORKERS), cases().div_ceil(30));
    let mut workers: Vec<_> = (0..WORKERS).map(|worker| tokio::spawn(work(worker, each))).collect();
    workers.push(tokio::spawn(work(OFFLINE, offline)));
    let mut seen = Seen::default();
    for worker in workers {
        for (what, count) in worker.await.unwrap().unwrap_or_else(|wrong| panic!("broken: {wrong}")).0 {
            seen.add(what, count);
        }
    }
    let mut text = format!("{} requests\n", each * WORKERS + offline);
    for (what, count) in &seen.0 {
        writeln!(text, "{count:>8}  {what}").unwrap();
    }
    println!("{text}");
    let places =
        ["system", "user", "arguments", "arguments.key", "result", "description", "label", "unknown"]
            .map(|place| format!("masked: {place}"));
    let faults = [
        "429",
        "500",
        "503",
        "529",
        "reset",
        "silence",
        "cut",
        "malformed",
        "redirect",
        "refusal",
        "context",
        "slow",
        "error after 200",
        "stall",
        "response.failed",
        "exception frame",
        "bad checksum",
    ]
    .map(|name| format!("fault: {name}"));
    let events = [
        "retry",
        "fallback",
        "hedge",
        "lost",
        "probe",
        "circuit_open",
        "done",
        "reload",
        "reload while running",
        "attempt after a reload",
        "attempt left out after a reload",
    ];
    for what in places.into_iter().chain(faults).chain(events.map(str::to_owned)).chain(restrictions()) {
        assert!(seen.0.contains_key(&what), "{what} never happened\n{text}");
    }
}

/// Each fault of ours that the check is for, switched on in a process of its own: the check must turn red.
#[cfg(feature = "sabotage")]
#[test]
fn what_is_broken_on_purpose_is_found() {
    use nearfield_api::sabotage::{Break, VARIABLE};
    for (what, words) in [
        (Break::Candidates, "left its candidate set"),
        (Break::Redirects, "a redirect was followed"),
        (Break::ToolArguments, "value of the arguments"),
        (Break::Headers, "a header that is not its own"),
    ] {
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["property::random_requests_stay_inside_their_policy", "--exact", "--nocapture"])
            .env(VARIABLE, what.name())
            .env("NEARFIELD_PROPERTY_CASES", "600")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
        assert!(!run.status.success() && said.contains(words), "{what:?} is not found: {said}");
    }
}
