//! How much memory there is.

use std::path::{Path, PathBuf};

/// Bytes that this process may still take without anything being swapped out; `None` where the system does not say.
///
/// Memory that only caches files counts as available: the system gives it up when it is needed, and mapped weights are
/// part of it.
pub fn available() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| from_meminfo(&text));
    match (system, control_group()) {
        (Some(system), Some(group)) => Some(system.min(group)),
        (system, group) => system.or(group),
    }
}

/// The most memory that this process has had at any time, mapped files included; `None` where the system does not say.
pub fn peak() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

fn from_meminfo(text: &str) -> Option<u64> {
    kilobytes(text, "MemAvailable:")
}

/// The value of a line such as `MemAvailable:   1024 kB`, in bytes.
fn kilobytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the limits of this process's control groups leave.
fn control_group() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let root = Path::new("/sys/fs/cgroup");
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let legacy = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|controller| controller == "memory").then_some(path)
    });
    let unified = unified.and_then(|path| least(root, path, &UNIFIED));
    let legacy = legacy.and_then(|path| least(&root.join("memory"), path, &LEGACY));
    unified.into_iter().chain(legacy).min()
}

/// The files of one version of control groups.
struct Files {
    limit: &'static str,
    usage: &'static str,
    inactive: &'static str,
}

const UNIFIED: Files = Files { limit: "memory.max", usage: "memory.current", inactive: "inactive_file " };
const LEGACY: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    inactive: "total_inactive_file ",
};

/// The least that a group or any group above it leaves. Inside a container the path may not exist: then only the top
/// is there to be asked.
fn least(root: &Path, path: &str, files: &Files) -> Option<u64> {
    let mut folder: PathBuf = root.join(path.trim_start_matches('/'));
    let mut least = None::<u64>;
    while folder.starts_with(root) {
        if let Some(left) = left_in(&folder, files) {
            least = Some(least.map_or(left, |least| least.min(left)));
        }
        if !folder.pop() {
            break;
        }
    }
    least
}

fn left_in(folder: &Path, files: &Files) -> Option<u64> {
    let read = |name| std::fs::read_to_string(folder.join(name)).ok();
    // No limit is "max" in one version and a number beyond any memory in the other.
    let limit: u64 = read(files.limit)?.trim().parse().ok()?;
    let usage: u64 = read(files.usage)?.trim().parse().ok()?;
    let inactive = read("memory.stat")
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix(files.inactive)?.trim().parse().ok()))
        .unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(inactive)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_what_is_available() {
        let text = "MemTotal:       24580016 kB\nMemFree:          900 kB\nMemAvailable:   22000000 kB\n";
        assert_eq!(from_meminfo(text), Some(22_000_000 * 1024));
        assert_eq!(from_meminfo("MemTotal: 5 kB\n"), None);
        assert_eq!(from_meminfo("MemAvailable: many kB\n"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("outer/inner");
        std::fs::create_dir_all(&inner).unwrap();
        let write = |folder: &Path, limit: &str, usage: &str, stat: &str| {
            std::fs::write(folder.join("memory.max"), limit).unwrap();
            std::fs::write(folder.join("memory.current"), usage).unwrap();
            std::fs::write(folder.join("memory.stat"), stat).unwrap();
        };
        write(&inner, "max\n", "500\n", "anon 5\ninactive_file 100\n");
        assert_eq!(least(root.path(), "/outer/inner", &UNIFIED), None);
        write(inner.parent().unwrap(), "1000\n", "700\n", "anon 5\ninactive_file 100\n");
        assert_eq!(least(root.path(), "/outer/inner", &UNIFIED), Some(400));
        write(&inner, "300\n", "700\n", "");
        assert_eq!(least(root.path(), "/outer/inner", &UNIFIED), Some(0));
    }
}
