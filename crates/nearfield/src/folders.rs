//! Where this program keeps its data and looks for its configuration.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::failure::UsageError;

/// The environment variable that names the data folder.
pub(crate) const DATA_VARIABLE: &str = "NEARFIELD_DATA_DIR";

/// A variable of the environment; empty ones count as not set.
type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The platforms' habits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Platform {
    /// The XDG base directories.
    Unix,
    MacOs,
    Windows,
}

const fn platform() -> Platform {
    if cfg!(windows) {
        Platform::Windows
    } else if cfg!(target_os = "macos") {
        Platform::MacOs
    } else {
        Platform::Unix
    }
}

/// A variable of the process; empty ones count as not set.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The data folder: what the flag says, else the environment, else the platform's place.
pub(crate) fn data_folder(flag: Option<PathBuf>) -> Result<PathBuf, UsageError> {
    let folder = flag.or_else(|| variable(DATA_VARIABLE).map(PathBuf::from));
    folder.or_else(|| default_data_folder(platform(), &variable)).ok_or_else(|| {
        UsageError(format!("there is no home folder to keep data in; set {DATA_VARIABLE} to a folder"))
    })
}

/// The configuration file's usual place. It is never looked for in the working folder: whoever may write there could
/// decide where requests go.
pub(crate) fn default_config_file() -> Option<PathBuf> {
    config_folder(platform(), &variable).map(|folder| folder.join("nearfield").join("nearfield.toml"))
}

fn default_data_folder(platform: Platform, variables: Variables<'_>) -> Option<PathBuf> {
    let base = match platform {
        Platform::Unix => {
            absolute(variables("XDG_DATA_HOME")).or_else(|| home(variables, &[".local", "share"]))
        }
        Platform::MacOs => home(variables, &["Library", "Application Support"]),
        Platform::Windows => absolute(variables("LOCALAPPDATA")),
    };
    base.map(|base| base.join("nearfield"))
}

fn config_folder(platform: Platform, variables: Variables<'_>) -> Option<PathBuf> {
    match platform {
        Platform::Unix => absolute(variables("XDG_CONFIG_HOME")).or_else(|| home(variables, &[".config"])),
        Platform::MacOs => home(variables, &["Library", "Application Support"]),
        Platform::Windows => absolute(variables("APPDATA")),
    }
}

/// The base directory specification has relative paths ignored.
fn absolute(path: Option<OsString>) -> Option<PathBuf> {
    path.map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home(variables: Variables<'_>, parts: &[&str]) -> Option<PathBuf> {
    let home = absolute(variables("HOME"))?;
    Some(parts.iter().fold(home, |folder, part| folder.join(part)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn places(platform: Platform, set: &[(&str, &str)]) -> (Option<PathBuf>, Option<PathBuf>) {
        let variables =
            |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(*value));
        (default_data_folder(platform, &variables), config_folder(platform, &variables))
    }

    #[test]
    fn each_platform_has_its_places() {
        let (data, config) = places(Platform::Unix, &[("HOME", "/h")]);
        assert_eq!(data.as_deref(), Some(Path::new("/h/.local/share/nearfield")));
        assert_eq!(config.as_deref(), Some(Path::new("/h/.config")));

        let set = [("HOME", "/h"), ("XDG_DATA_HOME", "/d"), ("XDG_CONFIG_HOME", "relative")];
        let (data, config) = places(Platform::Unix, &set);
        assert_eq!(data.as_deref(), Some(Path::new("/d/nearfield")));
        assert_eq!(config.as_deref(), Some(Path::new("/h/.config")), "relative paths are ignored");

        let (data, config) = places(Platform::MacOs, &[("HOME", "/h"), ("XDG_DATA_HOME", "/d")]);
        assert_eq!(data.as_deref(), Some(Path::new("/h/Library/Application Support/nearfield")));
        assert_eq!(config.as_deref(), Some(Path::new("/h/Library/Application Support")));

        assert_eq!(places(Platform::Windows, &[("HOME", "/h")]), (None, None));
        assert_eq!(places(Platform::Unix, &[]), (None, None));
    }
}
