//! What steps, further rows and guesses of a draft head take, and how many guesses are worth it.

/// A row's cost beside that of a step of one, until it has been measured.
pub(super) const FIRST_GUESS: f64 = 0.22;

/// The gain below which a step is left alone: less is lost in the noise.
const LEAST_GAIN: f64 = 1.05;

/// By how much drafts may lengthen the steps of those who gain nothing by them.
const FAIR: f64 = 0.25;

/// What a guess of the draft head takes beside a step of one row, until it has been measured.
const FIRST_HEAD_GUESS: f64 = 0.15;

/// What a step of so many rows takes: a line through the steps so far, the latest counting most.
#[derive(Debug, Default)]
pub(super) struct StepCost {
    weight: f64,
    rows: f64,
    rows_squared: f64,
    seconds: f64,
    product: f64,
    /// Seconds of a guess of the draft head.
    head: Option<f64>,
}

impl StepCost {
    /// Takes in a step.
    pub(super) fn add(&mut self, rows: usize, seconds: f64) {
        // The machine has other work too: a step that took many times what it should says nothing about rows.
        let seconds =
            if self.weight > 4.0 { seconds.min(3.0 * self.seconds_of(rows as f64)) } else { seconds };
        let rows = rows as f64;
        for sum in
            [&mut self.weight, &mut self.rows, &mut self.rows_squared, &mut self.seconds, &mut self.product]
        {
            *sum *= 0.97;
        }
        self.weight += 1.0;
        self.rows += rows;
        self.rows_squared += rows * rows;
        self.seconds += seconds;
        self.product += rows * seconds;
    }

    /// Seconds of a further row. Where steps have hardly differed in rows, the first guess decides.
    pub(super) fn slope(&self) -> f64 {
        if self.weight == 0.0 {
            return FIRST_GUESS;
        }
        let (rows, seconds) = (self.rows / self.weight, self.seconds / self.weight);
        let one = seconds / (1.0 + FIRST_GUESS * (rows - 1.0));
        let variance = (self.rows_squared - rows * self.rows).max(0.0);
        let covariance = self.product - rows * self.seconds;
        let trust = 4.0;
        ((covariance + trust * FIRST_GUESS * one) / (variance + trust)).max(0.02 * one)
    }

    /// Seconds of a step.
    pub(super) fn seconds_of(&self, rows: f64) -> f64 {
        if self.weight == 0.0 {
            return 1.0 + FIRST_GUESS * (rows - 1.0);
        }
        let (mean_rows, mean) = (self.rows / self.weight, self.seconds / self.weight);
        // A measured slope may be too steep to be true near one row.
        (mean + self.slope() * (rows - mean_rows)).max(0.2 * mean)
    }
}

/// The guesses of one choice, as numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    /// That a guess is right when those before it are.
    probability: f64,
    /// Seconds that each costs before it is fed.
    seconds: f64,
    /// Guesses there are.
    count: usize,
    /// Those that are taken.
    pub(super) taken: usize,
    /// That all of these are right.
    reach: f64,
}

impl Offer {
    pub(super) fn new(probability: f64, count: usize) -> Self {
        Self { probability, seconds: 0.0, count, taken: 0, reach: 1.0 }
    }

    /// Guesses that take time themselves.
    pub(super) fn at_cost(self, seconds: f64) -> Self {
        Self { seconds, ..self }
    }

    /// What the next guess brings, in tokens.
    fn gain(&self) -> f64 {
        self.reach * self.probability
    }
}

impl StepCost {
    /// Takes in what some guesses of the draft head took.
    pub(super) fn add_head(&mut self, guesses: usize, seconds: f64) {
        let one = seconds / guesses.max(1) as f64;
        let head = self.head.get_or_insert(one);
        // One hiccup of the machine says nothing.
        *head += (one.min(3.0 * *head) - *head) / 8.0;
    }

    /// Seconds of a guess of the draft head.
    pub(super) fn head(&self) -> f64 {
        self.head.unwrap_or_else(|| FIRST_HEAD_GUESS * self.seconds_of(1.0))
    }

    /// How many tokens a second an answer alone may come to by an offer, beside a step without guesses.
    pub(super) fn promise(&self, offer: &Offer) -> f64 {
        let alone = self.seconds_of(1.0);
        let (mut tokens, mut seconds, mut reach, mut best) = (1.0, alone, 1.0, 1.0_f64);
        for _ in 0..offer.count {
            reach *= offer.probability;
            tokens += reach;
            seconds += self.slope() + offer.seconds;
            best = best.max(tokens * alone / seconds);
        }
        best
    }

    /// Takes as many guesses as pay; fewer where others would pay for them.
    pub(super) fn take_fairly(&self, offers: &mut [Offer], rows: usize, decoding: usize, free: usize) {
        self.take_best(offers, rows, decoding, free);
        let drafting = offers.iter().filter(|offer| offer.taken > 0).count();
        let taken: usize = offers.iter().map(|offer| offer.taken).sum();
        // Prompts, and answers without drafts, only lose by those of others.
        let guesses = offers.iter().map(|offer| offer.taken as f64 * offer.seconds).sum::<f64>();
        let each = self.slope() + guesses / taken.max(1) as f64;
        let bearable = FAIR * self.seconds_of(rows as f64) / each;
        if drafting > 0 && drafting < rows && taken as f64 > bearable {
            self.take_best(offers, rows, decoding, free.min(bearable as usize));
        }
    }

    /// Takes those guesses, at most `free`, with which the most tokens a second are to be expected.
    fn take_best(&self, offers: &mut [Offer], rows: usize, decoding: usize, free: usize) {
        let none = |offers: &mut [Offer]| {
            for offer in offers {
                (offer.taken, offer.reach) = (0, 1.0);
            }
        };
        none(offers);
        let (row, alone) = (self.slope(), self.seconds_of(rows as f64));
        let (mut tokens, mut seconds) = (decoding as f64, alone);
        for _ in 0..free {
            let open = offers.iter_mut().filter(|offer| offer.taken < offer.count);
            let worth = |offer: &Offer| offer.gain() / (row + offer.seconds);
            let Some(likeliest) = open.max_by(|a, b| worth(a).total_cmp(&worth(b))) else { break };
            let (gain, cost) = (likeliest.gain(), row + likeliest.seconds);
            if gain * seconds <= cost * tokens {
                break;
            }
            likeliest.reach = gain;
            likeliest.taken += 1;
            tokens += gain;
            seconds += cost;
        }
        if tokens * alone < LEAST_GAIN * decoding as f64 * seconds {
            none(offers);
        }
    }
}

/// Takes guesses down to a depth, whether or not they pay.
pub(super) fn take_always(offers: &mut [Offer], mut free: usize, depth: usize) {
    for offer in offers {
        offer.taken = offer.count.min(depth).min(free);
        free -= offer.taken;
    }
}
