//! Measures energy where the processor counts it: the RAPL counters that Linux shows.

use std::path::{Path, PathBuf};

/// Where Linux shows power counters.
const POWERCAP: &str = "/sys/class/powercap";

/// The processor's energy counters. Without any that may be read, nothing is measured.
#[derive(Debug)]
pub(super) struct Meter {
    counters: Vec<Counter>,
}

#[derive(Debug)]
struct Counter {
    path: PathBuf,
    /// The counter goes on at 0 after this many microjoules.
    range: u64,
}

/// What all counters showed at one moment, in microjoules.
#[derive(Clone, Debug)]
pub(super) struct Reading(Vec<u64>);

impl Meter {
    pub(super) fn new() -> Self {
        Self::of(Path::new(POWERCAP))
    }

    /// The packages and their memory; parts of a package are in its own counter already.
    fn of(folder: &Path) -> Self {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut counters: Vec<Counter> = entries.filter_map(|entry| Counter::of(&entry.path())).collect();
        counters.sort_by(|one, two| one.path.cmp(&two.path));
        Self { counters }
    }

    /// The counters now; `None` when nothing can be measured.
    pub(super) fn read(&self) -> Option<Reading> {
        if self.counters.is_empty() {
            return None;
        }
        self.counters.iter().map(|counter| number(&counter.path)).collect::<Option<_>>().map(Reading)
    }

    /// Joules since an earlier reading.
    pub(super) fn joules_since(&self, before: &Reading) -> Option<f64> {
        let now = self.read()?;
        let counters = self.counters.iter().zip(before.0.iter().zip(now.0));
        let micro: u64 = counters
            .map(|(counter, (&before, now))| {
                now.checked_sub(before).unwrap_or_else(|| (now + counter.range).saturating_sub(before))
            })
            .sum();
        Some(micro as f64 / 1e6)
    }
}

impl Counter {
    fn of(folder: &Path) -> Option<Self> {
        let name = std::fs::read_to_string(folder.join("name")).ok()?;
        let name = name.trim();
        if !name.starts_with("package") && name != "dram" {
            return None;
        }
        let path = folder.join("energy_uj");
        // Many systems let only the administrator read it.
        number(&path)?;
        Some(Self { path, range: number(&folder.join("max_energy_range_uj"))? })
    }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(folder: &Path, name: &str, energy: u64) -> PathBuf {
        let folder = folder.join(format!("intel-rapl:{name}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        std::fs::write(folder.join("max_energy_range_uj"), "1000000\n").unwrap();
        std::fs::write(folder.join("energy_uj"), format!("{energy}\n")).unwrap();
        folder.join("energy_uj")
    }

    #[test]
    fn packages_and_memory_are_summed_over_the_counters_end() {
        let folder = tempfile::tempdir().unwrap();
        let package = domain(folder.path(), "package-0", 900_000);
        let dram = domain(folder.path(), "dram", 10);
        domain(folder.path(), "core", 5);
        let meter = Meter::of(folder.path());
        let before = meter.read().unwrap();
        std::fs::write(package, "100000\n").unwrap();
        std::fs::write(dram, "50010\n").unwrap();
        let joules = meter.joules_since(&before).unwrap();
        assert!((joules - 0.25).abs() < 1e-9, "{joules}");
    }

    #[test]
    fn without_counters_nothing_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Meter::of(folder.path()).read().is_none());
        assert!(Meter::of(&folder.path().join("none")).read().is_none());
    }
}
