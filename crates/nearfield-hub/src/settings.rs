//! What a [`Hub`](crate::Hub) depends on outside its folder: endpoints, tokens, programs, patience.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::catalogue::Catalogue;
use crate::error::HubError;
use crate::reference::is_allowed_address;
use crate::secret::{Secret, strip_user_info};

const HUGGING_FACE: &str = "https://huggingface.co";

/// Tells how many bytes are free where a path lies.
pub type FreeSpace = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// Settings of a [`Hub`](crate::Hub). Start from [`HubSettings::from_environment`] or [`HubSettings::new`].
#[derive(Clone)]
#[non_exhaustive]
pub struct HubSettings {
    /// The models that have short names.
    pub catalogue: Catalogue,
    /// Base address of the Hugging Face hub or a mirror of it.
    pub hugging_face_endpoint: Url,
    /// Access token; sent to the endpoint's own host only.
    pub hugging_face_token: Option<Secret>,
    /// PEM file with certificates to trust besides those of the system.
    pub certificate_bundle: Option<PathBuf>,
    /// The Python program whose pip is used.
    pub python: OsString,
    /// Variables set (or, with `None`, removed) for pip. It inherits all others.
    pub python_environment: Vec<(OsString, Option<OsString>)>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest silence in an answer before the connection is given up and resumed.
    pub idle_timeout: Duration,
    /// Longest silence of pip (which has timeouts of its own).
    pub pip_idle_timeout: Duration,
    /// Longest pause that a server may ask for before the pull ends with an error.
    pub max_retry_after: Duration,
    /// Attempts in a row that bring nothing new before the pull ends with an error.
    pub attempts: u32,
    /// Pause before the second attempt; doubled before each further one.
    pub retry_delay: Duration,
    /// How free space is found out.
    pub free_space: FreeSpace,
}

impl HubSettings {
    /// Defaults, nothing taken from the environment.
    ///
    /// # Errors
    /// [`HubError::InvalidSetting`] if the built-in catalogue is wrong, which a test excludes.
    pub fn new() -> Result<Self, HubError> {
        Ok(Self {
            catalogue: Catalogue::builtin()?,
            hugging_face_endpoint: endpoint(HUGGING_FACE)?,
            hugging_face_token: None,
            certificate_bundle: None,
            python: if cfg!(windows) { "python".into() } else { "python3".into() },
            python_environment: Vec::new(),
            connect_timeout: Duration::from_secs(4),
            idle_timeout: Duration::from_secs(30),
            pip_idle_timeout: Duration::from_mins(5),
            max_retry_after: Duration::from_mins(1),
            attempts: 5,
            retry_delay: Duration::from_millis(500),
            free_space: Arc::new(|path| fs4::available_space(path)),
        })
    }

    /// Defaults with `HF_ENDPOINT` and `HF_TOKEN` of the environment.
    ///
    /// # Errors
    /// [`HubError::InvalidSetting`] if one of them cannot be used.
    pub fn from_environment() -> Result<Self, HubError> {
        let variable = |name: &'static str| match std::env::var(name) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(HubError::InvalidSetting { name, reason: "it is not valid UTF-8".to_owned() })
            }
        };
        let mut settings = Self::new()?;
        if let Some(text) = variable("HF_ENDPOINT")? {
            settings.hugging_face_endpoint = endpoint(&text)?;
        }
        settings.hugging_face_token = variable("HF_TOKEN")?.map(Secret::new);
        Ok(settings)
    }
}

impl fmt::Debug for HubSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HubSettings")
            .field("hugging_face_endpoint", &self.hugging_face_endpoint.as_str())
            .field("hugging_face_token", &self.hugging_face_token)
            .field("certificate_bundle", &self.certificate_bundle)
            .field("python", &self.python)
            .finish_non_exhaustive()
    }
}

/// Reads the base address of a hub. User name and password are refused: the token has a variable of its own.
fn endpoint(text: &str) -> Result<Url, HubError> {
    let invalid = |reason: String| HubError::InvalidSetting { name: "HF_ENDPOINT", reason };
    let url = Url::parse(text).map_err(|error| invalid(error.to_string()))?;
    let mut plain = url.clone();
    strip_user_info(&mut plain);
    if plain != url {
        return Err(invalid("it must not hold a user name or password; use HF_TOKEN".to_owned()));
    }
    if !is_allowed_address(&url) || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("an https: address is expected (http: to this machine only)".to_owned()));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_https_without_credentials() {
        assert!(endpoint("https://hub.example/mirror").is_ok());
        assert!(endpoint("http://127.0.0.1:9/").is_ok());
        for wrong in [
            "http://hub.example",
            "https://u:secret@hub.example",
            "ftp://hub.example",
            "hub.example",
            "https://h/?a=b",
        ] {
            let error = endpoint(wrong).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
