//! Commands inside a conversation.

use crate::suggest::did_you_mean;

/// What /help prints.
pub(crate) const HELP: &str = "\
/clear          begin the conversation anew
/system [TEXT]  set the system prompt and begin anew; alone, show it
/help           this list
/quit           leave, as Ctrl-D does

A line that ends in \\ is continued on the next; \"\"\" begins and ends a text of several lines.
Ctrl-C stops an answer. A line that begins with a blank is never a command.";

const NAMES: [&str; 6] = ["/help", "/clear", "/system", "/quit", "/exit", "/bye"];

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slash {
    Help,
    Clear,
    /// The new system prompt, or a look at the old one.
    System(Option<String>),
    Quit,
    /// No command; what to say about it.
    Unknown(String),
}

impl Slash {
    /// Reads a line as a command; `None` when it is text.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        if !line.starts_with('/') {
            return None;
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        Some(match name {
            "/help" | "/?" => Self::Help,
            "/clear" => Self::Clear,
            "/system" => Self::System((!rest.is_empty()).then(|| rest.to_owned())),
            "/quit" | "/exit" | "/bye" => Self::Quit,
            _ => {
                let hint = did_you_mean(name, NAMES);
                Self::Unknown(format!("there is no command `{name}`{hint}; /help lists them"))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_begin_with_a_slash() {
        assert_eq!(Slash::parse("hello /help"), None);
        assert_eq!(Slash::parse(" /help"), None);
        assert_eq!(Slash::parse("/system  be brief "), Some(Slash::System(Some("be brief".into()))));
        assert_eq!(Slash::parse("/system"), Some(Slash::System(None)));
        assert_eq!(Slash::parse("/bye"), Some(Slash::Quit));
        let Some(Slash::Unknown(problem)) = Slash::parse("/claer") else { panic!() };
        assert!(problem.contains("did you mean `/clear`?"), "{problem}");
    }

    #[test]
    fn help_names_every_command_once() {
        for name in ["/help", "/clear", "/system", "/quit"] {
            assert_eq!(HELP.lines().filter(|line| line.starts_with(name)).count(), 1, "{name}");
        }
    }
}
