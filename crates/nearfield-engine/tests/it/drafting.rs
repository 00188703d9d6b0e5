//! Guessing ahead changes nothing but the number of steps: right guesses, wrong ones, and right up to any place.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nearfield_engine::{
    Drafter, Drafting, Engine, EngineOptions, FinishReason, Generate, Sampling, Speculation, Step,
    SuffixDrafter,
};
use nearfield_model::Model;
use nearfield_testkit::gguf_conversion::convert_checkpoint_with;

use crate::callers::{Answer, answer, chance, options, request, soon, start};
use crate::same_bytes::integer_storage;
use crate::support::folder;

/// Guesses by script: for each choice the whole answer, of which so many tokens of each draft are right.
#[derive(Clone)]
struct Script {
    answers: Arc<BTreeMap<u32, Vec<u32>>>,
    right: usize,
}

struct Scripted {
    answer: Vec<u32>,
    said: usize,
    right: usize,
}

impl Drafter for Scripted {
    fn extend(&mut self, tokens: &[u32]) {
        self.said += tokens.len();
    }

    fn draft(&mut self, most: usize, draft: &mut Vec<u32>) -> usize {
        let rest = self.answer.iter().skip(self.said).take(most);
        draft.extend(rest.enumerate().map(
            |(place, token)| {
                if place < self.right { *token } else { (*token + 1) % 190 }
            },
        ));
        0
    }
}

fn model() -> Arc<Model> {
    quantized("llama")
}

/// One with attention, and one with recurrent layers and experts.
fn models() -> [Arc<Model>; 2] {
    [model(), quantized("qwen3_5_moe")]
}

fn quantized(name: &str) -> Arc<Model> {
    let writer = convert_checkpoint_with(&folder(name), &mut integer_storage);
    Arc::new(Model::from_gguf_bytes(Path::new("quantized.gguf"), writer.unwrap().build()).unwrap())
}

fn with_speculation(speculation: Speculation) -> EngineOptions {
    EngineOptions { speculation, ..options() }
}

fn scripted(model: &Arc<Model>, depth: usize, script: Script) -> Engine {
    let options = with_speculation(Speculation::Always(depth));
    let make = move |_: &Generate, choice: u32| -> Box<dyn Drafter> {
        Box::new(Scripted { answer: script.answers[&choice].clone(), said: 0, right: script.right })
    };
    Engine::start_with(Arc::clone(model), &options, Box::new(make)).unwrap()
}

/// Greedy, by chance, and by chance with everything that looks back at the answer; each with its log-probabilities.
fn requests(count: usize) -> [Generate; 3] {
    let penalties = Sampling {
        top_k: 30,
        top_p: 0.95,
        repetition_penalty: 1.2,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        logit_bias: BTreeMap::from([(3, 1.5), (90, -2.0)]),
        suppressed: vec![11, 12],
        ..chance(5)
    };
    [Sampling::default(), chance(9), penalties].map(|sampling| Generate {
        sampling,
        logprobs: Some(4),
        ..request(count)
    })
}

/// An answer's tokens, its ends, and the bits of what is told about its tokens.
type Bits = (BTreeMap<u32, Vec<u32>>, BTreeMap<u32, FinishReason>, Vec<u32>);

/// An answer as bits, without what it took.
fn bits(answer: &Answer) -> Bits {
    let mut told = Vec::new();
    for (logprob, alternatives) in &answer.logprobs {
        told.push(logprob.to_bits());
        told.extend(alternatives.iter().flat_map(|(id, logprob)| [*id, logprob.to_bits()]));
    }
    (answer.tokens.clone(), answer.reasons.clone(), told)
}

#[test]
fn guesses_right_up_to_any_place_change_nothing() {
    for model in models() {
        check_every_place(&model);
    }
}

fn check_every_place(model: &Arc<Model>) {
    const COUNT: usize = 24;
    let plain = Engine::start(Arc::clone(model), &with_speculation(Speculation::Off)).unwrap();
    for (number, request) in requests(COUNT).into_iter().enumerate() {
        let wanted = answer(&plain, request.clone());
        assert_eq!((wanted.stats.drafted, wanted.stats.accepted), (0, 0));
        for depth in [1, 2, 3, 4, 7, 15] {
            for right in 0..=depth {
                let script = Script { answers: Arc::new(wanted.tokens.clone()), right };
                let engine = scripted(model, depth, script);
                let got = answer(&engine, request.clone());
                assert!(bits(&got) == bits(&wanted), "request {number}, {right} of {depth} right");
                // The first token comes from the prompt, the others from steps of one and what was right.
                let (mut said, mut drafted, mut accepted) = (1, 0, 0);
                while said < COUNT {
                    let guesses = depth.min(COUNT - said - 1);
                    drafted += guesses;
                    accepted += right.min(guesses);
                    said += right.min(guesses) + 1;
                }
                let counted = (got.stats.drafted, got.stats.accepted);
                assert_eq!(counted, (drafted, accepted), "{right} of {depth} right");
                assert_eq!(got.stats.generated_tokens, COUNT);
            }
        }
    }
}

#[test]
fn several_choices_keep_their_own_guesses() {
    let model = model();
    let plain = Engine::start(Arc::clone(&model), &with_speculation(Speculation::Off)).unwrap();
    let [_, sampled, _] = requests(20);
    // Choices share the order of their steps, so log-probabilities of several would interleave differently.
    let request = Generate { choices: 3, logprobs: None, ..sampled };
    let wanted = answer(&plain, request.clone());
    for right in [0, 2, 4] {
        let script = Script { answers: Arc::new(wanted.tokens.clone()), right };
        let got = answer(&scripted(&model, 4, script), request.clone());
        assert!(bits(&got) == bits(&wanted));
        assert!(got.stats.drafted > 0 && (got.stats.accepted > 0) == (right > 0));
    }
}

#[test]
fn a_stop_token_inside_right_guesses_ends_the_answer_there() {
    let model = model();
    let plain = Engine::start(Arc::clone(&model), &with_speculation(Speculation::Off)).unwrap();
    let [greedy, ..] = requests(30);
    let whole = answer(&plain, greedy.clone()).tokens;
    for place in 8..16 {
        let request = Generate { stop_tokens: vec![whole[&0][place]], ..greedy.clone() };
        let wanted = answer(&plain, request.clone());
        // The script goes on behind the stop token.
        let engine = scripted(&model, 7, Script { answers: Arc::new(whole.clone()), right: 7 });
        let got = answer(&engine, request);
        assert!(bits(&got) == bits(&wanted), "{place}");
        assert_eq!(got.reasons[&0], FinishReason::Stop);
        soon("an idle engine", || engine.load().running == 0);
    }
}

#[test]
fn a_cancelled_answer_leaves_others_as_they_were() {
    let model = model();
    let plain = Engine::start(Arc::clone(&model), &with_speculation(Speculation::Off)).unwrap();
    let [greedy, ..] = requests(40);
    let wanted = answer(&plain, greedy.clone());
    let engine = scripted(&model, 5, Script { answers: Arc::new(wanted.tokens.clone()), right: 3 });
    let mut cancelled = engine.submit(greedy.clone()).unwrap();
    assert!(matches!(cancelled.next_blocking(), Some(Ok(Step::Token { .. }))));
    let other = engine.submit(greedy).unwrap();
    drop(cancelled);
    assert!(bits(&crate::callers::collect(other).unwrap()) == bits(&wanted));
    soon("an idle engine", || engine.load().running == 0);
}

#[test]
fn guesses_outside_the_vocabulary_are_not_fed() {
    struct Wild;
    impl Drafter for Wild {
        fn extend(&mut self, _: &[u32]) {}
        fn draft(&mut self, most: usize, draft: &mut Vec<u32>) -> usize {
            draft.extend(std::iter::repeat_n(4_000_000_000, 2 * most));
            usize::MAX
        }
    }
    let engine = Engine::start_with(
        model(),
        &with_speculation(Speculation::Always(9)),
        Box::new(|_: &Generate, _| Box::new(Wild)),
    );
    let got = answer(&engine.unwrap(), request(10));
    assert_eq!((got.tokens[&0].len(), got.stats.drafted), (10, 0));
}

#[test]
fn look_up_finds_what_the_answer_repeats() {
    // A bias makes the answer one token over and over, which the drafter cannot fail to see.
    let model = model();
    let sampling = Sampling { logit_bias: BTreeMap::from([(17, 1000.0)]), ..Sampling::default() };
    let request = Generate { sampling, ..request(120) };
    let make = || Box::new(|request: &Generate, _| Box::new(SuffixDrafter::new(request)) as Box<dyn Drafter>);
    let options = with_speculation(Speculation::Always(15));
    let engine = Engine::start_with(Arc::clone(&model), &options, make()).unwrap();
    let got = answer(&engine, request);
    assert_eq!(got.tokens[&0], [17; 120]);
    assert!(got.stats.accepted > 80 && got.stats.accepted <= got.stats.drafted, "{:?}", got.stats);
}

#[test]
fn a_right_prediction_is_accepted_and_a_wrong_one_changes_nothing() {
    let model = model();
    let plain = Engine::start(Arc::clone(&model), &with_speculation(Speculation::Off)).unwrap();
    let engine = Engine::start(Arc::clone(&model), &with_speculation(Speculation::Always(7))).unwrap();
    for request in requests(48) {
        let wanted = answer(&plain, request.clone());
        let predicted = |prediction: Vec<u32>| answer(&engine, Generate { prediction, ..request.clone() });
        let right = predicted(wanted.tokens[&0].clone());
        assert!(bits(&right) == bits(&wanted));
        assert!(right.stats.accepted > 30, "{:?}", right.stats);
        let wrong = predicted(wanted.tokens[&0].iter().map(|token| (token + 1) % 190).collect());
        assert!(bits(&wrong) == bits(&wanted));
        assert!(wrong.stats.drafted > wrong.stats.accepted, "{:?}", wrong.stats);
    }
}

#[test]
fn a_conversation_goes_on_from_what_guesses_left_in_the_cache() {
    for model in models() {
        check_conversation(&model);
    }
}

fn check_conversation(model: &Arc<Model>) {
    let without = EngineOptions { prefix_cache_bytes: Some(0), ..with_speculation(Speculation::Off) };
    let plain = Engine::start(Arc::clone(model), &without).unwrap();
    for request in requests(80) {
        let first = answer(&plain, request.clone());
        let mut tokens = [&request.tokens[..], &first.tokens[&0]].concat();
        tokens.extend([5, 6, 7]);
        let second = Generate { tokens, ..request.clone() };
        let wanted = answer(&plain, second.clone());
        for right in [0, 2, 7] {
            let script = Script { answers: Arc::new(first.tokens.clone()), right };
            let engine = scripted(model, 7, script);
            assert!(bits(&answer(&engine, request.clone())) == bits(&first));
            // The script's guesses are wrong here, or right by chance.
            let got = answer(&engine, second.clone());
            assert!(bits(&got) == bits(&wanted), "{right} right");
            assert!(got.stats.cached_tokens >= 96, "{:?}", got.stats);
            let counters = engine.counters();
            assert!(counters.drafted > counters.accepted && counters.prefix.hit_tokens >= 96, "{counters:?}");
            assert!(right == 0 || counters.accepted > 20, "{counters:?}");
        }
    }
}

#[test]
fn the_models_own_head_changes_nothing_but_the_number_of_steps() {
    for name in ["qwen3_5", "qwen3_5_moe"] {
        let model = quantized(name);
        let plain = Engine::start(Arc::clone(&model), &with_speculation(Speculation::Off)).unwrap();
        let wanted: Vec<Answer> = requests(40).into_iter().map(|request| answer(&plain, request)).collect();
        assert_eq!(plain.counters().head_drafted, 0);
        let settings = [1, 2, 7].map(Speculation::Always).into_iter().chain([Speculation::Adaptive]);
        for (speculation, drafting) in settings.flat_map(|s| [(s, Drafting::Head), (s, Drafting::Automatic)])
        {
            let options = EngineOptions { drafting, ..with_speculation(speculation) };
            let engine = Engine::start(Arc::clone(&model), &options).unwrap();
            // All at once, so that the head guesses for several answers together.
            let mut all = requests(40);
            all[0].prediction.clone_from(&wanted[0].tokens[&0]);
            let sessions = all.map(|request| engine.submit(request).unwrap());
            for (session, wanted) in sessions.into_iter().zip(&wanted) {
                let got = crate::callers::collect(session).unwrap();
                assert!(bits(&got) == bits(wanted), "{name}, {speculation:?}, {drafting:?}");
            }
            let counters = engine.counters();
            assert!(counters.head_drafted <= counters.drafted, "{counters:?}");
            // What pays depends on the machine.
            if speculation != Speculation::Adaptive {
                assert!(counters.head_drafted > 0, "{counters:?}");
                let looked_up = counters.drafted > counters.head_drafted;
                assert_eq!(looked_up, drafting == Drafting::Automatic, "{counters:?}");
            }
        }
        let options =
            EngineOptions { drafting: Drafting::LookUp, ..with_speculation(Speculation::Always(3)) };
        let engine = Engine::start(Arc::clone(&model), &options).unwrap();
        answer(&engine, request(40));
        assert_eq!(engine.counters().head_drafted, 0);
    }
}

#[test]
fn a_head_that_is_wrong_is_hardly_asked() {
    // The fixture's head was never trained, so that its guesses are wrong but by chance.
    let model = quantized("qwen3_5");
    let options = EngineOptions { drafting: Drafting::Head, ..with_speculation(Speculation::Adaptive) };
    let engine = Engine::start(Arc::clone(&model), &options).unwrap();
    let got = answer(&engine, Generate { sampling: chance(3), ..request(400) });
    assert!(got.stats.drafted > 0 && got.stats.drafted < 60, "{:?}", got.stats);
    assert!(got.stats.accepted * 4 < got.stats.drafted, "{:?}", got.stats);
}

#[test]
fn by_default_neighbours_and_guesses_change_nothing() {
    let (plain, engine) = (start(with_speculation(Speculation::Off)), start(options()));
    let sampled = |number: usize| Generate { sampling: chance(number as u64), ..request(20 + number) };
    let all: Vec<Generate> =
        (0..12).map(|number| if number % 2 == 0 { request(30) } else { sampled(number) }).collect();
    let wanted: Vec<_> = all.iter().map(|request| answer(&plain, request.clone()).tokens).collect();
    let sessions: Vec<_> = all.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    for (session, wanted) in sessions.into_iter().zip(wanted) {
        assert_eq!(crate::callers::collect(session).unwrap().tokens, wanted);
    }
}
