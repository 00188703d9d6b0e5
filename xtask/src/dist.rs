//! Builds what is shipped: by a profile of a load that the program serves in a build that counts.
//!
//! Which code runs, how often, and what follows what decides how it is compiled and laid out. A gateway's request goes once
//! through much code, so that it waits for code more than for anything else, and takes a quarter less time after this.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::metadata::rustc_says;

/// Where `cargo xtask dist` leaves flags for this program as the compiler's wrapper, with [`BETWEEN`] between them.
const FLAGS: &str = "NEARFIELD_PROFILE_FLAGS";
const BETWEEN: &str = "\u{1f}";
/// How code with a profile is laid out: what follows on what side by side, what never ran in another section.
const LAYOUT: [&str; 2] =
    ["-Cllvm-args=-enable-ext-tsp-block-placement", "-Cllvm-args=-enable-split-machine-functions"];
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
    let (counts, profile) = (folder.join("counts"), folder.join("merged.profdata"));
    let counting = compile(root, &folder.join("counting"), &[flag("-Cprofile-generate=", &counts)])?;
    let load = root.join("bench/gateway/beside.py");
    run(Command::new("python3").arg(load).arg("--train").arg(&counting).current_dir(root))?;
    run(Command::new(merge).arg("merge").arg("-o").arg(&profile).arg(&counts))?;
    let mut flags = vec![flag("-Cprofile-use=", &profile)];
    flags.extend(LAYOUT.map(OsString::from));
    let built = compile(root, &folder.join("built"), &flags)?;
    let shipped = root.join("target/dist").join(program_name());
    fs::create_dir_all(root.join("target/dist"))?;
    fs::copy(&built, &shipped).with_context(|| format!("cannot write {}", shipped.display()))?;
    Ok(format!("built {}", shipped.display()))
}

/// Runs the compiler for cargo where `cargo xtask dist` put this program before it; `None` where it did not.
pub(crate) fn wrapped() -> Option<ExitCode> {
    let flags = env::var_os(FLAGS)?;
    let mut arguments = env::args_os().skip(1);
    let compiler = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = Command::new(compiler);
    command.args(&arguments);
    if is_profiled(&arguments) {
        command.args(flags.to_str()?.split(BETWEEN));
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

fn program_name() -> String {
    format!("nearfield{}", env::consts::EXE_SUFFIX)
}

/// Builds the program with flags for the crates of the profile; returns where it is.
fn compile(root: &Path, folder: &Path, flags: &[OsString]) -> Result<PathBuf> {
    let target = rustc_says("host: ")?;
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .args(["build", "--profile", "dist", "--locked", "--package", "nearfield", "--target", &target])
        .arg("--target-dir")
        .arg(folder)
        .env("RUSTC_WRAPPER", env::current_exe()?)
        .env(FLAGS, flags.join(OsStr::new(BETWEEN)))
        .current_dir(root);
    run(&mut build)?;
    Ok(folder.join(target).join("dist").join(program_name()))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("does not start: {command:?}"))?;
    if !status.success() {
        bail!("failed: {command:?}");
    }
    Ok(())
}

/// LLVM's tool for profiles, of the compiler's own version: each reads and writes a form of its own.
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
    let runs = |tool: &PathBuf| Command::new(tool).arg("--version").output().is_ok();
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
