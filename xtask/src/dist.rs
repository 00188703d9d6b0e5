//! Builds what is shipped: by a profile of a load that the program serves in a build that counts.
//!
//! Which code runs, how often, and what follows what decides how it is compiled and laid out. A gateway's request goes once
//! through much code, so that it waits for code more than for anything else, and takes a quarter less time after this.

use std::cmp::Reverse;
use std::collections::BTreeMap;
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
/// Whether the compiler's own linker is one that takes an order of functions, as LLD does.
const ORDERED: bool = cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"));
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
    run(Command::new(&merge).arg("merge").arg("-o").arg(&profile).arg(&counts))?;
    let mut flags = vec![flag("-Cprofile-use=", &profile)];
    flags.extend(LAYOUT.map(OsString::from));
    if ORDERED {
        let order = folder.join("order");
        let ran = functions_that_ran(&merge, &profile)?;
        // Pieces that ran less than the compiler calls often are functions of their own. Of those that ran at all, such as
        // what only the start needs, they come next; of the busiest ones, which never left their way, last.
        let pieces = ran.iter().rev().map(|name| format!("{name}.cold"));
        let lines: Vec<String> = ran.iter().cloned().chain(pieces).collect();
        fs::write(&order, lines.join("\n")).with_context(|| format!("cannot write {}", order.display()))?;
        flags.push(flag("-Clink-arg=-Wl,--no-warn-symbol-ordering,--symbol-ordering-file=", &order));
    }
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

/// Functions that ran in the load, the most frequent first. Those that never did go behind them, so that a page of the
/// program is either needed or never read.
fn functions_that_ran(tool: &Path, profile: &Path) -> Result<Vec<String>> {
    let shown = Command::new(tool).args(["show", "--all-functions", "--counts"]).arg(profile).output()?;
    if !shown.status.success() {
        bail!("{} does not show the profile", tool.display());
    }
    Ok(ran(&String::from_utf8_lossy(&shown.stdout)))
}

/// The names in what the tool shows of a profile, by the most that a piece of them ran.
fn ran(shown: &str) -> Vec<String> {
    let mut most: BTreeMap<&str, u64> = BTreeMap::new();
    let mut name = "";
    for line in shown.lines() {
        if let Some(head) = line.strip_prefix("  ").and_then(|line| line.strip_suffix(':'))
            && !head.starts_with(' ')
        {
            // One that only its own file sees has that before it.
            name = head.rsplit(';').next().unwrap_or(head);
        } else if let Some(counts) = line.trim_start().strip_prefix("Block counts: ") {
            let counts = counts.trim_matches(['[', ']']).split(", ");
            let ran = counts.filter_map(|count| count.parse().ok()).max().unwrap_or(0);
            let before = most.entry(name).or_default();
            *before = ran.max(*before);
        }
    }
    let mut ran: Vec<(&str, u64)> = most.into_iter().filter(|(_, count)| *count > 0).collect();
    ran.sort_by_key(|(_, count)| Reverse(*count));
    ran.into_iter().map(|(name, _)| name.to_owned()).collect()
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
    fn functions_that_ran_are_in_order_and_without_their_files() {
        let shown = "Counters:\n  a.1-cgu.0;_ZN1a:\n    Hash: 0x1\n    Counters: 2\n    Block counts: [3, 7]\n  _ZN1b:\n    \
                     Block counts: [0]\n  _ZN1c:\n    Block counts: [9]\n  b.2-cgu.0;_ZN1a:\n    Block counts: [1]\n\
                     Total functions: 4\n";
        assert_eq!(ran(shown), ["_ZN1c", "_ZN1a"]);
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
