//! What must not be written down: markers in everything that is secret or private go through a server that logs all it
//! can, and are then looked for in its log, its metrics and its files.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};

use serde_json::{Value, json};

use super::support::{Home, read_request};

const INBOUND_KEY: &str = "canaryInboundKey4cZ1";
const PROVIDER_KEY: &str = "canaryProviderKey9xQ2";
const PROMPT: &str = "canaryPromptText7wL3";
const TOOL_RESULT: &str = "canaryToolResult2mB4";
const MASKED: &str = "canary.masked.5rT8@example-clinic.org";
const ANSWER: &str = "canaryAnswer1kP6";
/// A model that no configuration names.
const MODEL: &str = "canaryModelName3vD5";

/// What nobody but the caller and the provider may see. The model's name stands in the ledger.
const NOWHERE: [&str; 6] = [INBOUND_KEY, PROVIDER_KEY, PROMPT, TOOL_RESULT, MASKED, ANSWER];

/// What the provider does with a request.
#[derive(Clone, Copy, Debug)]
enum Scene {
    /// Answers with the prompt and a word of its own.
    Answer,
    /// The same as a stream.
    Stream,
    /// An error that repeats the prompt.
    Refuse,
    /// A stream that breaks off.
    Break,
    /// A stream that stops until the server is gone.
    Hang,
}

/// A provider that plays one scene for each request and says what it received.
struct Provider {
    address: String,
    scenes: Sender<Scene>,
    received: Receiver<String>,
}

impl Provider {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (scenes, plays) = mpsc::channel::<Scene>();
        let (tells, received) = mpsc::channel();
        std::thread::spawn(move || {
            let mut hanging = Vec::new();
            while let Ok(scene) = plays.recv() {
                let (mut stream, _) = listener.accept().unwrap();
                let request = read_request(&stream);
                play(&mut stream, scene, &request);
                tells.send(request).unwrap();
                if matches!(scene, Scene::Hang) {
                    hanging.push(stream);
                }
            }
        });
        Self { address, scenes, received }
    }
}

fn play(stream: &mut TcpStream, scene: Scene, request: &str) {
    let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    let heard = body["messages"][0]["content"].as_str().unwrap();
    let said = format!("{heard} {ANSWER}");
    let whole = |status: &str, body: Value| {
        let body = body.to_string();
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
    };
    let event = |delta: Value, end: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": end });
        let chunk = json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                            "choices": [choice] });
        format!("data: {chunk}\n\n")
    };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    let first = event(json!({ "role": "assistant", "content": said }), Value::Null);
    let reply = match scene {
        Scene::Answer => {
            let message = json!({ "role": "assistant", "content": said });
            let usage = json!({ "prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12 });
            let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
            whole(
                "200 OK",
                json!({ "id": "c", "object": "chat.completion", "created": 1, "model": "m",
                        "choices": [choice], "usage": usage }),
            )
        }
        Scene::Stream => {
            let last = event(json!({}), json!("stop"));
            format!("{head}{first}{last}data: [DONE]\n\n")
        }
        Scene::Refuse => whole(
            "400 Bad Request",
            json!({ "error": { "message": format!("cannot read {said}"), "type": "invalid_request_error",
                               "code": "bad" } }),
        ),
        Scene::Break | Scene::Hang => format!("{head}{first}"),
    };
    stream.write_all(reply.as_bytes()).unwrap();
    stream.flush().unwrap();
}

/// A server of ours that logs everything to a file.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(home: &Home, config: &str, log: &Path) -> Self {
        let mut command = home.command(&["serve", "--port", "0", "--json", "-vvv", "--config", config]);
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        command.env("NEARFIELD_API_KEY", INBOUND_KEY).env("AWAY_KEY", PROVIDER_KEY);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap();
        Self { child, address: started["address"].as_str().unwrap().to_owned() }
    }

    fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {INBOUND_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream
    }

    fn ask(&self, stream: bool) -> TcpStream {
        let call = json!({ "id": "call_1", "type": "function",
                           "function": { "name": "look_up", "arguments": "{}" } });
        let body = json!({
            "model": MODEL,
            "messages": [
                { "role": "user", "content": format!("{PROMPT}, write to {MASKED}") },
                { "role": "assistant", "content": null, "tool_calls": [call] },
                { "role": "tool", "tool_call_id": "call_1", "content": format!("{TOOL_RESULT} of {MASKED}") },
            ],
            "stream": stream,
        });
        self.send("POST /v1/chat/completions", &body.to_string())
    }

    fn metrics(&self) -> String {
        read(self.send("GET /metrics", ""))
    }

    /// Ends it by a signal and waits.
    fn end(mut self, signal: &str) {
        let process = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &process]).status().unwrap().success());
        self.child.wait().unwrap();
    }
}

fn read(mut stream: TcpStream) -> String {
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Asserts that none of the markers stands in some bytes, as it is or in Base64 at any of three offsets.
fn nothing_of(markers: &[&str], bytes: &[u8], place: &str) {
    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    for marker in markers {
        assert!(!holds(marker.as_bytes()), "{marker} stands in {place}");
        for lead in 0..3 {
            let text = base64(&[&b"000"[..lead], marker.as_bytes()].concat());
            // Characters at the ends depend on what stands around the marker.
            assert!(!holds(&text.as_bytes()[4..text.len() - 4]), "{marker} stands in {place} in Base64");
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks(3).flat_map(|group| {
        let number = group.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        (0..=group.len()).map(move |i| char::from(ALPHABET[(number >> (18 - 6 * i) & 63) as usize]))
    });
    groups.collect()
}

#[test]
fn nothing_private_is_written_down() {
    let (home, provider) = (Home::new(), Provider::start());
    let log = home.path("server.log");
    home.write(
        "policy.toml",
        "[backend.away]\ndpa = true\n[key.env]\nclass = \"internal\"\n\
         [[rule]]\nname = \"masked\"\nwhen = { class = [\"public\", \"internal\", \"personal\"] }\n\
         backends = [\"away\"]\nmask = [\"personal\"]\n",
    );
    let config = home.write(
        "nearfield.toml",
        format!(
            "[policy]\nfile = \"policy.toml\"\n[attempts]\nretries = 0\n[local]\nenabled = false\n\
             [backend.away]\nkind = \"openai-compatible\"\nbase_url = \"http://{}/v1\"\n\
             key = \"env:AWAY_KEY\"\n",
            provider.address
        ),
    );
    let server = Server::start(&home, &config, &log);
    let mut replies = Vec::new();
    for (scene, stream) in [
        (Scene::Answer, false),
        (Scene::Stream, true),
        (Scene::Refuse, false),
        (Scene::Refuse, true),
        (Scene::Break, false),
        (Scene::Break, true),
    ] {
        provider.scenes.send(scene).unwrap();
        let reply = read(server.ask(stream));
        let received = provider.received.recv().unwrap();
        assert!(received.contains(PROMPT) && received.contains(PROVIDER_KEY), "{scene:?}: {received}");
        assert!(received.contains("[EMAIL_1]"), "{scene:?}: {received}");
        nothing_of(&[MASKED, INBOUND_KEY], received.as_bytes(), "what the provider received");
        replies.push(reply);
    }
    assert!(
        replies[0].contains(MASKED) && replies[0].contains(ANSWER),
        "the caller has it all back: {replies:?}"
    );
    assert!(replies[1].contains(ANSWER) && replies[1].contains("[DONE]"), "{}", replies[1]);
    // A provider's words go to the caller, restored like an answer, and to nobody else.
    assert!(replies[2].contains("cannot read"), "{}", replies[2]);
    assert!(replies[5].contains("\"error\""), "{}", replies[5]);
    let metrics = server.metrics();
    assert!(metrics.contains("nearfield_requests") && metrics.contains("away"), "{metrics}");
    nothing_of(&NOWHERE, metrics.as_bytes(), "/metrics");
    nothing_of(&[MODEL], metrics.as_bytes(), "/metrics, whose labels are configured names");

    // What has just ended is journalled within 10 ms; a process that is killed sooner knows nothing of it any more.
    home.rows_once(6);

    // Ended without warning in the middle of an answer: killed, and aborted. Panics, which a server outlives, are in
    // `src/panics/tests.rs`.
    let mut server = Some(server);
    for signal in ["KILL", "ABRT"] {
        let running = server.take().unwrap();
        provider.scenes.send(Scene::Hang).unwrap();
        let mut answer = BufReader::new(running.ask(true));
        provider.received.recv().unwrap();
        let mut line = String::new();
        while !line.contains("canaryAnswer") {
            line.clear();
            assert!(answer.read_line(&mut line).unwrap() > 0, "the answer begins");
        }
        running.end(signal);
        look_through(&home, &format!("after {signal}"));
        server = Some(Server::start(&home, &config, &log));
    }
    server.unwrap().end("TERM");
    look_through(&home, "at the end");

    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(logged.contains("TRACE") && logged.lines().count() > 40, "it logs all it can: {logged}");
    nothing_of(&NOWHERE, logged.as_bytes(), "the log");

    let explained = home
        .command(&["policy", "explain", "--key", "env", "--config", &config])
        .arg(format!("{PROMPT} {MASKED}"))
        .env("AWAY_KEY", PROVIDER_KEY)
        .output()
        .unwrap();
    assert!(explained.status.success(), "{explained:?}");
    let said = [explained.stdout, explained.stderr].concat();
    assert!(String::from_utf8_lossy(&said).contains("EMAIL"), "it says what it found");
    nothing_of(&[PROVIDER_KEY, PROMPT, MASKED], &said, "policy explain");

    let rows = home.rows();
    assert_eq!(rows.len(), 8, "one row each: {rows:?}");
    assert!(
        rows.iter().all(|row| row.to_string().contains(MODEL)),
        "the ledger says which model was asked for"
    );
    let outcomes: Vec<&str> = rows.iter().filter_map(|row| row["outcome"].as_str()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "unknown").count(), 2, "{outcomes:?}");
}

/// Looks for the markers in every file of the data folder: the ledger with its journals, and whatever else is there.
fn look_through(home: &Home, when: &str) {
    let all = files(&home.path("data"));
    assert!(all.iter().any(|path| path.to_string_lossy().contains("ledger")), "{all:?}");
    for path in all {
        let bytes = std::fs::read(&path).unwrap();
        nothing_of(&NOWHERE, &bytes, &format!("{}, {when}", path.display()));
    }
}
