//! "Did you mean?" for names that are nearly right.

/// Names at least this similar (Jaro-Winkler, 0 to 1) are suggested.
const SIMILAR: f64 = 0.8;

/// The name closest to `text`, if one is close.
pub(crate) fn closest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(text, name), name))
        .filter(|(score, _)| *score >= SIMILAR)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

/// `; did you mean ...?`, or nothing.
pub(crate) fn did_you_mean<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    closest(text, names).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_close_is_suggested() {
        let names = ["threads", "context", "kv"];
        assert_eq!(closest("thread", names), Some("threads"));
        assert_eq!(closest("contxt", names), Some("context"));
        assert_eq!(closest("zzz", names), None);
        assert_eq!(did_you_mean("zzz", names), "");
    }
}
