//! The energy counters of the processor (RAPL). They are available if the system allows reading them (Linux powercap).

use std::path::{Path, PathBuf};

/// The energy counter of one processor package. All values are in microjoules.
struct Counter {
    /// The file that contains the counter.
    path: PathBuf,
    /// The maximum value. The counter restarts at zero after this value.
    range: u64,
    /// The value at the start of the measurement.
    before: u64,
}

/// Measures the energy that all packages have used since [`Meter::start`].
pub(crate) struct Meter(Vec<Counter>);

impl Meter {
    /// Starts a measurement. If no counter is readable, the meter has no counters.
    pub fn start() -> Self {
        Self::in_folder(Path::new("/sys/class/powercap"))
    }

    /// Starts a measurement with the counters in `folder`.
    fn in_folder(folder: &Path) -> Self {
        let read_number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        // "intel-rapl:0" is a package; "intel-rapl:0:1" is a part of this package.
        let packages = entries.filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("intel-rapl:") && name.matches(':').count() == 1
        });
        let counters = packages.filter_map(|package| {
            let path = package.path().join("energy_uj");
            let range = read_number(&package.path().join("max_energy_range_uj"))?;
            Some(Counter { before: read_number(&path)?, path, range })
        });
        Self(counters.collect())
    }

    /// Returns the joules since the start. Returns `None` if there is no counter or if a counter is not readable.
    pub fn joules(&self) -> Option<f64> {
        let spent = self.0.iter().map(|counter| {
            let now: u64 = std::fs::read_to_string(&counter.path).ok()?.trim().parse().ok()?;
            let wrapped = if now < counter.before { counter.range } else { 0 };
            Some((now + wrapped).saturating_sub(counter.before) as f64 / 1e6)
        });
        if self.0.is_empty() { None } else { spent.sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_summed_and_counters_wrap() {
        let folder = std::env::temp_dir().join(format!("kvant-energy-{}", std::process::id()));
        let put = |name: &str, file: &str, value: u64| {
            std::fs::create_dir_all(folder.join(name)).unwrap();
            std::fs::write(folder.join(name).join(file), format!("{value}\n")).unwrap();
        };
        assert_eq!(Meter::in_folder(&folder).joules(), None);
        for (name, energy) in
            [("intel-rapl:0", 5_000_000), ("intel-rapl:1", 9_000_000), ("intel-rapl:0:0", 1)]
        {
            put(name, "energy_uj", energy);
            put(name, "max_energy_range_uj", 10_000_000);
        }
        let meter = Meter::in_folder(&folder);
        put("intel-rapl:0", "energy_uj", 6_500_000);
        put("intel-rapl:1", "energy_uj", 1_000_000);
        assert_eq!(meter.joules(), Some(3.5));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
