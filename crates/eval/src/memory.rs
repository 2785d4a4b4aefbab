//! Memory use, as the operating system reports it.

/// Returns the peak resident memory of this process in bytes; 0 if the system does not report it.
pub fn peak_resident_bytes() -> u64 {
    read_bytes("/proc/self/status", "VmHWM:").unwrap_or(0)
}

/// Returns the memory of this machine in bytes; `None` if the system does not report it.
pub fn machine_memory_bytes() -> Option<u64> {
    read_bytes("/proc/meminfo", "MemTotal:")
}

/// Returns the value of the line with prefix `key`, in bytes. The Linux kernel writes it in KiB.
fn read_bytes(path: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
