//! Builds what is shipped: by a profile of a load that the program serves in a build that counts.
//!
//! Which code runs, how often, and what follows what decides how it is laid out. A gateway's request goes once through
//! much code, so that it waits for code more than for anything else, and takes a quarter less time after this.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, bail};

use crate::metadata::rustc_says;

/// The flag for the compiler, handed by `cargo xtask dist` to this program as the compiler's wrapper.
const FLAG: &str = "NEARFIELD_PROFILE_FLAG";
/// Crates that the load does not show: what it never runs would be built to be small. The engine's kernels are written for
/// their processor, and the load knows only one; TLS and HTTP/2 are not part of it.
const UNPROFILED: [&str; 8] = [
    "nearfield_engine",
    "nearfield_kernels",
    "nearfield_model",
    "nearfield_quantize",
    "h2",
    "hyper_rustls",
    "rustls",
    "tokio_rustls",
];

/// Builds, serves, and builds again.
pub(crate) fn build() -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no workspace")?;
    let merge = profdata_tool()?;
    let folder = root.join("target/profiled");
    if folder.exists() {
        // Cargo does not know that a profile has changed.
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let counts = folder.join("counts");
    let counting = compile(root, &folder.join("counting"), &flag("-Cprofile-generate=", &counts))?;
    let mut train = Command::new("python3");
    train.arg(root.join("bench/gateway/beside.py")).arg("--train").arg(&counting).current_dir(root);
    run(&mut train, "the load for the profile")?;
    let profile = folder.join("merged.profdata");
    run(Command::new(&merge).arg("merge").arg("-o").arg(&profile).arg(&counts), "merging the counts")?;
    let built = compile(root, &folder.join("built"), &flag("-Cprofile-use=", &profile))?;
    let shipped = root.join("target/dist/nearfield");
    fs::create_dir_all(root.join("target/dist"))?;
    fs::copy(&built, &shipped).with_context(|| format!("cannot write {}", shipped.display()))?;
    Ok(format!("built {}", shipped.display()))
}

/// Runs the compiler for cargo where `cargo xtask dist` put this program before it; `None` where it did not.
pub(crate) fn wrapped() -> Option<ExitCode> {
    let flag = env::var_os(FLAG)?;
    let mut arguments = env::args_os().skip(1);
    let compiler = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = Command::new(compiler);
    command.args(&arguments);
    if is_profiled(&arguments) {
        command.arg(flag);
    }
    // A compiler that does not run is an error, as is one that a signal ended.
    let code =
        command.status().ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Whether a crate is part of the program and the load shows how it is used. What only the build runs has no target.
fn is_profiled(arguments: &[OsString]) -> bool {
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.to_str()
    };
    let name = after("--crate-name");
    after("--target").is_some() && name.is_some_and(|name| !UNPROFILED.contains(&name))
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(path);
    flag
}

/// Builds the program with a flag for the crates of the profile; returns where it is.
fn compile(root: &Path, folder: &Path, flag: &OsString) -> Result<PathBuf> {
    let target = rustc_says("host: ")?;
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .args(["build", "--profile", "dist", "--locked", "--package", "nearfield", "--target", &target])
        .arg("--target-dir")
        .arg(folder)
        .env("RUSTC_WRAPPER", env::current_exe()?)
        .env(FLAG, flag)
        .current_dir(root);
    run(&mut build, "the build")?;
    Ok(folder.join(target).join("dist").join(format!("nearfield{}", env::consts::EXE_SUFFIX)))
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let status: ExitStatus =
        command.status().with_context(|| format!("{what} does not start: {command:?}"))?;
    if !status.success() {
        bail!("{what} failed: {command:?}");
    }
    Ok(())
}

/// LLVM's tool for profiles, of the compiler's own version: each writes a form of its own.
fn profdata_tool() -> Result<PathBuf> {
    if let Some(given) = env::var_os("LLVM_PROFDATA") {
        return Ok(given.into());
    }
    let version = rustc_says("LLVM version: ")?;
    let major = version.split('.').next().unwrap_or_default();
    let sysroot =
        Command::new("rustc").args(["--print", "sysroot"]).output().context("rustc does not run")?;
    let component = Path::new(String::from_utf8_lossy(&sysroot.stdout).trim())
        .join("lib/rustlib")
        .join(rustc_says("host: ")?)
        .join("bin/llvm-profdata");
    let named = PathBuf::from(format!("llvm-profdata-{major}"));
    let runs =
        |tool: &PathBuf| Command::new(tool).arg("--version").output().is_ok_and(|out| out.status.success());
    [component, named].into_iter().find(runs).with_context(|| {
        format!(
            "llvm-profdata {major} is missing: run `rustup component add llvm-tools`, install the package llvm-{major}, \
             or name the tool in LLVM_PROFDATA"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_profiled(line: &str) -> bool {
        super::is_profiled(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn only_what_runs_and_is_shown_by_the_load_is_profiled() {
        assert!(is_profiled(
            "--crate-name nearfield_server --edition=2024 --target x86_64-unknown-linux-gnu"
        ));
        assert!(is_profiled("--crate-name serde_json --target aarch64-apple-darwin -C opt-level=3"));
        assert!(!is_profiled("--crate-name nearfield_kernels --target x86_64-unknown-linux-gnu"));
        assert!(!is_profiled("--crate-name build_script_build --edition=2024"), "a build script");
        assert!(!is_profiled("-vV"));
    }
}
