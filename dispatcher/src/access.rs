//! Who may connect to the socket: its mode and group, and whether its folder lets them get there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nodeset_bus::protocol::endpoint::{Endpoint, Place};

use crate::socket::TakeError;

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The socket file's mode; connecting needs the permission to write.
    pub mode: u32,
    /// Its group; `None`: that of the process.
    pub group: Option<u32>,
}

impl Default for Access {
    /// This user and root.
    fn default() -> Access {
        Access { mode: 0o600, group: None }
    }
}

impl Access {
    /// Before anybody is asked to leave: only root can give a file to a group that it is no member of.
    pub(crate) fn check_group(self) -> Result<(), TakeError> {
        let Some(gid) = self.group else { return Ok(()) };
        let member = rustix::process::geteuid().is_root()
            || rustix::process::getegid().as_raw() == gid
            || rustix::process::getgroups().is_ok_and(|all| all.iter().any(|it| it.as_raw() == gid));
        if member { Ok(()) } else { Err(TakeError::NoMember { gid }) }
    }

    /// Sees to it that those who may connect can enter the folder. Only the folder of system services is opened for them: who
    /// gives a path has the folder to answer for, and the folders of one user are closed to all others.
    pub(crate) fn open_directory(self, endpoint: &Endpoint) -> Result<(), TakeError> {
        let directory = endpoint.directory();
        let failed = |doing| move |source| TakeError::System { doing, path: directory.to_owned(), source };
        let found = fs::metadata(directory).map_err(failed("looking at"))?;
        let (mode, gid) = (found.mode() & 0o777, found.gid());
        // Who may write to the socket must be able to search its folder.
        let wanted = (self.mode & 0o022) >> 1;
        let right_group = self.group.is_none_or(|group| group == gid);
        let others_enter = mode & 0o001 != 0;
        let group_enters = others_enter || (mode & 0o010 != 0 && right_group);
        if (wanted & 0o010 == 0 || group_enters) && (wanted & 0o001 == 0 || others_enter) {
            return Ok(());
        }
        let cure = match endpoint.place() {
            Place::System => {
                if !right_group {
                    chown(directory, None, self.group).map_err(failed("giving that group"))?;
                }
                let wider = fs::Permissions::from_mode(mode | wanted);
                return fs::set_permissions(directory, wider).map_err(failed("setting the mode of"));
            }
            Place::Explicit => {
                "give it that group and the right to search (`chgrp`, `chmod g+x` or `chmod o+x`), or choose another folder \
                 with --socket"
            }
            _ => {
                "it is this user's own; choose one that they may enter with --socket, or run as a system service in \
                 /run/nodeset"
            }
        };
        Err(TakeError::Closed { directory: directory.to_owned(), mode, gid, cure })
    }

    /// Sets who may connect to the socket's file.
    pub(crate) fn give(self, path: &Path) -> Result<(), TakeError> {
        let failed = |doing| move |source| TakeError::System { doing, path: path.to_owned(), source };
        let set_mode = |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        // First closed, so that nobody comes in by the mode of the one with the group of the other.
        set_mode(0o600).map_err(failed("setting the mode of"))?;
        if self.group.is_some() {
            chown(path, None, self.group).map_err(failed("giving that group"))?;
        }
        set_mode(self.mode).map_err(failed("setting the mode of"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(directory: &Path, mode: u32) -> Endpoint {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
        Endpoint::resolve("test", Some(&directory.join("test.sock"))).unwrap()
    }

    #[test]
    fn the_folder_must_let_in_who_may_connect() {
        let directory = tempfile::tempdir().unwrap();
        let own = fs::metadata(directory.path()).unwrap().gid();
        let access = |mode, group| Access { mode, group };
        for (wanted, folder, fits) in [
            (access(0o600, None), 0o700, true),
            (access(0o660, None), 0o700, false),
            (access(0o660, None), 0o710, true),
            (access(0o660, Some(own)), 0o710, true),
            (access(0o660, Some(own + 1)), 0o710, false),
            (access(0o660, Some(own + 1)), 0o711, true),
            (access(0o666, None), 0o710, false),
            (access(0o666, None), 0o755, true),
            (access(0o640, None), 0o700, true),
        ] {
            match wanted.open_directory(&endpoint(directory.path(), folder)) {
                Ok(()) => assert!(fits, "{wanted:?} in {folder:o}"),
                Err(error) => {
                    assert!(!fits, "{wanted:?} in {folder:o}: {error}");
                    assert!(error.to_string().contains("chmod g+x"), "{error}");
                }
            }
        }
    }

    #[test]
    fn mode_and_group_are_set() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let own = fs::metadata(&file).unwrap().gid();
        for access in [Access { mode: 0o660, group: Some(own) }, Access::default()] {
            access.check_group().unwrap();
            access.give(&file).unwrap();
            let found = fs::metadata(&file).unwrap();
            assert_eq!((found.mode() & 0o777, found.gid()), (access.mode, own));
        }
    }
}
