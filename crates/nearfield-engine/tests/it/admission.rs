//! Who is let in, who is refused, and what happens when the engine goes away.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use nearfield_engine::{Engine, EngineError, EngineOptions, FinishReason, Generate, Load, Session};
use nearfield_model::Model;

use crate::callers::{Held, answer, collect, endless, hold, options, prompt, request, soon, start, tokens};
use crate::support::folder;

#[test]
fn a_full_engine_refuses_at_once_and_recovers() {
    let engine = start(EngineOptions { slots: 2, ..options() });
    let held = hold(&engine, endless());
    let other = engine.submit(endless()).unwrap();
    // The engine's thread stands still, so a refusal cannot have waited for a step.
    match engine.submit(request(1)) {
        Err(EngineError::Overloaded { running: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(engine.load(), Load { running: 2, queued: 0, slots: 2, .. }));
    drop(held);
    soon("a free slot", || engine.load().running <= 1);
    assert_eq!(tokens(&engine, request(3)).len(), 3);
    assert_eq!(collect(other).unwrap().tokens[&0].len(), 512 - 48);
    soon("an idle engine", || engine.load().running == 0);
}

#[test]
fn nobody_waits_while_a_slot_is_free() {
    let engine = start(EngineOptions { slots: 3, queue: 5, ..options() });
    let _held = hold(&engine, endless());
    let _two: Vec<_> = (0..2).map(|_| engine.submit(request(1)).unwrap()).collect();
    assert!(matches!(engine.load(), Load { running: 3, queued: 0, slots: 3, .. }));
}

#[test]
fn a_full_cache_is_overload_too() {
    // Room for one context, however small the allowance.
    let engine = start(EngineOptions { slots: 8, cache_bytes: Some(1), ..options() });
    assert_eq!(engine.plan().cache_positions, 512);
    assert_eq!(engine.first_token(48), None, "nothing was measured");
    let held = hold(&engine, Generate { max_tokens: Some(400), ..request(1) });
    let Load { free_positions, positions, .. } = engine.load();
    assert_eq!((free_positions, positions), (64, 512));
    assert!(matches!(engine.submit(request(17)), Err(EngineError::Overloaded { running: 1, .. })));
    let small = engine.submit(request(16)).unwrap();
    drop(held);
    assert_eq!(collect(small).unwrap().tokens[&0].len(), 16);
    // Choices share the one context.
    assert!(matches!(
        engine.submit(Generate { choices: 4, max_tokens: Some(81), ..request(1) }),
        Err(EngineError::ContextOverflow { prompt: 48, wanted: 81, limit: 128 })
    ));
    soon("an idle engine", || engine.load().running == 0);
    assert_eq!(answer(&engine, Generate { choices: 4, max_tokens: None, ..request(1) }).tokens[&3].len(), 80);
}

#[test]
fn choices_are_admitted_together_or_not_at_all() {
    let engine = start(EngineOptions { slots: 4, ..options() });
    let held = hold(&engine, Generate { choices: 2, ..endless() });
    assert!(matches!(
        engine.submit(Generate { choices: 3, ..request(1) }),
        Err(EngineError::Overloaded { running: 2, .. })
    ));
    assert!(matches!(
        engine.submit(Generate { choices: 5, ..request(1) }),
        Err(EngineError::TooManyChoices { choices: 5, slots: 4 })
    ));
    let pair = engine.submit(Generate { choices: 2, ..request(5) }).unwrap();
    drop(held);
    assert_eq!(collect(pair).unwrap().tokens.len(), 2);
}

#[test]
fn the_queue_is_first_come_first_served() {
    let engine = start(EngineOptions { slots: 1, queue: 3, ..options() });
    let held = hold(&engine, endless());
    let waiting: Vec<_> = (2..5).map(|count| engine.submit(request(count)).unwrap()).collect();
    assert!(matches!(engine.load(), Load { running: 1, queued: 3, slots: 1, .. }));
    assert!(matches!(engine.submit(request(1)), Err(EngineError::Overloaded { .. })));
    drop(held);
    let ends: Vec<_> = waiting
        .into_iter()
        .zip(2..)
        .map(|(session, count)| {
            let answer = collect(session).unwrap();
            assert_eq!(answer.tokens[&0].len(), count);
            answer.stats.queued
        })
        .collect();
    assert!(ends[0] > Duration::ZERO && ends.is_sorted(), "{ends:?}");
    // The first token of a prompt is foreseen once one was read.
    soon("a measured prompt", || engine.first_token(1).is_some());
    assert!(engine.first_token(1) < engine.first_token(100));
}

#[test]
fn who_leaves_the_queue_makes_room() {
    let engine = start(EngineOptions { slots: 1, queue: 1, ..options() });
    let first = engine.submit(endless()).unwrap();
    let second = engine.submit(request(1)).unwrap();
    drop(second);
    soon("room in the queue", || engine.load().queued == 0);
    drop(first);
    assert_eq!(tokens(&engine, request(2)).len(), 2);
}

#[test]
fn the_context_is_kept_and_both_numbers_are_told() {
    let engine = start(EngineOptions { context: Some(64), ..options() });
    match engine.submit(request(17)) {
        Err(error @ EngineError::ContextOverflow { prompt: 48, wanted: 17, limit: 64 }) => {
            let text = error.to_string();
            assert!(text.contains("48") && text.contains("17") && text.contains("64"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(tokens(&engine, request(16)).len(), 16);
    let rest = answer(&engine, Generate { max_tokens: None, ..request(1) });
    assert_eq!((rest.tokens[&0].len(), rest.reasons[&0]), (16, FinishReason::Length));
    let full: Vec<u32> = prompt().iter().cycle().take(64).copied().collect();
    assert!(matches!(
        engine.submit(Generate { tokens: full, max_tokens: None, ..Generate::default() }),
        Err(EngineError::ContextOverflow { prompt: 64, wanted: 1, limit: 64 })
    ));
    assert!(matches!(engine.submit(Generate::default()), Err(EngineError::EmptyPrompt)));
    assert!(matches!(
        engine.submit(Generate { max_tokens: Some(usize::MAX), ..request(1) }),
        Err(EngineError::ContextOverflow { .. })
    ));
}

#[test]
fn dropping_the_engine_ends_its_sessions() {
    let engine = start(EngineOptions { slots: 2, queue: 1, ..options() });
    let held = hold(&engine, endless());
    let others = [engine.submit(endless()).unwrap(), engine.submit(endless()).unwrap()];
    let closing = std::thread::spawn(move || drop(engine));
    // The thread stops before its next step; one token may be under way.
    std::thread::sleep(Duration::from_millis(20));
    let Held { session, open } = held;
    drop(open);
    closing.join().unwrap();
    assert!(matches!(collect(session), Err(EngineError::Stopped)));
    for session in others {
        assert!(matches!(collect(session), Err(EngineError::Stopped)));
    }
}

/// A waker that panics, on the engine's thread.
struct Faulty;

impl Wake for Faulty {
    #[expect(clippy::panic, reason = "that is what it is for")]
    fn wake(self: Arc<Self>) {
        panic!("on purpose");
    }
}

#[test]
fn a_panic_of_the_engine_ends_all_sessions_and_hangs_nobody() {
    let engine = start(EngineOptions { slots: 2, queue: 1, ..options() });
    let held = hold(&engine, endless());
    let mut faulty = engine.submit(endless()).unwrap();
    let waiting = engine.submit(request(1)).unwrap();
    let waker = Waker::from(Arc::new(Faulty));
    assert!(faulty.poll_next(&mut Context::from_waker(&waker)).is_pending());
    let Held { session, open } = held;
    drop(open);
    for session in [session, waiting, faulty] {
        assert!(matches!(collect(session), Err(EngineError::Stopped)));
    }
    assert!(matches!(engine.submit(request(1)), Err(EngineError::Stopped)));
}

#[test]
fn impossible_options_are_refused() {
    let model = Arc::new(Model::open(&folder("llama")).unwrap());
    let invalid = |options: EngineOptions, wanted: &str| match Engine::start(Arc::clone(&model), &options) {
        Err(EngineError::InvalidSetting { name, .. }) => assert_eq!(name, wanted),
        other => panic!("{other:?}"),
    };
    invalid(EngineOptions { slots: 0, ..options() }, "slots");
    invalid(EngineOptions { context: Some(513), ..options() }, "context");
    invalid(EngineOptions { context: Some(0), ..options() }, "context");
}

#[test]
fn engines_and_sessions_may_cross_threads() {
    fn send<T: Send>() {}
    fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<Engine>();
    send::<Session>();
}
