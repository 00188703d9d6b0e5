//! Requests end to end over drawn policies, backends and faults: no attempt leaves its candidate set, each request has
//! one row, and what the policy hides is in nothing that a cloud received.
//!
//! `NEARFIELD_PROPERTY_CASES` sets how many; with the feature `sabotage` the check is shown to turn red.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use nearfield_api::bedrock::write_message;
use nearfield_api::{Backend, ErrorKind};
use nearfield_privacy::HashKey;
use nearfield_providers::{CloudConfig, CloudKind, OpenAiCompatible, OpenAiCompatibleOptions, Secret};
use nearfield_router::PolicyMode;
use nearfield_router::attempts::Resilience;
use nearfield_router::rules::Rules;
use nearfield_testkit::cloud_server::{CloudRequest, CloudServer, Script, delta};
use serde_json::{Value, json};

use crate::leaks::{holds, views};
use crate::scripted::{Script as Local, Scripted, hello, refuse};
use crate::support::{KEY, Running, Setup};

const CLOUDS: [&str; 7] = ["eu", "us", "clinic", "spare", "answers", "twins", "rock"];
const WORKERS: u64 = 4;
const DEFAULT_CASES: u64 = 5000;
const SECRET_WORDS: [&str; 3] = ["Zephyrine", "Quokkafall", "Marrowgate"];

/// A small generator (xorshift64*): the draws must be the same on every machine.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % end as u64) as usize
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

/// How often something happened.
#[derive(Default)]
struct Seen(BTreeMap<String, u64>);

impl Seen {
    fn add(&mut self, what: impl Into<String>, count: u64) {
        *self.0.entry(what.into()).or_default() += count;
    }
}

/// Values of one request that a policy may hide, by class, with the places they stand in.
struct Planted {
    values: Vec<(&'static str, String, &'static str)>,
    body: Value,
}

/// The key of a cloud: no other may see it.
fn key_of(cloud: &str) -> String {
    format!("sk-of-{cloud}-0123456789")
}

struct World {
    clouds: Vec<(&'static str, CloudServer)>,
    decoy: CloudServer,
    server: Running,
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
        setup.rules = Some((rules, HashKey::new([7; 32])));
        setup.resilience = Resilience {
            retries: 1,
            backoff: Duration::from_millis(2),
            first_token: Some(Duration::from_millis(60)),
            circuit_failures: if worker == 0 { 4 } else { 0 },
            circuit_rest: Duration::from_millis(20),
            hedge_after: (worker != 1).then_some(Duration::from_millis(25)),
            ..Resilience::default()
        };
        Self { clouds, decoy: CloudServer::start().await.unwrap(), server: setup.start().await }
    }
}

impl World {
    fn collect(&self, received: &mut Vec<(&'static str, CloudRequest)>) {
        for (name, cloud) in &self.clouds {
            received.extend(cloud.take_seen().into_iter().map(|request| (*name, request)));
        }
    }
}

fn draw_rules(draw: &mut Draw) -> Rules {
    let mut rules = Vec::new();
    for at in 0..=draw.below(3) {
        let mut names: Vec<&str> = std::iter::once("local").chain(CLOUDS).collect();
        let mut backends = Vec::new();
        for _ in 0..=draw.below(3) {
            backends.push(names.remove(draw.below(names.len())));
        }
        let hide = ["mask", "hash", "keep_local", "block"][[0, 0, 0, 1, 2, 3][draw.below(6)]];
        let mut rule = json!({ "name": format!("rule {at}"), "backends": backends, "when": {} });
        // A secret never leaves; what is only personal or of health does where the rule does not hide it.
        let hidden: &[&str] =
            [&["secret"][..], &["secret", "personal", "health"], &["secret", "personal"]][draw.below(3)];
        rule[hide] = json!(hidden);
        if draw.chance(2) {
            rule["when"]["class"] =
                json!(["public", "internal", "personal", "secret", "health"][..3 + draw.below(3)]);
        }
        rules.push(rule);
    }
    let class = [json!("public"), json!("internal"), Value::Null][[0, 0, 0, 1, 2][draw.below(5)]].clone();
    let terms = if class.is_null() { json!({}) } else { json!({ "class": class }) };
    let backend: BTreeMap<_, _> =
        CLOUDS.iter().map(|&name| (name, json!({ "baa": name != "spare", "dpa": true }))).collect();
    let file = json!({
        "backend": backend,
        "key": { "env": terms },
        "detection": { "terms": [{ "class": "secret", "words": SECRET_WORDS }] },
        "rule": rules,
    });
    serde_json::from_value(file).unwrap()
}

fn draw_request(draw: &mut Draw, number: u64) -> Planted {
    let mut values = Vec::new();
    let mut plant = |draw: &mut Draw, place: &'static str| {
        if !draw.chance(3) {
            return "nothing to see".to_owned();
        }
        let (class, value, text) = match draw.below(4) {
            0 => {
                let word = SECRET_WORDS[draw.below(3)].to_owned();
                ("secret", word.clone(), format!("about {word} today"))
            }
            1 => {
                let digits = format!("{:08}", 10_000_000 + number * 7 + values.len() as u64);
                ("health", digits.clone(), format!("MRN: {digits} came"))
            }
            _ => {
                let mail = format!("jo.{place}{number}@planted-mail.org");
                ("personal", mail.clone(), format!("mail {mail} now"))
            }
        };
        values.push((class, value, place));
        text
    };
    let mut messages = vec![
        json!({ "role": "system", "content": plant(draw, "system") }),
        json!({ "role": "user", "content": format!("{} {}", plant(draw, "user"), marker(number)) }),
    ];
    let tools = draw.chance(2);
    if tools {
        let mut inner = json!({ "to": plant(draw, "arguments"), "n": number });
        inner[plant(draw, "arguments.key")] = json!(1);
        let inner = inner.to_string();
        let inner = if draw.chance(2) { inner.replace('@', "\\u0040") } else { inner };
        messages.push(json!({ "role": "assistant", "content": null, "tool_calls": [
            { "id": "call_1", "type": "function", "function": { "name": "send", "arguments": inner } }] }));
        messages.push(json!({ "role": "tool", "tool_call_id": "call_1", "content": plant(draw, "result") }));
        messages.push(json!({ "role": "user", "content": "and then?" }));
    }
    let mut body =
        json!({ "model": "gpt-5.4-nano", "messages": messages, "max_tokens": 32, "stream": draw.chance(2) });
    if tools {
        body["tools"] = json!([{ "type": "function", "function": { "name": "send",
            "description": plant(draw, "description"), "parameters": { "type": "object" } } }]);
    }
    body["user"] = json!(plant(draw, "label"));
    if draw.chance(8) {
        body["x_note"] = json!(plant(draw, "unknown"));
    }
    Planted { values, body }
}

/// What the next request of a cloud gets; `None` for a good answer.
fn draw_fault(draw: &mut Draw, cloud: &str, decoy: &CloudServer) -> Option<Script> {
    let error = |status: u16, code: &str| {
        Script::json(status, &json!({ "error": { "message": "no", "code": code } }))
    };
    let begun = || Script::stream().event(&delta("a"));
    let failed = json!({ "type": "response.failed",
        "response": { "status": "failed", "error": { "message": "no", "code": "server_error" } } });
    let script = match (draw.below(26), cloud) {
        (0, _) => error(429, "x").named("429"),
        (1, _) => error(500, "x").named("500"),
        (2, _) => error(503, "x").named("503"),
        (3, _) => error(529, "x").named("529"),
        (4, _) => Script::new().reset().named("reset"),
        (5, _) => Script::new().silence().named("silence"),
        (6, "answers") => Script::stream().event(&failed.to_string()).end().named("response.failed"),
        (6, "rock") => exception().named("exception frame"),
        (7, "rock") => broken_frame().named("bad checksum"),
        (6, _) => begun().named("cut"),
        (7, _) => begun().event("{\"cho").named("malformed"),
        (8 | 9, _) => {
            let location = format!("{}/chat/completions", decoy.base_url());
            Script::answer(307, &[("Location", location.as_str())], "").named("redirect")
        }
        (10, _) => error(400, "content_filter").named("refusal"),
        (11, _) => error(400, "context_length_exceeded").named("context"),
        (12, _) => Script::new()
            .pause(Duration::from_millis(40))
            .bytes("HTTP/1.1 500 E\r\nContent-Length: 0\r\n\r\n")
            .named("slow"),
        (13, _) => {
            Script::stream().event(r#"{"error":{"message":"no","code":500}}"#).end().named("error after 200")
        }
        (14, "eu" | "us" | "spare") => begun().silence().named("stall"),
        _ => return None,
    };
    Some(script)
}

fn frames(bytes: Vec<u8>) -> Script {
    Script::stream_of("application/vnd.amazon.eventstream").chunk(bytes).end()
}

fn exception() -> Script {
    let mut frame = Vec::new();
    let headers = [(":message-type", "exception"), (":exception-type", "throttlingException")];
    write_message(&mut frame, &headers, br#"{"message":"no"}"#);
    frames(frame)
}

fn broken_frame() -> Script {
    let mut frame = Vec::new();
    let headers = [(":message-type", "event"), (":event-type", "messageStart")];
    write_message(&mut frame, &headers, br#"{"role":"assistant"}"#);
    *frame.last_mut().unwrap() ^= 1;
    frames(frame)
}

/// What tells one request of a worker from the others, in all that clouds received.
fn marker(number: u64) -> String {
    format!("(case {number} ends)")
}

/// One request and all that came of it.
struct Case {
    number: u64,
    id: String,
    rules: Rules,
    planted: Planted,
}

async fn ask(world: &World, planted: &Planted) -> String {
    let mut client = world.server.connect().await;
    let body = planted.body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n\
         cookie: session=client-cookie-marker\r\nx-forwarded-for: 203.0.113.77\r\nbaggage: trace=client-baggage-marker\r\n\
         openai-organization: org-client-marker\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write(head.as_bytes()).await;
    client.reply().await.header("x-request-id").unwrap().to_owned()
}

async fn work(worker: u64, cases: u64) -> Result<Seen, String> {
    let mut draw = Draw(0x9E37_79B9 + worker * 0x1234_5677);
    let mut rules = draw_rules(&mut draw);
    let world = World::new(worker, rules.clone()).await;
    let mut seen = Seen::default();
    let (mut done, mut received) = (Vec::new(), Vec::new());
    for number in 0..cases {
        if draw.chance(6) {
            rules = draw_rules(&mut draw);
            world.server.gateway.replace_rules(rules.clone()).unwrap();
            seen.add("reload", 1);
        }
        let number = worker * 1_000_000 + number;
        let planted = draw_request(&mut draw, number);
        for (name, cloud) in &world.clouds {
            for _ in 0..2 {
                match draw_fault(&mut draw, name, &world.decoy) {
                    Some(script) => cloud.next(script),
                    None => break,
                }
            }
        }
        // Now and then the rules change while the request runs.
        let running = draw.chance(8);
        let next = draw_rules(&mut draw);
        let (id, ()) = tokio::join!(ask(&world, &planted), async {
            if running {
                tokio::time::sleep(Duration::from_millis(1)).await;
                world.server.gateway.replace_rules(next.clone()).unwrap();
                seen.add("reload while running", 1);
            }
        });
        world.collect(&mut received);
        done.push(Case { number, id, rules: rules.clone(), planted });
        if running {
            rules = next;
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

/// Holds every case against its row.
async fn check(
    world: &World,
    cases: Vec<Case>,
    received: Vec<(&'static str, CloudRequest)>,
    seen: &mut Seen,
) -> Result<(), String> {
    let mut by_case: BTreeMap<String, Vec<(&'static str, CloudRequest)>> = BTreeMap::new();
    for (cloud, request) in received {
        let body = String::from_utf8_lossy(&request.body);
        let at = body.find("(case ").ok_or_else(|| format!("{cloud} received what nobody sent: {body}"))?;
        let end = body[at..].find(" ends)").ok_or("a request is cut")? + at + " ends)".len();
        let marker = body[at..end].to_owned();
        by_case.entry(marker).or_default().push((cloud, request));
    }
    let mut rows = BTreeMap::new();
    let all = world.server.ended_rows(cases.len()).await;
    if all.len() != cases.len() {
        return Err(format!("{} rows for {} requests", all.len(), cases.len()));
    }
    for row in all {
        rows.insert(row.id.clone(), row);
    }
    if !world.decoy.seen().is_empty() {
        return Err("a redirect was followed".to_owned());
    }
    for case in cases {
        let row = rows.remove(&case.id).ok_or("a request without its row")?;
        // The rules that admitted it are those before or after a change that met it half way.
        let admitted = case.rules.hash() == row.policy_hash;
        let decided = row.attempts.first().map_or(row.reason.as_str(), |attempt| attempt.why.as_str());
        let rule = case.rules.rule.iter().find(|rule| decided.starts_with(&format!("{} (", rule.name)));
        for attempt in &row.attempts {
            let allowed = match rule {
                Some(rule) => rule.backends.contains(&attempt.backend),
                None => attempt.backend == "local",
            };
            // A first candidate that was left out gives another reason: then only the backends can be told.
            let known = rule.is_some() || decided.starts_with("no rule");
            if admitted && known && !allowed {
                return Err(format!("an attempt left its candidate set: {} by {decided:?}", attempt.backend));
            }
        }
        let requests = by_case.remove(&marker(case.number)).unwrap_or_default();
        for (cloud, request) in &requests {
            let tried = row.attempts.iter().filter(|attempt| attempt.backend == *cloud).count();
            let came = requests.iter().filter(|(other, _)| other == cloud).count();
            if came > tried {
                return Err(format!("{cloud} received {came} requests in {tried} attempts"));
            }
            leaks(cloud, request, &case, rule.filter(|_| admitted), seen)?;
        }
    }
    Ok(())
}

fn leaks(
    cloud: &str,
    request: &CloudRequest,
    case: &Case,
    rule: Option<&nearfield_router::rules::Rule>,
    seen: &mut Seen,
) -> Result<(), String> {
    let views = views(request);
    let others = CLOUDS.iter().filter(|other| **other != cloud).map(|other| key_of(other));
    let markers = ["client-cookie-marker", "203.0.113.77", "client-baggage-marker", "org-client-marker", KEY];
    for value in others.chain(markers.map(str::to_owned)) {
        if holds(&views, &value) {
            return Err(format!("{cloud} received a header that is not its own: {value}"));
        }
    }
    for (class, value, place) in &case.planted.values {
        // Every rule hides secrets, and a label of the caller's own never leaves.
        let hidden = *class == "secret"
            || *place == "label"
            || rule.is_some_and(|rule| {
                [&rule.mask, &rule.hash, &rule.keep_local, &rule.block]
                    .iter()
                    .any(|list| list.iter().any(|name| name == class))
            });
        let there = holds(&views, value);
        if hidden && there {
            return Err(format!("{cloud} received the {class} value of the {place}: {value}"));
        }
        if hidden {
            seen.add(format!("masked: {place}"), 1);
        }
    }
    Ok(())
}

fn cases() -> u64 {
    std::env::var("NEARFIELD_PROPERTY_CASES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(DEFAULT_CASES)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_stay_inside_their_policy() {
    let each = cases().div_ceil(WORKERS);
    let workers: Vec<_> = (0..WORKERS).map(|worker| tokio::spawn(work(worker, each))).collect();
    let mut seen = Seen::default();
    for worker in workers {
        for (what, count) in worker.await.unwrap().unwrap_or_else(|wrong| panic!("broken: {wrong}")).0 {
            seen.add(what, count);
        }
    }
    let mut text = format!("{} requests\n", each * WORKERS);
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
    ];
    for what in places.into_iter().chain(faults).chain(events.map(str::to_owned)) {
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
