//! How much memory this process may hope for.

use std::path::Path;

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
}
