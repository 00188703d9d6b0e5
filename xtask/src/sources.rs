//! What tracked files must not say, and how long they may be.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Lines after which a source file wants a second room.
const LONG: usize = 500;

/// Texts that tie a file to one machine, in two parts so that this file does not hold them.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("/wo", "rk/", "a path of one machine"),
    ("/ho", "me/", "a path of one machine"),
    ("/ro", "ot/", "a path of one machine"),
    ("index.cra", "tes.io", "a package registry's host"),
    ("static.cra", "tes.io", "a package registry's host"),
    ("py", "pi.org", "a package registry's host"),
    ("pythonho", "sted.org", "a package registry's host"),
    ("npm", "js.org", "a package registry's host"),
    ("deb.deb", "ian.org", "a package registry's host"),
];

/// Checks every tracked file.
pub(crate) fn check() -> Result<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).output().context("git does not run")?;
    let names = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    let (mut faults, mut long, mut count) = (Vec::new(), Vec::new(), 0);
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        // A file that was removed but not yet from the index, or that is no text, has nothing to say.
        let Ok(text) = std::fs::read_to_string(name) else { continue };
        count += 1;
        faults.extend(faults_of(name, &text));
        long.extend(long_source(name, &text));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    let mut said = format!("{count} files");
    for line in long {
        said.push_str("\nwarning: ");
        said.push_str(&line);
    }
    Ok(said)
}

/// The lines of a file that name what they must not. Lock files stay as their tools write them.
fn faults_of(name: &str, text: &str) -> Vec<String> {
    if is_lock_file(name) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for (start, end, what) in FORBIDDEN {
            if line.contains(&format!("{start}{end}")) {
                faults.push(format!("{name}:{number} names {what}"));
            }
        }
    }
    faults
}

fn is_lock_file(name: &str) -> bool {
    let name = Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    matches!(name, "Cargo.lock" | "package-lock.json")
}

fn long_source(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    let source = Path::new(name).extension().is_some_and(|end| end == "rs");
    (source && lines > LONG)
        .then(|| format!("{name} has {lines} lines, more than {LONG}: split it along a seam"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_forbidden_text_is_found_with_its_line() {
        for (start, end, _) in FORBIDDEN {
            let text = format!("fine\nsee {start}{end}x\n");
            assert_eq!(faults_of("README.md", &text).len(), 1);
            assert!(faults_of("README.md", &text)[0].starts_with("README.md:2 names"));
            assert!(faults_of("fuzz/Cargo.lock", &text).is_empty());
        }
        assert!(faults_of("README.md", "the works\nhome\n").is_empty());
    }

    #[test]
    fn long_sources_are_told() {
        let text = "\n".repeat(LONG + 1);
        assert!(long_source("a.rs", &text).is_some());
        assert!(long_source("a.md", &text).is_none());
        assert!(long_source("a.rs", "\n").is_none());
    }
}
