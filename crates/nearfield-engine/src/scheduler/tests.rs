use std::path::Path;

use nearfield_model::Model;

use super::*;
use crate::drafter::{Drafter, SuffixDrafter};
use crate::options::{EngineOptions, Speculation};
use crate::request::Generate;
use crate::runner::RunnerOptions;
use crate::session::Session;

/// Runs `work` with a scheduler that takes a step when it is told to.
fn with_scheduler(slots: usize, work: impl FnOnce(&Admission, &mut Scheduler<'_>)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama");
    let model = Model::open(&folder).unwrap();
    let options = EngineOptions { slots, threads: Some(1), ..EngineOptions::default() };
    let plan = Plan { rows: 64, ..Plan::for_model(&model, &options).unwrap() };
    let admission = Admission::new(&plan, model.architecture().vocabulary_size, 0);
    let runner_options = RunnerOptions {
        threads: 1,
        key_value_type: options.cache_type(model.architecture()),
        arithmetic: options.arithmetic,
        kernels: None,
        cache_positions: plan.cache_positions,
    };
    let runner = Runner::new(&model, &runner_options).unwrap();
    let make = Box::new(|request: &Generate, _| Box::new(SuffixDrafter::new(request)) as Box<dyn Drafter>);
    let options = EngineOptions { speculation: Speculation::Off, ..options };
    let speculator = Speculator::new(model.architecture(), &options, make);
    work(&admission, &mut Scheduler::new(runner, &admission, &plan, speculator, true));
}

fn submit(admission: &Admission, prompt: usize, choices: u32) -> Session {
    let tokens = (0..prompt as u32).map(|i| i % 190).collect();
    admission.submit(Generate { tokens, choices, max_tokens: Some(50), ..Generate::default() }).unwrap()
}

/// Takes what was submitted and computes one step.
fn step(admission: &Admission, scheduler: &mut Scheduler<'_>) -> usize {
    for job in admission.take(false).unwrap() {
        scheduler.begin(job);
    }
    scheduler.step().unwrap()
}

#[test]
fn a_cancelled_session_is_not_in_the_next_step() {
    with_scheduler(4, |admission, scheduler| {
        let (one, two) = (submit(admission, 10, 1), submit(admission, 10, 1));
        assert_eq!(step(admission, scheduler), 20);
        assert_eq!(step(admission, scheduler), 2);
        drop(one);
        assert_eq!(step(admission, scheduler), 1);
        assert_eq!(admission.load().running, 1);
        drop(two);
        assert_eq!(step(admission, scheduler), 0);
        assert_eq!(admission.load().running, 0);
        let free = scheduler.runner.free_positions();
        assert_eq!(free, 4 * 512, "every page is back");
    });
}

#[test]
fn a_prompt_is_dropped_in_the_middle_too() {
    with_scheduler(4, |admission, scheduler| {
        let session = submit(admission, 200, 1);
        assert_eq!(step(admission, scheduler), 64);
        drop(session);
        assert_eq!(step(admission, scheduler), 0);
    });
}

#[test]
fn an_ended_choice_is_not_in_the_next_step() {
    with_scheduler(4, |admission, scheduler| {
        let mut session = submit(admission, 5, 3);
        assert_eq!(step(admission, scheduler), 15);
        assert_eq!(step(admission, scheduler), 3);
        session.end_choice(1);
        assert_eq!(step(admission, scheduler), 2);
        assert_eq!(admission.load().running, 2, "its slot is free at once");
    });
}

fn lengths(scheduler: &Scheduler<'_>) -> Vec<usize> {
    scheduler.running.iter().map(|session| session.choices[0].sequence.length()).collect()
}

#[test]
fn long_prompts_hold_up_neither_answers_nor_short_prompts() {
    with_scheduler(8, |admission, scheduler| {
        let answering = submit(admission, 4, 1);
        assert_eq!(step(admission, scheduler), 4);
        let long = submit(admission, 400, 1);
        let (short, other) = (submit(admission, 20, 1), submit(admission, 8, 1));
        // Short ones are read at once while the answer has not been held up.
        assert_eq!(step(admission, scheduler), 1 + 20 + 8);
        assert_eq!(lengths(scheduler), [5, 0, 20, 8]);
        // Then every answer advances in each step, and the long prompt in nearly every one.
        let (mut steps, mut stood) = (0, 0);
        while lengths(scheduler)[1] < 400 && scheduler.running.len() == 4 {
            let before = lengths(scheduler);
            assert!(step(admission, scheduler) >= 3);
            if scheduler.running.len() == 4 {
                let after = lengths(scheduler);
                assert!([0, 2, 3].iter().all(|answer| after[*answer] == before[*answer] + 1), "{after:?}");
                stood += usize::from(after[1] == before[1]);
                steps += 1;
            }
        }
        assert!(steps >= 6 && stood >= 1 && stood <= 2 + steps / 8, "{stood} of {steps}");
        drop((answering, long, short, other));
    });
}

#[test]
fn short_prompts_hold_up_an_answer_only_now_and_then() {
    with_scheduler(8, |admission, scheduler| {
        let _answering = submit(admission, 4, 1);
        let mut held = Vec::new();
        for given in 1..49 {
            if given <= 8 {
                step(admission, scheduler);
                continue;
            }
            // Each is new, and has 40 tokens. A row beside answers costs as much as a step.
            let tokens = (0..40).map(|i| (i + 41 * given) % 190).collect();
            let request = Generate { tokens, max_tokens: Some(1), ..Generate::default() };
            let session = admission.submit(request).unwrap();
            scheduler.pace = Pace::default();
            scheduler.pace.took(1, 0, 1.0);
            scheduler.pace.took(1, 1, 2.0);
            match step(admission, scheduler) {
                41 => held.push(given),
                rows => assert_eq!(rows, 3),
            }
            drop(session);
        }
        assert_eq!(held, [9, 41]);
    });
}

#[test]
fn the_wait_is_that_of_what_is_ahead() {
    with_scheduler(2, |admission, scheduler| {
        let _two = [submit(admission, 8, 1), submit(admission, 8, 1)];
        step(admission, scheduler);
        scheduler.pace = Pace::default();
        // A second for a step of two answers: one more token has been given, and 49 are left.
        scheduler.pace.took(2, 0, 0.5);
        scheduler.foretell();
        let request = || Generate { tokens: vec![1], max_tokens: Some(5), ..Generate::default() };
        match admission.submit(request()) {
            Err(EngineError::Overloaded { running: 2, retry_after }) => {
                assert_eq!(retry_after.as_millis(), 49 * 500);
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn buffers_stay_inside_the_plan() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama");
    let model = Model::open(&folder).unwrap();
    let options = EngineOptions { slots: 6, threads: Some(1), ..EngineOptions::default() };
    let plan = Plan::for_model(&model, &options).unwrap();
    with_scheduler(6, |admission, scheduler| {
        scheduler.rows = plan.rows;
        // Steps of all sizes, up to a full one and to the end of the context.
        let sessions: Vec<_> = (0..6).map(|i| submit(admission, [3, 40, 110, 450, 462, 1][i], 1)).collect();
        let mut largest = 0;
        loop {
            let rows = step(admission, scheduler);
            largest = largest.max(rows);
            let taken = scheduler.runner.buffer_bytes();
            assert!(taken <= plan.scratch_bytes, "{taken} of {} bytes", plan.scratch_bytes);
            if rows == 0 {
                break;
            }
        }
        assert_eq!(largest, plan.rows);
        drop(sessions);
    });
}
