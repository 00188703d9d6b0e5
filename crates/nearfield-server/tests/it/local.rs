//! The local engine behind the same gateway, with a real model file.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use nearfield_api::{Backend, Error, ErrorKind, Event, FinishReason, Prompt, Request, TokenLogprob, Usage};
use nearfield_engine::EngineOptions;
use nearfield_hub::{Hub, HubSettings};
use nearfield_server::local::{LocalBackend, LocalOptions};
use nearfield_store::Outcome;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{self, Setup};
use crate::tiny::{self, BASE, CONTEXT, INSTRUCT};

/// A backend over a folder with one tiny model.
pub(crate) struct Local {
    pub(crate) backend: Arc<LocalBackend>,
    pub(crate) model: String,
    pub(crate) folder: TempDir,
}

pub(crate) fn local(engine: EngineOptions) -> Local {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", INSTRUCT).display().to_string();
    let options = LocalOptions { engine, allow_paths: true, ..LocalOptions::default() };
    Local { backend: Arc::new(LocalBackend::new(hub(&folder), options)), model, folder }
}

pub(crate) fn hub(folder: &TempDir) -> Hub {
    Hub::with_settings(folder.path().join("models"), HubSettings::new().unwrap()).unwrap()
}

pub(crate) fn small() -> EngineOptions {
    EngineOptions { threads: Some(1), slots: 8, cache_bytes: Some(8 << 20), ..EngineOptions::default() }
}

/// A request that always gives the same answer.
pub(crate) fn request(model: &str, text: &str) -> Request {
    let mut request = support::request();
    model.clone_into(&mut request.model);
    request.prompt = Prompt::Text { text: text.to_owned(), suffix: None };
    request.max_tokens = Some(40);
    request.sampling.seed = Some(7);
    request
}

/// Forbids control tokens, so that an answer ends only at its limit.
fn only_text(request: &mut Request) {
    request.sampling.logit_bias.extend((0..8).map(|id| (id, -100.0)));
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq)]
struct Collected {
    texts: Vec<String>,
    pieces: Vec<String>,
    logprobs: Vec<TokenLogprob>,
    reasons: Vec<Option<FinishReason>>,
    usage: Option<Usage>,
    seed: u64,
}

async fn collect(backend: &LocalBackend, request: Request) -> Result<Collected, Error> {
    let count = request.choices as usize;
    let mut all =
        Collected { texts: vec![String::new(); count], reasons: vec![None; count], ..Collected::default() };
    let mut events = backend.generate(Box::new(request)).await?;
    while let Some(event) = events.next().await {
        match event? {
            Event::Started { engine, .. } => all.seed = engine.unwrap().seed,
            Event::Delta { choice, text, logprobs } => {
                all.texts[choice as usize] += &text;
                all.pieces.push(text);
                all.logprobs.extend(logprobs);
            }
            Event::Finished { choice, reason } => all.reasons[choice as usize] = Some(reason),
            Event::Done { usage, work } => {
                assert!(work.unwrap().busy > Duration::ZERO);
                all.usage = Some(usage);
            }
            _ => {}
        }
    }
    Ok(all)
}

pub(crate) async fn server(local: &Local) -> support::Running {
    Setup::local(Arc::clone(&local.backend) as Arc<dyn Backend>).start().await
}

#[tokio::test]
async fn a_chat_completion_end_to_end() {
    let local = local(small());
    let server = server(&local).await;
    let body = json!({ "model": local.model, "messages": [{ "role": "user", "content": "Hello" }],
        "max_tokens": 12, "seed": 3, "temperature": 1.0 });
    let reply = server.post("/v1/chat/completions", &body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let whole = reply.json();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty());
    assert_eq!(whole["model"], local.model.as_str());
    // <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n, a token for each byte and control token.
    assert_eq!(whole["usage"]["prompt_tokens"], 1 + 5 + 5 + 1 + 1 + 1 + 10);
    let ours = &whole["nearfield"];
    assert_eq!((&ours["numerics"], &ours["seed"]), (&json!("1-default-f16"), &json!(3)));
    assert!(ours["kernels"].is_string() && ours["tokens_per_second"].is_number(), "{ours}");

    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let reply = server.post("/v1/chat/completions", &streamed).await;
    let pieces: String = reply
        .events()
        .iter()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(pieces, text, "a stream says the same as a whole reply");
    let rows = server.ended_rows(2).await;
    assert!(rows.iter().all(|row| row.outcome == Some(Outcome::Done)), "{rows:?}");
}

#[tokio::test]
async fn a_predicted_answer_says_the_same() {
    let local = local(small());
    let server = server(&local).await;
    let mut body = json!({ "model": local.model, "messages": [{ "role": "user", "content": "Hello" }],
        "max_tokens": 30, "temperature": 0 });
    let plain = server.post("/v1/chat/completions", &body).await.json();
    let text = &plain["choices"][0]["message"]["content"];
    for prediction in [text.clone(), json!("something else"), json!([{ "type": "text", "text": text }])] {
        body["prediction"] = json!({ "type": "content", "content": prediction });
        let reply = server.post("/v1/chat/completions", &body).await.json();
        assert_eq!(&reply["choices"][0]["message"]["content"], text);
        let ours = &reply["nearfield"];
        assert!(ours["drafted_tokens"].as_u64() >= ours["accepted_tokens"].as_u64(), "{ours}");
        assert!(ours["accepted_tokens"].is_u64(), "{ours}");
        let details = &reply["usage"]["completion_tokens_details"];
        let count = |name: &str| details[name].as_u64().unwrap_or(0);
        assert_eq!(Some(count("accepted_prediction_tokens")), ours["accepted_tokens"].as_u64(), "{reply}");
    }
    body["prediction"] = json!({ "type": "content" });
    let reply = server.post("/v1/chat/completions", &body).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("prediction")));
}

#[tokio::test]
async fn answers_are_the_same_alone_and_with_neighbours() {
    let local = local(small());
    let ask = |at: usize| {
        let mut request = request(&local.model, &format!("{at}: {}", "once upon a time ".repeat(at % 5 + 1)));
        request.sampling.temperature = Some(1.0);
        request.max_tokens = Some(20 + at as u32 * 3);
        collect(&local.backend, request)
    };
    let mut alone = Vec::new();
    for at in 0..8 {
        alone.push(ask(at).await.unwrap());
    }
    for round in 0..3 {
        let together = join_all((0..8).map(ask)).await;
        for (at, (one, other)) in alone.iter().zip(together).enumerate() {
            assert_eq!(one.texts, other.unwrap().texts, "request {at} in round {round}");
        }
    }
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_and_no_part_of_it_is_shown() {
    let local = local(small());
    let mut plain = request(&local.model, "Tell me");
    plain.max_tokens = Some(60);
    plain.logprobs = Some(0);
    only_text(&mut plain);
    // ASCII text, so that every token is a character.
    plain.sampling.logit_bias.extend((104..188).map(|id| (id, -100.0)));
    let whole = collect(&local.backend, plain.clone()).await.unwrap();
    let text = &whole.texts[0];
    assert_eq!(whole.reasons, [Some(FinishReason::Length)], "{text:?}");
    let stop = &text[20..24];
    let expected = &text[..text.find(stop).unwrap()];
    let mut stopped = plain.clone();
    stopped.stop = vec![stop.to_owned(), "never \u{1F600} said".to_owned()];
    let answer = collect(&local.backend, stopped).await.unwrap();
    assert_eq!((answer.texts[0].as_str(), answer.reasons[0]), (expected, Some(FinishReason::Stop)));
    let mut shown = String::new();
    for piece in &answer.pieces {
        shown += piece;
        assert!(expected.starts_with(&shown), "{shown:?} was shown");
    }
    assert_eq!(answer.logprobs[..], whole.logprobs[..expected.len()], "log probabilities leak the stop text");
    let generated = answer.usage.unwrap().output as usize;
    assert_eq!(generated, expected.len() + stop.len(), "what the stop text took was computed, and no more");
    // The other half: what began like a stop text and was none is not lost.
    plain.stop = vec![format!("{}\u{1F600}", &text[text.len() - 3..])];
    assert_eq!(collect(&local.backend, plain).await.unwrap().texts, whole.texts);
}

#[tokio::test]
async fn log_probabilities_spell_the_answer() {
    let local = local(small());
    let mut asked = request(&local.model, "Numbers");
    asked.logprobs = Some(3);
    only_text(&mut asked);
    let answer = collect(&local.backend, asked).await.unwrap();
    assert_eq!(answer.logprobs.len() as u64, answer.usage.unwrap().output);
    let bytes: Vec<u8> = answer.logprobs.iter().flat_map(|entry| entry.bytes.clone().unwrap()).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), answer.texts[0]);
    for entry in &answer.logprobs {
        assert_eq!(entry.alternatives.len(), 3);
        assert!(entry.alternatives.is_sorted_by(|one, other| one.logprob >= other.logprob));
        assert!(entry.logprob <= 0.0 && entry.alternatives.iter().all(|other| other.logprob <= 0.0));
    }
}

#[tokio::test]
async fn several_choices_are_each_complete_and_repeatable() {
    let local = local(small());
    let mut asked = request(&local.model, "One of");
    asked.choices = 4;
    asked.sampling.temperature = Some(1.5);
    let answer = collect(&local.backend, asked.clone()).await.unwrap();
    assert!(answer.reasons.iter().all(Option::is_some));
    assert!(answer.texts.iter().any(|text| *text != answer.texts[0]), "{:?}", answer.texts);
    assert_eq!(answer.usage.unwrap().prompt_tokens(), 6, "the prompt counts once");
    assert_eq!(collect(&local.backend, asked.clone()).await.unwrap().texts, answer.texts);
    asked.choices = 9;
    let error = collect(&local.backend, asked).await.unwrap_err();
    assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some("n")));
}

#[tokio::test]
async fn a_drawn_seed_is_told_and_gives_the_answer_again() {
    let local = local(small());
    let mut asked = request(&local.model, "Any");
    asked.sampling.seed = None;
    asked.sampling.temperature = Some(1.5);
    let first = collect(&local.backend, asked.clone()).await.unwrap();
    let other = collect(&local.backend, asked.clone()).await.unwrap();
    assert_ne!((first.seed, &first.texts), (other.seed, &other.texts));
    asked.sampling.seed = Some(first.seed);
    assert_eq!(collect(&local.backend, asked).await.unwrap(), first);
}

#[tokio::test]
async fn what_does_not_fit_the_context_is_an_error_with_both_numbers() {
    let local = local(small());
    let server = server(&local).await;
    let body = json!({ "model": local.model, "prompt": "a".repeat(600), "max_tokens": 5 });
    let reply = server.post("/v1/completions", &body).await;
    assert_eq!(reply.status, 400);
    let error = reply.error();
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("prompt")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("600") && message.contains("512"), "{message}");
    // Without a limit the answer goes on to the end of the context.
    let mut asked = request(&local.model, "abc");
    asked.max_tokens = None;
    only_text(&mut asked);
    let answer = collect(&local.backend, asked).await.unwrap();
    assert_eq!(answer.reasons, [Some(FinishReason::Length)]);
    let usage = answer.usage.unwrap();
    assert_eq!(usage.prompt_tokens() + usage.output, CONTEXT);
}

#[tokio::test]
async fn more_clients_than_slots_are_refused_at_once_and_a_slot_is_free_again_when_its_client_leaves() {
    let local = local(EngineOptions { slots: 3, ..small() });
    let server = server(&local).await;
    let body = json!({ "model": local.model, "prompt": "abc", "max_tokens": 400, "stream": true,
        "logit_bias": { "0": -100, "2": -100 } })
    .to_string();
    local.backend.prepare(&local.model).await.unwrap();
    let mut clients = Vec::new();
    let mut refused = 0;
    for _ in 0..12 {
        let mut client = server.connect().await;
        client.send("POST", "/v1/completions", &body).await;
        let began = Instant::now();
        let mut head = client.head().await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        if head.status == 200 {
            clients.push(client);
            continue;
        }
        refused += 1;
        assert_eq!(head.status, 503);
        assert!(head.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        head.body.clear();
    }
    // The tiny model may finish an answer between two clients; never are more than three running.
    assert!(clients.len() >= 3 && clients.len() + refused == 12, "{} run", clients.len());
    drop(clients);
    let rows = server.ended_rows(12).await;
    assert_eq!(rows.len(), 12, "one row for each attempt");
    let overloaded = Some(Outcome::Error("overloaded".to_owned()));
    assert_eq!(rows.iter().filter(|row| row.outcome == overloaded).count(), refused);
    // The engine hears of it at its next step.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match collect(&local.backend, request(&local.model, "again")).await {
            Ok(_) => break,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_model_that_is_not_here_says_how_to_get_it() {
    let local = local(small());
    let server = server(&local).await;
    for (model, hint) in [
        ("smollm2:135m", "nearfield pull smollm2:135m"),
        ("hf:org/model", "nearfield pull hf:org/model"),
        ("smollm2:135n", "smollm2:135m"),
        ("/no/such/file.gguf", "/no/such/file.gguf"),
    ] {
        let reply = server.post("/v1/completions", &json!({ "model": model, "prompt": "a" })).await;
        assert_eq!(reply.status, 404, "{reply:?}");
        let error = reply.error();
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
        assert!(error["message"].as_str().unwrap().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn callers_of_a_server_cannot_open_files() {
    let folder = tempfile::tempdir().unwrap();
    let here = tiny::write(folder.path(), "tiny", INSTRUCT).display().to_string();
    let backend =
        LocalBackend::new(hub(&folder), LocalOptions { engine: small(), ..LocalOptions::default() });
    let mut messages = Vec::new();
    for path in [here.as_str(), "/etc/hostname", "/no/such/file"] {
        let error = collect(&backend, request(path, "a")).await.unwrap_err();
        assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::NotFound, Some("model_not_found")));
        messages.push(error.message);
    }
    assert!(messages.iter().all(|message| *message == messages[0]), "the answer tells which files exist");
}

#[tokio::test]
async fn a_base_model_completes_and_does_not_chat() {
    let mut local = local(small());
    local.model = tiny::write(local.folder.path(), "base", BASE).display().to_string();
    let prepared = local.backend.prepare(&local.model).await.unwrap();
    assert!(!prepared.chat && !prepared.fill_in_the_middle);
    let server = server(&local).await;
    let body = json!({ "model": local.model, "messages": [{ "role": "user", "content": "Hello" }] });
    let reply = server.post("/v1/chat/completions", &body).await;
    let error = reply.error();
    assert_eq!((reply.status, &error["code"]), (400, &json!("no_chat_template")));
    assert!(error["message"].as_str().unwrap().contains("base model"), "{error}");
    let body = json!({ "model": local.model, "prompt": "Hello", "max_tokens": 3 });
    assert_eq!(server.post("/v1/completions", &body).await.status, 200);
    let body = json!({ "model": local.model, "prompt": "Hello", "suffix": "world", "max_tokens": 3 });
    let reply = server.post("/v1/completions", &body).await;
    assert_eq!((reply.status, &reply.error()["param"]), (400, &json!("suffix")));
}

#[tokio::test]
async fn a_gap_is_filled_by_a_model_that_has_the_tokens() {
    let local = local(small());
    assert!(local.backend.prepare(&local.model).await.unwrap().fill_in_the_middle);
    let mut asked = request(&local.model, "ab");
    asked.prompt = Prompt::Text { text: "ab".to_owned(), suffix: Some("c".to_owned()) };
    let by_text = collect(&local.backend, asked.clone()).await.unwrap();
    assert_eq!(by_text.usage.unwrap().prompt_tokens(), 6);
    // The same prompt as tokens: prefix, a, b, suffix, c, middle.
    let letter = |byte: u8| 8 + 1 + u32::from(byte - b' ');
    asked.prompt = Prompt::Tokens(vec![3, letter(b'a'), letter(b'b'), 4, letter(b'c'), 5]);
    assert_eq!(collect(&local.backend, asked).await.unwrap().texts, by_text.texts);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let local = local(small());
    let ask = async |change: &dyn Fn(&mut Request)| {
        let mut asked = request(&local.model, "a");
        change(&mut asked);
        let error = collect(&local.backend, asked).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequest, "{error}");
        error.param.unwrap()
    };
    assert_eq!(ask(&|r| r.prompt = Prompt::Tokens(vec![1, 192])).await, "prompt");
    assert_eq!(ask(&|r| r.prompt = Prompt::Tokens(Vec::new())).await, "prompt");
    assert_eq!(ask(&|r| _ = r.sampling.logit_bias.insert(192, 1.0)).await, "logit_bias");
    assert_eq!(ask(&|r| r.stop = vec![String::new()]).await, "stop");
    assert_eq!(ask(&|r| r.sampling.top_p = Some(-1.0)).await, "top_p");
    let lost = |r: &mut Request| r.prompt = Prompt::Text { text: "\u{7}".to_owned(), suffix: None };
    assert_eq!(ask(&lost).await, "prompt", "a byte that the vocabulary lacks is no byte to drop");
}

#[tokio::test]
async fn tokens_without_text_are_never_picked() {
    let local = local(small());
    let mut asked = request(&local.model, "a");
    // However much a caller wants them.
    asked.sampling.logit_bias = (188..192).map(|id| (id, 100.0)).collect();
    let answer = collect(&local.backend, asked).await.unwrap();
    assert!(answer.usage.unwrap().output > 0);
}

#[tokio::test]
async fn many_first_requests_load_a_model_once() {
    let local = local(EngineOptions { slots: 16, ..small() });
    let prepared = join_all((0..16).map(|_| local.backend.prepare(&local.model))).await;
    let first = prepared[0].clone().unwrap();
    assert!(prepared.iter().all(|other| *other.as_ref().unwrap() == first), "loaded more than once");
}

#[tokio::test]
async fn an_idle_model_makes_room_and_a_busy_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let one = tiny::write(folder.path(), "one", INSTRUCT).display().to_string();
    let two = tiny::write(folder.path(), "two", INSTRUCT).display().to_string();
    let backend = |memory: Option<u64>| {
        let engine = EngineOptions { memory_bytes: memory, ..small() };
        LocalBackend::new(hub(&folder), LocalOptions { engine, allow_paths: true, ..LocalOptions::default() })
    };
    let need = backend(None).prepare(&one).await.unwrap().plan.total_bytes();

    let roomy = backend(Some(need * 2));
    let (first, _) = (roomy.prepare(&one).await.unwrap(), roomy.prepare(&two).await.unwrap());
    assert_eq!(
        roomy.prepare(&one).await.unwrap().load_time,
        first.load_time,
        "both fit, and one was unloaded"
    );

    let tight = backend(Some(need + need / 4));
    let mut long = request(&one, "a");
    long.max_tokens = Some(400);
    only_text(&mut long);
    let mut running = tight.generate(Box::new(long.clone())).await.unwrap();
    running.next().await.unwrap().unwrap();
    let error = collect(&tight, request(&two, "a")).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::Overloaded, Some("insufficient_memory")));
    assert!(error.retry_after.is_some());
    drop(running);
    collect(&tight, request(&two, "a")).await.unwrap();
    let again = tight.prepare(&two).await.unwrap();
    assert!(again.plan.total_bytes() <= need, "{:?}", again.plan);

    let error = collect(&backend(Some(100_000)), request(&one, "a")).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::Internal, Some("insufficient_memory")));
    assert!(error.message.contains("--context"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_model_is_one_clear_error() {
    let local = local(small());
    let path = local.folder.path().join("broken.gguf");
    std::fs::write(&path, b"GGUF\x03\0\0\0 and then nothing of use").unwrap();
    let broken = path.display().to_string();
    let errors = join_all((0..4).map(|_| collect(&local.backend, request(&broken, "a")))).await;
    for error in errors {
        let error = error.unwrap_err();
        assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::Internal, Some("model_unusable")));
        assert!(error.message.contains("broken.gguf"), "{error}");
    }
    let answer = collect(&local.backend, request(&local.model, "a")).await;
    assert!(answer.is_ok(), "{answer:?}");
}
