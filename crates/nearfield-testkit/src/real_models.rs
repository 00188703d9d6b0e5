//! Finds the files of real models, which are too large for the repository.

use std::path::PathBuf;

/// The model that continuous integration has.
const IN_CI: &str = "smollm2-135m";

/// The file `NAME.tokenizer.json` in the folder that `NEARFIELD_TEST_MODELS` names, as `bench/make_vocabularies.py` writes
/// it. A missing one is skipped with a word about it.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so beside the results of the others")]
pub fn vocabulary_file(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("NEARFIELD_TEST_MODELS").map(PathBuf::from);
    let path =
        folder.map(|folder| folder.join(format!("{name}.tokenizer.json"))).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: NEARFIELD_TEST_MODELS does not name a folder with {name}.tokenizer.json");
    }
    path
}

/// The file `NAME.gguf` in the folder that `NEARFIELD_TEST_MODELS` names. A missing one is skipped with a word about it,
/// except the one that continuous integration has.
///
/// # Panics
/// In continuous integration, when that one is missing.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so beside the results of the others")]
pub fn model_file(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("NEARFIELD_TEST_MODELS");
    let path = folder.map(|folder| PathBuf::from(folder).join(format!("{name}.gguf")));
    if let Some(path) = path.as_ref().filter(|path| path.exists()) {
        return Some(path.clone());
    }
    let problem = match path {
        Some(path) => format!("{} is not there", path.display()),
        None => format!("NEARFIELD_TEST_MODELS does not name a folder with {name}.gguf"),
    };
    assert!(name != IN_CI || std::env::var_os("CI").is_none(), "{problem}");
    eprintln!("skipped: {problem}");
    None
}
