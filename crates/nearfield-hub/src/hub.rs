//! The store of models and what can be done with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalogue::{Catalogue, CatalogueEntry, suggest};
use crate::digest::Digest;
use crate::error::HubError;
use crate::files::{ModelLock, create_folder, folder_bytes, remove_any};
use crate::http::HttpClient;
use crate::local::open_path;
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::names::{catalogue_folder, source_folder};
use crate::progress::Progress;
use crate::pull::Pull;
use crate::reference::ModelReference;
use crate::settings::HubSettings;

/// Folder of the lock files.
const LOCKS: &str = ".locks";
/// Folder, inside a model's own, of a pull that is not complete.
pub(crate) const PARTIAL: &str = "partial";

/// A folder of models. Cheap to clone; nothing but [`Hub::pull`] uses the network.
///
/// Each model has a folder: `manifest.json`, a folder with its files named after their digests, and, while a pull is
/// under way or was interrupted, `partial`. A model is installed exactly when its manifest is there, and that appears
/// in one step after all files are verified.
#[derive(Debug, Clone)]
pub struct Hub {
    folder: PathBuf,
    settings: Arc<HubSettings>,
    client: Arc<HttpClient>,
}

/// A model that can be opened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Installed {
    /// Its catalogue name, the reference it was pulled by, or its path.
    pub name: String,
    /// What to open: a `.gguf` file (the first part of a split one) or a folder of safetensors.
    pub path: PathBuf,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Where it came from; absent for a path outside the store.
    pub manifest: Option<Manifest>,
}

/// How to pull.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct PullOptions {
    /// Ask the source again although the model is here: a branch may have moved. Files that did not change stay.
    pub refresh: bool,
    /// End with [`HubError::Busy`] instead of waiting when another process is pulling the same model.
    pub fail_if_busy: bool,
}

impl PullOptions {
    /// Sets [`PullOptions::refresh`].
    pub fn refresh(mut self, refresh: bool) -> Self {
        self.refresh = refresh;
        self
    }

    /// Sets [`PullOptions::fail_if_busy`].
    pub fn fail_if_busy(mut self, fail_if_busy: bool) -> Self {
        self.fail_if_busy = fail_if_busy;
        self
    }
}

/// What the models folder holds.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Inventory {
    /// Models that can be opened, by name.
    pub installed: Vec<Installed>,
    /// Pulls that were begun and not ended.
    pub partial: Vec<PartialModel>,
    /// Folders that cannot be used, with the reason.
    pub damaged: Vec<(PathBuf, String)>,
}

/// A pull that was begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartialModel {
    /// The model's folder.
    pub folder: PathBuf,
    /// Bytes that are here already.
    pub bytes: u64,
}

/// What is known about a model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Description {
    /// The reference in its usual spelling.
    pub reference: String,
    /// Its catalogue entry, if it has one.
    pub entry: Option<CatalogueEntry>,
    /// The model on this machine, if it is here.
    pub installed: Option<Installed>,
}

impl Hub {
    /// Opens (and creates) the models folder with settings from the environment.
    ///
    /// # Errors
    /// The folder cannot be made, or a setting is wrong.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, HubError> {
        Self::with_settings(folder, HubSettings::from_environment()?)
    }

    /// Opens (and creates) the models folder.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn with_settings(folder: impl Into<PathBuf>, settings: HubSettings) -> Result<Self, HubError> {
        let folder = folder.into();
        create_folder(&folder)?;
        let folder = folder.canonicalize().map_err(|error| HubError::io(&folder, error))?;
        let settings = Arc::new(settings);
        let client = Arc::new(HttpClient::new(Arc::clone(&settings)));
        Ok(Self { folder, settings, client })
    }

    /// The models folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The models that have short names.
    pub fn catalogue(&self) -> &Catalogue {
        &self.settings.catalogue
    }

    /// Reads a reference; the suggestions for an unknown name include the models that are here.
    ///
    /// # Errors
    /// [`HubError::InvalidReference`] or [`HubError::UnknownModel`].
    pub fn reference(&self, text: &str) -> Result<ModelReference, HubError> {
        match ModelReference::parse(text, self.catalogue()) {
            Err(HubError::UnknownModel { name, mut suggestions }) => {
                if let Ok(inventory) = self.list() {
                    let here = inventory.installed.iter().map(|model| model.name.as_str());
                    suggestions
                        .extend(suggest(&name, here).into_iter().filter(|found| !self.is_listed(found)));
                }
                Err(HubError::UnknownModel { name, suggestions })
            }
            other => other,
        }
    }

    /// Brings a model to this machine, or returns it at once if it is here. A path is used where it lies.
    ///
    /// # Errors
    /// Any [`HubError`]; what was fetched so far is kept, and the next call continues from there.
    pub async fn pull(
        &self,
        text: &str,
        options: PullOptions,
        progress: &dyn Progress,
    ) -> Result<Installed, HubError> {
        let reference = self.reference(text)?;
        if let ModelReference::Path(path) = &reference {
            return open_local(path);
        }
        let folder = self.model_folder(&reference);
        if !options.refresh
            && let Ok(Some(installed)) = self.find(text)
        {
            return Ok(installed);
        }
        let pull = Pull {
            settings: &self.settings,
            client: &self.client,
            reference: &reference,
            entry: self.entry_of(&reference),
            folder: &folder,
            lock_path: self.lock_path(&folder),
            options,
            progress,
        };
        let result = Box::pin(pull.run()).await;
        progress.finish();
        result?;
        Self::load(&folder)?.ok_or_else(|| HubError::NotInstalled { name: reference.to_string() })
    }

    /// The model on this machine that `text` names: a catalogue name, the reference or source it was pulled by, or a
    /// path. `Ok(None)` if the name is right but the model is not here.
    ///
    /// # Errors
    /// The reference is wrong, the path leads to no model, or the store is damaged there.
    pub fn find(&self, text: &str) -> Result<Option<Installed>, HubError> {
        let reference = self.reference(text)?;
        if let ModelReference::Path(path) = &reference {
            return open_local(path).map(Some);
        }
        if let Some(installed) = Self::load(&self.model_folder(&reference))? {
            return Ok(Some(installed));
        }
        let source = reference.to_string();
        let same =
            |model: &Installed| model.manifest.as_ref().is_some_and(|manifest| manifest.source == source);
        let is_address = matches!(reference, ModelReference::Url(_));
        Ok(self.list()?.installed.into_iter().find(|model| !is_address && same(model)))
    }

    /// Everything in the models folder.
    ///
    /// # Errors
    /// The folder cannot be read. Damaged models are listed, not errors.
    pub fn list(&self) -> Result<Inventory, HubError> {
        let mut inventory = Inventory::default();
        let entries = fs::read_dir(&self.folder).map_err(|error| HubError::io(&self.folder, error))?;
        for entry in entries {
            let folder = entry.map_err(|error| HubError::io(&self.folder, error))?.path();
            if !folder.is_dir()
                || folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
            {
                continue;
            }
            match Self::load(&folder) {
                Ok(Some(installed)) => inventory.installed.push(installed),
                Ok(None) => {
                    let bytes = folder_bytes(&folder.join(PARTIAL));
                    if bytes > 0 {
                        inventory.partial.push(PartialModel { folder, bytes });
                    }
                }
                Err(error) => inventory.damaged.push((folder, error.to_string())),
            }
        }
        inventory.installed.sort_by(|a, b| a.name.cmp(&b.name));
        inventory.partial.sort_by(|a, b| a.folder.cmp(&b.folder));
        Ok(inventory)
    }

    /// What is known about a model, here or not.
    ///
    /// # Errors
    /// As [`Hub::find`].
    pub fn show(&self, text: &str) -> Result<Description, HubError> {
        let reference = self.reference(text)?;
        let installed = self.find(text)?;
        Ok(Description {
            reference: reference.to_string(),
            entry: self.entry_of(&reference).cloned(),
            installed,
        })
    }

    /// Removes a model and what was fetched of it so far. Returns the bytes freed. Programs that have the model open
    /// keep it until they close it.
    ///
    /// # Errors
    /// [`HubError::NotInstalled`]; [`HubError::Busy`] while it is being pulled; paths outside the store are refused.
    pub fn remove(&self, text: &str) -> Result<u64, HubError> {
        let reference = self.reference(text)?;
        if let ModelReference::Path(path) = &reference {
            let reason = "only pulled models can be removed; delete this file yourself".to_owned();
            return Err(HubError::NotAModel { path: path.clone(), reason });
        }
        let folder = match self.find(text) {
            Ok(Some(Installed { manifest: Some(manifest), .. })) => {
                self.folder_of_manifest(&manifest, &reference)
            }
            _ => self.model_folder(&reference),
        };
        let name = reference.to_string();
        let Some(_lock) = ModelLock::try_acquire(&self.lock_path(&folder))? else {
            return Err(HubError::Busy { name });
        };
        if !folder.exists() {
            return Err(HubError::NotInstalled { name });
        }
        let bytes = folder_bytes(&folder);
        // Without its manifest the model is gone, even if removing its files is interrupted.
        remove_any(&folder.join(MANIFEST_FILE))?;
        remove_any(&folder)?;
        Ok(bytes)
    }

    /// Reads all files of an installed model again and compares their digests.
    ///
    /// # Errors
    /// [`HubError::Damaged`] for the first file that differs from its record, [`HubError::Manifest`] if one is missing
    /// or has another length. The file itself is left alone.
    pub fn verify(&self, text: &str) -> Result<Installed, HubError> {
        let installed = self.find(text)?.ok_or_else(|| HubError::NotInstalled { name: text.to_owned() })?;
        let Some(manifest) = &installed.manifest else { return Ok(installed) };
        let content = self.folder_of_manifest(manifest, &self.reference(text)?).join(&manifest.content);
        for file in &manifest.files {
            let path = content.join(&file.path);
            let (actual, _) = Digest::of_file(&path).map_err(|error| HubError::io(&path, error))?;
            if actual != file.sha256 {
                let name = installed.name.clone();
                return Err(HubError::Damaged { name, path, expected: file.sha256, actual });
            }
        }
        Ok(installed)
    }

    fn is_listed(&self, name: &str) -> bool {
        self.catalogue().get(name).is_some()
    }

    fn entry_of(&self, reference: &ModelReference) -> Option<&CatalogueEntry> {
        match reference {
            ModelReference::Catalogue(name) => self.catalogue().get(name),
            _ => None,
        }
    }

    fn model_folder(&self, reference: &ModelReference) -> PathBuf {
        self.folder.join(match reference {
            ModelReference::Catalogue(name) => catalogue_folder(name),
            other => source_folder(&other.to_string(), &other.key()),
        })
    }

    /// The folder of a model that [`Hub::find`] found, perhaps by its source.
    fn folder_of_manifest(&self, manifest: &Manifest, reference: &ModelReference) -> PathBuf {
        let own = self.model_folder(reference);
        if own.join(MANIFEST_FILE).exists() {
            return own;
        }
        ModelReference::parse(&manifest.name, self.catalogue()).map_or(own, |named| self.model_folder(&named))
    }

    fn lock_path(&self, folder: &Path) -> PathBuf {
        let name = folder.file_name().unwrap_or_default();
        self.folder.join(LOCKS).join(Path::new(name).with_added_extension("lock"))
    }

    /// Reads a model's folder and checks that every file is there with its length.
    fn load(folder: &Path) -> Result<Option<Installed>, HubError> {
        let Some(manifest) = Manifest::load(folder)? else { return Ok(None) };
        let content = folder.join(&manifest.content);
        for file in &manifest.files {
            let path = content.join(&file.path);
            let reason = match fs::metadata(&path) {
                Ok(metadata) if metadata.len() == file.bytes => continue,
                Ok(metadata) => format!("it has {} bytes, {} were recorded", metadata.len(), file.bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "the file is missing".to_owned(),
                Err(error) => return Err(HubError::io(&path, error)),
            };
            return Err(HubError::Manifest { path, reason });
        }
        let path = manifest.open.as_ref().map_or_else(|| content.clone(), |open| content.join(open));
        Ok(Some(Installed {
            name: manifest.name.clone(),
            path,
            bytes: manifest.bytes(),
            manifest: Some(manifest),
        }))
    }
}

fn open_local(path: &Path) -> Result<Installed, HubError> {
    let (open, bytes) = open_path(path)?;
    Ok(Installed { name: path.display().to_string(), path: open, bytes, manifest: None })
}
