//! Answers: what is picked, what is told about it, and how it ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use nearfield_engine::{Engine, EngineError, EngineOptions, FinishReason, Generate, Sampling, Step};
use nearfield_model::Model;
use nearfield_testkit::gguf_conversion::{MatrixStorage, convert_checkpoint_with};

use crate::callers::{answer, chance, collect, options, request, soon, start, tokens};
use crate::support::{Reference, folder};

#[test]
fn a_greedy_answer_with_its_books() {
    let engine = start(options());
    let answer = answer(&engine, request(40));
    assert_eq!(answer.tokens[&0].len(), 40);
    assert_eq!(answer.reasons[&0], FinishReason::Length);
    assert_eq!((answer.stats.prompt_tokens, answer.stats.cached_tokens), (48, 0));
    assert_eq!(answer.stats.generated_tokens, 40);
    assert!(answer.stats.busy > Duration::ZERO && answer.stats.decode > Duration::ZERO);
    assert!(answer.stats.busy <= answer.stats.prefill + answer.stats.decode);
    assert!(answer.logprobs.is_empty());
    soon("an idle engine", || engine.load().running == 0);
}

#[test]
fn exact_arithmetic_gives_the_reference_answer() {
    let engine = start(EngineOptions {
        arithmetic: nearfield_engine::Arithmetic::Exact,
        key_value_type: Some(nearfield_engine::KeyValueType::F32),
        ..options()
    });
    assert_eq!(tokens(&engine, request(16)), Reference::of("llama").tokens("a.greedy"));
}

#[test]
fn every_answer_is_the_same_alone_and_among_31_others() {
    let engine = start(options());
    let requests: Vec<Generate> = (0..32)
        .map(|number| {
            let mut request = request(20 + number % 11);
            // Prompts of different lengths, so that prompts and answers meet in all ways.
            request.tokens =
                request.tokens.iter().cycle().skip(number).take(5 + 17 * (number % 9)).copied().collect();
            if number % 2 == 1 {
                request.sampling = Sampling { repetition_penalty: 1.1, ..chance(number as u64) };
            }
            request
        })
        .collect();
    let alone: Vec<_> = requests.iter().map(|request| tokens(&engine, request.clone())).collect();
    soon("an idle engine", || engine.load().running == 0);
    let sessions: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    for (number, session) in sessions.into_iter().enumerate() {
        let together = collect(session).unwrap().tokens.remove(&0).unwrap();
        assert_eq!(together, alone[number], "request {number}");
    }
}

#[test]
fn seeds_repeat_and_choices_differ() {
    let engine = start(options());
    let with = |seed, choices| Generate { sampling: chance(seed), choices, ..request(24) };
    let four = answer(&engine, with(7, 4));
    assert_eq!(answer(&engine, with(7, 4)).tokens, four.tokens);
    assert_eq!(answer(&engine, with(7, 1)).tokens[&0], four.tokens[&0], "choices are independent");
    assert_eq!(four.tokens.len(), 4);
    for a in 0..4 {
        for b in 0..a {
            assert_ne!(four.tokens[&a], four.tokens[&b]);
        }
    }
    assert_ne!(answer(&engine, with(8, 1)).tokens[&0], four.tokens[&0]);
    let unseeded = Generate { sampling: Sampling { seed: None, ..chance(0) }, ..request(24) };
    assert_ne!(tokens(&engine, unseeded.clone()), tokens(&engine, unseeded));
}

#[test]
fn stop_tokens_end_a_choice_and_are_not_handed_out() {
    let engine = start(options());
    let whole = tokens(&engine, request(30));
    let stop = whole[12];
    let first = whole.iter().position(|token| *token == stop).unwrap();
    let stopped = answer(&engine, Generate { stop_tokens: vec![stop, 4_000_000], ..request(30) });
    assert_eq!(stopped.tokens.get(&0).map_or(&[][..], Vec::as_slice), &whole[..first]);
    assert_eq!(stopped.reasons[&0], FinishReason::Stop);
    assert_eq!(stopped.stats.generated_tokens, first);
}

#[test]
fn bias_suppression_and_penalties_change_what_is_picked() {
    let engine = start(options());
    let whole = tokens(&engine, request(30));
    let sampled = |sampling| tokens(&engine, Generate { sampling, ..request(30) });
    let suppressed = sampled(Sampling { suppressed: vec![whole[0], 191, 100_000], ..Sampling::default() });
    assert!(!suppressed.contains(&whole[0]) && suppressed.len() == 30);
    let bias = BTreeMap::from([(17, 1000.0)]);
    assert_eq!(sampled(Sampling { logit_bias: bias, ..Sampling::default() }), vec![17; 30]);
    let presence = sampled(Sampling { presence_penalty: 100.0, ..Sampling::default() });
    let mut distinct = presence.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 30, "no token comes twice: {presence:?}");
    let frequency = sampled(Sampling { frequency_penalty: 100.0, ..Sampling::default() });
    assert_eq!(frequency, presence, "while each has occurred at most once, the two are one");
    let repetition = sampled(Sampling { repetition_penalty: 100.0, ..Sampling::default() });
    assert_ne!(repetition, whole);
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let engine = start(options());
    let plain = answer(&engine, Generate { logprobs: Some(20), ..request(12) });
    assert_eq!(plain.logprobs.len(), 12);
    for ((logprob, alternatives), token) in plain.logprobs.iter().zip(&plain.tokens[&0]) {
        assert_eq!(alternatives.len(), 20);
        assert_eq!(alternatives[0], (*token, *logprob), "the greedy token is the likeliest");
        assert!(alternatives.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        let sum: f32 = alternatives.iter().map(|(_, logprob)| libm_exp(*logprob)).sum();
        assert!(sum > 0.1 && sum <= 1.0 + 1e-5, "{sum}");
    }
    // Settings change what is picked, not what is told.
    let suppressed = vec![plain.tokens[&0][0]];
    let sampling = Sampling { suppressed, temperature: 0.3, seed: Some(1), ..Sampling::default() };
    let changed = answer(&engine, Generate { logprobs: Some(3), sampling, ..request(1) });
    assert_eq!(changed.logprobs[0].1, plain.logprobs[0].1[..3]);
    let none = answer(&engine, Generate { logprobs: Some(0), ..request(2) });
    assert!(none.logprobs.len() == 2 && none.logprobs[0].1.is_empty());
    assert_eq!(none.logprobs[0].0, plain.logprobs[0].0);
}

#[expect(clippy::disallowed_methods, reason = "compared with a tolerance")]
fn libm_exp(x: f32) -> f32 {
    x.exp()
}

#[test]
fn an_ended_choice_says_no_more_and_the_others_go_on() {
    let engine = start(options());
    let mut session = engine.submit(Generate { choices: 2, sampling: chance(3), ..request(300) }).unwrap();
    let mut counts = [0, 0];
    let mut ended = false;
    let mut done = None;
    while let Some(step) = session.next_blocking() {
        match step.unwrap() {
            Step::Token { choice, .. } => {
                assert!(!(ended && choice == 0));
                counts[choice as usize] += 1;
                if choice == 0 && counts[0] == 5 {
                    session.end_choice(0);
                    ended = true;
                }
            }
            Step::Finished { choice, reason } => assert_eq!((choice, reason), (1, FinishReason::Length)),
            Step::Done { stats } => done = Some(stats),
        }
    }
    assert_eq!(counts, [5, 300]);
    assert_eq!(done.unwrap().generated_tokens, 305, "what counts is what was handed out");
}

#[test]
fn ending_every_choice_ends_the_session_early() {
    let engine = start(options());
    let mut session = engine.submit(Generate { max_tokens: None, ..request(1) }).unwrap();
    assert!(matches!(session.next_blocking(), Some(Ok(Step::Token { .. }))));
    session.end_choice(0);
    session.end_choice(9);
    assert!(matches!(session.next_blocking(), Some(Ok(Step::Done { stats })) if stats.generated_tokens == 1));
    assert!(session.next_blocking().is_none());
}

#[test]
fn a_logit_that_is_not_finite_ends_only_its_own_request() {
    let writer = convert_checkpoint_with(&folder("llama"), &mut |name, columns, values| {
        let mut values = values.to_vec();
        if name == "token_embd.weight" {
            values[7 * columns + 3] = f32::NAN;
        }
        MatrixStorage::F32.encode(&values)
    });
    let bytes = writer.unwrap().build();
    let model = Model::from_gguf_bytes(Path::new("damaged.gguf"), bytes).unwrap();
    let engine = Engine::start(Arc::new(model), &options()).unwrap();
    let clean: Vec<u32> = (10..40).collect();
    let bad = [&clean[..], &[7]].concat();
    let suppressed = vec![7];
    let with = |tokens: &[u32]| Generate {
        tokens: tokens.to_vec(),
        sampling: Sampling { suppressed: suppressed.clone(), ..Sampling::default() },
        ..request(20)
    };
    let alone = tokens(&engine, with(&clean));
    let sessions = [with(&clean), with(&bad)].map(|request| engine.submit(request).unwrap());
    let [good, bad] = sessions.map(collect);
    assert_eq!(good.unwrap().tokens[&0], alone);
    assert!(matches!(bad, Err(EngineError::NotFinite { position: 30 })), "{bad:?}");
    soon("an idle engine", || engine.load().running == 0);
}

/// A waker that counts.
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn polling_wakes_whoever_waits() {
    let engine = start(options());
    let mut session = engine.submit(request(5)).unwrap();
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&counter));
    let mut context = Context::from_waker(&waker);
    let mut items = 0;
    loop {
        let woken = counter.0.load(Ordering::SeqCst);
        match session.poll_next(&mut context) {
            Poll::Ready(Some(step)) => {
                step.unwrap();
                items += 1;
            }
            Poll::Ready(None) => break,
            Poll::Pending => soon("a wake", || counter.0.load(Ordering::SeqCst) > woken),
        }
    }
    assert_eq!(items, 5 + 2);
}
