//! Wheels through the machine's own pip, so that its index, proxy, certificate and credential settings hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use crate::error::HubError;
use crate::files::folder_bytes;
use crate::http::{Failure, Retries};
use crate::progress::Meter;
use crate::secret::scrub;
use crate::settings::HubSettings;

/// How the names of folders begin in which pip works.
pub(crate) const PIP_FOLDER: &str = "pip-";
/// Pause between two looks at how much pip has written.
const POLL: Duration = Duration::from_millis(200);
/// Most bytes of pip's output kept.
const MAX_OUTPUT_BYTES: usize = 256 << 10;
/// Lines of pip's output that an error shows.
const SHOWN_LINES: usize = 6;

/// A wheel that pip fetched; its folder goes with it.
#[derive(Debug)]
pub(crate) struct FetchedWheel {
    pub(crate) path: PathBuf,
    pub(crate) file_name: String,
    _folder: TempDir,
}

/// Lets pip fetch the wheel of `requirement` into a new folder below `parent`, with retries. While it runs, the meter
/// counts the bytes that appear, at most `expected` of them.
pub(crate) async fn fetch_wheel(
    settings: &HubSettings,
    requirement: &str,
    parent: &Path,
    expected: Option<u64>,
    retries: &mut Retries,
    meter: &mut Meter<'_>,
) -> Result<FetchedWheel, HubError> {
    loop {
        let error = match fetch_once(settings, requirement, parent, expected, meter).await {
            Ok(wheel) => return Ok(wheel),
            Err(error) => error,
        };
        let passing =
            matches!(&error, HubError::PipFailed { temporary: true, .. } | HubError::Stalled { .. });
        let failure = if passing { Failure::passing(error) } else { Failure::fatal(error) };
        retries.pause(failure, meter).await.map_err(|failure| *failure.error)?;
    }
}

async fn fetch_once(
    settings: &HubSettings,
    requirement: &str,
    parent: &Path,
    expected: Option<u64>,
    meter: &mut Meter<'_>,
) -> Result<FetchedWheel, HubError> {
    let folder = tempfile::Builder::new()
        .prefix(PIP_FOLDER)
        .tempdir_in(parent)
        .map_err(|error| HubError::io(parent, error))?;
    let (target, scratch) = (folder.path().join("wheels"), folder.path().join("tmp"));
    for path in [&target, &scratch] {
        fs::create_dir(path).map_err(|error| HubError::io(path, error))?;
    }
    let missing = |reason: String| HubError::PipMissing {
        program: settings.python.to_string_lossy().into_owned(),
        reason,
    };
    let child = command(settings, requirement, &target, &scratch)
        .spawn()
        .map_err(|error| missing(error.to_string()))?;
    let (status, output) = watch(settings, requirement, child, folder.path(), expected, meter).await?;
    if !status.success() {
        if output.contains("No module named pip") {
            return Err(missing("this Python has no pip".to_owned()));
        }
        return Err(failed(requirement, &output, folder.path()));
    }
    let mut wheels: Vec<PathBuf> = fs::read_dir(&target)
        .map_err(|error| HubError::io(&target, error))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    match (wheels.pop(), wheels.is_empty()) {
        (Some(path), true) => {
            let file_name =
                path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(FetchedWheel { path, file_name, _folder: folder })
        }
        _ => Err(HubError::PipFailed {
            requirement: requirement.to_owned(),
            output: "pip ended well but did not leave exactly one wheel".to_owned(),
            temporary: false,
        }),
    }
}

/// The pip call. Only wheels are taken: the set-up code of a source archive would run on this machine.
fn command(settings: &HubSettings, requirement: &str, target: &Path, scratch: &Path) -> Command {
    let mut command = Command::new(&settings.python);
    command
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--no-cache-dir",
            "--no-input",
        ])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
        .arg(target)
        .arg(requirement)
        // pip's own temporary files lie where the free space was checked and where they are seen growing.
        .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, scratch)))
        .env("PYTHONUNBUFFERED", "1")
        // Nothing is installed, so that a rule against installing outside virtual environments does not apply.
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .env("PYTHONIOENCODING", "utf-8:replace")
        // `python -m` imports from the current folder first: it must not be one that others write to.
        .current_dir(scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (name, value) in &settings.python_environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Waits for pip, reports how its files grow, and ends it when nothing happens for too long.
async fn watch(
    settings: &HubSettings,
    requirement: &str,
    mut child: Child,
    folder: &Path,
    expected: Option<u64>,
    meter: &mut Meter<'_>,
) -> Result<(ExitStatus, String), HubError> {
    let base = meter.done();
    let stderr = child.stderr.take();
    let reader = tokio::spawn(async move {
        let Some(mut stderr) = stderr else { return Vec::new() };
        let (mut kept, mut chunk) = (Vec::new(), [0_u8; 8192]);
        while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
            kept.extend_from_slice(chunk.get(..count).unwrap_or_default());
            if kept.len() > MAX_OUTPUT_BYTES {
                kept.drain(..kept.len() - MAX_OUTPUT_BYTES / 2);
            }
        }
        kept
    });
    let (mut seen, mut moved) = (0, Instant::now());
    let status = loop {
        if let Ok(status) = tokio::time::timeout(POLL, child.wait()).await {
            break status.map_err(|error| HubError::io(folder, error))?;
        }
        let now = folder_bytes(folder);
        if now != seen {
            (seen, moved) = (now, Instant::now());
            meter.set(base + expected.map_or(now, |expected| now.min(expected)));
        } else if moved.elapsed() > settings.pip_idle_timeout {
            let _ = child.kill().await;
            return Err(HubError::Stalled {
                url: format!("pip download {requirement}"),
                after: settings.pip_idle_timeout,
            });
        }
    };
    // A grandchild could keep the pipe open: what was read until then is enough.
    let output = tokio::time::timeout(Duration::from_secs(2), reader).await;
    let output = output.ok().and_then(Result::ok).unwrap_or_default();
    Ok((status, String::from_utf8_lossy(&output).into_owned()))
}

/// Turns pip's complaint into an error, without secrets and without its stack traces.
fn failed(requirement: &str, output: &str, folder: &Path) -> HubError {
    let output = scrub(output);
    if output.contains("No space left on device") || output.contains("Disk quota exceeded") {
        return HubError::StorageFull { path: folder.to_owned() };
    }
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.starts_with("ERROR: ") && *line != "ERROR: Exception:")
        .collect();
    let chosen = if errors.is_empty() { &lines } else { &errors };
    let shown = chosen.get(chosen.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default().join(" / ");
    // pip says the same whether the index lacks the version or cannot be reached; only the latter leaves warnings.
    let unreachable = output.contains("after connection broken by");
    let absent = output.contains("No matching distribution found") && !unreachable;
    let shown = if shown.is_empty() { "it said nothing".to_owned() } else { shown };
    let shown = if unreachable {
        format!(
            "the package index cannot be reached ({shown}); `python3 -m pip config list` shows pip's settings"
        )
    } else if absent {
        format!("the package index does not have it or does not answer ({shown})")
    } else {
        shown
    };
    HubError::PipFailed {
        requirement: requirement.to_owned(),
        output: shown,
        temporary: !absent && !unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_version_is_not_tried_again() {
        let error = failed(
            "x==1",
            "noise\nERROR: Could not find a version\nERROR: No matching distribution found for x==1\n",
            Path::new("x"),
        );
        assert!(matches!(error, HubError::PipFailed { temporary: false, .. }));
        assert!(!error.to_string().contains("noise"), "{error}");
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let output =
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n";
        assert!(matches!(failed("x==1", output, Path::new("x")), HubError::StorageFull { .. }));
    }

    #[test]
    fn a_cut_download_is_tried_again_and_secrets_are_removed() {
        let error = failed(
            "x==1",
            "Traceback\npip._vendor...: broken at https://u:s3cret@index.example/x.whl?t=s3cret",
            Path::new("x"),
        );
        assert!(matches!(error, HubError::PipFailed { temporary: true, .. }));
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
