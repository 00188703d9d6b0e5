//! `--offline`, in a network namespace of the test's own: an address on its loopback with listeners behind it, a probe
//! process that tries every way out, and the program itself.
//!
//! The outer test starts this binary again inside the namespace, and that starts it again as the probe; which part a
//! process plays is in an environment variable.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nearfield_server::offline;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use super::models::pull;
use super::support::{Home, KEY, Serving, read_request};

/// Which part this process plays.
const PART: &str = "OFFLINE_TEST_PART";
/// Where the probe sends.
const TARGET: &str = "OFFLINE_TEST_TARGET";
/// From the range for documentation: nobody's, and only in the namespace anybody's.
const ADDRESS: &str = "192.0.2.7";
const PATIENCE: Duration = Duration::from_secs(30);

fn part() -> String {
    std::env::var(PART).unwrap_or_default()
}

/// This binary again, for one of its ignored tests.
fn again(test: &str) -> Vec<String> {
    let own = std::env::current_exe().unwrap().display().to_string();
    let name = format!("offline::{test}");
    [own.as_str(), "--exact", &name, "--ignored", "--nocapture", "--test-threads=1"]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn nothing_leaves_an_offline_process() {
    let can = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !can("unshare", &["--net", "ip", "link", "set", "lo", "up"]) {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root and has unshare and ip");
        println!("skipped: a network namespace needs root, `unshare` and `ip` (iproute2)");
        return;
    }
    let mut command = Command::new("unshare");
    command.arg("--net").args(again("inside_the_namespace")).env(PART, "inside");
    let output = command.output().unwrap();
    let said =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("inside: complete"), "{said}");
}

#[test]
#[ignore = "runs in a namespace that nothing_leaves_an_offline_process makes"]
fn inside_the_namespace() {
    if part() != "inside" {
        return;
    }
    for arguments in
        [vec!["link", "set", "lo", "up"], vec!["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]]
    {
        assert!(Command::new("ip").args(&arguments).status().unwrap().success(), "ip {arguments:?}");
    }
    let home = Home::new();
    let model = pull(&home);
    probes(&home, &model);
    the_program(&home, &model);
    a_local_pool(&home);
    println!("inside: complete");
}

/// Every way out of a process, without and with the filter, while a local answer goes on streaming.
fn probes(home: &Home, model: &str) {
    let trap = Trap::new();
    let open = probe("open", trap.address());
    assert_eq!(open.len(), 4 * 4 + 3, "{open:?}");
    for (who, what, found) in &open {
        assert_eq!(found, "ok", "{who} {what} must arrive without the filter");
    }
    assert!(trap.tcp() >= 4 && trap.udp() >= 4 && trap.mptcp() >= 4);

    let serving = home.serve(&["--model", model, "--offline"]);
    every_thread_is_sealed(serving.child.id());
    let streaming = Streaming::start(&serving, model);
    streaming.wait_for_more();
    let (before, connected) = streaming.counted();
    let sealed = probe("sealed", trap.address());
    streaming.wait_for_more();
    let own = streaming.stop() - connected;
    let after = counters();
    assert_eq!(sealed.len(), open.len(), "{sealed:?}");
    for (who, what, found) in &sealed {
        assert!(found.starts_with("refused"), "{who} {what}: {found}");
    }
    assert_eq!((trap.tcp(), trap.udp(), trap.mptcp()), (0, 0, 0), "something arrived");
    // What the kernel counts as sent: the stream's own connections and nothing else.
    assert_eq!(after.0 - before.0, own, "connections were begun");
    assert_eq!(after.1 - before.1, 0, "datagrams were sent");
}

/// TCP connections begun and UDP datagrams sent, in this namespace since its beginning.
fn counters() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let value = |kind: &str, name: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with(kind));
        let at = lines.next().unwrap().split(' ').position(|column| column == name).unwrap();
        lines.next().unwrap().split(' ').nth(at).unwrap().parse().unwrap()
    };
    (value("Tcp:", "ActiveOpens"), value("Udp:", "OutDatagrams"))
}

fn every_thread_is_sealed(process: u32) {
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"), "{status}");
        threads += 1;
    }
    assert!(threads > 2, "a server has threads older than its filter");
}

/// Listeners for all that a probe might send.
struct Trap {
    tcp: TcpListener,
    udp: UdpSocket,
    mptcp: Socket,
}

impl Trap {
    fn new() -> Self {
        let tcp = TcpListener::bind((ADDRESS, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind((ADDRESS, port)).unwrap();
        let mptcp = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).unwrap();
        let address: SocketAddr = (ADDRESS.parse::<std::net::IpAddr>().unwrap(), mptcp_port(port)).into();
        mptcp.bind(&address.into()).unwrap();
        mptcp.listen(16).unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        mptcp.set_nonblocking(true).unwrap();
        Self { tcp, udp, mptcp }
    }

    fn address(&self) -> SocketAddr {
        self.tcp.local_addr().unwrap()
    }

    /// Takes all that has come and counts it.
    fn tcp(&self) -> usize {
        count(|| self.tcp.accept().map(drop))
    }

    fn udp(&self) -> usize {
        count(|| self.udp.recv(&mut [0; 64]).map(drop))
    }

    fn mptcp(&self) -> usize {
        count(|| self.mptcp.accept().map(drop))
    }
}

const fn mptcp_port(port: u16) -> u16 {
    if port == u16::MAX { port - 1 } else { port + 1 }
}

fn count(mut take: impl FnMut() -> std::io::Result<()>) -> usize {
    let mut taken = 0;
    loop {
        match take() {
            Ok(()) => taken += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs the probe and reads what each of its parts found.
fn probe(kind: &str, target: SocketAddr) -> Vec<(String, String, String)> {
    let line = again("the_probe");
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).env(PART, kind).env(TARGET, target.to_string());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let found = text.lines().filter_map(|line| line.split_once("found: ")).map(|(_, line)| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap())
    });
    found.collect()
}

#[test]
#[ignore = "a process that inside_the_namespace starts"]
fn the_probe() {
    let part = part();
    if !matches!(part.as_str(), "open" | "sealed" | "child") {
        return;
    }
    let target: SocketAddr = std::env::var(TARGET).unwrap().parse().unwrap();
    if part == "child" {
        return tries("child", target);
    }
    if part == "sealed" {
        offline::deny_connections().unwrap();
    }
    let (start, wait) = std::sync::mpsc::channel::<()>();
    let older = std::thread::spawn(move || {
        wait.recv().unwrap();
        tries("older", target);
    });
    // Sockets from before the filter, for which there is the second layer.
    let early = [(); 2].map(|()| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
    if part == "sealed" {
        offline::seal().unwrap();
    }
    tries("first", target);
    start.send(()).unwrap();
    older.join().unwrap();
    std::thread::spawn(move || tries("younger", target)).join().unwrap();
    let line = again("the_probe");
    assert!(Command::new(&line[0]).args(&line[1..]).env(PART, "child").status().unwrap().success());

    let [connected, fast] = early;
    tell("early", "connect", connected.connect(&target.into()));
    let sent = fast.send_to_with_flags(b"x", &target.into(), FAST_OPEN);
    tell("early", "fast-open", sent.map(drop));
    tell("early", "io_uring", ring());
    // What stays: Unix sockets.
    let (mut near, mut far) = UnixStream::pair().unwrap();
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
}

/// `MSG_FASTOPEN`.
const FAST_OPEN: i32 = 0x2000_0000;

/// A ring, asked for by a program that can make any system call.
fn ring() -> std::io::Result<()> {
    let script = "import ctypes, sys\n\
                  c = ctypes.CDLL(None, use_errno=True)\n\
                  found = c.syscall(425, 1, ctypes.create_string_buffer(256))\n\
                  sys.exit(0 if found >= 0 else ctypes.get_errno())";
    match Command::new("python3").args(["-c", script]).status()?.code() {
        // A kernel without rings says so in other words than the filter.
        Some(0 | 38 | 1) if part() == "open" => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code.unwrap_or(0))),
    }
}

/// Tries every way out and says what came of each.
fn tries(who: &str, target: SocketAddr) {
    tell(who, "tcp", TcpStream::connect(target).map(drop));
    let udp = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0));
    tell(who, "udp", udp.and_then(|socket| socket.send_to(b"x", target)).map(drop));
    let other = SocketAddr::new(target.ip(), mptcp_port(target.port()));
    let mptcp = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP));
    tell(who, "mptcp", mptcp.and_then(|socket| socket.connect(&other.into())));
    tell(who, "ipv6", Socket::new(Domain::IPV6, Type::DGRAM, None).map(drop));
}

fn tell(who: &str, what: &str, result: std::io::Result<()>) {
    let found = match result {
        Ok(()) => "ok".to_owned(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => format!("refused: {error}"),
        Err(error) => format!("failed: {error}"),
    };
    let mut stdout = std::io::stdout();
    writeln!(stdout, "\nfound: {who} {what} {found}").unwrap();
}

/// Somebody who asks a server for one streamed answer after the other.
struct Streaming {
    events: Arc<AtomicU64>,
    /// How many it has begun; locked while one begins.
    connections: Arc<Mutex<u64>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Streaming {
    fn start(serving: &Serving, model: &str) -> Self {
        let (events, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (address, model) = (serving.address.clone(), model.to_owned());
        let (seen, opened, ended) = (Arc::clone(&events), Arc::clone(&connections), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                let stream = {
                    let mut opened = opened.lock().unwrap();
                    *opened += 1;
                    TcpStream::connect(&address).unwrap()
                };
                let reply = chat_on(stream, &model, "hello", 64, |_| {
                    seen.fetch_add(1, Ordering::SeqCst);
                });
                assert!(reply.contains("data: [DONE]"), "{reply}");
            }
        });
        Self { events, connections, stop, thread }
    }

    /// The kernel's counters, and how many connections it has begun by then.
    fn counted(&self) -> ((u64, u64), u64) {
        let connections = self.connections.lock().unwrap();
        (counters(), *connections)
    }

    /// Waits until more of an answer has come.
    fn wait_for_more(&self) {
        let (events, begun) = (self.events.load(Ordering::SeqCst), Instant::now());
        while self.events.load(Ordering::SeqCst) < events + 20 {
            assert!(begun.elapsed() < PATIENCE, "the local answer does not go on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets the last answer end; gives how many connections it took in all.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        *self.connections.lock().unwrap()
    }
}

/// Asks for a streamed answer; `each` sees every event's line, and the whole reply comes back.
fn chat(address: &str, model: &str, text: &str, tokens: u32, each: impl FnMut(&str)) -> String {
    chat_on(TcpStream::connect(address).unwrap(), model, text, tokens, each)
}

fn chat_on(
    mut stream: TcpStream,
    model: &str,
    text: &str,
    tokens: u32,
    mut each: impl FnMut(&str),
) -> String {
    let body = json!({
        "model": model,
        "messages": [{ "role": "user", "content": text }],
        "max_tokens": tokens,
        "stream": true,
        "seed": 1,
    })
    .to_string();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        if line.starts_with("data: ") {
            each(&line);
        }
        reply.push_str(&line);
        reply.push('\n');
    }
    reply
}

/// The same server with the same configuration: its call arrives without the flag and not with it.
fn the_program(home: &Home, model: &str) {
    let away = TcpListener::bind((ADDRESS, 0)).unwrap();
    let base = format!("http://{}/v1", away.local_addr().unwrap());
    let config = home.write(
        "offline.toml",
        format!(
            "[attempts]\nretries = 0\n[policy]\nmode = \"prefer-local\"\nleaves = \"internal\"\n[backend.away]\n\
             kind = \"openai-compatible\"\nbase_url = \"{base}\"\nallow_plaintext = true\n"
        ),
    );
    let serving = home.serve(&["--config", &config]);
    let taken = std::thread::spawn(move || {
        let (mut stream, _) = away.accept().unwrap();
        let request = read_request(&mut stream);
        write!(stream, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").unwrap();
        (away, request)
    });
    chat(&serving.address, "elsewhere", "marker-1", 4, |_| ());
    let (away, request) = taken.join().unwrap();
    assert!(request.contains("marker-1"), "without the flag the call arrives: {request}");
    drop(serving);

    let serving = home.serve(&["--config", &config, "--offline"]);
    every_thread_is_sealed(serving.child.id());
    let before = counters();
    let reply = chat(&serving.address, "elsewhere", "marker-2", 4, |_| ());
    assert!(!reply.starts_with("HTTP/1.1 200"), "{reply}");
    let local = chat(&serving.address, model, "marker-3", 4, |_| ());
    assert!(local.contains("data: [DONE]"), "{local}");
    away.set_nonblocking(true).unwrap();
    assert_eq!(away.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "with the flag it does not");
    let after = counters();
    assert_eq!((after.0 - before.0, after.1 - before.1), (2, 0), "only this test's own two connections");
}

/// A pool on this machine goes on answering through its Unix socket.
fn a_local_pool(home: &Home) {
    let path = home.path("pool.sock");
    let pool = UnixListener::bind(&path).unwrap();
    let config = home.write(
        "pool.toml",
        "[policy]\nmode = \"prefer-local\"\n[backend.pool]\nkind = \"openai-compatible\"\n\
         base_url = \"http://localhost/v1\"\nsocket = \"pool.sock\"\nmodels = [\"pooled\"]\n",
    );
    let serving = home.serve(&["--config", &config, "--offline"]);
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = pool.accept().unwrap();
        let request = read_request(&mut stream);
        let body = "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"pooled\",\
                    \"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"From the pool\"},\
                    \"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        request
    });
    let reply = chat(&serving.address, "pooled", "marker-4", 4, |_| ());
    assert!(reply.contains("From the pool") && reply.contains("x-nearfield-locality: local"), "{reply}");
    assert!(answering.join().unwrap().contains("marker-4"));
}
