use nearfield_engine::{Arithmetic, KeyValueType};
use nearfield_model::Model;
use nearfield_quantize::{PerplexityOptions, divergence, perplexity};

use crate::support::{fixture, reference, runner, with};

#[test]
fn a_coarser_cache_diverges_more_and_the_same_way_not_at_all() {
    let (tokens, _) = reference();
    let model = Model::open(&fixture()).unwrap();
    let options = PerplexityOptions { window: tokens.len(), ..PerplexityOptions::default() };
    let text = tokens.repeat(2);
    let compare = |kind, window| {
        let mut teacher = runner(&model, 64);
        let mut student = with(&model, 64, Arithmetic::Default, kind);
        divergence(&mut teacher, &mut student, &text, &options, |progress| progress.done < window).unwrap()
    };
    let same = compare(KeyValueType::F32, 9);
    // This checkpoint's weights are floating numbers, which both arithmetics treat alike.
    assert_eq!((same.mean, same.largest, same.same_choice), (0.0, 0.0, 1.0));
    assert_eq!(same.teacher_perplexity, same.student_perplexity);
    let half = compare(KeyValueType::F16, 9);
    let eighth = compare(KeyValueType::Q8, 9);
    assert!(0.0 < half.mean && half.mean < eighth.mean, "{half:?} {eighth:?}");
    assert!(eighth.median <= eighth.percentile_90 && eighth.percentile_90 <= eighth.percentile_99);
    assert!(eighth.percentile_99 <= eighth.largest && eighth.largest < 0.1);
    assert_eq!((eighth.windows, eighth.scored), (2, 2 * (tokens.len() / 2 - 1)));
    assert_eq!(compare(KeyValueType::Q8, 1).windows, 1, "the caller may end it");

    // Both perplexities are what they are alone.
    let alone = |kind| {
        let mut runner = with(&model, 64, Arithmetic::Default, kind);
        perplexity(&mut runner, &text, &options, |_| true).unwrap().perplexity
    };
    assert_eq!(eighth.teacher_perplexity, alone(KeyValueType::F32));
    assert_eq!(eighth.student_perplexity, alone(KeyValueType::Q8));
}
