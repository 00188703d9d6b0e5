//! Keys: where they come from, and how they stay out of sight.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hyper::header::HeaderValue;
use nearfield_api::Error;
use serde::{Deserialize, Deserializer};

/// No key is longer.
const LARGEST_FILE: u64 = 8 * 1024;
/// So many of a key's bytes in a row count as the key quoted.
const QUOTED_BYTES: usize = 12;

/// A key or token. Its `Debug` shows nothing of it, and it has no `Display`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for what is made from it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The value of a header that holds nothing but the secret; `None` when it is empty or holds what no header may.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        if self.0.is_empty() || !self.0.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut header = HeaderValue::from_str(&self.0).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// The value of an `Authorization` header; `None` when the secret is empty or holds what no token may.
    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        if self.0.is_empty() || !self.0.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// Whether a text holds the secret or a telling part of it.
    fn is_quoted_in(&self, text: &str) -> bool {
        let (secret, text) = (self.0.as_bytes(), text.as_bytes());
        let length = secret.len().min(QUOTED_BYTES);
        length > 0 && secret.windows(length).any(|part| text.windows(length).any(|there| there == part))
    }

    /// The error without the provider's words when these quote the secret.
    pub(crate) fn conceal(&self, mut error: Error) -> Error {
        error.param = error.param.filter(|param| !self.is_quoted_in(param));
        error.code = error.code.filter(|code| !self.is_quoted_in(code));
        if self.is_quoted_in(&error.message) {
            let ours = error.message.split(" It says: ").next().filter(|words| !self.is_quoted_in(words));
            let ours = ours.unwrap_or("The backend reported an error.");
            error.message = format!("{ours} Its words quote the key and are not shown.");
        }
        error
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(hidden)")
    }
}

/// Why a key cannot be had. No text holds any part of a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Neither of the two forms; most likely the key itself.
    #[error(
        "must be a reference, `env:NAME` or `file:PATH`, and never the key itself; put the key into an environment \
         variable or a file, and change the key if the configuration has been shared"
    )]
    Literal,
    /// The environment has no such variable.
    #[error(
        "the environment variable {name} is not set or is empty; set it, or refer to a file with `file:PATH`"
    )]
    NotSet {
        /// The variable.
        name: String,
    },
    /// The file cannot be read.
    #[error("{}: {source}; the file must exist and be readable by the user that runs nearfield", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What the reference leads to is no key.
    #[error("{origin} {reason}")]
    Unusable {
        /// The variable or file.
        origin: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Where a key is to be had: `env:NAME` or `file:PATH`.
///
/// As part of a configuration any text can be deserialized, and [`SecretRef::resolve`] refuses the unusable ones: the
/// readers of configuration formats quote the line at fault in their errors, and here that line would be the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef(Origin);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Environment(String),
    File(PathBuf),
    /// Not a reference. The text itself is forgotten.
    Unusable,
}

impl FromStr for SecretRef {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        match Origin::read(text) {
            Origin::Unusable => Err(SecretError::Literal),
            origin => Ok(Self(origin)),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(Origin::read(&text)))
    }
}

impl Origin {
    fn read(text: &str) -> Self {
        if let Some(name) = text.strip_prefix("env:").filter(|name| is_variable(name)) {
            return Self::Environment(name.to_owned());
        }
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Self::File(path.into()),
            _ => Self::Unusable,
        }
    }
}

impl SecretRef {
    /// The same reference with a relative path taken from `folder`: the configuration file's.
    pub fn relative_to(self, folder: &Path) -> Self {
        match self.0 {
            Origin::File(path) => Self(Origin::File(folder.join(path))),
            other => Self(other),
        }
    }

    /// Fetches the key. A file that other users can read is used, with a warning in the log.
    ///
    /// # Errors
    /// [`SecretError`] when this is no reference, or where it leads there is no key.
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        self.fetch(single_line)
    }

    /// Fetches a secret that may have several lines, such as a key file of a service account.
    ///
    /// # Errors
    /// As [`SecretRef::resolve`].
    pub fn resolve_text(&self) -> Result<Secret, SecretError> {
        self.fetch(|text, origin| {
            if text.trim().is_empty() { Err(unusable(origin, "is empty")) } else { Ok(Secret::new(text)) }
        })
    }

    /// Whether this is no reference, but most likely the key itself.
    pub fn is_literal(&self) -> bool {
        self.0 == Origin::Unusable
    }

    fn fetch(&self, read: impl Fn(&str, &str) -> Result<Secret, SecretError>) -> Result<Secret, SecretError> {
        match &self.0 {
            Origin::Unusable => Err(SecretError::Literal),
            Origin::Environment(name) => {
                let not_set = || SecretError::NotSet { name: name.clone() };
                let value = std::env::var_os(name).filter(|value| !value.is_empty()).ok_or_else(not_set)?;
                let origin = format!("the environment variable {name}");
                let text = value.to_str().ok_or_else(|| unusable(&origin, "is not valid UTF-8"))?;
                read(text, &origin)
            }
            Origin::File(path) => read_file(path, read),
        }
    }
}

/// Names that shells accept. A key with a dash in it that follows `env:` by mistake is told so.
fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn read_file(
    path: &Path,
    read: impl Fn(&str, &str) -> Result<Secret, SecretError>,
) -> Result<Secret, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let origin = format!("the file {}", path.display());
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unusable(&origin, "is not a regular file"));
    }
    warn_if_shared(path, &metadata);
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(unusable(&origin, "is too large to be a key"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable(&origin, "is not valid UTF-8"))?;
    read(text, &origin)
}

#[cfg(unix)]
fn warn_if_shared(path: &Path, metadata: &std::fs::Metadata) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format_args!("{mode:03o}"),
            "other users of this machine may read the file that holds a key; `chmod 600` closes it"
        );
    }
}

#[cfg(not(unix))]
fn warn_if_shared(_path: &Path, _metadata: &std::fs::Metadata) {}

fn single_line(text: &str, origin: &str) -> Result<Secret, SecretError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(unusable(origin, "is empty"));
    }
    if text.contains(char::is_control) {
        return Err(unusable(origin, "holds more than one line; it must hold the key and nothing else"));
    }
    Ok(Secret::new(text))
}

fn unusable(origin: &str, reason: &'static str) -> SecretError {
    SecretError::Unusable { origin: origin.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use nearfield_api::ErrorKind;

    use super::*;

    const KEY: &str = "sk-0123456789abcdef";

    fn file(content: &[u8]) -> (tempfile::TempDir, SecretRef) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, content).unwrap();
        let reference = format!("file:{}", path.display()).parse().unwrap();
        (folder, reference)
    }

    #[test]
    fn a_literal_is_refused_and_not_repeated() {
        for text in [KEY, "", "env:", "file:", "env:sk-012345", "env:1A", "ENV:A", "vault:x", " env:A"] {
            let parsed = text.parse::<SecretRef>().unwrap_err();
            let read: SecretRef = serde_json::from_value(text.into()).unwrap();
            let resolved = read.resolve().unwrap_err();
            for shown in [format!("{parsed} {parsed:?}"), format!("{resolved} {resolved:?} {read:?}")] {
                assert!(!shown.contains("sk-"), "{shown}");
                assert!(shown.contains("`env:NAME` or `file:PATH`"), "{shown}");
            }
        }
    }

    #[test]
    fn a_file_holds_one_line() {
        let (_folder, reference) = file(b" \n sk-0123456789abcdef\r\n\n");
        assert_eq!(reference.resolve().unwrap().0, KEY);
        for (content, says) in [
            (b"".as_slice(), "is empty"),
            (b" \n", "is empty"),
            (b"sk-0123456789abcdef\nsecond", "more than one line"),
            (b"sk-\xff", "UTF-8"),
            (&[b'a'; 9000], "too large"),
        ] {
            let (_folder, reference) = file(content);
            let error = reference.resolve().unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("sk-"), "{error}");
        }
    }

    #[test]
    fn files_are_found_from_the_configurations_folder() {
        let (folder, _) = file(KEY.as_bytes());
        let reference: SecretRef = "file:key".parse().unwrap();
        assert!(reference.resolve().is_err());
        assert_eq!(reference.relative_to(folder.path()).resolve().unwrap().0, KEY);
        let error = SecretRef::from_str("file:.").unwrap().resolve().unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let error = SecretRef::from_str("env:NEARFIELD_NO_SUCH_KEY").unwrap().resolve().unwrap_err();
        assert!(error.to_string().contains("NEARFIELD_NO_SUCH_KEY"), "{error}");
        // The one variable that every process of the test suite has.
        assert!(SecretRef::from_str("env:PATH").unwrap().resolve().is_ok());
    }

    #[test]
    fn words_that_quote_the_key_are_left_out() {
        let secret = Secret::new(KEY);
        let error =
            |message: &str| Error::new(ErrorKind::InvalidRequest, message).with_param("a").with_code(KEY);
        for message in [
            format!("The backend refused. It says: bad {KEY}"),
            "The backend refused. It says: no sk-0123456789abc".to_owned(),
            "The backend refused. It says: …456789abcdef".to_owned(),
        ] {
            let concealed = secret.conceal(error(&message));
            assert_eq!(concealed.message, "The backend refused. Its words quote the key and are not shown.");
            assert_eq!((concealed.param.as_deref(), concealed.code), (Some("a"), None));
        }
        let whole = secret.conceal(error(KEY));
        assert!(whole.message.starts_with("The backend reported an error."), "{whole}");
        let harmless = secret.conceal(error("The backend refused. It says: keys begin with sk-0"));
        assert!(harmless.message.ends_with("sk-0"));
        assert_eq!(Secret::new("").conceal(harmless.clone()), harmless);
        assert_eq!(format!("{secret:?}"), "Secret(hidden)");
    }
}
