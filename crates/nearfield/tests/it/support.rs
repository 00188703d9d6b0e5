//! A home for the program: data folder, configuration, tiny models; and what running it gave.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::LazyLock;

use nearfield_testkit::tiny_model::tiny_model;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The key of the servers that tests start.
pub(crate) const KEY: &str = "test-key-0123456789";

/// The model with a chat template.
pub(crate) static CHAT: LazyLock<Vec<u8>> = LazyLock::new(|| model(true));
/// The model without one.
static BASE: LazyLock<Vec<u8>> = LazyLock::new(|| model(false));

fn model(chat: bool) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nearfield-engine/tests/fixtures/llama");
    tiny_model(&folder, chat).unwrap()
}

/// A home for the program, gone when dropped.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file into the home and gives its path as an argument.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// The path of a model with a chat template.
    pub(crate) fn chat_model(&self) -> String {
        self.write("tiny.gguf", &*CHAT)
    }

    /// The path of a model without a chat template.
    pub(crate) fn base_model(&self) -> String {
        self.write("base.gguf", &*BASE)
    }

    /// The program with nothing of the surroundings that would change what it does.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nearfield"));
        command.args(arguments).stdin(Stdio::null()).current_dir(self.0.path());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("NEARFIELD_") || name.starts_with("HF_") || name == "RUST_LOG" {
                command.env_remove(&*name);
            }
        }
        command
            .env("HOME", self.0.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_DATA_HOME", self.path("unused"))
            .env("NEARFIELD_DATA_DIR", self.path("data"));
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    /// Runs the program with something on its standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Done {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Programs may end without reading all of it.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        Done::of(child.wait_with_output().unwrap())
    }

    /// The ledger's rows.
    pub(crate) fn rows(&self) -> Vec<Value> {
        let done = self.run(&["ledger", "--json"]);
        assert_eq!(done.code, 0, "{done:?}");
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// The rows of a server that runs, once so many are over: they reach the database a moment after the answers.
    pub(crate) fn rows_once(&self, count: usize) -> Vec<Value> {
        let mut rows = Vec::new();
        for _ in 0..200 {
            rows = self.rows();
            if rows.iter().filter(|row| !row["outcome"].is_null()).count() >= count {
                break;
            }
        }
        rows
    }

    /// Starts a server on a free port.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Serving {
        self.serve_with(arguments, &[])
    }

    /// The same with variables of the environment.
    pub(crate) fn serve_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Serving {
        self.start(&[&["-q"], arguments].concat(), variables, Stdio::inherit())
    }

    /// The same with its log in a file.
    pub(crate) fn serve_logged(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
        log: fs::File,
    ) -> Serving {
        self.start(arguments, variables, log.into())
    }

    fn start(&self, arguments: &[&str], variables: &[(&str, &str)], log: Stdio) -> Serving {
        let all = [&["serve", "--port", "0", "--json"], arguments].concat();
        let mut command = self.command(&all);
        command.env("NEARFIELD_API_KEY", KEY).envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| started[name].as_str().unwrap().to_owned();
        Serving { child, base_url: text("base_url"), address: text("address"), _stdout: stdout }
    }
}

/// A running server; killed when dropped.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) base_url: String,
    pub(crate) address: String,
    _stdout: BufReader<ChildStdout>,
}

impl Serving {
    /// Sends one request and reads the whole reply.
    pub(crate) fn exchange(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let authorization = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
        (status, reply.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

/// Reads a request with a length, head and body.
pub(crate) fn read_request(stream: impl Read) -> String {
    let mut reader = BufReader::new(stream);
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        let end = line.trim().is_empty();
        text.push_str(&line);
        if end {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    text + &String::from_utf8(body).unwrap()
}

/// A provider that answers everything. Gives its base address.
pub(crate) fn provider() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            read_request(&stream);
            let usage = json!({ "prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12 });
            let message = json!({ "role": "assistant", "content": "from away" });
            let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
            let body = json!({ "id": "c", "object": "chat.completion", "created": 1, "model": "m",
                               "choices": [choice], "usage": usage })
            .to_string();
            let length = body.len();
            let reply = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{body}"
            );
            // Whoever asked may have gone.
            let _ = stream.write_all(reply.as_bytes());
        }
    });
    base_url
}

/// A configuration with that provider as `away`, no engine here, and the policy file `policy.toml`.
pub(crate) fn ruled(home: &Home, base_url: &str) -> String {
    home.write(
        "nearfield.toml",
        format!(
            "[policy]\nfile = \"policy.toml\"\n[local]\nenabled = false\n[attempts]\nretries = 0\n[backend.away]\n\
             kind = \"openai-compatible\"\nbase_url = \"{base_url}\"\nkey = \"env:AWAY_KEY\"\n"
        ),
    )
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What running the program gave.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The one line that an error is.
    #[track_caller]
    pub(crate) fn error(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        self.stderr.trim_end().strip_prefix("error: ").unwrap_or_else(|| panic!("{self:?}"))
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }
}
