//! Pools of this machine, behind Unix sockets: what goes there does not leave, and yet they can be out of reach.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nearfield_api::{Backend, ErrorKind};
use nearfield_providers::{OpenAiCompatibleOptions, Pool, PoolEndpoint, PoolOptions};
use nearfield_router::PolicyMode;
use nearfield_router::attempts::Resilience;
use nearfield_store::Outcome;
use nearfield_testkit::cloud_server::{CloudServer, Script};
use serde_json::json;
use tokio::net::{TcpStream, UnixListener};

use crate::scripted::{Script as Scripts, Scripted, fail, hello, started_as, wait};
use crate::support::{Running, Setup, chat_with};

const MOMENT: Duration = Duration::from_millis(60);

/// A socket that leads to a server.
fn socket(folder: &Path, server: &CloudServer) -> PathBuf {
    let path = folder.join("alive.sock");
    let (listener, address) = (UnixListener::bind(&path).unwrap(), server.address());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(address).await.unwrap();
                // Either side may go away at any time.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    path
}

/// A pool of endpoints behind sockets, each with its weight.
fn pool(sockets: &[(&Path, f64)]) -> Arc<Pool> {
    let base_url = "http://localhost/v1".to_owned();
    let endpoint = |&(path, weight): &(&Path, f64)| PoolEndpoint {
        base_url: base_url.clone(),
        socket: Some(path.to_owned()),
        weight,
        drain: false,
    };
    let options = PoolOptions {
        common: OpenAiCompatibleOptions::new("pool", base_url.as_str()),
        endpoints: sockets.iter().map(endpoint).collect(),
        check_every: Duration::from_hours(1),
        slow_start: Duration::from_secs(30),
        cache_salt: false,
    };
    Arc::new(Pool::new(options).unwrap())
}

async fn start(backends: Vec<Arc<dyn Backend>>, resilience: Resilience) -> Running {
    let mut setup = Setup::new(PolicyMode::LocalOnly, backends);
    setup.resilience = resilience;
    setup.start().await
}

fn quick() -> Resilience {
    Resilience { backoff: Duration::from_millis(2), ..Resilience::default() }
}

fn body(streamed: bool) -> serde_json::Value {
    chat_with(json!({ "stream": streamed }))
}

#[tokio::test]
async fn what_failed_at_a_dead_socket_is_repeated_at_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let server = CloudServer::start().await.unwrap();
    let (dead, alive) = (folder.path().join("dead.sock"), socket(folder.path(), &server));
    // The dead one would get almost everything.
    let near = start(vec![pool(&[(&dead, 100.0), (&alive, 1.0)])], quick()).await;
    let reply = near.post("/v1/chat/completions", &body(false)).await;
    assert_eq!((reply.status, reply.header("x-nearfield-locality")), (200, Some("local")), "{reply:?}");
    let row = near.ended_rows(1).await.remove(0);
    let [failed, again] = &row.attempts[..] else { panic!("{row:?}") };
    assert_eq!(failed.outcome, Some(Outcome::Error("upstream".to_owned())));
    assert_eq!((&again.outcome, again.bytes_out), (&Some(Outcome::Done), 0));
    assert!(again.why.ends_with("; asked again"), "{again:?}");
}

#[tokio::test]
async fn a_pool_that_is_out_of_reach_rests() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&[(&folder.path().join("dead.sock"), 1.0)]);
    let near = start(vec![pool], Resilience { retries: 0, circuit_failures: 2, ..quick() }).await;
    for _ in 0..2 {
        assert_eq!(near.post("/v1/chat/completions", &body(false)).await.status, 502);
    }
    let reply = near.post("/v1/chat/completions", &body(false)).await;
    assert_eq!((reply.status, &reply.error()["code"]), (503, &json!("circuit_open")));
    let rows = near.ended_rows(3).await;
    assert_eq!(rows.iter().map(|row| row.attempts.len()).sum::<usize>(), 2);
    let metrics = near.send("GET", "/metrics", "").await.body;
    assert!(metrics.contains(r#"nearfield_circuit_open{backend="pool"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_pool_without_a_token_in_time_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = CloudServer::start().await.unwrap();
    server.always(Script::stream().silence());
    let silent = pool(&[(&socket(folder.path(), &server), 1.0)]);
    let other = Scripted::beside("other", [hello()]);
    for streamed in [false, true] {
        let resilience = Resilience { first_token: Some(MOMENT), ..quick() };
        let backends: Vec<Arc<dyn Backend>> = vec![silent.clone(), other.clone()];
        let near = start(backends, resilience).await;
        let reply = near.post("/v1/chat/completions", &body(streamed)).await;
        assert_eq!(reply.header("x-nearfield-backend"), Some("other"), "{reply:?}");
        let row = near.ended_rows(1).await.remove(0);
        assert_eq!(row.attempts[0].outcome, Some(Outcome::Error("timeout".to_owned())));
    }
}

#[tokio::test]
async fn no_status_is_sent_before_a_server_of_this_machine_has_a_token() {
    let late = Scripts::Play(vec![started_as("m"), wait(500), fail(ErrorKind::InvalidRequest)]);
    let near = start(vec![Scripted::beside("late", [late])], quick()).await;
    assert_eq!(near.post("/v1/chat/completions", &body(true)).await.status, 400);
}
