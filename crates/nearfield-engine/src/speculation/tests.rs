use super::cost::FIRST_GUESS;
use super::*;

/// A machine whose steps take 10 ms, and so much of that for each further row.
fn measured(row: f64, rows: impl IntoIterator<Item = usize>) -> StepCost {
    let mut cost = StepCost::default();
    for rows in rows {
        cost.add(rows, 0.01 * (1.0 + row * (rows as f64 - 1.0)));
    }
    cost
}

fn taken(cost: &StepCost, offers: &[(f64, usize)], rows: usize, decoding: usize, free: usize) -> Vec<usize> {
    let mut offers: Vec<_> = offers.iter().map(|(p, count)| Offer::new(*p, *count)).collect();
    cost.take_fairly(&mut offers, rows, decoding, free);
    offers.iter().map(|offer| offer.taken).collect()
}

#[test]
fn the_cost_of_a_row_is_found_out() {
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 0.05, "{a} {b}");
    for row in [0.05, 0.2, 0.9] {
        let cost = measured(row, (0..100).map(|i| 1 + i % 9));
        near(cost.slope(), 0.01 * row);
        near(cost.seconds_of(4.0), 0.01 * (1.0 + 3.0 * row));
    }
    // Without a difference in rows, the first guess stands.
    near(measured(0.9, [1; 50]).slope(), 0.01 * FIRST_GUESS);
    near(measured(0.9, [1; 50]).seconds_of(1.0), 0.01);
    // One hiccup of the machine does not turn the picture.
    let mut cost = measured(0.2, (0..100).map(|i| 1 + i % 9));
    cost.add(9, 1.0);
    assert!(cost.slope() < 0.01);
}

#[test]
fn guesses_are_taken_as_far_as_they_pay() {
    let cheap = measured(0.2, (0..100).map(|i| 1 + i % 9));
    assert_eq!(taken(&cheap, &[(1.0, 9)], 1, 1, 15), [9], "sure ones all");
    assert_eq!(taken(&cheap, &[(1.0, 15)], 1, 1, 4), [4], "as many as there is room for");
    assert_eq!(taken(&cheap, &[(0.1, 9)], 1, 1, 15), [0]);
    let [some] = taken(&cheap, &[(0.6, 15)], 1, 1, 15)[..] else { panic!() };
    let [more] = taken(&cheap, &[(0.9, 15)], 1, 1, 15)[..] else { panic!() };
    assert!(some >= 1 && some < more && more < 15, "{some} {more}");
    let dear = measured(0.9, (0..100).map(|i| 1 + i % 9));
    assert_eq!(taken(&dear, &[(0.9, 15)], 1, 1, 15), [0], "where rows cost what steps do, nothing pays");
}

#[test]
fn others_do_not_pay_for_an_answers_drafts() {
    let cost = measured(0.18, (0..100).map(|i| 1 + i % 9));
    // Steps of 8 rows take 2.3 times one: a quarter of that is three rows.
    assert_eq!(taken(&cost, &[(1.0, 15)], 8, 8, 15), [3]);
    assert_eq!(taken(&cost, &[(1.0, 15)], 1, 1, 15), [15]);
    // Where all gain, nobody is spared.
    let all = taken(&cost, &[(0.97, 15); 4], 4, 4, 15);
    assert!(all.iter().all(|taken| (3..=4).contains(taken)), "{all:?}");
    // The better guesses go first.
    assert_eq!(taken(&cost, &[(0.9, 15), (1.0, 15)], 8, 8, 15), [0, 3]);
}

#[test]
fn what_was_right_before_decides() {
    let mut acceptance = Acceptance::default();
    for class in 1..HEAD {
        assert!(acceptance.probability(class) > acceptance.probability(class - 1));
    }
    for _ in 0..30 {
        acceptance.learn(2, 0, true);
        acceptance.learn(1, 7, false);
    }
    assert!(acceptance.probability(2) < 0.1 && acceptance.probability(1) > 0.95);
    for _ in 0..30 {
        acceptance.learn(2, 3, false);
    }
    assert!(acceptance.probability(2) > 0.8, "and may change");
}
