//! Groups of digits with small separators between them, and what such a phrase can be.

/// How many groups of one phrase are looked at: enough for a card number in fours and a telephone number in pairs.
const GROUPS: usize = 8;

/// A phrase of digit groups, such as `+46 (0)8 928 571 38`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    /// First byte of the first group.
    pub(crate) start: usize,
    groups: [(usize, usize); GROUPS],
    count: usize,
}

impl Number {
    /// The phrase whose first group begins at `start`.
    pub(crate) fn at(text: &[u8], start: usize) -> Self {
        let mut number = Self { start, groups: [(start, start); GROUPS], count: 0 };
        let mut at = start;
        while number.count < GROUPS {
            let end = at + text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            // A group that runs into letters is part of another token.
            if text.get(end).is_some_and(|byte| byte.is_ascii_alphabetic() || *byte >= 0x80 || *byte == b'_')
                && !is_extension(text, end)
            {
                if number.count == 0 {
                    number.groups[0] = (at, end);
                    number.count = 1;
                }
                break;
            }
            number.groups[number.count] = (at, end);
            number.count += 1;
            let gap = text[end..]
                .iter()
                .take(4)
                .take_while(|byte| matches!(byte, b' ' | b'-' | b'.' | b'/' | b'(' | b')'))
                .count();
            at = end + gap;
            if gap == 0 || gap > 3 || !text.get(at).is_some_and(u8::is_ascii_digit) {
                break;
            }
        }
        number
    }

    /// How many groups there are.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The length of a group; 0 when there is none.
    pub(crate) fn len(&self, group: usize) -> usize {
        if group < self.count { self.groups[group].1 - self.groups[group].0 } else { 0 }
    }

    /// One past the last byte of a group.
    pub(crate) fn end(&self, group: usize) -> usize {
        self.groups[group.min(self.count.saturating_sub(1))].1
    }

    /// What stands between a group and the next.
    pub(crate) fn gap<'a>(&self, text: &'a [u8], group: usize) -> &'a [u8] {
        if group + 1 < self.count { &text[self.groups[group].1..self.groups[group + 1].0] } else { b"" }
    }

    /// Whether the first groups have these lengths, with one and the same separator of one byte between them, one of
    /// `separators`.
    pub(crate) fn has_form(&self, text: &[u8], lengths: &[usize], separators: &[u8]) -> bool {
        if self.count < lengths.len() || lengths.iter().enumerate().any(|(at, &len)| self.len(at) != len) {
            return false;
        }
        let first = self.gap(text, 0);
        (0..lengths.len() - 1)
            .all(|at| self.gap(text, at) == first && first.len() == 1 && separators.contains(&first[0]))
    }

    /// The digits of the first `groups` groups, when there are at most twenty.
    pub(crate) fn digits(&self, text: &[u8], groups: usize) -> Option<([u8; 20], usize)> {
        crate::checks::digits(&text[self.start..self.end(groups.checked_sub(1)?)])
    }

    /// Digits in the first `groups` groups.
    pub(crate) fn total(&self, groups: usize) -> usize {
        (0..groups.min(self.count)).map(|group| self.len(group)).sum()
    }
}

/// Whether `x123` or `ext` follows: a telephone extension.
fn is_extension(text: &[u8], at: usize) -> bool {
    extension(text, at).is_some()
}

/// The end of a telephone extension that begins at `at`.
pub(crate) fn extension(text: &[u8], at: usize) -> Option<usize> {
    let mut from = at + text[at..].iter().take(1).take_while(|&&byte| byte == b' ').count();
    let word = [b"extension".as_slice(), b"ext.", b"ext", b"x"].into_iter().find(|word| {
        text.get(from..from + word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word))
    })?;
    from += word.len();
    from += text[from..].iter().take(1).take_while(|&&byte| byte == b' ').count();
    let len = text[from..].iter().take(7).take_while(|byte| byte.is_ascii_digit()).count();
    let ends = text.get(from + len).is_none_or(|byte| !byte.is_ascii_alphanumeric());
    ((1..=6).contains(&len) && ends).then_some(from + len)
}
