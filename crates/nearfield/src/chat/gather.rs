//! Several lines that are one text.

/// Begins and ends a text of several lines.
const QUOTES: &str = "\"\"\"";

/// Lines of a text that is not complete yet.
#[derive(Debug, Default)]
pub(super) struct Gather {
    lines: Vec<String>,
    quoted: bool,
}

impl Gather {
    /// Takes a line; returns the text when it is complete.
    pub(super) fn push(&mut self, line: &str) -> Option<String> {
        let mut line = line;
        if !self.is_open()
            && let Some(rest) = line.strip_prefix(QUOTES)
        {
            self.quoted = true;
            line = rest;
            if line.is_empty() {
                return None;
            }
        }
        if self.quoted {
            let last = line.trim_end().strip_suffix(QUOTES);
            self.lines.push(last.unwrap_or(line).to_owned());
            return last.is_some().then(|| self.take());
        }
        if let Some(start) = line.strip_suffix('\\') {
            self.lines.push(start.to_owned());
            return None;
        }
        self.lines.push(line.to_owned());
        Some(self.take())
    }

    /// Whether a further line belongs to what was begun.
    pub(super) fn is_open(&self) -> bool {
        self.quoted || !self.lines.is_empty()
    }

    /// What there is, complete or not.
    pub(super) fn take(&mut self) -> String {
        self.quoted = false;
        let text = std::mem::take(&mut self.lines).join("\n");
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(lines: &[&str]) -> Vec<Option<String>> {
        let mut gather = Gather::default();
        lines.iter().map(|line| gather.push(line)).collect()
    }

    #[test]
    fn a_line_is_a_text() {
        assert_eq!(gather(&["a", "b"]), [Some("a".into()), Some("b".into())]);
        assert_eq!(gather(&[""]), [Some(String::new())]);
    }

    #[test]
    fn a_backslash_continues() {
        assert_eq!(gather(&["a\\", "b\\", "c"]), [None, None, Some("a\nb\nc".into())]);
    }

    #[test]
    fn quotes_enclose_lines() {
        assert_eq!(gather(&["\"\"\"", "a\\", "", "b", "\"\"\""])[4], Some("a\\\n\nb".into()));
        assert_eq!(gather(&["\"\"\"a", "b\"\"\" "]), [None, Some("a\nb".into())]);
        assert_eq!(gather(&["\"\"\"a\"\"\"", "b"]), [Some("a".into()), Some("b".into())]);
        assert_eq!(gather(&["a \"\"\"", "b"])[0], Some("a \"\"\"".into()));
    }
}
