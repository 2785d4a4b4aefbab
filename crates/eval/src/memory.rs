//! Memory as the operating system counts it.

/// The largest resident memory of this process so far, in bytes; 0 where the system does not tell.
pub fn peak_resident_bytes() -> u64 {
    told("/proc/self/status", "VmHWM:").unwrap_or(0)
}

/// This machine's memory, in bytes; `None` where the system does not tell.
pub fn machine_memory_bytes() -> Option<u64> {
    told("/proc/meminfo", "MemTotal:")
}

/// The figure of a line of kernel's text, which gives kibibytes.
fn told(path: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
