//! A running server's policy file and the weights of its pools, read again when it is told to: by SIGHUP, or by `nearfield policy reload`, which
//! leaves a mark in the data folder. Every change leaves a line in an append-only record.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use nearfield_api::Backend as _;
use nearfield_privacy::HashKey;
use nearfield_providers::Pool;
use nearfield_router::PolicyMode;
use nearfield_server::changes::{self, CHANGES_FILE, Change, Changed};
use nearfield_server::gateway::{Gateway, RulesChange};

use crate::config::{Config, ConfigError, RulesFile};

/// The mark of `nearfield policy reload`.
const MARK: &str = "policy.reload";
/// Locked, together, by all servers of the data folder that look for the mark. The system lets go of it when they end,
/// however they end.
const LISTENERS: &str = "policy.listeners";
/// What the record says of a change that the mark asked for.
const BY_MARK: &str = "nearfield policy reload";
/// The key of pseudonyms.
const HASH_KEY: &str = "policy.key";
/// How often the mark is looked for.
const PERIOD: Duration = Duration::from_millis(500);

/// Asks the servers of a data folder to read their policy file again.
pub(crate) fn ask(folder: &Path) -> Result<()> {
    if !somebody_listens(folder)? {
        bail!(
            "no server with a policy file or a pool runs on the data folder {}, so nothing is read again; `nearfield \
             serve` reads everything when it starts",
            folder.display()
        );
    }
    let path = folder.join(MARK);
    fs::write(&path, Timestamp::now().to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether a server holds the lock.
fn somebody_listens(folder: &Path) -> Result<bool> {
    let path = folder.join(LISTENERS);
    let failed = || format!("cannot lock {}", path.display());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(failed),
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
    }
}

/// Holds the lock as long as the file is there.
fn listen(folder: &Path) -> Result<File> {
    let path = folder.join(LISTENERS);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path).and_then(|file| file.lock_shared().map(|()| file));
    file.with_context(|| format!("cannot lock {}", path.display()))
}

/// The key of pseudonyms: made once, readable by its owner only.
pub(crate) fn hash_key(folder: &Path) -> Result<HashKey> {
    let path = folder.join(HASH_KEY);
    let read = || -> Result<Option<HashKey>> {
        match fs::read(&path) {
            Ok(bytes) => {
                let bytes: [u8; 32] = bytes.try_into().ok().with_context(|| {
                    format!(
                        "{} does not hold 32 bytes; restore it, or delete it to lose all pseudonyms",
                        path.display()
                    )
                })?;
                Ok(Some(HashKey::new(bytes)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    };
    if let Some(key) = read()? {
        return Ok(key);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let bytes = nearfield_server::keys::random_bytes()?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(&path).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all())) {
        Ok(()) => Ok(HashKey::new(bytes)),
        // Another process made it in between.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            read()?.with_context(|| format!("cannot read {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

/// Adds a line to the record of changes where the policy that starts, a file's or a mode's, is not the one that it names
/// last.
pub(crate) fn record_start(folder: &Path, mode: Option<PolicyMode>, hash: &str) -> Result<()> {
    let old = changes::last_hash(folder, Changed::Policy);
    if old.as_deref() == Some(hash) {
        return Ok(());
    }
    let by = mode.map_or_else(|| "start".to_owned(), |mode| format!("start, mode {mode}"));
    record(folder, &Change::now(Changed::Policy, by, old, hash))
}

fn record(folder: &Path, change: &Change) -> Result<()> {
    changes::record(folder, change)
        .with_context(|| format!("cannot write {}", folder.join(CHANGES_FILE).display()))
}

/// Reads the configuration.
pub(crate) type Load = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// What is read again.
pub(crate) struct Again {
    pub(crate) rules: Option<RulesFile>,
    pub(crate) pools: Vec<Arc<Pool>>,
    pub(crate) load: Load,
}

impl Again {
    /// Reads all of it. What cannot be used leaves everything as it was from there on.
    fn read(&self, folder: &Path, gateway: &Gateway, by: &str) {
        let used = self.rules.as_ref().is_none_or(|file| put_in_force(folder, file, gateway, by));
        if !used || self.pools.is_empty() {
            return;
        }
        match (self.load)() {
            Ok(config) => self.adjust_pools(&config, by),
            Err(error) => tracing::error!(%error, "the configuration cannot be used; pools stay as they are"),
        }
    }

    fn adjust_pools(&self, config: &Config, by: &str) {
        for pool in &self.pools {
            let section = config.backends.iter().find(|section| section.name == pool.name());
            if section.is_some_and(|section| pool.adjust(&section.pool_endpoints())) {
                tracing::info!(backend = pool.name(), by, "the weights and drains of a pool were read again");
            } else {
                let backend = pool.name();
                tracing::warn!(backend, "a pool's endpoints changed; restart the server to use the new ones");
            }
        }
    }
}

/// Watches for SIGHUP and for the mark, as long as the gateway lives.
pub(crate) fn watch(folder: PathBuf, again: Again, gateway: &Arc<Gateway>) -> Result<()> {
    let weak = Arc::downgrade(gateway);
    let mark = folder.join(MARK);
    let mut seen = stamp(&mark);
    let listening =
        (again.rules.is_some() || !again.pools.is_empty()).then(|| listen(&folder)).transpose()?;
    #[cfg(unix)]
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
        .context("cannot listen for SIGHUP")?;
    tokio::spawn(async move {
        let _listening = listening;
        let mut period = tokio::time::interval(PERIOD);
        loop {
            #[cfg(unix)]
            let by = tokio::select! {
                _ = hangup.recv() => Some("SIGHUP"),
                _ = period.tick() => None,
            };
            #[cfg(not(unix))]
            let by: Option<&str> = {
                period.tick().await;
                None
            };
            let Some(gateway) = weak.upgrade() else { return };
            let now = stamp(&mark);
            let marked = (now != seen).then_some(BY_MARK);
            seen = now;
            if let Some(by) = by.or(marked) {
                again.read(&folder, &gateway, by);
            }
        }
    });
    Ok(())
}

fn stamp(mark: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(mark).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Reads the file and puts it in force; what cannot be used leaves the old policy, one line in the log, and a count.
/// Whether it could be used.
fn put_in_force(folder: &Path, file: &RulesFile, gateway: &Gateway, by: &str) -> bool {
    let rules = match file.read_again() {
        Ok(rules) => rules,
        Err(error) => {
            gateway.rules_unreadable();
            tracing::error!(%error, "the policy file cannot be used; the old policy stays in force");
            return false;
        }
    };
    match gateway.replace_rules(rules) {
        Ok(RulesChange { old, new }) => {
            tracing::info!(old, new, by, "the policy file was read again");
            let changed = old != new;
            let change = Change::now(Changed::Policy, by, Some(old), new);
            // Nobody tells who sent a signal; a mark has an owner.
            let change = if by == BY_MARK { change.made_by_owner_of(&folder.join(MARK)) } else { change };
            if changed && let Err(error) = record(folder, &change) {
                tracing::error!(%error, "the change of the policy could not be recorded");
            }
            true
        }
        Err(error) => {
            tracing::error!(%error, "the policy file cannot be used; the old policy stays in force");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_starts_leave_lines() {
        let folder = tempfile::tempdir().unwrap();
        let own = hash_key(folder.path()).unwrap().pseudonym("EMAIL", "a@b.org");
        assert_eq!(hash_key(folder.path()).unwrap().pseudonym("EMAIL", "a@b.org"), own);
        fs::write(folder.path().join(HASH_KEY), "short").unwrap();
        assert!(hash_key(folder.path()).unwrap_err().to_string().contains("32 bytes"));
        let mode = Some(PolicyMode::PreferLocal);
        for (mode, hash, lines) in [(None, "a1", 1), (None, "a1", 1), (mode, "b2", 2), (None, "a1", 3)] {
            record_start(folder.path(), mode, hash).unwrap();
            let record = fs::read_to_string(folder.path().join(CHANGES_FILE)).unwrap();
            assert_eq!(record.lines().count(), lines);
            assert_eq!(record.lines().last().unwrap().contains("start, mode prefer-local"), mode.is_some());
        }
    }
}
