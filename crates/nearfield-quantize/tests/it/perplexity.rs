use nearfield_model::Model;
use nearfield_quantize::{PerplexityError, PerplexityOptions, perplexity};

use crate::support::{fixture, runner};

/// The reference's tokens, and its perplexity over the second half of them.
fn reference() -> (Vec<u32>, f64) {
    let (tokens, logits) = crate::support::reference();
    let vocabulary = logits.len() / tokens.len();
    let half = tokens.len() / 2;
    let mut sum = 0.0;
    for position in half..tokens.len() - 1 {
        let row = &logits[position * vocabulary..][..vocabulary];
        let odds: f64 = row.iter().map(|x| nearfield_kernels::math::exp_f64(f64::from(*x))).sum();
        sum += nearfield_kernels::math::ln_f64(odds) - f64::from(row[tokens[position + 1] as usize]);
    }
    (tokens.clone(), nearfield_kernels::math::exp_f64(sum / (tokens.len() - 1 - half) as f64))
}

#[test]
fn second_halves_are_scored_as_the_reference_does() {
    let (tokens, expected) = reference();
    let model = Model::open(&fixture()).unwrap();
    let mut runner = runner(&model, 64);
    let options = PerplexityOptions { window: tokens.len(), ..PerplexityOptions::default() };
    // The same window three times has the same perplexity, so windows do not see each other.
    let text = tokens.repeat(3);
    let mut seen = Vec::new();
    let found = perplexity(&mut runner, &text, &options, |progress| {
        seen.push(progress.done);
        true
    })
    .unwrap();
    assert!((found.perplexity / expected - 1.0).abs() < 1e-4, "{} is not {expected}", found.perplexity);
    assert_eq!((found.windows, found.scored, seen), (3, 3 * 23, vec![1, 2, 3]));
    assert!(found.standard_error > 0.0);

    // The caller may end it.
    let short = perplexity(&mut runner, &text, &options, |_| false).unwrap();
    assert_eq!((short.windows, short.perplexity), (1, found.perplexity));

    // The first token is replaced.
    let other = PerplexityOptions { beginning: Some(tokens[0] ^ 1), ..options };
    let replaced = perplexity(&mut runner, &text, &other, |_| true).unwrap();
    assert_ne!(replaced.perplexity, found.perplexity);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let model = Model::open(&fixture()).unwrap();
    let mut runner = runner(&model, 32);
    let mut measure = |tokens: usize, window: usize| {
        let options = PerplexityOptions { window, ..PerplexityOptions::default() };
        perplexity(&mut runner, &vec![1; tokens], &options, |_| true).unwrap_err()
    };
    assert!(matches!(measure(31, 32), PerplexityError::TextTooShort { tokens: 31, window: 32 }));
    assert!(matches!(measure(99, 3), PerplexityError::WindowTooShort { window: 3 }));
    assert!(matches!(measure(99, 64), PerplexityError::WindowTooLong { window: 64 }));
}
