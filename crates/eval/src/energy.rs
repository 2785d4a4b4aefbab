//! What the processor's own meter counts, where the system lets us read it (powercap, RAPL).

use std::path::{Path, PathBuf};

/// A running count of microjoules.
struct Counter {
    path: PathBuf,
    /// Where it starts again at nothing.
    range: u64,
    before: u64,
}

/// Energy of all packages from its making on.
pub(crate) struct Meter(Vec<Counter>);

impl Meter {
    /// One without counters where none can be read.
    pub fn start() -> Self {
        Self::of(Path::new("/sys/class/powercap"))
    }

    fn of(folder: &Path) -> Self {
        let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        // "intel-rapl:0" is a package; "intel-rapl:0:1" is a part of it.
        let packages = entries.filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("intel-rapl:") && name.matches(':').count() == 1
        });
        let counters = packages.filter_map(|package| {
            let path = package.path().join("energy_uj");
            let range = number(&package.path().join("max_energy_range_uj"))?;
            Some(Counter { before: number(&path)?, path, range })
        });
        Self(counters.collect())
    }

    /// Joules since the start; `None` where nothing counts.
    pub fn joules(&self) -> Option<f64> {
        let spent = self.0.iter().map(|counter| {
            let now: u64 = std::fs::read_to_string(&counter.path).ok()?.trim().parse().ok()?;
            let around = if now < counter.before { counter.range } else { 0 };
            Some((now + around).saturating_sub(counter.before) as f64 / 1e6)
        });
        if self.0.is_empty() { None } else { spent.sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_summed_and_counters_go_around() {
        let folder = std::env::temp_dir().join(format!("kvant-energy-{}", std::process::id()));
        let put = |name: &str, file: &str, value: u64| {
            std::fs::create_dir_all(folder.join(name)).unwrap();
            std::fs::write(folder.join(name).join(file), format!("{value}\n")).unwrap();
        };
        assert_eq!(Meter::of(&folder).joules(), None);
        for (name, energy) in
            [("intel-rapl:0", 5_000_000), ("intel-rapl:1", 9_000_000), ("intel-rapl:0:0", 1)]
        {
            put(name, "energy_uj", energy);
            put(name, "max_energy_range_uj", 10_000_000);
        }
        let meter = Meter::of(&folder);
        put("intel-rapl:0", "energy_uj", 6_500_000);
        put("intel-rapl:1", "energy_uj", 1_000_000);
        assert_eq!(meter.joules(), Some(3.5));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
