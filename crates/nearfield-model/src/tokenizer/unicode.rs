//! Unicode classes of characters, as the pre-tokenizers' patterns use them.

use std::sync::OnceLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// A set of Unicode classes a character belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Classes(u8);

impl Classes {
    /// `\p{L}`
    pub(super) const LETTER: Self = Self(1);
    /// `\p{N}`
    pub(super) const NUMBER: Self = Self(2);
    /// `\p{M}`
    pub(super) const MARK: Self = Self(4);
    /// `\s` (White_Space)
    pub(super) const SPACE: Self = Self(8);
    /// `\p{P}`
    pub(super) const PUNCTUATION: Self = Self(16);

    /// Whether the two sets share a class.
    pub(super) const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The class table: direct for the basic multilingual plane, sorted ranges above it.
#[derive(Debug)]
pub(super) struct ClassTable {
    basic: Vec<u8>,
    above: Vec<(u32, u32, u8)>,
}

impl ClassTable {
    /// The process-wide table.
    pub(super) fn get() -> &'static Self {
        static TABLE: OnceLock<ClassTable> = OnceLock::new();
        TABLE.get_or_init(Self::build)
    }

    fn build() -> Self {
        let mut table = Self { basic: vec![0; 0x1_0000], above: Vec::new() };
        let classes = [
            (r"\p{L}", Classes::LETTER),
            (r"\p{N}", Classes::NUMBER),
            (r"\p{M}", Classes::MARK),
            (r"\s", Classes::SPACE),
            (r"\p{P}", Classes::PUNCTUATION),
        ];
        for (pattern, class) in classes {
            // The patterns are constants above and always parse into a class; a test below checks each class.
            let Ok(parsed) = regex_syntax::parse(pattern) else { continue };
            let HirKind::Class(HirClass::Unicode(ranges)) = parsed.kind() else { continue };
            for range in ranges.ranges() {
                table.add(u32::from(range.start()), u32::from(range.end()), class.0);
            }
        }
        table.above.sort_unstable();
        table
    }

    fn add(&mut self, start: u32, end: u32, class: u8) {
        let length = self.basic.len() as u32;
        if let Some(part) = self.basic.get_mut(start as usize..=end.min(length - 1) as usize) {
            for classes in part {
                *classes |= class;
            }
        }
        if end >= length {
            self.above.push((start.max(length), end, class));
        }
    }

    /// Classes of a character.
    pub(super) fn of(&self, character: char) -> Classes {
        let code = u32::from(character);
        if let Some(&classes) = self.basic.get(code as usize) {
            return Classes(classes);
        }
        // The five classes are disjoint, so at most one range holds the character.
        let place = self.above.partition_point(|&(start, _, _)| start <= code);
        match place.checked_sub(1).and_then(|before| self.above.get(before)) {
            Some(&(_, end, class)) if code <= end => Classes(class),
            _ => Classes(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_known_characters() {
        let table = ClassTable::get();
        for (characters, class) in [
            ("aZéßЖ日가ªʰ\u{10400}\u{20000}", Classes::LETTER),
            ("09²½٣Ⅳ\u{1D7CE}", Classes::NUMBER),
            ("\u{301}\u{94D}\u{20E3}\u{FE0F}\u{E0100}", Classes::MARK),
            (" \t\n\r\u{B}\u{C}\u{85}\u{A0}\u{2028}\u{3000}", Classes::SPACE),
            ("!\"#%'()*,-./:;?@[\\]_{}¿、。", Classes::PUNCTUATION),
            ("$+<=>^`|~€™🙂\0\u{200B}\u{FFFD}\u{E000}", Classes(0)),
        ] {
            for character in characters.chars() {
                assert_eq!(table.of(character), class, "{character:?}");
            }
        }
    }

    #[test]
    fn table_agrees_with_the_standard_library() {
        let table = ClassTable::get();
        // A compiler may know a newer version of Unicode than the table, with some more digits in scripts added since.
        let mut newer = 0;
        for code in 0..=0x10_FFFF {
            let Some(character) = char::from_u32(code) else { continue };
            let classes = table.of(character);
            assert_eq!(classes.any(Classes::SPACE), character.is_whitespace(), "{code:#x}");
            if classes.any(Classes::NUMBER) != character.is_numeric() {
                assert!(classes == Classes(0) && code > 0xFFFF, "{code:#x}");
                newer += 1;
            }
            if classes.any(Classes::LETTER) {
                assert!(character.is_alphabetic(), "{code:#x}");
            }
        }
        assert!(newer < 100, "{newer} characters");
    }
}
