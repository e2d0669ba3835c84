//! Where a dispatcher's socket is. Only path logic: no socket is opened here, and whoever asks from one process gets the
//! answer that everybody else of the same user gets.
//!
//! In this order:
//! 1. the path given, if one is;
//! 2. `$XDG_RUNTIME_DIR/nodeset/NAME.sock`, where that variable names a directory of this user;
//! 3. `/run/nodeset/NAME.sock` for a system service: for root, and for a user to whom `/run/nodeset` belongs;
//! 4. `nodeset-UID/NAME.sock` in the temporary directory, in a folder that is this user's, no symbolic link and closed to
//!    all others.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The instance that is meant when none is named.
pub const DEFAULT_INSTANCE: &str = "default";
/// Longest path of a Unix socket that Linux accepts, in bytes.
pub const MAX_SOCKET_PATH: usize = 107;
/// Where a system service has its socket.
const SYSTEM_DIRECTORY: &str = "/run/nodeset";

/// Which rule gave the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The path was given.
    Explicit,
    /// Under the user's runtime directory.
    Runtime,
    /// Under `/run/nodeset`.
    System,
    /// Under the temporary directory.
    Temporary,
}

/// What the choice depends on, apart from what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// `$XDG_RUNTIME_DIR`, if set and not empty.
    pub runtime_directory: Option<PathBuf>,
    /// The folder of system services' sockets.
    pub system_directory: PathBuf,
    /// The temporary directory.
    pub temporary_directory: PathBuf,
    /// This process' effective user.
    pub uid: u32,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Surroundings {
        Surroundings {
            runtime_directory: std::env::var_os("XDG_RUNTIME_DIR").filter(|it| !it.is_empty()).map(PathBuf::from),
            system_directory: PathBuf::from(SYSTEM_DIRECTORY),
            temporary_directory: std::env::temp_dir(),
            uid: rustix::process::geteuid().as_raw(),
        }
    }
}

/// The place of one dispatcher's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// absolute; at most [`MAX_SOCKET_PATH`] bytes
    path: PathBuf,
    place: Place,
    uid: u32,
}

impl Endpoint {
    /// Finds the socket of `instance`, or the one at `socket` if given, for this process.
    ///
    /// # Errors
    ///
    /// The instance's name is not valid, or the path is longer than the kernel takes.
    pub fn resolve(instance: &str, socket: Option<&Path>) -> Result<Endpoint, EndpointError> {
        Endpoint::resolve_in(instance, socket, &Surroundings::of_this_process())
    }

    /// As [`resolve`](Self::resolve), in other surroundings.
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve).
    pub fn resolve_in(instance: &str, socket: Option<&Path>, around: &Surroundings) -> Result<Endpoint, EndpointError> {
        let (path, place) = match socket {
            Some(path) => {
                let absolute = std::path::absolute(path)
                    .map_err(|source| EndpointError::Path { path: path.to_owned(), source })?;
                (absolute, Place::Explicit)
            }
            None => {
                check_instance(instance)?;
                let (directory, place) = choose_directory(around);
                (directory.join(format!("{instance}.sock")), place)
            }
        };
        let len = path.as_os_str().as_bytes().len();
        if len > MAX_SOCKET_PATH {
            return Err(EndpointError::TooLong { path, len });
        }
        Ok(Endpoint { path, place, uid: around.uid })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder the socket is in; whoever takes the socket locks it.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Which rule gave the path.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The instance from whose name the path followed; `None` when the path was given.
    pub fn instance(&self) -> Option<&str> {
        if self.place == Place::Explicit { None } else { self.path.file_stem()?.to_str() }
    }

    /// Checks, before a connection is made, that nobody else could have put the socket there. A folder that does not exist
    /// passes: then nobody is there. A path that was given passes: who gives it answers for it.
    ///
    /// # Errors
    ///
    /// The folder is not this user's, or open to others.
    pub fn check(&self) -> Result<(), EndpointError> {
        if self.place == Place::Explicit {
            return Ok(());
        }
        let directory = self.directory();
        match fs::symlink_metadata(directory) {
            Ok(found) => check_directory(directory, &found, self.uid, self.place),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(EndpointError::Directory { directory: directory.to_owned(), source }),
        }
    }

    /// Makes the folder, unless the path was given, and checks it: what a dispatcher does before it takes the socket.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, is not there, is not this user's, or is open to others.
    pub fn prepare(&self) -> Result<(), EndpointError> {
        let directory = self.directory();
        let failed = |source| EndpointError::Directory { directory: directory.to_owned(), source };
        if self.place == Place::Explicit {
            return match fs::metadata(directory) {
                Ok(found) if found.is_dir() => Ok(()),
                Ok(_) => Err(failed(io::ErrorKind::NotADirectory.into())),
                Err(source) => Err(failed(source)),
            };
        }
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(failed(source)),
        }
        self.check()
    }
}

/// The path of the socket of `instance`, or `socket` if given: [`Endpoint::resolve`] for those who need only the path.
///
/// # Errors
///
/// As [`Endpoint::resolve`].
pub fn socket_path(instance: &str, socket: Option<&Path>) -> Result<PathBuf, EndpointError> {
    Endpoint::resolve(instance, socket).map(|endpoint| endpoint.path)
}

/// There is no such place, or it cannot be trusted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Choose another name.
    #[error("`{0}` cannot name an instance: use 1 to 64 letters, digits, `-`, `_` or `.`, not beginning with a dot")]
    Instance(String),
    /// Choose a shorter path.
    #[error("the socket's path {path:?} has {len} bytes, the kernel takes {MAX_SOCKET_PATH}: give a shorter one")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        len: usize,
    },
    /// Give an absolute path.
    #[error("the socket's path {path:?} cannot be made absolute: give an absolute one")]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Make the folder, or choose another one.
    #[error(
        "the socket's folder {directory:?} cannot be used ({source}): make it, get permission to write there, \
         or choose another path for the socket"
    )]
    Directory {
        /// The folder.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else may have put it there: remove it, or choose another path.
    #[error("the socket's folder {directory:?} {why}: remove it or choose another path for the socket")]
    Untrusted {
        /// The folder.
        directory: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Checks a name for an instance or its board.
///
/// # Errors
///
/// [`EndpointError::Instance`].
pub fn check_instance(instance: &str) -> Result<(), EndpointError> {
    let fits = (1..=64).contains(&instance.len())
        && !instance.starts_with('.')
        && instance.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits { Ok(()) } else { Err(EndpointError::Instance(instance.to_owned())) }
}

fn choose_directory(around: &Surroundings) -> (PathBuf, Place) {
    let belongs = |path: &Path| fs::metadata(path).is_ok_and(|it| it.is_dir() && it.uid() == around.uid);
    if let Some(runtime) = around.runtime_directory.as_deref().filter(|it| it.is_absolute() && belongs(it)) {
        return (runtime.join("nodeset"), Place::Runtime);
    }
    let system = &around.system_directory;
    if belongs(system) || (around.uid == 0 && system.parent().is_some_and(Path::is_dir)) {
        return (system.clone(), Place::System);
    }
    (around.temporary_directory.join(format!("nodeset-{}", around.uid)), Place::Temporary)
}

fn check_directory(directory: &Path, found: &fs::Metadata, uid: u32, place: Place) -> Result<(), EndpointError> {
    // A system service's folder may be entered by others; nobody else may ever write there.
    let forbidden = if place == Place::System { 0o022 } else { 0o077 };
    let why = if found.file_type().is_symlink() {
        "is a symbolic link".to_owned()
    } else if !found.is_dir() {
        "is not a folder".to_owned()
    } else if found.uid() != uid {
        format!("belongs to user {}, not to user {uid}", found.uid())
    } else if found.mode() & forbidden != 0 {
        format!("has mode {:03o}, which lets others in (mode 700 is right)", found.mode() & 0o777)
    } else {
        return Ok(());
    };
    Err(EndpointError::Untrusted { directory: directory.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("endpoint-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        fn around(&self) -> Surroundings {
            let runtime = self.0.join("runtime");
            let temporary = self.0.join("temporary");
            fs::create_dir_all(&runtime).unwrap();
            fs::create_dir_all(&temporary).unwrap();
            Surroundings {
                runtime_directory: Some(runtime),
                system_directory: self.0.join("none/nodeset"),
                temporary_directory: temporary,
                uid: rustix::process::geteuid().as_raw(),
            }
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_runtime_directory_comes_first() {
        let scratch = Scratch::new("runtime");
        let around = scratch.around();
        let found = Endpoint::resolve_in("lab", None, &around).unwrap();
        assert_eq!(found.path(), scratch.0.join("runtime/nodeset/lab.sock"));
        assert_eq!(found.place(), Place::Runtime);
        found.check().unwrap();
        found.prepare().unwrap();
        found.prepare().unwrap();
        assert_eq!(fs::metadata(found.directory()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_runtime_directory_that_is_missing_is_passed_over() {
        let scratch = Scratch::new("missing");
        let around = Surroundings { runtime_directory: Some(scratch.0.join("gone")), ..scratch.around() };
        let found = Endpoint::resolve_in("lab", None, &around).unwrap();
        assert_eq!(found.place(), Place::Temporary);
        assert_eq!(found.directory(), around.temporary_directory.join(format!("nodeset-{}", around.uid)));
    }

    #[test]
    fn an_existing_system_directory_of_this_user_is_taken() {
        let scratch = Scratch::new("system");
        let system = scratch.0.join("nodeset");
        fs::create_dir(&system).unwrap();
        let around = Surroundings { runtime_directory: None, system_directory: system, ..scratch.around() };
        assert_eq!(Endpoint::resolve_in("lab", None, &around).unwrap().place(), Place::System);
    }

    #[test]
    fn a_temporary_folder_of_doubtful_origin_is_refused() {
        let scratch = Scratch::new("doubtful");
        let around = Surroundings { runtime_directory: None, ..scratch.around() };
        let found = Endpoint::resolve_in("lab", None, &around).unwrap();

        fs::create_dir(scratch.0.join("elsewhere")).unwrap();
        symlink(scratch.0.join("elsewhere"), found.directory()).unwrap();
        assert!(found.check().unwrap_err().to_string().contains("symbolic link"));
        assert!(found.prepare().is_err());
        fs::remove_file(found.directory()).unwrap();

        fs::create_dir(found.directory()).unwrap();
        fs::set_permissions(found.directory(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(found.check().unwrap_err().to_string().contains("mode 755"));
        fs::set_permissions(found.directory(), fs::Permissions::from_mode(0o700)).unwrap();
        found.prepare().unwrap();
    }

    #[test]
    fn names_and_paths_have_limits() {
        let scratch = Scratch::new("limits");
        let around = scratch.around();
        for bad in ["", "a/b", ".hidden", "x y", "a\0", &"n".repeat(65)] {
            assert!(matches!(Endpoint::resolve_in(bad, None, &around), Err(EndpointError::Instance(_))), "{bad:?}");
        }
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(MAX_SOCKET_PATH)));
        assert!(matches!(
            Endpoint::resolve_in("lab", Some(&long), &around),
            Err(EndpointError::TooLong { len: 112, .. })
        ));
        let given = Endpoint::resolve_in("lab", Some(Path::new("relative.sock")), &around).unwrap();
        assert!(given.path().is_absolute());
        assert_eq!(given.place(), Place::Explicit);
    }
}
