//! What is drawn: policies, requests with what they hold and claim, and faults.

use std::time::Duration;

use nearfield_api::bedrock::write_message;
use nearfield_testkit::cloud_server::{CloudServer, Script, delta};
use serde_json::{Map, Value, json};

use super::{CLOUDS, MODEL, SECRET_WORDS};

/// A small generator (xorshift64*): the draws must be the same on every machine.
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % end as u64) as usize
    }

    pub(super) fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// So many of all backends, in any order.
    fn backends(&mut self, count: usize) -> Vec<&'static str> {
        let mut names: Vec<&str> = std::iter::once("local").chain(CLOUDS).collect();
        (0..count).map(|_| names.remove(self.below(names.len()))).collect()
    }
}

/// Dollars of a month: less than any answer costs, what some of the requests spend, more than all do.
pub(super) const LIMITS: [f64; 3] = [0.000_001, 0.001, 1000.0];

/// A policy file.
pub(super) fn policy(draw: &mut Draw) -> Value {
    let mut rules = Vec::new();
    for at in 0..=draw.below(3) {
        if draw.chance(24) {
            let when = json!({ "class": ["personal", "secret"] });
            rules.push(json!({ "name": format!("rule {at}"), "deny": true, "when": when }));
            continue;
        }
        let count = 1 + draw.below(5);
        let hide = draw.one(&["mask", "mask", "mask", "mask", "hash", "hash", "keep_local", "block"]);
        let mut rule = json!({ "name": format!("rule {at}"), "backends": draw.backends(count), "when": {} });
        // A secret never leaves; what is only personal or of health does where the rule does not hide it.
        let hidden: &[&str] =
            [&["secret"][..], &["secret", "personal", "health"], &["secret", "personal"]][draw.below(3)];
        rule[hide] = json!(hidden);
        if !draw.chance(4) {
            rule["when"]["class"] =
                json!(["public", "internal", "personal", "secret", "health"][..3 + draw.below(3)]);
        }
        if draw.chance(6) {
            let demands = ["dpa", "baa", "no-training", "region:eu", "retention:30", "processor:P"];
            rule["require"] = json!([draw.one(&demands)]);
        }
        rules.push(rule);
    }
    let declared: Map<String, Value> =
        CLOUDS.iter().map(|name| ((*name).to_owned(), declared(draw))).collect();
    let mut file = json!({
        "backend": declared,
        "key": {},
        "detection": { "terms": [{ "class": "secret", "words": SECRET_WORDS }] },
        "rule": rules,
    });
    bind_key(draw, &mut file);
    file
}

fn declared(draw: &mut Draw) -> Value {
    json!({
        "dpa": !draw.chance(5),
        "baa": !draw.chance(4),
        "trains": draw.chance(4),
        "processor": draw.one(&[Some("P"), Some("P"), Some("Q"), None]),
        "region": draw.one(&[None, Some("eu"), Some("us")]),
        "retention_days": draw.one(&[None, Some(0), Some(60)]),
    })
}

/// Binds the caller's key anew.
pub(super) fn bind_key(draw: &mut Draw, file: &mut Value) {
    let class = match draw.below(14) {
        0 => Value::Null,
        1 => json!("internal"),
        2 => json!("health"),
        _ => json!("public"),
    };
    let mut terms = json!({ "class": class });
    if draw.chance(9) {
        let count = 4 + draw.below(4);
        terms["backends"] = json!(draw.backends(count));
    }
    if draw.chance(6) {
        terms["dollars_per_month"] = json!(draw.one(&LIMITS));
    }
    file["key"]["env"] = terms;
}

/// The policy that takes the place of another while a request runs: another one, or the same for a key bound anew.
pub(super) fn next_policy(draw: &mut Draw, policy_in_force: &Value) -> Value {
    if draw.chance(2) {
        return policy(draw);
    }
    let mut next = policy_in_force.clone();
    bind_key(draw, &mut next);
    next
}

/// One request.
pub(super) struct Asked {
    /// Values that a policy may hide: class, value and the place it stands in.
    pub(super) values: Vec<(&'static str, String, &'static str)>,
    /// Whether it has a picture, into which nobody can look.
    pub(super) picture: bool,
    pub(super) body: Value,
    pub(super) claim: Claim,
}

impl Asked {
    pub(super) fn model(&self) -> &str {
        self.body["model"].as_str().unwrap()
    }
}

/// What a caller says of its own request.
pub(super) struct Claim {
    pub(super) class: Option<&'static str>,
    pub(super) backends: Option<Vec<&'static str>>,
    pub(super) local_only: bool,
}

impl Claim {
    fn draw(draw: &mut Draw) -> Self {
        let classes = ["public", "internal", "personal", "health", "secret"];
        Self {
            class: draw.chance(9).then(|| draw.one(&classes)),
            backends: draw.chance(10).then(|| {
                let count = 2 + draw.below(5);
                draw.backends(count)
            }),
            local_only: draw.chance(20),
        }
    }

    pub(super) fn headers(&self) -> String {
        let class = self.class.map(|class| format!("x-nearfield-class: {class}\r\n"));
        let backends =
            self.backends.as_ref().map(|names| format!("x-nearfield-backends: {}\r\n", names.join(", ")));
        let here = self.local_only.then(|| "x-nearfield-local-only: true\r\n".to_owned());
        [class, backends, here].into_iter().flatten().collect()
    }
}

/// What tells one request of a worker from the others, in all that clouds received.
pub(super) fn marker(number: u64) -> String {
    format!("(case {number} ends)")
}

/// Text for a place: with a value that a policy may hide, or without.
fn plant(
    draw: &mut Draw,
    values: &mut Vec<(&'static str, String, &'static str)>,
    number: u64,
    place: &'static str,
) -> String {
    if !draw.chance(3) {
        return "nothing to see".to_owned();
    }
    let (class, value, text) = match draw.below(4) {
        0 => {
            let word = draw.one(&SECRET_WORDS).to_owned();
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
}

pub(super) fn request(draw: &mut Draw, number: u64) -> Asked {
    let mut values = Vec::new();
    let mut plant = |draw: &mut Draw, place| plant(draw, &mut values, number, place);
    let system = plant(draw, "system");
    let text = format!("{} {}", plant(draw, "user"), marker(number));
    let picture = draw.chance(10);
    let user = if picture {
        json!([{ "type": "text", "text": text },
               { "type": "image_url", "image_url": { "url": "data:image/png;base64,iVBORw0KGgo=" } }])
    } else {
        json!(text)
    };
    let mut messages =
        vec![json!({ "role": "system", "content": system }), json!({ "role": "user", "content": user })];
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
    let model =
        if draw.chance(9) { draw.one(&["us", "global"]).to_owned() + "." + MODEL } else { MODEL.to_owned() };
    let mut body =
        json!({ "model": model, "messages": messages, "max_tokens": 32, "stream": draw.chance(2) });
    if tools {
        body["tools"] = json!([{ "type": "function", "function": { "name": "send",
            "description": plant(draw, "description"), "parameters": { "type": "object" } } }]);
    }
    body["user"] = json!(plant(draw, "label"));
    if draw.chance(8) {
        body["x_note"] = json!(plant(draw, "unknown"));
    }
    Asked { values, picture, body, claim: Claim::draw(draw) }
}

/// What the next request of a cloud gets; `None` for a good answer.
pub(super) fn fault(draw: &mut Draw, cloud: &str, decoy: &CloudServer) -> Option<Script> {
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
            .pause(Duration::from_millis(80))
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
