//! What a process has open, mapped and in memory, as `/proc` says (proc(5)).

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// Of one process, or summed up over some.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// open descriptors
    pub descriptors: u64,
    /// mappings of shared memory (`memfd`): logs and pages
    pub shared_mappings: u64,
    /// mappings of any kind
    pub mappings: u64,
    /// threads
    pub threads: u64,
    /// bytes; its share of all memory that it uses, shared pages divided among those who map them
    pub proportional_bytes: u64,
    /// bytes; memory that only it uses
    pub private_bytes: u64,
}

impl Cost {
    /// Of a process now.
    ///
    /// # Errors
    ///
    /// When it is gone or another user's.
    pub fn of(pid: u32) -> io::Result<Cost> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let sum = |names: &[&str]| names.iter().map(|name| bytes(&memory, name)).sum();
        Ok(Cost {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
            shared_mappings: maps.lines().filter(|line| line.contains("/memfd:")).count() as u64,
            mappings: maps.lines().count() as u64,
            threads: fs::read_dir(format!("/proc/{pid}/task"))?.count() as u64,
            proportional_bytes: sum(&["Pss:"]),
            private_bytes: sum(&["Private_Clean:", "Private_Dirty:"]),
        })
    }

    /// What came on top of `before`.
    pub fn since(&self, before: &Cost) -> Cost {
        self.with(before, u64::saturating_sub)
    }

    /// Both together.
    pub fn plus(&self, other: &Cost) -> Cost {
        self.with(other, u64::saturating_add)
    }

    /// One of so many parts.
    pub fn divided_by(&self, parts: usize) -> Cost {
        let parts = (parts as u64).max(1);
        self.with(&Cost::default(), |value, _| (value + parts / 2) / parts)
    }

    /// Whether it holds as few descriptors, mappings of shared memory and threads as `before`. (A process keeps private
    /// memory that it has freed.)
    pub fn is_back_at(&self, before: &Cost) -> bool {
        self.descriptors <= before.descriptors
            && self.shared_mappings <= before.shared_mappings
            && self.threads <= before.threads
    }

    fn with(&self, other: &Cost, operation: impl Fn(u64, u64) -> u64) -> Cost {
        Cost {
            descriptors: operation(self.descriptors, other.descriptors),
            shared_mappings: operation(self.shared_mappings, other.shared_mappings),
            mappings: operation(self.mappings, other.mappings),
            threads: operation(self.threads, other.threads),
            proportional_bytes: operation(self.proportional_bytes, other.proportional_bytes),
            private_bytes: operation(self.private_bytes, other.private_bytes),
        }
    }
}

/// The value of a line such as `Pss:  12 kB`.
fn bytes(memory: &str, name: &str) -> u64 {
    let line = memory.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use nodeset_bus::memory::Segment;

    use super::*;

    #[test]
    fn a_segment_is_seen_and_gone_again() {
        let before = Cost::of(std::process::id()).unwrap();
        assert!(before.descriptors > 0 && before.mappings > 0 && before.threads > 0 && before.private_bytes > 0);
        let segment = Segment::create("cost", 4096).unwrap();
        let mapping = segment.map_writable().unwrap();
        let with = Cost::of(std::process::id()).unwrap();
        assert!(with.shared_mappings > 0);
        drop((segment, mapping));
        assert!(Cost::of(std::process::id()).unwrap().shared_mappings < with.shared_mappings);
    }

    #[test]
    fn a_part_is_rounded() {
        let cost = Cost { descriptors: 5, ..Cost::default() };
        assert_eq!(cost.divided_by(2).descriptors, 3);
        assert_eq!(cost.since(&Cost { descriptors: 7, ..Cost::default() }).descriptors, 0);
    }
}
