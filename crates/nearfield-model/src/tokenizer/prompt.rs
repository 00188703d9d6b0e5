//! Text made of trusted and untrusted parts.

use super::special::SpecialMatcher;

/// A text in which untrusted parts cannot become control tokens.
///
/// Trusted parts are markup from a chat template or from this program; untrusted parts are what people and tools wrote.
/// The text is one string, so that ordinary tokens form across the parts exactly as in the published models. What keeps
/// untrusted text harmless are *seams*: places that no control token may lie across. Untrusted text has a seam behind the
/// first character of everything in it that begins like a control token, and one inside anything at its start that could
/// end a control token; whitespace at its ends, which templates trim, makes no difference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptText {
    text: String,
    /// Byte offsets into `text`, ascending.
    seams: Vec<usize>,
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
        self.text.push_str(text);
    }

    /// Appends text of others, in which no control token of `guard` is to be recognised.
    pub fn push_untrusted(&mut self, text: &str, guard: &ControlGuard<'_>) {
        let start = self.text.len();
        self.seams.extend(guard.seams(text).into_iter().map(|place| start + place));
        self.text.push_str(text);
    }

    /// Takes a text in which every seam is marked by `mark`, which stands nowhere else.
    pub(crate) fn from_marked(text: &str, mark: char) -> Self {
        let mut parts = text.split(mark);
        let mut prompt = Self { text: parts.next().unwrap_or_default().to_owned(), seams: Vec::new() };
        for part in parts {
            prompt.seams.push(prompt.text.len());
            prompt.text.push_str(part);
        }
        prompt
    }

    /// Whether a control token may stand at these bytes.
    pub(super) fn allows(&self, start: usize, end: usize) -> bool {
        let first = self.seams.partition_point(|&seam| seam < start);
        let within =
            self.seams.get(first..).unwrap_or_default().iter().copied().take_while(|&seam| seam <= end);
        let one_character = self.text.get(start..end).is_some_and(|text| text.chars().nth(1).is_none());
        let (mut at_start, mut at_end, mut inside) = (false, false, false);
        for seam in within {
            at_start |= seam == start;
            at_end |= seam == end;
            inside |= seam > start && seam < end;
        }
        !(inside || one_character && at_start && at_end)
    }
}

/// Knows the texts of a vocabulary's control tokens and where untrusted text has to be guarded against them.
#[derive(Debug, Clone, Copy)]
pub struct ControlGuard<'t> {
    control: Option<&'t SpecialMatcher>,
}

impl<'t> ControlGuard<'t> {
    pub(super) fn new(control: &'t SpecialMatcher) -> Self {
        Self { control: Some(control) }
    }

    /// A guard without control tokens, for text that is only shown.
    pub fn none() -> ControlGuard<'static> {
        ControlGuard { control: None }
    }

    /// Byte offsets of the seams that `text` needs, ascending.
    pub(crate) fn seams(self, text: &str) -> Vec<usize> {
        let Some(control) = self.control else { return Vec::new() };
        let bytes = text.as_bytes();
        let mut seams = Vec::new();
        let trimmed = text.trim_end().len();
        for (place, character) in text.char_indices() {
            let after = place + character.len_utf8();
            let rest = bytes.get(place..).unwrap_or_default();
            let agreement = control.agreement(rest);
            if agreement > character.len_utf8() || agreement > 0 && after >= trimmed {
                seams.push(after);
            }
            if control.at_start(rest).any(|(length, _)| length == character.len_utf8()) {
                seams.extend([place, after]);
            }
        }
        let start = text.len() - text.trim_start().len();
        if let Some(place) =
            control.texts().filter_map(|token| seam_of_ending(token, text.trim_start())).min()
        {
            seams.push(start + place);
        }
        seams.sort_unstable();
        seams.dedup();
        seams
    }

    /// `text` with `mark` at every seam.
    pub(crate) fn marked(self, text: &str, mark: char) -> Option<String> {
        let seams = self.seams(text);
        if seams.is_empty() {
            return None;
        }
        let mut marked = String::with_capacity(text.len() + seams.len() * mark.len_utf8());
        let mut last = 0;
        for seam in seams {
            marked.push_str(text.get(last..seam).unwrap_or_default());
            marked.push(mark);
            last = seam;
        }
        marked.push_str(text.get(last..).unwrap_or_default());
        Some(marked)
    }
}

/// Where `text` needs a seam because it starts with the ending of a token that may have begun before it: in front of the
/// last character of that ending.
fn seam_of_ending(token: &[u8], text: &str) -> Option<usize> {
    let token = std::str::from_utf8(token).ok()?;
    token
        .char_indices()
        .skip(1)
        .map(|(place, _)| token.get(place..).unwrap_or_default())
        .filter(|ending| text.starts_with(ending))
        .filter_map(|ending| ending.char_indices().next_back().map(|(last, _)| last))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(texts: &[&str]) -> SpecialMatcher {
        SpecialMatcher::new(texts.iter().enumerate().map(|(id, text)| (text.as_bytes().into(), id as u32)))
    }

    #[test]
    fn look_alikes_get_a_seam_and_ordinary_text_none() {
        let control = matcher(&["<|im_end|>", "<eos>"]);
        let guard = ControlGuard::new(&control);
        assert_eq!(guard.seams("a <|im_end|> b <e"), [3, 16]);
        assert_eq!(guard.seams("a < b and <h1> ok"), Vec::<usize>::new());
        assert_eq!(guard.seams("ends with < \n"), [11]);
        assert_eq!(guard.seams(" |> starts"), [2]);
        assert_eq!(guard.marked("x<eos>", '#'), Some("x<#eos>".to_owned()));
        assert_eq!(guard.marked("plain", '#'), None);
    }

    #[test]
    fn no_control_token_crosses_a_seam() {
        let control = matcher(&["<|im_end|>", "\u{1}"]);
        let guard = ControlGuard::new(&control);
        let mut prompt = PromptText::new();
        prompt.push_untrusted("<|im_", &guard);
        prompt.push_untrusted("end|>", &guard);
        assert!(!prompt.allows(0, 10));
        prompt.push_trusted("<|im_end|>");
        assert!(prompt.allows(10, 20));
        prompt.push_untrusted("\u{1}", &guard);
        assert!(!prompt.allows(20, 21));
        prompt.push_trusted("\u{1}");
        assert!(prompt.allows(21, 22));
        assert_eq!(prompt.as_str(), "<|im_end|><|im_end|>\u{1}\u{1}");
        assert_eq!(
            PromptText::from_marked("a#b#", '#'),
            PromptText { text: "ab".to_owned(), seams: vec![1, 2] }
        );
    }
}
