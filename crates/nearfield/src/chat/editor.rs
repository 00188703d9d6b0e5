//! Reads the keyboard: line editing, history, texts of several lines.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustyline::error::ReadlineError;
use rustyline::history::{FileHistory, History as _};
use rustyline::{Config, Editor as LineEditor};

use super::gather::Gather;
use super::slash::Slash;

/// Texts that the history keeps.
const HISTORY: usize = 1000;

/// What came from the keyboard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A text for the model.
    Text(String),
    /// A command for us.
    Command(Slash),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Ctrl-D, or the end of what was piped in.
    End,
}

/// The keyboard, with memory.
pub(crate) struct Editor {
    lines: LineEditor<(), FileHistory>,
    history: Option<PathBuf>,
}

impl Editor {
    /// With a history file, or none. A history that cannot be read is left alone and not used.
    pub(crate) fn new(history: Option<PathBuf>) -> Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY)
            .and_then(|config| config.history_ignore_dups(true))
            .context("cannot set up line editing")?
            .build();
        let mut lines = LineEditor::with_config(config).context("cannot set up line editing")?;
        let history = history.filter(|path| match open_history(path, &mut lines) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the chat history is not used");
                false
            }
        });
        Ok(Self { lines, history })
    }

    /// Waits for the next input that is not empty.
    pub(crate) fn read(&mut self) -> Result<Input> {
        let mut gather = Gather::default();
        loop {
            let prompt = if gather.is_open() { "... " } else { ">>> " };
            let line = match self.lines.readline(prompt) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) if gather.is_open() => {
                    gather.take();
                    continue;
                }
                Err(ReadlineError::Interrupted) => return Ok(Input::Interrupted),
                Err(ReadlineError::Eof) => {
                    // The last line of a pipe may lack its end.
                    let rest = gather.take();
                    return Ok(if rest.trim().is_empty() { Input::End } else { self.input(rest) });
                }
                Err(error) => return Err(anyhow::Error::from(error).context("cannot read the keyboard")),
            };
            if let Some(text) = gather.push(&line)
                && !text.trim().is_empty()
            {
                return Ok(self.input(text));
            }
        }
    }

    fn input(&mut self, text: String) -> Input {
        self.remember(&text);
        match Slash::parse(&text) {
            Some(command) => Input::Command(command),
            None => Input::Text(text),
        }
    }

    /// Written at once, so that nothing is lost however the program ends.
    fn remember(&mut self, text: &str) {
        let Some(path) = &self.history else { return };
        let added = self.lines.add_history_entry(text);
        if let Err(error) = added.and_then(|_| self.lines.append_history(path)) {
            tracing::warn!(path = %path.display(), %error, "the chat history cannot be written");
            self.history = None;
        }
    }
}

/// Makes sure that the file is there for its owner only, and reads it.
fn open_history(path: &Path, lines: &mut LineEditor<(), FileHistory>) -> rustyline::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
        options.mode(0o600);
        let file = options.open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    #[cfg(not(unix))]
    options.open(path)?;
    if fs::metadata(path)?.len() > 0 {
        lines.history_mut().load(path)?;
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_history_is_private_and_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat_history");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut editor = Editor::new(Some(path.clone())).unwrap();
        assert_eq!(editor.input("first\nsecond line".into()), Input::Text("first\nsecond line".into()));
        assert_eq!(editor.input("/quit".into()), Input::Command(Slash::Quit));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Editor::new(Some(path.clone())).unwrap();
        let entries: Vec<&String> = again.lines.history().iter().collect();
        assert_eq!(entries, ["first\nsecond line", "/quit"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn without_a_file_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut editor = Editor::new(None).unwrap();
        editor.input("secret".into());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
