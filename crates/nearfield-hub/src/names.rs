//! Names of files and folders that come from outside or are made from what comes from outside.

use crate::digest::Digest;

/// Whether `path` is a relative path with `/` between plain names: nothing that leaves a folder, hides a file, or
/// means something else on another system.
pub(crate) fn is_safe_relative(path: &str) -> bool {
    path.len() <= 512
        && path.split('/').count() <= 8
        && path.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.len() <= 200
                && !is_device(part)
                && !part.ends_with(['.', ' '])
                && !part
                    .chars()
                    .any(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|'))
        })
}

/// Whether Windows takes `name` for a device, whatever its extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let numbered =
        |prefix: &str| stem.strip_prefix(prefix).is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']));
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

/// The folder of a catalogue model: `smollm2:135m` becomes `smollm2-135m`.
pub(crate) fn catalogue_folder(name: &str) -> String {
    name.replace(':', "-")
}

/// The folder of a model named by its source: readable, and distinct through a digest of `key`.
pub(crate) fn source_folder(text: &str, key: &str) -> String {
    let mut readable = String::new();
    for c in text.chars().take(80) {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
            readable.push(c);
        } else if !readable.ends_with('-') {
            readable.push('-');
        }
    }
    format!("{}-{}", readable.trim_matches(['-', '.']), Digest::of(key.as_bytes()).short(10))
}

/// All file names of a split GGUF (`name-00001-of-00003.gguf`) in order; `None` if `name` is not one of its parts.
pub(crate) fn split_names(name: &str) -> Option<Vec<String>> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (stem, index) = rest.rsplit_once('-')?;
    let number = |text: &str| (text.len() == 5).then(|| text.parse::<u32>().ok()).flatten();
    let (index, count) = (number(index)?, number(count)?);
    if index == 0 || index > count || count > 1000 {
        return None;
    }
    Some((1..=count).map(|index| format!("{stem}-{index:05}-of-{count:05}.gguf")).collect())
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters.
pub(crate) fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_safe() {
        for good in
            ["a.gguf", "console.gguf", "com.gguf", "dir/sub/a-b_c.json", "model-00001-of-00002.safetensors"]
        {
            assert!(is_safe_relative(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            ".hidden",
            "a\\b",
            "c:x",
            "a\0b",
            "a/./b",
            "x.",
            "1/2/3/4/5/6/7/8/9",
            "NUL.gguf",
            "dir/com1",
        ] {
            assert!(!is_safe_relative(bad), "{bad:?}");
        }
    }

    #[test]
    fn split_files_are_counted_from_any_part() {
        let all = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
        assert_eq!(split_names("m-00002-of-00003.gguf").unwrap(), all);
        for name in [
            "m.gguf",
            "m-00004-of-00003.gguf",
            "m-00000-of-00003.gguf",
            "m-1-of-3.gguf",
            "m-00001-of-99999.gguf",
        ] {
            assert_eq!(split_names(name), None, "{name}");
        }
    }

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, text, matches) in [
            ("*.gguf", "a/b.gguf", true),
            ("*.gguf", "a/b.gguf.part00", false),
            ("*/data/*.gguf.part*", "p/data/m.gguf.part00", true),
            ("a*b", "ab", true),
            ("a*b*b", "ab", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("*", "", true),
        ] {
            assert_eq!(matches_pattern(pattern, text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn folders_are_readable_and_distinct() {
        let one = source_folder("hf:Org/Name@main/x.gguf", "hf:Org/Name@main/x.gguf");
        let two = source_folder("hf:Org/Name@main/x.gguf", "hf:org/name@main/x.gguf");
        assert!(one.starts_with("hf-Org-Name-main-x.gguf-"), "{one}");
        assert_ne!(one, two);
        assert!(is_safe_relative(&source_folder("../../etc", "k")));
    }
}
