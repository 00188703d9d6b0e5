//! Stop strings: an answer ends where one of them appears, and no part of it is shown.

/// Why a list of stop strings is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopStringError {
    /// An empty string would end every answer before it begins.
    #[error("a stop string must not be empty")]
    Empty,
    /// Too many stop strings.
    #[error("{found} stop strings were given, more than the {limit} that are accepted")]
    TooMany {
        /// How many there are.
        found: usize,
        /// How many are accepted.
        limit: usize,
    },
    /// A stop string is too long.
    #[error("a stop string of {found} bytes was given, longer than the {limit} that are accepted")]
    TooLong {
        /// Its length in bytes.
        found: usize,
        /// The longest that is accepted.
        limit: usize,
    },
}

/// What came out of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    /// No stop string yet.
    Continue,
    /// The stop string with this number has appeared; what follows is to be ignored.
    Stopped(usize),
}

/// Watches streamed text for stop strings.
///
/// Text that may be the beginning of a stop string is held back until it is known not to be. The stop string that ends
/// first wins; of two that end at the same place, the one that begins first. The automaton of Aho and Corasick makes the
/// cost of a byte independent of how many strings there are and how long they are.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    nodes: Vec<Node>,
    state: usize,
    held: String,
    stopped: Option<usize>,
}

/// A state: the longest beginning of a stop string that the text ends with.
#[derive(Debug, Clone, Default)]
struct Node {
    /// Next states by byte, sorted.
    next: Vec<(u8, usize)>,
    /// The state for the longest proper suffix.
    fallback: usize,
    /// Length of the beginning, in bytes.
    depth: usize,
    /// The longest stop string that ends here: its number and length.
    ends: Option<(usize, usize)>,
}

impl StopMatcher {
    /// The most stop strings.
    pub const MAX_STRINGS: usize = 64;
    /// The longest stop string in bytes.
    pub const MAX_LENGTH: usize = 4096;

    /// A matcher for the given strings; without any, all text passes at once.
    ///
    /// # Errors
    /// An empty or overlong string, or too many.
    pub fn new<S: AsRef<str>>(strings: &[S]) -> Result<Self, StopStringError> {
        if strings.len() > Self::MAX_STRINGS {
            return Err(StopStringError::TooMany { found: strings.len(), limit: Self::MAX_STRINGS });
        }
        let mut matcher = Self { nodes: vec![Node::default()], state: 0, held: String::new(), stopped: None };
        for (number, string) in strings.iter().enumerate() {
            let string = string.as_ref();
            match string.len() {
                0 => return Err(StopStringError::Empty),
                found if found > Self::MAX_LENGTH => {
                    return Err(StopStringError::TooLong { found, limit: Self::MAX_LENGTH });
                }
                _ => matcher.insert(number, string),
            }
        }
        matcher.link();
        Ok(matcher)
    }

    /// Takes the next text and appends to `into` what can be shown.
    pub fn push(&mut self, text: &str, into: &mut String) -> StopOutcome {
        if let Some(number) = self.stopped {
            return StopOutcome::Stopped(number);
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (place, byte) in (before..).zip(text.bytes()) {
            self.state = self.step(self.state, byte);
            if let Some((number, length)) = self.nodes.get(self.state).and_then(|node| node.ends) {
                let shown = (place + 1).saturating_sub(length);
                into.push_str(self.held.get(..shown).unwrap_or_default());
                self.held.clear();
                self.stopped = Some(number);
                return StopOutcome::Stopped(number);
            }
        }
        let depth = self.nodes.get(self.state).map_or(0, |node| node.depth);
        let shown = self.held.len().saturating_sub(depth);
        // A stop string begins with a whole character, so what is held does as well.
        into.push_str(self.held.get(..shown).unwrap_or_default());
        self.held.drain(..shown);
        StopOutcome::Continue
    }

    /// Ends the text: what was held back was no stop string and is appended to `into`.
    pub fn finish(&mut self, into: &mut String) {
        into.push_str(&self.held);
        self.held.clear();
        self.state = 0;
    }

    fn insert(&mut self, number: usize, string: &str) {
        let mut state = 0;
        for (depth, byte) in (1..).zip(string.bytes()) {
            state = if let Some(next) = self.child(state, byte) {
                next
            } else {
                let new = self.nodes.len();
                self.nodes.push(Node { depth, ..Node::default() });
                if let Some(node) = self.nodes.get_mut(state) {
                    let place = node.next.partition_point(|&(at, _)| at < byte);
                    node.next.insert(place, (byte, new));
                }
                new
            };
        }
        if let Some(node) = self.nodes.get_mut(state) {
            node.ends.get_or_insert((number, string.len()));
        }
    }

    /// Sets the fallbacks, nearest to the root first.
    fn link(&mut self) {
        let mut order: std::collections::VecDeque<usize> = std::iter::once(0).collect();
        while let Some(state) = order.pop_front() {
            let Some(node) = self.nodes.get(state) else { continue };
            let fallback = node.fallback;
            for (byte, child) in node.next.clone() {
                let target = if state == 0 { 0 } else { self.step(fallback, byte) };
                let inherited = self.nodes.get(target).and_then(|node| node.ends);
                if let Some(node) = self.nodes.get_mut(child) {
                    node.fallback = target;
                    node.ends = node.ends.or(inherited);
                }
                order.push_back(child);
            }
        }
    }

    fn child(&self, state: usize, byte: u8) -> Option<usize> {
        let next = &self.nodes.get(state)?.next;
        let place = next.binary_search_by_key(&byte, |&(at, _)| at).ok()?;
        next.get(place).map(|&(_, child)| child)
    }

    fn step(&self, mut state: usize, byte: u8) -> usize {
        loop {
            if let Some(next) = self.child(state, byte) {
                return next;
            }
            if state == 0 {
                return 0;
            }
            state = self.nodes.get(state).map_or(0, |node| node.fallback);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds pieces; what was shown after each, and how it ended.
    fn run(strings: &[&str], pieces: &[&str]) -> (Vec<String>, StopOutcome) {
        let mut matcher = StopMatcher::new(strings).unwrap();
        let (mut shown, mut outcome) = (Vec::new(), StopOutcome::Continue);
        for piece in pieces {
            let mut text = String::new();
            outcome = matcher.push(piece, &mut text);
            shown.push(text);
        }
        let mut text = String::new();
        matcher.finish(&mut text);
        shown.push(text);
        (shown, outcome)
    }

    #[test]
    fn text_that_may_be_a_stop_string_is_held() {
        let (shown, outcome) = run(&["\n\nUser:"], &["Hi", "\n", "\nUs", "e", "ful"]);
        assert_eq!(shown, ["Hi", "", "", "", "\n\nUseful", ""]);
        assert_eq!(outcome, StopOutcome::Continue);
        let (shown, outcome) = run(&["\n\nUser:"], &["Hi\n\nUs", "er", ": more", "and more"]);
        assert_eq!(shown, ["Hi", "", "", "", ""]);
        assert_eq!(outcome, StopOutcome::Stopped(0));
    }

    #[test]
    fn the_string_that_ends_first_wins_and_then_the_longer() {
        assert_eq!(
            run(&["abcd", "bc"], &["xabcd"]),
            (vec!["xa".into(), String::new()], StopOutcome::Stopped(1))
        );
        assert_eq!(
            run(&["bc", "abc"], &["xabc"]),
            (vec!["x".into(), String::new()], StopOutcome::Stopped(1))
        );
        assert_eq!(
            run(&["aab"], &["aa", "ab"]),
            (vec![String::new(), "a".into(), String::new()], StopOutcome::Stopped(0))
        );
    }

    #[test]
    fn the_end_releases_what_is_held() {
        assert_eq!(run(&["END"], &["the EN"]).0, ["the ", "EN"]);
    }

    #[test]
    fn bad_lists_are_refused() {
        assert_eq!(StopMatcher::new(&["a", ""]).unwrap_err(), StopStringError::Empty);
        assert!(matches!(StopMatcher::new(&["x"; 65]), Err(StopStringError::TooMany { found: 65, .. })));
        assert!(matches!(
            StopMatcher::new(&["x".repeat(5000)]),
            Err(StopStringError::TooLong { found: 5000, .. })
        ));
    }

    /// The definition: the earliest end of any stop string in the whole text, then its earliest begin.
    fn naive(strings: &[String], text: &str) -> (String, bool) {
        let ends = (0..=text.len()).filter_map(|end| {
            let upto = text.get(..end)?;
            strings
                .iter()
                .filter(|string| upto.ends_with(string.as_str()))
                .map(String::len)
                .max()
                .map(|length| end - length)
        });
        match ends.into_iter().next() {
            Some(start) => (text[..start].to_owned(), true),
            None => (text.to_owned(), false),
        }
    }

    proptest! {
        #[test]
        fn streaming_equals_whole_text(
            strings in prop::collection::vec("[abé🙂]{1,5}", 0..5),
            pieces in prop::collection::vec("[abcé🙂]{0,4}", 0..30),
        ) {
            let text = pieces.concat();
            let (expected, stops) = naive(&strings, &text);
            let mut matcher = StopMatcher::new(&strings).unwrap();
            let (mut shown, mut seen, mut stopped) = (String::new(), String::new(), false);
            for piece in &pieces {
                seen.push_str(piece);
                stopped |= matcher.push(piece, &mut shown) != StopOutcome::Continue;
                // Nothing of a stop string is ever shown, and nothing is held longer than it must be.
                prop_assert!(expected.starts_with(&shown));
                if !stopped {
                    let held = &seen[shown.len()..];
                    let may_begin = strings.iter().any(|string| string.starts_with(held));
                    prop_assert!(held.is_empty() || may_begin, "{held:?}");
                }
            }
            matcher.finish(&mut shown);
            prop_assert_eq!(shown, expected);
            prop_assert_eq!(stopped, stops);
        }
    }
}
