//! Prepares the source of a chat template: marks the control tokens that the template itself writes, and turns tags that
//! have no effect here into ones that the template engine knows.

use crate::tokenizer::SpecialMatcher;

/// The source with `mark` in front of every control token in its text and string literals.
///
/// A template may also build such tokens around a role, as in `'<|' + message['role'] + '|>'`; then the mark stands in front
/// of the beginning. `{% generation %}`, with which training masks are made, becomes a condition that always holds.
pub(super) fn prepare(source: &str, mark: char, control: &SpecialMatcher) -> String {
    let mut rewriter =
        Rewriter { source, place: 0, out: String::with_capacity(source.len() + 64), mark, control };
    rewriter.run();
    rewriter.out
}

struct Rewriter<'s> {
    source: &'s str,
    /// Bytes of `source` that have been dealt with.
    place: usize,
    out: String,
    mark: char,
    control: &'s SpecialMatcher,
}

impl<'s> Rewriter<'s> {
    fn rest(&self) -> &'s str {
        self.source.get(self.place..).unwrap_or_default()
    }

    /// Copies the next `length` bytes and returns them.
    fn copy(&mut self, length: usize) -> &'s str {
        let text = self.rest().get(..length).unwrap_or_else(|| self.rest());
        self.out.push_str(text);
        self.place += text.len();
        text
    }

    fn run(&mut self) {
        while !self.rest().is_empty() {
            self.text(next_opening(self.rest()));
            let rest = self.rest();
            if rest.starts_with("{#") {
                self.copy(rest.find("#}").map_or(rest.len(), |end| end + 2));
            } else if rest.starts_with("{{") {
                self.copy(2);
                self.expression("}}");
            } else if rest.starts_with("{%") {
                self.tag();
            }
        }
    }

    /// Text outside of tags, up to `length` bytes from here.
    fn text(&mut self, length: usize) {
        let rest = self.rest();
        let text = rest.get(..length).unwrap_or(rest);
        let follows = rest.get(length..).unwrap_or_default();
        let built = follows
            .strip_prefix("{{")
            .is_some_and(|expression| is_role(expression.trim_start_matches(['-', '+'])));
        let offsets = |place: usize| place;
        self.marked(text, text, offsets, built);
        self.place += text.len();
    }

    fn tag(&mut self) {
        let rest = self.rest();
        let inside = rest.get(2..).unwrap_or_default();
        let word = inside.trim_start_matches(['-', '+']).trim_start();
        let word = word.get(..word.find(|at: char| !at.is_ascii_alphabetic()).unwrap_or(word.len()));
        let replacement = match word.unwrap_or_default() {
            "generation" => " if true ",
            "endgeneration" => " endif ",
            "raw" => return self.raw(),
            _ => {
                self.copy(2);
                return self.expression("%}");
            }
        };
        let end = rest.find("%}").unwrap_or(rest.len());
        let tag = rest.get(2..end).unwrap_or_default();
        let sign = |at: Option<char>| at.filter(|at| matches!(at, '-' | '+'));
        self.out.push_str("{%");
        self.out.extend(sign(tag.chars().next()));
        self.out.push_str(replacement);
        self.out.extend(sign(tag.chars().next_back()));
        self.place += end;
        self.copy(2);
    }

    /// A `raw` block up to its closing tag, in which nothing else is a tag.
    fn raw(&mut self) {
        self.copy(2);
        self.expression("%}");
        let rest = self.rest();
        let closing = rest.match_indices("{%").find(|(place, _)| {
            let inside = rest.get(place + 2..).unwrap_or_default();
            inside.trim_start_matches(['-', '+']).trim_start().starts_with("endraw")
        });
        let length = closing.map_or(rest.len(), |(place, _)| place);
        let text = rest.get(..length).unwrap_or(rest);
        self.marked(text, text, |place| place, false);
        self.place += text.len();
        if !self.rest().is_empty() {
            self.copy(2);
            self.expression("%}");
        }
    }

    /// What stands inside a tag, and its end.
    fn expression(&mut self, end: &str) {
        let mut depth = 0_usize;
        while let Some(character) = self.rest().chars().next() {
            match character {
                '\'' | '"' => {
                    self.literal(character);
                    continue;
                }
                '{' => depth += 1,
                _ if depth == 0 && self.rest().starts_with(end) => {
                    self.copy(end.len());
                    return;
                }
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.copy(character.len_utf8());
        }
    }

    /// A string literal with its quotes.
    fn literal(&mut self, quote: char) {
        self.copy(1);
        let rest = self.rest();
        // Tokens are looked for in what the literal stands for; `places` says where each byte of that comes from.
        let (mut value, mut places) = (String::new(), Vec::new());
        let mut characters = rest.char_indices().peekable();
        let mut length = rest.len();
        while let Some((place, character)) = characters.next() {
            if character == quote {
                length = place;
                break;
            }
            let escaped = character == '\\';
            let next = characters.next_if(|(_, next)| escaped && matches!(next, '\'' | '"' | '\\'));
            let stands_for = next.map_or(character, |(_, next)| next);
            value.push(stands_for);
            places.resize(value.len(), place);
        }
        let text = rest.get(..length).unwrap_or(rest);
        let behind = rest.get(length + 1..).unwrap_or_default().trim_start();
        let built = behind.strip_prefix(['+', '~']).is_some_and(is_role);
        self.marked(text, &value, |place| places.get(place).copied().unwrap_or(length), built);
        self.place += text.len();
        self.copy(1);
    }

    /// Writes `text`, which stands for `value`, with its marks; `offset` leads from a byte of `value` to one of `text`.
    /// `built` says that a role follows.
    fn marked(&mut self, text: &str, value: &str, offset: impl Fn(usize) -> usize, built: bool) {
        let mut written = 0;
        let mut skip = 0;
        let value = value.trim_end();
        for (place, character) in value.char_indices() {
            let rest = value.get(place..).unwrap_or_default();
            if place < skip || character.is_whitespace() {
                continue;
            }
            let whole = self.control.at_start(rest.as_bytes()).last().map(|(length, _)| length);
            let begun = built
                && rest.len() > character.len_utf8()
                && self.control.agreement(rest.as_bytes()) == rest.len();
            if whole.is_none() && !begun {
                continue;
            }
            let at = offset(place);
            self.out.push_str(text.get(written..at).unwrap_or_default());
            self.out.push(self.mark);
            written = at;
            skip = place + whole.unwrap_or(rest.len());
        }
        self.out.push_str(text.get(written..).unwrap_or_default());
    }
}

/// Where the next tag, expression or comment opens.
fn next_opening(text: &str) -> usize {
    let opens = |(place, _): &(usize, _)| {
        text.as_bytes().get(place + 1).is_some_and(|next| matches!(next, b'{' | b'%' | b'#'))
    };
    text.match_indices('{').find(opens).map_or(text.len(), |(place, _)| place)
}

/// Whether the first operand of an expression is a message's role.
fn is_role(expression: &str) -> bool {
    let end = expression.find(['+', '~', '|', '%', '}']).unwrap_or(expression.len());
    let operand = expression.get(..end).unwrap_or_default();
    operand.contains("role") && !operand.contains("content")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(source: &str) -> String {
        let texts = ["<|im_end|>", "<s>", "<|\"|>", "<|user|>", "[X]"];
        let texts = texts.iter().enumerate().map(|(id, text)| (text.as_bytes().into(), id as u32));
        prepare(source, '#', &SpecialMatcher::new(texts))
    }

    #[test]
    fn tokens_in_text_and_literals_are_marked_and_code_is_not() {
        assert_eq!(prepared("<s>a{{ '<|im_end|>' ~ x[X] }}"), "#<s>a{{ '#<|im_end|>' ~ x[X] }}");
        assert_eq!(prepared(r#"{{ "a<|\"|>b" }}{# <s> #}"#), r#"{{ "a#<|\"|>b" }}{# <s> #}"#);
        assert_eq!(prepared(r"{% set a = '\n\'<s>' %}"), r"{% set a = '\n\'#<s>' %}");
        assert_eq!(prepared("{{ {'a': {'b': '<s>'}} }}<s>"), "{{ {'a': {'b': '#<s>'}} }}#<s>");
        assert_eq!(prepared("{% raw %}{{ <s>' {% endraw %}'<s>"), "{% raw %}{{ #<s>' {% endraw %}'#<s>");
        assert_eq!(prepared("{{ 'open"), "{{ 'open");
    }

    #[test]
    fn beginnings_are_marked_in_front_of_a_role_only() {
        assert_eq!(prepared("{{ '\\n<|' + m['role'] + '|>' }}"), "{{ '\\n#<|' + m['role'] + '|>' }}");
        assert_eq!(prepared("<|{{- m.role }}|>"), "#<|{{- m.role }}|>");
        assert_eq!(prepared("{{ '<|' + m.content + '|>' }}"), "{{ '<|' + m.content + '|>' }}");
        assert_eq!(prepared("{{ '<' + role + '>' }}"), "{{ '<' + role + '>' }}");
    }

    #[test]
    fn generation_tags_become_conditions() {
        assert_eq!(
            prepared("{%- generation %}{{ 1 }}{% endgeneration -%}"),
            "{%- if true %}{{ 1 }}{% endif -%}"
        );
    }
}
