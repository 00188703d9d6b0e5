//! Several endpoints under one name.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nearfield_api::{Backend as _, Error, ErrorKind, Message, Prompt, Request, Role};
use nearfield_providers::{Pool, PoolEndpoint, PoolOptions, ProviderError};
use nearfield_testkit::cloud_server::{CloudServer, Script, delta};

use crate::support::{drain, options};

struct Farm {
    servers: Vec<CloudServer>,
    pool: Arc<Pool>,
    endpoints: Vec<PoolEndpoint>,
}

fn endpoint(server: &CloudServer) -> PoolEndpoint {
    PoolEndpoint { base_url: server.base_url(), socket: None, weight: 1.0, drain: false }
}

async fn farm(count: usize, change: impl FnOnce(&mut PoolOptions)) -> Farm {
    let mut servers = Vec::new();
    for _ in 0..count {
        servers.push(CloudServer::start().await.unwrap());
    }
    let endpoints: Vec<PoolEndpoint> = servers.iter().map(endpoint).collect();
    let mut options = PoolOptions {
        common: options(""),
        endpoints: endpoints.clone(),
        check_every: Duration::from_hours(1),
        slow_start: Duration::from_secs(30),
        cache_salt: false,
    };
    change(&mut options);
    let pool = Arc::new(Pool::new(options).unwrap());
    Farm { servers, pool, endpoints }
}

impl Farm {
    /// Requests that each endpoint got, without the checks.
    fn asked(&self) -> Vec<usize> {
        let posts = |server: &CloudServer| server.seen().iter().filter(|one| one.method == "POST").count();
        self.servers.iter().map(posts).collect()
    }

    async fn ask(&self, request: Request) -> Result<(), Error> {
        drain(self.pool.generate(Box::new(request)).await?).await.map(drop).map_err(|(_, error)| error)
    }
}

fn conversation(domain: &str, texts: &[&str]) -> Request {
    let roles = [Role::User, Role::Assistant].into_iter().cycle();
    let messages = texts.iter().zip(roles).map(|(text, role)| Message::new(role, *text)).collect();
    let cache_domain = domain.to_owned();
    Request { stream: true, cache_domain, max_tokens: Some(50), ..Request::new("m", Prompt::Chat(messages)) }
}

#[tokio::test]
async fn conversations_stay_where_they_are_and_others_are_spread() {
    let farm = farm(2, |_| {}).await;
    for turn in 0..10 {
        farm.ask(conversation("a", &[&format!("question {turn}")])).await.unwrap();
    }
    assert_eq!(farm.asked(), [5, 5]);
    for server in &farm.servers {
        server.take_seen();
    }
    let mut texts = vec!["question 0".to_owned()];
    for turn in 0..6 {
        texts.extend([format!("answer {turn}"), format!("and {turn}?")]);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        farm.ask(conversation("a", &texts)).await.unwrap();
    }
    assert_eq!(farm.asked(), [6, 0]);
    assert!(farm.pool.endpoints().iter().all(|state| state.up && state.outstanding_tokens == 0));
}

#[tokio::test]
async fn tokens_under_way_count_until_they_are_there() {
    let farm = farm(2, |_| {}).await;
    farm.servers[0].next(Script::stream().event(&delta("ab")).silence());
    let mut held = farm.pool.generate(Box::new(conversation("a", &["long"]))).await.unwrap();
    assert!(held.next().await.unwrap().is_ok());
    // 1 of the prompt and 50 of the answer, of which the first is there or about to be.
    assert!((50..=51).contains(&farm.pool.endpoints()[0].outstanding_tokens));
    for turn in 0..4 {
        farm.ask(conversation("a", &[&format!("short {turn}")])).await.unwrap();
    }
    assert_eq!(farm.asked(), [1, 4]);
    drop(held);
    assert_eq!(farm.pool.endpoints()[0].outstanding_tokens, 0);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_until_it_answers_a_check() {
    // A server whose engine is gone, and one that still loads its model, answer checks so too.
    for status in [500, 503] {
        left_out_and_taken_back(status).await;
    }
}

async fn left_out_and_taken_back(status: u16) {
    let farm = farm(2, |options| options.check_every = Duration::from_secs(1)).await;
    farm.servers[0].always(Script::json(status, &serde_json::json!({ "error": { "message": "gone" } })));
    let mut failures = 0;
    for turn in 0..6 {
        match farm.ask(conversation("a", &[&format!("question {turn}")])).await {
            Ok(()) => {}
            Err(error) => {
                assert!(matches!(error.kind, ErrorKind::Upstream | ErrorKind::Overloaded), "{error:?}");
                failures += 1;
            }
        }
    }
    assert!(failures <= 1, "a single failure sends what follows elsewhere: {failures}");
    let state = |at: usize| farm.pool.endpoints()[at];
    for _ in 0..100 {
        if !state(0).up {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!state(0).up && state(1).up);
    let before = farm.asked()[0];
    for turn in 6..12 {
        farm.ask(conversation("a", &[&format!("question {turn}")])).await.unwrap();
    }
    assert_eq!(farm.asked()[0], before, "nothing is sent there while it is down");
    farm.servers[0].always(Script::json(200, &serde_json::json!({ "object": "list", "data": [] })));
    for _ in 0..100 {
        if state(0).up {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(state(0).up);
}

#[tokio::test]
async fn draining_and_weights_change_while_it_runs() {
    let farm = farm(2, |options| options.endpoints[0].drain = true).await;
    for turn in 0..3 {
        farm.ask(conversation("a", &[&format!("question {turn}")])).await.unwrap();
    }
    assert_eq!(farm.asked(), [0, 3]);
    let [first, second] = &farm.endpoints[..] else { panic!() };
    let both = [first.clone(), PoolEndpoint { drain: true, ..second.clone() }];
    assert!(farm.pool.adjust(&both));
    // What was read there goes elsewhere too.
    farm.ask(conversation("a", &["question 0"])).await.unwrap();
    assert_eq!(farm.asked(), [1, 3]);
    let all = both.map(|one| PoolEndpoint { drain: true, ..one });
    assert!(farm.pool.adjust(&all));
    let error = farm.ask(conversation("a", &["more"])).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::Overloaded, Some("pool_draining")));
    assert!(!farm.pool.adjust(&all[..1]));
}

#[tokio::test]
async fn salts_are_of_cache_domains_and_not_of_the_callers_choosing() {
    let farm = farm(1, |options| options.cache_salt = true).await;
    let mut forged = conversation("b", &["one"]);
    forged.origin = Some(nearfield_api::Dialect::OpenAiChat);
    forged.extra.insert("cache_salt".to_owned(), "a's".into());
    for request in [conversation("a", &["one"]), conversation("a", &["two"]), forged] {
        farm.ask(request).await.unwrap();
    }
    let seen = farm.servers[0].take_seen();
    let salts: Vec<String> = seen
        .iter()
        .filter(|one| one.method == "POST")
        .map(|one| one.json()["cache_salt"].as_str().unwrap().to_owned())
        .collect();
    let [one, two, three] = &salts[..] else { panic!("{salts:?}") };
    assert_eq!(one, two);
    assert!(one != three && three != "a's" && one.len() == 32);
    assert!(!seen.iter().any(|one| one.json().to_string().contains("cache_domain")));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let server = CloudServer::start().await.unwrap();
    let endpoint = endpoint(&server);
    let cases: [(&str, Vec<PoolEndpoint>); 4] = [
        ("at least one", Vec::new()),
        ("weight", vec![PoolEndpoint { weight: 0.0, ..endpoint.clone() }]),
        ("twice", vec![endpoint.clone(), endpoint.clone()]),
        ("all behind", vec![endpoint.clone(), PoolEndpoint { socket: Some("s".into()), ..endpoint.clone() }]),
    ];
    for (word, endpoints) in cases {
        let options = PoolOptions {
            common: options(""),
            endpoints,
            check_every: Duration::from_secs(1),
            slow_start: Duration::ZERO,
            cache_salt: false,
        };
        let error: ProviderError = Pool::new(options).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
