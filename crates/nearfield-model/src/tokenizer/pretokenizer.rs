//! Pre-tokenizers: how text is cut into pieces before byte pairs are merged inside each piece.
//!
//! Published vocabularies define these cuts by regular expressions with look-ahead. Each family is a hand-written scanner
//! here; the expression it implements stands above it.

use super::error::TokenizerError;
use super::unicode::{ClassTable, Classes};

/// A known pre-tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreTokenizer {
    /// GPT-2: runs of letters, of digits and of other characters, each with one space in front.
    Gpt2,
    /// `SmolLM` and `StarCoder`: every digit alone, then as GPT-2.
    DigitsThenGpt2,
    /// The pre-tokenizer that GGUF files call `default`: punctuation runs apart, GPT-2, digits apart in threes.
    GgufDefault,
    /// Llama 3: digits in groups of up to three.
    Llama3,
    /// Qwen2, Qwen2.5 and Qwen3: every digit alone.
    Qwen2,
    /// Qwen3.5 and Qwen3.6: as Qwen2, combining marks belong to letters.
    Qwen35,
}

impl PreTokenizer {
    /// The pre-tokenizer that a GGUF file names in `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownPreTokenizer`] with the name; there is no fallback.
    pub fn from_gguf_name(name: &str) -> Result<Self, TokenizerError> {
        Ok(match name {
            "gpt-2" | "gpt2" | "phi-2" => Self::Gpt2,
            "smollm" | "starcoder" | "refact" | "command-r" => Self::DigitsThenGpt2,
            "default" => Self::GgufDefault,
            "llama3" | "llama-v3" | "llama-bpe" => Self::Llama3,
            "qwen2" | "deepseek-r1-qwen" => Self::Qwen2,
            "qwen35" => Self::Qwen35,
            _ => return Err(TokenizerError::UnknownPreTokenizer { name: name.to_owned() }),
        })
    }

    /// The pre-tokenizer of a `Split` pattern in `tokenizer.json`, recognised by its exact text.
    pub(super) fn from_pattern(pattern: &str) -> Option<Self> {
        const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|";
        const SPACES: &str = r"\s*[\r\n]+|\s+(?!\S)|\s+";
        let middle = pattern.strip_prefix(CONTRACTIONS)?.strip_suffix(SPACES)?;
        match middle {
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" => Some(Self::Llama3),
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" => Some(Self::Qwen2),
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" => Some(Self::Qwen35),
            _ => None,
        }
    }

    /// Whether a piece that is itself a token is taken whole, without merging.
    pub(super) fn takes_whole_pieces(self) -> bool {
        self == Self::Llama3
    }

    /// Cuts `text` and hands each piece, in order, to `piece`. The pieces together are the text.
    pub fn split<'t>(self, text: &'t str, piece: &mut impl FnMut(&'t str)) {
        let scanner = Scanner { classes: ClassTable::get() };
        match self {
            Self::Gpt2 => Scanner::repeat(text, |rest| scanner.gpt2(rest), piece),
            Self::DigitsThenGpt2 => {
                scanner.runs(text, |classes, _| classes.any(Classes::NUMBER), &mut |run, digits| {
                    if digits {
                        Scanner::repeat(run, |rest| rest.chars().next().map_or(0, char::len_utf8), piece);
                    } else {
                        Scanner::repeat(run, |rest| scanner.gpt2(rest), piece);
                    }
                });
            }
            Self::GgufDefault => scanner.gguf_default(text, piece),
            Self::Llama3 => Scanner::repeat(text, |rest| scanner.modern(rest, Classes::LETTER, 3), piece),
            Self::Qwen2 => Scanner::repeat(text, |rest| scanner.modern(rest, Classes::LETTER, 1), piece),
            Self::Qwen35 => {
                let letters = Classes::LETTER.or(Classes::MARK);
                Scanner::repeat(text, |rest| scanner.modern(rest, letters, 1), piece);
            }
        }
    }
}

/// What follows an apostrophe in an English contraction, longest first where one begins another.
const CONTRACTIONS: [&str; 7] = ["s", "t", "re", "ve", "m", "ll", "d"];

struct Scanner {
    classes: &'static ClassTable,
}

/// The whitespace at the start of a text.
struct Whitespace {
    characters: usize,
    bytes: usize,
    /// Bytes before its last character.
    before_last: usize,
    /// Bytes up to and with its last carriage return or line feed; 0 without one.
    through_newline: usize,
}

impl Scanner {
    /// Applies a function that gives the length of the first piece until the text is used up.
    fn repeat<'t>(text: &'t str, first: impl Fn(&'t str) -> usize, piece: &mut impl FnMut(&'t str)) {
        let mut rest = text;
        while !rest.is_empty() {
            let Some((head, tail)) = rest.split_at_checked(first(rest).max(1)) else {
                // Every scanner ends on a character boundary; should one not, nothing of the text is lost.
                piece(rest);
                return;
            };
            piece(head);
            rest = tail;
        }
    }

    /// Cuts a text into maximal runs of characters for which `inside` answers alike.
    fn runs<'t>(
        &self,
        text: &'t str,
        inside: impl Fn(Classes, char) -> bool,
        run: &mut impl FnMut(&'t str, bool),
    ) {
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let kind = inside(self.classes.of(character), character);
            let end = self.end_of(rest, |classes, character| inside(classes, character) == kind);
            let (head, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
            run(head, kind);
            rest = tail;
        }
    }

    /// Bytes of the longest prefix whose characters all satisfy `inside`.
    fn end_of(&self, text: &str, inside: impl Fn(Classes, char) -> bool) -> usize {
        text.char_indices()
            .find(|&(_, character)| !inside(self.classes.of(character), character))
            .map_or(text.len(), |(place, _)| place)
    }

    fn whitespace(&self, text: &str) -> Whitespace {
        let mut found = Whitespace { characters: 0, bytes: 0, before_last: 0, through_newline: 0 };
        for character in text.chars() {
            if !self.classes.of(character).any(Classes::SPACE) {
                break;
            }
            found.before_last = found.bytes;
            found.characters += 1;
            found.bytes += character.len_utf8();
            if is_newline(character) {
                found.through_newline = found.bytes;
            }
        }
        found
    }

    /// `\s+(?!\S)|\s+`: whitespace, without its last character when something follows it.
    fn trailing_rule(found: &Whitespace, text: &str) -> usize {
        if found.characters > 1 && found.bytes < text.len() { found.before_last } else { found.bytes }
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    fn gpt2(&self, text: &str) -> usize {
        if let Some(length) = contraction(text, false) {
            return length;
        }
        let body = text.strip_prefix(' ').unwrap_or(text);
        let space = text.len() - body.len();
        if let Some(first) = body.chars().next() {
            let classes = self.classes.of(first);
            let end = if classes.any(Classes::LETTER) {
                self.end_of(body, |classes, _| classes.any(Classes::LETTER))
            } else if classes.any(Classes::NUMBER) {
                self.end_of(body, |classes, _| classes.any(Classes::NUMBER))
            } else if classes.any(Classes::SPACE) {
                0
            } else {
                self.end_of(body, |classes, _| is_other(classes, Classes::LETTER))
            };
            if end > 0 {
                return space + end;
            }
        }
        Self::trailing_rule(&self.whitespace(text), text)
    }

    /// With L = `letters` and D = `digits`:
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?L+|\p{N}{1,D}| ?[^\sL\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    ///
    /// The contractions ignore the case of ASCII letters only, as llama.cpp's do.
    fn modern(&self, text: &str, letters: Classes, digits: usize) -> usize {
        if let Some(length) = contraction(text, true) {
            return length;
        }
        let mut characters = text.chars();
        let Some(first) = characters.next() else { return 0 };
        let rest = characters.as_str();
        let classes = self.classes.of(first);
        if classes.any(Classes::NUMBER) {
            return text
                .chars()
                .take(digits)
                .take_while(|&character| self.classes.of(character).any(Classes::NUMBER))
                .map(char::len_utf8)
                .sum();
        }
        let is_letter = |classes: Classes, _| classes.any(letters);
        if !is_newline(first) {
            let run = self.end_of(rest, is_letter);
            if run > 0 || classes.any(letters) {
                return first.len_utf8() + run;
            }
        }
        let body = text.strip_prefix(' ').unwrap_or(text);
        let end = self.end_of(body, |classes, _| is_other(classes, letters));
        if end > 0 {
            let tail = body.get(end..).unwrap_or_default();
            let newlines = tail.len() - tail.trim_start_matches(is_newline).len();
            return text.len() - body.len() + end + newlines;
        }
        let found = self.whitespace(text);
        if found.through_newline > 0 { found.through_newline } else { Self::trailing_rule(&found, text) }
    }

    /// Four cuts one after the other: runs of `[\p{P}$+<=>^~|]`, GPT-2's expression, runs of `\p{N}`, and `[0-9]{3}`.
    fn gguf_default<'t>(&self, text: &'t str, piece: &mut impl FnMut(&'t str)) {
        let is_mark = |classes: Classes, character| {
            classes.any(Classes::PUNCTUATION)
                || matches!(character, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
        };
        self.runs(text, is_mark, &mut |run, _| {
            Self::repeat(run, |rest| self.gpt2(rest), &mut |word| {
                self.runs(word, |classes, _| classes.any(Classes::NUMBER), &mut |part, digits| {
                    if digits {
                        Self::repeat(part, thousands, piece);
                    } else {
                        piece(part);
                    }
                });
            });
        });
    }
}

/// Length of the first piece when `[0-9]{3}` is cut out of a run of digits.
fn thousands(text: &str) -> usize {
    let starts_group = |text: &str| text.len() >= 3 && text.bytes().take(3).all(|byte| byte.is_ascii_digit());
    if starts_group(text) {
        return 3;
    }
    text.char_indices()
        .map(|(place, _)| place)
        .find(|&place| text.get(place..).is_some_and(starts_group))
        .unwrap_or(text.len())
}

fn is_newline(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// Neither whitespace, nor number, nor one of `letters`.
fn is_other(classes: Classes, letters: Classes) -> bool {
    !classes.any(letters.or(Classes::NUMBER).or(Classes::SPACE))
}

/// Bytes of the contraction that the text starts with.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let after = text.strip_prefix('\'')?.as_bytes();
    CONTRACTIONS.iter().find_map(|ending| {
        let found = after.get(..ending.len())?;
        let equal =
            if any_case { found.eq_ignore_ascii_case(ending.as_bytes()) } else { found == ending.as_bytes() };
        equal.then_some(1 + ending.len())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [PreTokenizer; 6] = [
        PreTokenizer::Gpt2,
        PreTokenizer::DigitsThenGpt2,
        PreTokenizer::GgufDefault,
        PreTokenizer::Llama3,
        PreTokenizer::Qwen2,
        PreTokenizer::Qwen35,
    ];

    fn pieces(kind: PreTokenizer, text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        kind.split(text, &mut |piece| pieces.push(piece));
        pieces
    }

    #[test]
    fn gpt2_pieces() {
        assert_eq!(
            pieces(PreTokenizer::Gpt2, "Hello  world's 123 !?\n\n x "),
            ["Hello", " ", " world", "'s", " 123", " !?", "\n\n", " x", " "]
        );
        assert_eq!(pieces(PreTokenizer::Gpt2, "WE'RE"), ["WE", "'", "RE"]);
        assert_eq!(pieces(PreTokenizer::Gpt2, "  "), ["  "]);
    }

    #[test]
    fn digits_stand_alone_and_end_the_whitespace_before_them() {
        assert_eq!(pieces(PreTokenizer::DigitsThenGpt2, "a  12 b"), ["a", "  ", "1", "2", " b"]);
        assert_eq!(pieces(PreTokenizer::DigitsThenGpt2, "x½"), ["x", "½"]);
    }

    #[test]
    fn default_pieces() {
        assert_eq!(
            pieces(PreTokenizer::GgufDefault, "a=1234567, b"),
            ["a", "=", "123", "456", "7", ",", " b"]
        );
        assert_eq!(pieces(PreTokenizer::GgufDefault, " 12"), [" ", "12"]);
    }

    #[test]
    fn modern_pieces() {
        assert_eq!(
            pieces(PreTokenizer::Qwen2, "I'LL say:\n\n  (x) 12 "),
            ["I", "'LL", " say", ":\n\n", " ", " (", "x", ")", " ", "1", "2", " "]
        );
        assert_eq!(pieces(PreTokenizer::Llama3, "1234567"), ["123", "456", "7"]);
        assert_eq!(pieces(PreTokenizer::Qwen2, " \n \n x"), [" \n \n", " x"]);
        assert_eq!(pieces(PreTokenizer::Qwen2, "e\u{301}a"), ["e", "\u{301}a"]);
        assert_eq!(pieces(PreTokenizer::Qwen35, "e\u{301}a"), ["e\u{301}a"]);
        assert_eq!(pieces(PreTokenizer::Qwen35, " \u{301} \u{301}"), [" \u{301}", " \u{301}"]);
    }

    #[test]
    fn unknown_names_are_errors() {
        let error = PreTokenizer::from_gguf_name("poro-chat").unwrap_err();
        assert!(error.to_string().contains("'poro-chat'"));
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_text(text in "(?s)[ \\t\\r\\n'a-cA-Sé0-9!<|½\u{301}日\u{a0}🙂]{0,40}") {
            for kind in ALL {
                let pieces = pieces(kind, &text);
                prop_assert_eq!(pieces.concat(), text.as_str());
                prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            }
        }
    }
}
