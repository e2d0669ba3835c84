//! A control group with little memory, where this process may make one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Names the group's folder for the process that shall enter it.
pub const GROUP: &str = "NODESET_LIMITS_GROUP";
/// bytes
const MEMORY: u64 = 64 << 20;

/// A group of its own; removed when dropped.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// Makes one below that of this process.
    ///
    /// # Errors
    ///
    /// Not allowed, or there are no control groups for memory.
    pub fn make() -> io::Result<Group> {
        let mut refused = io::Error::new(io::ErrorKind::Unsupported, "there are no control groups for memory here");
        for (parent, limit) in parents(&fs::read_to_string("/proc/self/cgroup")?) {
            let folder = parent.join(format!("nodeset-limits-{}", std::process::id()));
            let made = fs::create_dir(&folder).map(|()| Group(folder.clone()));
            match made.and_then(|group| fs::write(folder.join(limit), MEMORY.to_string()).map(|()| group)) {
                Ok(group) => return Ok(group),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process has ended: it is empty. What the system keeps of it otherwise harms nobody.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Folders in which a group could be made, with the name of the file for its limit.
fn parents(own: &str) -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, limit) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            v1 if v1.split(',').any(|it| it == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // Its own group; in a container, where its path is the host's, the topmost.
        found.push((Path::new(root).join(path.trim_start_matches('/')), limit));
        found.push((PathBuf::from(root), limit));
    }
    found
}

/// Moves this process to the group that it was told.
pub(super) fn enter() -> io::Result<()> {
    let folder = std::env::var_os(GROUP).ok_or_else(|| io::Error::other("no group was made"))?;
    fs::write(Path::new(&folder).join("cgroup.procs"), std::process::id().to_string())
}
