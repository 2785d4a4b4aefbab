//! Memory use, as the operating system reports it.

/// Returns the peak resident memory of this process in bytes; 0 if the system does not report it.
pub fn peak_resident_bytes() -> u64 {
    read_bytes("/proc/self/status", "VmHWM:").unwrap_or(0)
}

/// Returns the memory that this process can have in bytes: that of the machine, or the limit of its container if that is
/// smaller. `None` if the system does not report it.
pub fn machine_memory_bytes() -> Option<u64> {
    let machine = read_bytes("/proc/meminfo", "MemTotal:");
    machine.into_iter().chain(container_limit()).min()
}

/// The limit of the container (control groups, version 2 and 1); `None` if there is none.
fn container_limit() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    // `max` stands for no limit.
    files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// Returns the value of the line with prefix `key`, in bytes. The Linux kernel writes it in KiB.
fn read_bytes(path: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
