//! How much memory this process may hope for.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// bytes: the machine's memory, or less where a control group limits it.
///
/// Asks `sysinfo(2)` and, for version 2 of control groups, `memory.max` of the own group and those above it
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html>); for version 1 `memory.limit_in_bytes`. Reads some small files.
pub fn memory_limit() -> u64 {
    let machine = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "it has 32 bits on some machines")]
    let total = u64::from(machine.totalram).saturating_mul(u64::from(machine.mem_unit));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limited(total, &groups, Path::new("/"))
}

/// One in so many bytes of a control group's memory is left to others who ask at the same time, and to what grows unasked.
const RESERVE: u64 = 32;
/// bytes; the most that is left to them
const MOST_RESERVE: u64 = 64 << 20;

/// bytes; what this process may still touch before its control group, or one above it, runs out of memory; `u64::MAX` where
/// none has a limit. What can be taken back from the page cache counts as free, a small part does not.
///
/// Which groups have a limit is found out once in a process; then three small files a limit are read, some 20 us. It is a
/// forecast: others may take what was seen.
pub fn memory_left() -> u64 {
    static GROUPS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let groups = GROUPS.get_or_init(|| {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let files = group_files(&groups).into_iter().map(|file| Path::new("/").join(file));
        files.filter(|file| limit_in(file).is_some()).collect()
    });
    groups.iter().filter_map(|file| left_in(file)).min().unwrap_or(u64::MAX)
}

/// bytes; what is left below the limit in `file`.
fn left_in(file: &Path) -> Option<u64> {
    let limit = limit_in(file)?;
    let used = match file.file_name()?.to_str()? {
        "memory.max" => "memory.current",
        _ => "memory.usage_in_bytes",
    };
    let used: u64 = std::fs::read_to_string(file.with_file_name(used)).ok()?.trim().parse().ok()?;
    let stat = std::fs::read_to_string(file.with_file_name("memory.stat")).unwrap_or_default();
    // Shared memory is not among the pages of files here: it cannot be taken back.
    let reclaimable = stat.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        matches!(key, "active_file" | "inactive_file" | "slab_reclaimable").then(|| value.trim().parse::<u64>().ok())?
    });
    let used = used.saturating_sub(reclaimable.sum());
    Some(limit.saturating_sub(used).saturating_sub((limit / RESERVE).min(MOST_RESERVE)))
}

fn limited(total: u64, groups: &str, root: &Path) -> u64 {
    group_files(groups).iter().filter_map(|file| limit_in(&root.join(file))).fold(total, u64::min)
}

/// The files that may hold a limit, for the contents of `/proc/self/cgroup`; relative to the root folder. In a container the
/// path may be that of the host: then only the topmost file is there, and it is the container's.
fn group_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            v1 if v1.split(',').any(|controller| controller == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{name}"));
            match path.rsplit_once('/') {
                Some((above, _)) => path = above,
                None => break,
            }
        }
    }
    files
}

/// "max" and files that are not there limit nothing.
fn limit_in(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_above_counts() {
        assert_eq!(
            group_files("0::/a/b\n"),
            ["sys/fs/cgroup/a/b/memory.max", "sys/fs/cgroup/a/memory.max", "sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            group_files("5:cpu,memory:/x\n4:pids:/y\n"),
            ["sys/fs/cgroup/memory/x/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert!(memory_limit() > 0);
    }

    #[test]
    fn the_least_limit_counts() {
        let root = std::env::temp_dir().join(format!("memory-limit-{}", std::process::id()));
        let group = root.join("sys/fs/cgroup/a/b");
        std::fs::create_dir_all(&group).unwrap();
        let set = |file: &str, limit: &str| std::fs::write(root.join("sys/fs/cgroup").join(file), limit).unwrap();
        let now = || limited(1 << 30, "0::/a/b\n", &root);
        assert_eq!(now(), 1 << 30);
        set("a/b/memory.max", "max\n");
        assert_eq!(now(), 1 << 30);
        set("a/memory.max", "4096000\n");
        assert_eq!(now(), 4_096_000);
        set("a/b/memory.max", "8192000\n");
        assert_eq!(now(), 4_096_000);
        set("memory.max", "4096\n");
        assert_eq!(now(), 4096);
        set("memory.max", "nonsense");
        assert_eq!(now(), 4_096_000);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_left_counts_the_page_cache_as_free() {
        let group = std::env::temp_dir().join(format!("memory-left-{}", std::process::id()));
        std::fs::create_dir_all(&group).unwrap();
        let set = |file: &str, text: &str| std::fs::write(group.join(file), text).unwrap();
        let left = || left_in(&group.join("memory.max"));
        assert_eq!(left(), None);
        set("memory.max", "max\n");
        set("memory.current", "1000\n");
        assert_eq!(left(), None);
        set("memory.max", "3200\n");
        assert_eq!(left(), Some(3200 - 1000 - 100));
        set("memory.stat", "anon 300\nshmem 200\nfile 600\ninactive_file 300\nactive_file 100\nslab_reclaimable 50\n");
        assert_eq!(left(), Some(3200 - (1000 - 450) - 100));
        set("memory.current", "3199\n");
        set("memory.stat", "");
        assert_eq!(left(), Some(0));
        assert!(memory_left() > 0);
        std::fs::remove_dir_all(group).unwrap();
    }
}
