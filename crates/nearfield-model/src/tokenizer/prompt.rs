//! Text made of trusted and untrusted parts.

use std::ops::Range;

use super::special::SpecialMatcher;

/// A text in which untrusted parts cannot become control tokens.
///
/// Trusted parts are markup from a chat template or from this program; untrusted parts are what people and tools wrote.
/// The text is one string, so that ordinary tokens form across the parts exactly as in the published models. A control
/// token is only recognised where all of it is trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptText {
    text: String,
    /// Trusted bytes of `text`: ascending, apart.
    trusted: Vec<Range<usize>>,
}

impl PromptText {
    /// An empty text.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Appends markup whose control tokens are to be recognised.
    pub fn push_trusted(&mut self, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        match self.trusted.last_mut() {
            Some(last) if last.end == start => last.end = self.text.len(),
            _ => self.trusted.push(start..self.text.len()),
        }
    }

    /// Appends text of others, in which no control token is to be recognised.
    pub fn push_untrusted(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Takes a text in which `mark` stands in front of every control token that is to be recognised, and nowhere else.
    pub(crate) fn from_marked(text: &str, mark: char, control: &SpecialMatcher) -> Self {
        let mut parts = text.split(mark);
        let mut prompt = Self { text: parts.next().unwrap_or_default().to_owned(), trusted: Vec::new() };
        for part in parts {
            let longest = control.at_start(part.as_bytes()).last().map_or(0, |(length, _)| length);
            let (token, rest) = part.split_at_checked(longest).unwrap_or(("", part));
            prompt.push_trusted(token);
            prompt.push_untrusted(rest);
        }
        prompt
    }

    /// Whether a control token may stand at these bytes.
    pub(super) fn allows(&self, start: usize, end: usize) -> bool {
        let after = self.trusted.partition_point(|range| range.start <= start);
        let range = after.checked_sub(1).and_then(|place| self.trusted.get(place));
        range.is_some_and(|range| end <= range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(texts: &[&str]) -> SpecialMatcher {
        SpecialMatcher::new(texts.iter().enumerate().map(|(id, text)| (text.as_bytes().into(), id as u32)))
    }

    #[test]
    fn control_tokens_are_wholly_trusted() {
        let mut prompt = PromptText::new();
        assert!(!prompt.allows(0, 1));
        prompt.push_untrusted("<|im_");
        prompt.push_untrusted("end|>");
        assert!(!prompt.allows(0, 10));
        prompt.push_trusted("<|im_end|>");
        assert!(prompt.allows(10, 20));
        prompt.push_untrusted("\u{1}");
        assert!(!prompt.allows(20, 21) && !prompt.allows(19, 21));
        prompt.push_trusted("<|im_");
        assert!(!prompt.allows(20, 26));
        prompt.push_untrusted("end|>");
        assert!(!prompt.allows(21, 31));
        prompt.push_trusted("<|im_");
        prompt.push_trusted("end|>");
        assert!(prompt.allows(31, 41));
    }

    #[test]
    fn marks_trust_the_longest_token_behind_them() {
        let control = matcher(&["<a>", "<a><b>"]);
        let prompt = PromptText::from_marked("<a>#<a>x#<a><b><a>#no", '#', &control);
        assert_eq!(prompt.as_str(), "<a><a>x<a><b><a>no");
        assert!(!prompt.allows(0, 3) && prompt.allows(3, 6) && prompt.allows(7, 13));
        assert!(!prompt.allows(13, 16) && !prompt.allows(16, 18));
    }
}
