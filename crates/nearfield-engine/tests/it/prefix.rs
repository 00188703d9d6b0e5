//! The prefix cache as callers meet it: what is computed once, for whom, and that nothing else changes.

use std::sync::Arc;

use nearfield_engine::{CacheDomain, Engine, EngineOptions, Generate, PrefixFiles};
use nearfield_model::Model;

use crate::callers::{answer, chance, collect, options, prompt, request, soon, start};
use crate::support::{Reference, folder};

/// A prompt of this length.
fn long(length: usize) -> Vec<u32> {
    prompt()
        .iter()
        .cycle()
        .copied()
        .enumerate()
        .map(|(i, token)| (token + i as u32 / 48) % 190)
        .take(length)
        .collect()
}

/// A request whose answer tells everything that may differ.
fn asking(tokens: Vec<u32>, domain: &str) -> Generate {
    Generate { tokens, logprobs: Some(20), cache_domain: CacheDomain::new(domain), ..request(20) }
}

#[test]
fn a_prompt_is_computed_once_and_its_answer_is_the_same() {
    let engine = start(options());
    let cold = answer(&engine, asking(long(100), "a"));
    assert_eq!((cold.stats.cached_tokens, engine.counters().prompt_rows), (0, 100));
    let warm = answer(&engine, asking(long(100), "a"));
    assert_eq!((warm.stats.cached_tokens, engine.counters().prompt_rows), (96, 104));
    assert!(warm.tokens == cold.tokens && warm.logprobs == cold.logprobs);
    // The last token is computed also where the whole prompt is known.
    let even = answer(&engine, asking(long(96), "a"));
    assert_eq!((even.stats.cached_tokens, engine.counters().prompt_rows), (64, 104 + 32));
    assert_eq!(engine.counters().prefix.hit_tokens, 96 + 64);
}

#[test]
fn another_key_does_the_full_work() {
    let engine = start(options());
    let first = answer(&engine, asking(long(100), "a"));
    let before = engine.counters();
    let other = answer(&engine, asking(long(100), "b"));
    let after = engine.counters();
    assert_eq!(other.stats.cached_tokens, 0);
    assert_eq!(after.prompt_rows - before.prompt_rows, 100);
    assert_eq!(after.prefix.hit_tokens, before.prefix.hit_tokens);
    assert_eq!(other.tokens, first.tokens);
    assert_eq!(answer(&engine, asking(long(100), "b")).stats.cached_tokens, 96, "its own it finds");
}

#[test]
fn a_conversation_continues_where_it_was() {
    let (engine, fresh) = (start(options()), start(options()));
    let first = answer(&engine, Generate { max_tokens: Some(30), ..asking(long(50), "") });
    let turn = |tokens: &[u32]| [tokens, &first.tokens[&0], &[5, 6, 7]].concat();
    let second = answer(&engine, asking(turn(&long(50)), ""));
    // 79 of the first turn's 80 tokens were fed.
    assert_eq!(second.stats.cached_tokens, 64);
    let replayed = answer(&fresh, asking(turn(&long(50)), ""));
    assert_eq!(replayed.stats.cached_tokens, 0);
    assert!(second.tokens == replayed.tokens && second.logprobs == replayed.logprobs);
}

#[test]
fn choices_share_their_prompt() {
    for prefix_cache_bytes in [None, Some(0)] {
        let engine = start(EngineOptions { prefix_cache_bytes, ..options() });
        let request = |choices, seed| Generate { choices, sampling: chance(seed), ..asking(long(100), "") };
        let four = answer(&engine, request(4, 7));
        assert_eq!(engine.counters().prompt_rows, 100 + 3 * 4);
        assert_eq!(four.stats.cached_tokens, 0, "nobody had read it before");
        let one = answer(&engine, request(1, 7));
        let cached = if prefix_cache_bytes.is_none() { 96 } else { 0 };
        assert_eq!((one.stats.cached_tokens, &one.tokens[&0]), (cached, &four.tokens[&0]));
    }
}

#[test]
fn the_first_choice_may_end_while_the_others_wait_for_it() {
    let engine = start(options());
    let mut session = engine.submit(Generate { choices: 2, ..asking(long(480), "") }).unwrap();
    session.end_choice(0);
    let rest = collect(session).unwrap();
    let whole = answer(&engine, Generate { tokens: long(480), ..request(12) });
    assert_eq!(rest.tokens[&1][..12], whole.tokens[&0]);
}

#[test]
fn switched_off_it_keeps_nothing() {
    let engine = start(EngineOptions { prefix_cache_bytes: Some(0), ..options() });
    let cold = answer(&engine, asking(long(100), ""));
    let again = answer(&engine, asking(long(100), ""));
    assert_eq!((again.stats.cached_tokens, engine.counters().prompt_rows), (0, 200));
    assert_eq!(again.tokens, cold.tokens);
    soon("an empty cache", || engine.counters().prefix.hit_tokens == 0);
}

#[test]
fn beginnings_outlive_the_engine_where_somebody_asked_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let files = |model: &str| PrefixFiles {
        folder: folder.path().join("prefixes"),
        bytes: 1 << 20,
        least: 64,
        model: model.to_owned(),
    };
    let with = |model| start(EngineOptions { prefix_files: Some(files(model)), ..options() });
    let ask = |engine: &Engine, domain| answer(engine, asking(long(100), domain));
    let plain = start(options());
    assert!(with("one").plan().scratch_bytes > plain.plan().scratch_bytes, "it is part of the plan");
    let cold = ask(&with("one"), "a");
    assert_eq!(cold.stats.cached_tokens, 0);
    let engine = with("one");
    let warm = ask(&engine, "a");
    assert_eq!((warm.stats.cached_tokens, engine.counters().prefix.disk_tokens), (96, 96));
    assert!(warm.tokens == cold.tokens && warm.logprobs == cold.logprobs);
    assert_eq!(ask(&engine, "a").stats.cached_tokens, 96, "from memory now");
    assert_eq!(engine.counters().prefix.disk_tokens, 96);
    // Neither another domain nor another model finds it, nor does anybody once the files are gone.
    assert_eq!(ask(&with("one"), "b").stats.cached_tokens, 0);
    assert_eq!(ask(&with("two"), "a").stats.cached_tokens, 0);
    std::fs::remove_dir_all(folder.path().join("prefixes")).unwrap();
    assert_eq!(ask(&with("one"), "a").stats.cached_tokens, 0);
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let blocked = PrefixFiles { folder: blocked, ..files("one") };
    let model = Arc::new(Model::open(&crate::support::folder("llama")).unwrap());
    let refused = Engine::start(model, &EngineOptions { prefix_files: Some(blocked), ..options() });
    assert!(refused.err().unwrap().to_string().contains("choose another folder"));
}

#[test]
fn what_was_evicted_is_computed_again_to_the_same_bytes() {
    // Room for one context: 512 positions.
    let engine = start(EngineOptions { slots: 4, cache_bytes: Some(1), ..options() });
    let first = answer(&engine, asking(long(200), ""));
    assert_eq!(answer(&engine, asking(long(200), "")).stats.cached_tokens, 192);
    let other: Vec<u32> = long(460).iter().rev().copied().collect();
    answer(&engine, asking(other, ""));
    assert!(engine.counters().prefix.evicted_blocks >= 4, "{:?}", engine.counters());
    let again = answer(&engine, asking(long(200), ""));
    assert!(again.stats.cached_tokens < 192, "{:?}", again.stats);
    assert!(again.tokens == first.tokens && again.logprobs == first.logprobs);
    assert_eq!(answer(&engine, asking(long(200), "")).stats.cached_tokens, 192, "and kept again");
}

#[test]
fn a_cancelled_prompt_leaves_what_it_computed() {
    let engine = start(EngineOptions { threads: Some(1), ..options() });
    let session = engine.submit(asking(long(480), "")).unwrap();
    soon("a first piece", || engine.counters().prompt_rows > 0);
    drop(session);
    soon("an idle engine", || engine.load().running == 0);
    let computed = engine.counters().prompt_rows as usize;
    let next = answer(&engine, asking(long(480), ""));
    assert_eq!(next.stats.cached_tokens, (computed / 32 * 32).min(479 / 32 * 32));
}

#[test]
fn recurrent_models_go_on_where_their_state_was_kept() {
    for name in ["qwen3_5", "qwen3_5_moe"] {
        let model = Arc::new(Model::open(&folder(name)).unwrap());
        let start = || Engine::start(Arc::clone(&model), &options()).unwrap();
        let engine = start();
        let text = Reference::of(name).tokens("c.input_ids");
        let checked = |tokens: Vec<u32>, cached: usize| {
            let request = Generate { max_tokens: Some(40), ..asking(tokens, "") };
            let got = answer(&engine, request.clone());
            assert_eq!(got.stats.cached_tokens, cached, "{name}");
            let fresh = answer(&start(), request);
            assert!(got.tokens == fresh.tokens && got.logprobs == fresh.logprobs, "{name}, {cached} cached");
            got.tokens[&0].clone()
        };
        let said = checked(text[..90].to_vec(), 0);
        checked(text[..90].to_vec(), 64);
        // The last block that the first turn filled ends at 128 of its 129 tokens.
        checked([&text[..90], &said, &[5, 6, 7]].concat(), 128);
        // Blocks are known up to 32, where nobody kept a state; the first to part there keeps one for the second.
        checked([&text[..40], &text[..30]].concat(), 0);
        checked([&text[..40], &text[50..90]].concat(), 32);
    }
}
