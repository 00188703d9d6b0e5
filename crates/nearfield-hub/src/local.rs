//! Models by path: used where they lie, never copied.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::HubError;
use crate::names::split_names;
use crate::reference::has_extension;

/// Finds what to open at `path`: the first part of a GGUF file, or a folder of safetensors. Returns it with the bytes
/// of all files that belong to it.
pub(crate) fn open_path(path: &Path) -> Result<(PathBuf, u64), HubError> {
    let not = |reason: String| HubError::NotAModel { path: path.to_owned(), reason };
    let metadata = fs::metadata(path).map_err(|error| not(format!("{error}; check the path")))?;
    if metadata.is_dir() {
        return open_folder(path);
    }
    let name = file_name(path);
    if has_extension(&name, "safetensors") {
        return Err(not("give the folder that holds it together with config.json".to_owned()));
    }
    if !has_extension(&name, "gguf") {
        return Err(not("neither a .gguf file nor a folder of safetensors".to_owned()));
    }
    let Some(parts) = split_names(&name) else { return Ok((path.to_owned(), metadata.len())) };
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut bytes = 0_u64;
    for part in &parts {
        let part = folder.join(part);
        let metadata =
            fs::metadata(&part).map_err(|error| not(format!("its part {}: {error}", part.display())))?;
        bytes = bytes.saturating_add(metadata.len());
    }
    Ok((parts.first().map_or_else(|| path.to_owned(), |first| folder.join(first)), bytes))
}

fn open_folder(path: &Path) -> Result<(PathBuf, u64), HubError> {
    let not = |reason: String| HubError::NotAModel { path: path.to_owned(), reason };
    let mut names = Vec::new();
    let mut bytes = 0_u64;
    for entry in fs::read_dir(path).map_err(|error| HubError::io(path, error))? {
        let entry = entry.map_err(|error| HubError::io(path, error))?;
        let metadata = fs::metadata(entry.path()).map_err(|error| HubError::io(&entry.path(), error))?;
        if metadata.is_file() {
            bytes = bytes.saturating_add(metadata.len());
            names.push(file_name(&entry.path()));
        }
    }
    names.sort();
    if names.iter().any(|name| has_extension(name, "safetensors")) {
        if !names.iter().any(|name| name == "config.json") {
            return Err(not("it holds safetensors, but no config.json".to_owned()));
        }
        return Ok((path.to_owned(), bytes));
    }
    let is_first = |name: &&String| split_names(name).is_none_or(|all| all.first() == Some(*name));
    let models: Vec<&String> =
        names.iter().filter(|name| has_extension(name, "gguf")).filter(is_first).collect();
    match models.as_slice() {
        [only] => open_path(&path.join(only.as_str())),
        [] => Err(not("the folder holds neither safetensors nor a .gguf file".to_owned())),
        [first, ..] => Err(not(format!(
            "the folder holds {} .gguf models; name one, e.g. {}",
            models.len(),
            path.join(first.as_str()).display()
        ))),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_parts_lead_to_what_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let put = |name: &str| fs::write(path(name), "1234").unwrap();
        assert!(open_path(folder.path()).unwrap_err().to_string().contains("neither"));
        put("m-00001-of-00002.gguf");
        assert!(
            open_path(&path("m-00001-of-00002.gguf")).unwrap_err().to_string().contains("00002-of-00002")
        );
        put("m-00002-of-00002.gguf");
        let expected = (path("m-00001-of-00002.gguf"), 8);
        assert_eq!(open_path(&path("m-00002-of-00002.gguf")).unwrap(), expected);
        assert_eq!(open_path(folder.path()).unwrap(), expected);
        put("other.gguf");
        assert!(open_path(folder.path()).unwrap_err().to_string().contains("2 .gguf models"));
        put("model.safetensors");
        assert!(open_path(folder.path()).unwrap_err().to_string().contains("config.json"));
        put("config.json");
        assert_eq!(open_path(folder.path()).unwrap().0, folder.path());
        assert!(open_path(&path("model.safetensors")).is_err());
        assert!(open_path(&path("config.json")).is_err());
        assert!(open_path(&path("absent.gguf")).unwrap_err().to_string().contains("check the path"));
    }
}
