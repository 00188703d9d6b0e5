//! Guesses at what an answer will say next.
//!
//! A guess costs nothing but rows of a step: a token of it counts only where plain decoding picks the same one, so a
//! drafter can make an answer faster or slower, never different.

use crate::request::Generate;

/// Guesses the tokens that follow. Each choice of a request has one of its own.
pub trait Drafter: Send {
    /// Takes in tokens that have become part of the answer, in order.
    fn extend(&mut self, tokens: &[u32]);

    /// Writes up to `most` tokens that may follow into `draft`, which is empty, and says how many tokens before them
    /// speak for it. A larger number should mean a better guess.
    fn draft(&mut self, most: usize, draft: &mut Vec<u32>) -> usize;
}

/// Makes the drafter of one choice of a request, by its number.
pub type MakeDrafter = Box<dyn Fn(&Generate, u32) -> Box<dyn Drafter> + Send>;

/// Tokens that must agree before a place counts as seen before.
const LEAST: usize = 3;
/// Agreeing tokens beyond this many are not counted.
const MOST: usize = 32;
/// Earlier places that are compared, latest first.
const VISITS: usize = 24;
/// Lists of places, at least: a power of two.
const LEAST_LISTS: usize = 256;
/// Tokens in a row that may differ from the passage that an answer follows before it is given up.
const STRAYS: usize = 4;
/// No earlier place.
const NONE: u32 = u32::MAX;

/// Looks for the longest ending of prompt and answer that has occurred before, and guesses that it goes on as it did
/// then: right for code that is edited, quotations, names and tables.
///
/// Where an answer departs from the passage that it follows, by another word in the same place, say, the guess is that
/// it goes on behind that word, with nothing to speak for it.
#[derive(Debug)]
pub struct SuffixDrafter {
    /// The predicted answer, the prompt, the answer.
    text: Vec<u32>,
    /// The latest place behind each group of [`LEAST`] tokens, by its hash.
    heads: Vec<u32>,
    /// For each place, the one before with the same hash.
    earlier: Vec<u32>,
    /// The place in the text that the coming token is expected to repeat.
    cursor: Option<usize>,
    strays: usize,
}

impl SuffixDrafter {
    /// A drafter for a request: it knows the prompt, and the predicted answer if there is one.
    pub fn new(request: &Generate) -> Self {
        let known = request.prediction.len() + request.tokens.len();
        let room = known + request.max_tokens.unwrap_or(known).min(4 * known + 1024);
        let mut drafter = Self {
            text: Vec::with_capacity(room),
            heads: vec![NONE; room.next_power_of_two().max(LEAST_LISTS)],
            earlier: Vec::with_capacity(room),
            cursor: None,
            strays: 0,
        };
        for token in request.prediction.iter().chain(&request.tokens) {
            drafter.add(*token);
        }
        drafter.cursor = (!request.prediction.is_empty()).then_some(0);
        drafter
    }

    /// Where the list of places behind the last tokens begins; `None` while there are too few.
    fn slot(&self) -> Option<usize> {
        let last = self.text.last_chunk::<LEAST>()?;
        let mixed =
            last.iter().fold(0_u32, |hash, token| (hash ^ token).wrapping_mul(0x9E37_79B1).rotate_left(13));
        // The number of lists is a power of two.
        Some(mixed as usize & (self.heads.len() - 1))
    }

    /// Adds a token, and notes the place behind it.
    fn add(&mut self, token: u32) {
        self.text.push(token);
        let place = self.text.len() as u32;
        let before = self.slot().map_or(NONE, |slot| std::mem::replace(&mut self.heads[slot], place));
        self.earlier.push(before);
    }

    /// How many tokens before a place agree with the last ones.
    fn agreeing(&self, place: usize) -> usize {
        let (last, there) = (self.text.iter().rev(), self.text[..place].iter().rev());
        last.zip(there).take(MOST).take_while(|(a, b)| a == b).count()
    }

    /// The place before the end with the longest agreement; of equal ones the latest.
    fn best_place(&self) -> Option<(usize, usize)> {
        let mut best = None;
        let mut length = LEAST - 1;
        // The first of the list is the end itself.
        let mut place = *self.earlier.last()?;
        for _ in 0..VISITS {
            if place == NONE || length == MOST {
                break;
            }
            let agreeing = self.agreeing(place as usize);
            if agreeing > length {
                length = agreeing;
                best = Some((place as usize, agreeing));
            }
            place = self.earlier[place as usize - 1];
        }
        best
    }
}

impl Drafter for SuffixDrafter {
    fn extend(&mut self, tokens: &[u32]) {
        for token in tokens {
            if let Some(place) = self.cursor {
                self.strays = if self.text.get(place) == Some(token) { 0 } else { self.strays + 1 };
                self.cursor = (self.strays < STRAYS).then_some(place + 1);
            }
            self.add(*token);
        }
    }

    fn draft(&mut self, most: usize, draft: &mut Vec<u32>) -> usize {
        let kept = self.cursor.filter(|place| *place < self.text.len());
        // A passage that is being followed without a stray is as good as another with the same agreement.
        let kept_agreement = kept.map_or(0, |place| self.agreeing(place));
        let (place, agreeing) = match self.best_place() {
            Some((place, agreeing)) if agreeing > kept_agreement => (place, agreeing),
            _ => match kept {
                Some(place) => (place, kept_agreement),
                None => return 0,
            },
        };
        if self.cursor != Some(place) {
            (self.cursor, self.strays) = (Some(place), 0);
        }
        // A passage that reaches the end is a loop: behind it comes the draft itself.
        for at in place..place + most {
            let token = self.text.get(at).or_else(|| draft.get(at - self.text.len()));
            draft.extend(token.copied());
        }
        agreeing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafter(prompt: &[u32], prediction: &[u32]) -> SuffixDrafter {
        let (tokens, prediction) = (prompt.to_vec(), prediction.to_vec());
        SuffixDrafter::new(&Generate { tokens, prediction, ..Generate::default() })
    }

    fn draft(drafter: &mut SuffixDrafter, most: usize) -> (usize, Vec<u32>) {
        let mut tokens = Vec::new();
        (drafter.draft(most, &mut tokens), tokens)
    }

    #[test]
    fn what_was_said_before_is_expected_to_go_on_as_it_did() {
        let mut drafter = drafter(&[9, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3], &[]);
        assert_eq!(draft(&mut drafter, 3), (3, vec![4, 5, 6]));
        assert_eq!(draft(&mut drafter, 9), (3, vec![4, 5, 6, 7, 1, 2, 3, 4, 5]), "round and round");
        drafter.extend(&[4, 5]);
        assert_eq!(draft(&mut drafter, 2), (5, vec![6, 7]));
    }

    #[test]
    fn nothing_is_expected_of_what_is_new() {
        assert_eq!(draft(&mut drafter(&[1, 2, 3, 4, 5, 6], &[]), 4), (0, vec![]));
        assert_eq!(draft(&mut drafter(&[1, 2], &[]), 4), (0, vec![]));
        assert_eq!(draft(&mut drafter(&[1, 2, 7, 1, 2], &[]), 4), (0, vec![]), "two tokens are chance");
    }

    #[test]
    fn the_longest_agreement_wins_and_of_equal_ones_the_latest() {
        let text = [8, 1, 2, 3, 40, 0, 5, 1, 2, 3, 50, 0, 6, 1, 2, 3, 60, 0];
        let with = |end: &[u32]| draft(&mut drafter(&[&text[..], end].concat(), &[]), 1).1;
        assert_eq!(with(&[8, 1, 2, 3]), [40]);
        assert_eq!(with(&[5, 1, 2, 3]), [50]);
        assert_eq!(with(&[9, 1, 2, 3]), [60]);
    }

    #[test]
    fn a_departed_word_leaves_the_passage_where_it_was() {
        let passage: Vec<u32> = (100..120).collect();
        let mut drafter = drafter(&[&passage[..], &[100, 101, 102, 103]].concat(), &[]);
        assert_eq!(draft(&mut drafter, 2), (4, vec![104, 105]));
        drafter.extend(&[104, 7]);
        assert_eq!(draft(&mut drafter, 2), (0, vec![106, 107]));
        drafter.extend(&[106, 107, 108]);
        assert_eq!(draft(&mut drafter, 1), (3, vec![109]));
        drafter.extend(&[7, 8, 9, 10]);
        assert_eq!(draft(&mut drafter, 1), (0, vec![]), "a passage that is left is left");
    }

    #[test]
    fn a_predicted_answer_is_followed_from_its_beginning() {
        let mut drafter = drafter(&[1, 2, 3], &[50, 51, 52, 53]);
        assert_eq!(draft(&mut drafter, 2), (0, vec![50, 51]));
        drafter.extend(&[50, 51]);
        assert_eq!(draft(&mut drafter, 1), (2, vec![52]));
    }

    #[test]
    fn texts_longer_than_expected_stay_right() {
        let request = Generate { tokens: vec![1], max_tokens: Some(1), ..Generate::default() };
        let mut drafter = SuffixDrafter::new(&request);
        for round in 0..50 {
            let passage: Vec<u32> = (0..40).map(|i| i * 7 + round % 3).collect();
            drafter.extend(&passage[..20]);
            if round >= 6 {
                assert_eq!(draft(&mut drafter, 20), (MOST, passage[20..].to_vec()), "{round}");
            }
            drafter.extend(&passage[20..]);
        }
    }
}
