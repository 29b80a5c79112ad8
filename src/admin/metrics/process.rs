//! Resource usage of this process.

use rustix::time::{ClockId, clock_gettime};

/// CPU time and memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessUsage {
    /// CPU seconds of all threads.
    pub cpu_s: f64,
    /// Resident memory in bytes; `None` if the system does not report it.
    pub resident_bytes: Option<u64>,
}

impl ProcessUsage {
    pub fn now() -> ProcessUsage {
        let cpu_s = cpu_seconds();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        ProcessUsage { cpu_s, resident_bytes: resident(&status) }
    }
}

/// CPU seconds of all threads of this process.
pub fn cpu_seconds() -> f64 {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9
}

/// The line `VmRSS:  1234 kB`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_and_memory() {
        let ProcessUsage { cpu_s, resident_bytes } = ProcessUsage::now();
        assert!(cpu_s > 0.0 && cpu_s < 1e6, "{cpu_s}");
        assert!(resident_bytes.is_some_and(|bytes| bytes > 100_000), "{resident_bytes:?}");
        assert_eq!(resident("Name:\tlbd\nVmRSS:\t   1234 kB\nThreads: 3\n"), Some(1_234 * 1_024));
        assert_eq!(resident("Name:\tlbd\n"), None);
    }
}
