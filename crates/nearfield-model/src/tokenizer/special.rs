//! Tokens that are cut out of text before anything else: control tokens in trusted text, added tokens in any text.

/// Texts to find, longest first at each place.
#[derive(Debug, Default)]
pub(crate) struct SpecialMatcher {
    /// Sorted by text.
    texts: Vec<(Box<[u8]>, u32)>,
    /// Whether some text starts with the byte.
    starts: Box<[bool]>,
}

impl SpecialMatcher {
    /// A matcher for the given texts. Empty texts never match.
    pub(crate) fn new(texts: impl IntoIterator<Item = (Box<[u8]>, u32)>) -> Self {
        let mut texts: Vec<_> = texts.into_iter().filter(|(text, _)| !text.is_empty()).collect();
        texts.sort_unstable();
        let mut starts = vec![false; 256].into_boxed_slice();
        for (text, _) in &texts {
            if let Some(start) = text.first().and_then(|&byte| starts.get_mut(usize::from(byte))) {
                *start = true;
            }
        }
        Self { texts, starts }
    }

    /// Lengths and ids of all texts that stand at the start of `rest`, shortest first.
    pub(crate) fn at_start<'m>(&'m self, rest: &'m [u8]) -> impl Iterator<Item = (usize, u32)> + 'm {
        let mut range = match rest.first() {
            Some(&byte) if self.may_start(byte) => 0..self.texts.len(),
            _ => 0..0,
        };
        let mut depth = 0;
        std::iter::from_fn(move || {
            while let Some(&byte) = rest.get(depth) {
                let part = self.texts.get(range.clone())?;
                // Texts in the range share the first `depth` bytes; a text that ends there sorts first.
                let low = part.partition_point(|(text, _)| text.get(depth).is_none_or(|&at| at < byte));
                let high = part.partition_point(|(text, _)| text.get(depth).is_none_or(|&at| at <= byte));
                if low == high {
                    return None;
                }
                range = range.start + low..range.start + high;
                depth += 1;
                if let Some((text, id)) = self.texts.get(range.start)
                    && text.len() == depth
                {
                    return Some((depth, *id));
                }
            }
            None
        })
    }

    /// How many bytes at the start of `rest` some text starts with too.
    pub(crate) fn agreement(&self, rest: &[u8]) -> usize {
        if !rest.first().is_some_and(|&byte| self.may_start(byte)) {
            return 0;
        }
        // In sorted order the text that agrees longest is a neighbour of the place where `rest` would stand.
        let place = self.texts.partition_point(|(text, _)| **text < *rest);
        let agreeing = |text: &[u8]| text.iter().zip(rest).take_while(|(left, right)| left == right).count();
        [place.checked_sub(1), Some(place)]
            .into_iter()
            .flatten()
            .filter_map(|place| self.texts.get(place))
            .map(|(text, _)| agreeing(text))
            .max()
            .unwrap_or(0)
    }

    /// Whether some text starts with the byte.
    pub(super) fn may_start(&self, byte: u8) -> bool {
        self.starts.get(usize::from(byte)).copied().unwrap_or(false)
    }
}

/// Whether a token's text is made to steer a model, whatever its type in the file says.
///
/// Some conversions mark such tokens as plain added ones, which would let any text produce them.
pub(super) fn looks_like_control(text: &str) -> bool {
    const KNOWN: [&str; 16] = [
        "</s>",
        "<pad>",
        "<unk>",
        "<bos>",
        "<eos>",
        "<mask>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "[PAD]",
        "[e~[",
        "<start_of_turn>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<turn|>",
    ];
    let wrapped = |open: &str, close: &str| {
        text.len() > open.len() + close.len() && text.starts_with(open) && text.ends_with(close)
    };
    KNOWN.contains(&text) || wrapped("<|", "|>") || wrapped("<｜", "｜>") || wrapped("<unused", ">")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_matches_at_a_place_shortest_first() {
        let texts = ["<a", "<a>", "<a><b>", "b", ""];
        let matcher = SpecialMatcher::new(
            texts.iter().enumerate().map(|(id, text)| (text.as_bytes().into(), id as u32)),
        );
        let at = |text: &str| matcher.at_start(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(at("<a><b>x"), [(2, 0), (3, 1), (6, 2)]);
        assert_eq!(at("<a><"), [(2, 0), (3, 1)]);
        assert_eq!(at("<b"), []);
        assert_eq!(at("b"), [(1, 3)]);
        assert_eq!(at(""), []);
        assert_eq!(matcher.agreement(b"<a><bx"), 5);
        assert_eq!(matcher.agreement(b"<"), 1);
        assert_eq!(matcher.agreement(b"a"), 0);
    }

    #[test]
    fn control_texts_are_recognised() {
        for text in ["<|im_end|>", "<unused12>", "</s>", "<｜end▁of▁sentence｜>"] {
            assert!(looks_like_control(text), "{text}");
        }
        for text in ["<h1>", "<tool_call>", "<||", "<|>", "  ", "\n"] {
            assert!(!looks_like_control(text), "{text}");
        }
    }
}
