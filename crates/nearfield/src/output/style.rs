//! Colours, where they are wanted, and text made safe for a terminal.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};

use crate::folders::variable;

/// How text is set off on one of the two outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colours: bool,
}

impl Style {
    /// For standard error.
    pub(crate) fn stderr() -> Self {
        Self { colours: io::stderr().is_terminal() && Self::colours_wanted() }
    }

    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self { colours: io::stdout().is_terminal() && Self::colours_wanted() }
    }

    /// Whether the environment allows colours: `NO_COLOR` is not set and the terminal is not a dumb one.
    pub(crate) fn colours_wanted() -> bool {
        variable("NO_COLOR").is_none() && variable("TERM").is_none_or(|term| term != "dumb")
    }

    /// The word that starts an error.
    pub(crate) fn error(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// What is less important.
    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// A heading.
    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// `text` with control characters, except line ends and tabs, replaced by their pictures, so that what a model writes
/// cannot move the cursor, set a title or worse.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let controls = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(controls) {
        return Cow::Borrowed(text);
    }
    let picture = |c: char| match c {
        '\x7f' => '\u{2421}',
        c if !controls(c) => c,
        c => char::from_u32(0x2400 + u32::from(c)).filter(|_| c < ' ').unwrap_or('\u{fffd}'),
    };
    Cow::Owned(text.chars().map(picture).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(visible("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(visible("\x1b[2J\r\x07\x7f\u{9b}x"), "␛[2J␍␇␡\u{fffd}x");
    }

    #[test]
    fn plain_style_adds_nothing() {
        let plain = Style { colours: false };
        assert_eq!(plain.error("x") + &plain.dim("y") + &plain.bold("z"), "xyz");
        assert_eq!(Style { colours: true }.dim("y"), "\x1b[2my\x1b[0m");
    }
}
