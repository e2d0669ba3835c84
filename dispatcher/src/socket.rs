//! Taking the socket: exactly one dispatcher at a path, whatever died there before.
//!
//! Under `flock` on the socket's *folder* (freed by death; no lock file is left behind): connect to see whether anybody
//! answers; take a dead one's file away; bind; say who may connect (this user, unless told otherwise); listen. A connection that is made, or says that the
//! queue is full, means alive. A dispatcher gives its listening socket to its successor, so that there is no moment in which
//! nobody listens: an embedded one to any standalone one, a standalone one to one that was started with `--replace`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nodeset_bus::protocol::endpoint::{Endpoint, EndpointError};
use nodeset_bus::protocol::record::{self, Receiver, RecordError};
use nodeset_bus::protocol::{About, RefusalCode, ToDispatcher, ToNode};
use nodeset_bus::sys::{peer_credentials, peer_pidfd, pidfd_dead};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with, sockopt,
};
use rustix::process::{Signal, pidfd_send_signal};
use thiserror::Error;
use tracing::{debug, info, warn};

use crate::access::Access;

/// How long another one may hold the folder while it takes a socket there, and how long one that is asked may think.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a lock that somebody holds.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long one that is to be replaced by force may think before it is ended.
const PATIENCE_WITH_FORCE: Duration = Duration::from_secs(2);

/// Whom a dispatcher that starts takes the socket from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Replace {
    /// From nobody: what an embedded one does.
    Nobody,
    /// From an embedded one: what a standalone one does.
    Embedded,
    /// From any, which hands it over and leaves.
    Any,
    /// From any; a process that holds it and does not answer is ended (SIGKILL), whatever else it does.
    Force,
}

/// Who has the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Whether it runs inside some node's process; `None` when it was not asked.
    pub embedded: Option<bool>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.embedded {
            Some(true) => "an embedded dispatcher in ",
            Some(false) => "a standalone dispatcher, ",
            None => "",
        };
        write!(f, "{kind}process {} of user {}", self.pid, self.uid)
    }
}

/// The socket was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TakeError {
    /// The path cannot be used.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Another dispatcher is there and stays: use it, replace it, or take another path or instance name.
    #[error(
        "{path:?} is held by {holder}: use that one, replace it (--replace), or take another --instance or --socket"
    )]
    Held {
        /// The socket.
        path: PathBuf,
        /// By whom.
        holder: Holder,
    },
    /// Another one is there and is too busy to say who it is: try again, or end it.
    #[error("{path:?} is held by a dispatcher whose queue of connections is full: try again, or end it")]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// It was asked to leave and said nothing: it hangs; end that process.
    #[error(
        "{path:?} is held by {holder}, which does not answer: end that process (`kill {}`, or --replace=force)",
        holder.pid
    )]
    Hung {
        /// The socket.
        path: PathBuf,
        /// By whom.
        holder: Holder,
    },
    /// Name another group, or have this user made a member of it.
    #[error(
        "the user that this dispatcher runs as is no member of group {gid}, so it cannot let that group in: name another \
         --group, or make it a member (`usermod -aG`)"
    )]
    NoMember {
        /// The group.
        gid: u32,
    },
    /// Those who shall come in cannot reach the socket: open its folder to them, or choose another one.
    #[error(
        "--mode and --group let others connect, but they cannot enter the folder {directory:?} (mode {mode:03o}, group \
         {gid}): {cure}"
    )]
    Closed {
        /// The folder.
        directory: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its group.
        gid: u32,
        /// What to do.
        cure: &'static str,
    },
    /// Another one is taking a socket in that folder for a long time: find out who has the folder open.
    #[error(
        "the folder {directory:?} is locked by another process that is starting a dispatcher: try again, or see `lslocks`"
    )]
    Locked {
        /// The folder.
        directory: PathBuf,
    },
    /// Something else is there: remove it, or choose another path.
    #[error("{path:?} is in the way and is no dispatcher's socket: remove it, or choose another path with --socket")]
    InTheWay {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{doing} {path:?} failed ({source}){}", cure(source))]
    System {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ": this user may not do that there; choose a folder of its own with --socket, or start as the right user"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": choose a folder that can be written to with --socket",
        _ => "",
    }
}

/// A socket that listens, and the file that leads to it.
#[derive(Debug)]
pub(crate) struct Listening {
    fd: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file, to know later whether it is still ours.
    file: (u64, u64),
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listening {
    /// Takes the socket of an endpoint. Whoever is there is asked to leave it to us if `replace` says so.
    pub(crate) fn take(endpoint: &Endpoint, replace: Replace, access: Access) -> Result<Listening, TakeError> {
        endpoint.prepare()?;
        access.check_group()?;
        access.open_directory(endpoint)?;
        let _lock = lock(endpoint.directory())?;
        let path = endpoint.path();
        // Each round ends with an answer, or finds that the one who was there has left meanwhile.
        loop {
            match knock(path)? {
                Found::Nobody => return Listening::bind(path, access),
                Found::Stale => {
                    info!(event = "stale_socket_removed", path = %path.display());
                    remove(path)?;
                    return Listening::bind(path, access);
                }
                Found::Full => return Err(TakeError::Busy { path: path.to_owned() }),
                Found::Alive(connection) => {
                    let holder = holder(path, &connection, None)?;
                    if replace == Replace::Nobody {
                        return Err(TakeError::Held { path: path.to_owned(), holder });
                    }
                    match ask_to_leave(path, &connection, holder, replace) {
                        Err(TakeError::Hung { .. }) if replace == Replace::Force => end(path, &connection, holder)?,
                        Err(error) => return Err(error),
                        Ok(Some(fd)) if is_listening_at(&fd, path) => {
                            return Listening::adopt(path, fd, holder, access);
                        }
                        Ok(_) => debug!(event = "holder_left", path = %path.display()),
                    }
                }
            }
        }
    }

    fn bind(path: &Path, access: Access) -> Result<Listening, TakeError> {
        let fd = new_socket(path)?;
        let failed = |doing| move |error: Errno| system(doing, path, error);
        bind(&fd, &address(path)?).map_err(failed("binding the socket"))?;
        // Nobody can connect before `listen`, so this is in time.
        access.give(path)?;
        Listening::listen(path, fd)
    }

    fn adopt(path: &Path, fd: OwnedFd, from: Holder, access: Access) -> Result<Listening, TakeError> {
        info!(event = "socket_taken_over", pid = from.pid, uid = from.uid);
        access.give(path)?;
        Listening::listen(path, fd)
    }

    /// Listening again makes this process the one that peers see (`SO_PEERCRED`).
    fn listen(path: &Path, fd: OwnedFd) -> Result<Listening, TakeError> {
        listen(&fd, BACKLOG).map_err(|error| system("listening at", path, error))?;
        let found = fs::symlink_metadata(path).map_err(|source| TakeError::System {
            doing: "looking at",
            path: path.to_owned(),
            source,
        })?;
        Ok(Listening { fd, path: path.to_owned(), file: (found.dev(), found.ino()) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, if it is still ours. If somebody has the folder locked, that one is taking the socket and removes
    /// what is in its way.
    pub(crate) fn remove_file(&self) {
        let Some(directory) = self.path.parent() else { return };
        let Ok(directory) = open_directory(directory) else { return };
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours {
            if let Err(error) = fs::remove_file(&self.path) {
                debug!(event = "socket_not_removed", path = %self.path.display(), %error);
            }
        }
    }
}

/// What is at a path.
enum Found {
    Nobody,
    Stale,
    /// Alive, with a full queue.
    Full,
    Alive(OwnedFd),
}

fn knock(path: &Path) -> Result<Found, TakeError> {
    let socket = new_socket(path)?;
    match connect(&socket, &address(path)?) {
        Ok(()) => Ok(Found::Alive(socket)),
        Err(Errno::AGAIN) => Ok(Found::Full),
        Err(Errno::NOENT) => Ok(Found::Nobody),
        Err(Errno::CONNREFUSED) => match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => Ok(Found::Stale),
            Ok(_) => Err(TakeError::InTheWay { path: path.to_owned() }),
            Err(_) => Ok(Found::Nobody),
        },
        // A socket of another type: some other program's.
        Err(Errno::PROTOTYPE) => Err(TakeError::InTheWay { path: path.to_owned() }),
        Err(error) => Err(system("connecting to", path, error)),
    }
}

fn holder(path: &Path, connection: &OwnedFd, embedded: Option<bool>) -> Result<Holder, TakeError> {
    let found = peer_credentials(connection.as_fd()).map_err(|source| TakeError::System {
        doing: "asking who holds",
        path: path.to_owned(),
        source,
    })?;
    Ok(Holder { pid: found.pid, uid: found.uid, embedded })
}

/// Asks a dispatcher for its socket. `None`: it ended, or left without giving the socket.
fn ask_to_leave(
    path: &Path,
    connection: &OwnedFd,
    holder: Holder,
    replace: Replace,
) -> Result<Option<OwnedFd>, TakeError> {
    let question = ToDispatcher::Replace { standalone: replace >= Replace::Any };
    if record::send(connection.as_fd(), &question, &[]).is_err() {
        return Ok(None);
    }
    let mut receiver = Receiver::new();
    let patience = if replace == Replace::Force { PATIENCE_WITH_FORCE } else { PATIENCE };
    let until = Instant::now() + patience;
    loop {
        match receiver.receive::<ToNode>(connection.as_fd()) {
            Ok(Some(answer)) => match answer.message {
                ToNode::Leaving => return Ok(answer.descriptors.into_iter().next()),
                ToNode::Refused { about: About::Replace, code, .. } => {
                    let embedded = (code == RefusalCode::Unsupported).then_some(false);
                    return Err(TakeError::Held { path: path.to_owned(), holder: Holder { embedded, ..holder } });
                }
                // It cannot know better (another version, too many sessions): it is there and stays.
                ToNode::Refused { .. } => return Err(TakeError::Held { path: path.to_owned(), holder }),
                _ => {}
            },
            Ok(None) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(TakeError::Hung { path: path.to_owned(), holder });
                }
                wait_readable(connection, left);
            }
            Err(RecordError::Closed) => return Ok(None),
            Err(_) => return Err(TakeError::Held { path: path.to_owned(), holder }),
        }
    }
}

/// Ends the process at the other end, which does not answer, and waits until it is gone. By its pidfd: a number could have
/// come to mean another process.
fn end(path: &Path, connection: &OwnedFd, holder: Holder) -> Result<(), TakeError> {
    let failed = |source: io::Error| TakeError::System { doing: "ending who holds", path: path.to_owned(), source };
    let pidfd = peer_pidfd(connection.as_fd()).map_err(failed)?;
    warn!(event = "hung_dispatcher_ended", pid = holder.pid, uid = holder.uid);
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        // It went by itself.
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(failed(error.into())),
    }
    let until = Instant::now() + PATIENCE;
    while !pidfd_dead(pidfd.as_fd()) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(TakeError::Hung { path: path.to_owned(), holder });
        }
        wait_readable(&pidfd, left);
    }
    Ok(())
}

fn wait_readable(fd: &OwnedFd, at_most: Duration) {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let timeout = Timespec::try_from(at_most).ok();
    // An interrupted wait is a short one: the caller looks at the clock.
    let _ = poll(&mut fds, timeout.as_ref());
}

/// Whether a descriptor that was given is the listening socket of that path and nothing else.
fn is_listening_at(fd: &OwnedFd, path: &Path) -> bool {
    let local = getsockname(fd).ok().and_then(|address| SocketAddrUnix::try_from(address).ok());
    sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET)
        && sockopt::socket_acceptconn(fd) == Ok(true)
        && local == address(path).ok()
        && fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn new_socket(path: &Path) -> Result<OwnedFd, TakeError> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .map_err(|error| system("making a socket for", path, error))
}

fn address(path: &Path) -> Result<SocketAddrUnix, TakeError> {
    SocketAddrUnix::new(path).map_err(|error| system("naming the socket", path, error))
}

fn remove(path: &Path) -> Result<(), TakeError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(TakeError::System { doing: "removing the stale socket", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    Ok(open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Locks a folder until the descriptor is dropped or this process dies.
fn lock(directory: &Path) -> Result<OwnedFd, TakeError> {
    let failed = |doing| {
        let path = directory.to_owned();
        move |source| TakeError::System { doing, path, source }
    };
    let file = open_directory(directory).map_err(failed("opening the folder"))?;
    let until = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < until => std::thread::sleep(LOOK_AGAIN),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                return Err(TakeError::Locked { directory: directory.to_owned() });
            }
            Err(error) => return Err(failed("locking the folder")(error.into())),
        }
    }
}

fn system(doing: &'static str, path: &Path, error: Errno) -> TakeError {
    TakeError::System { doing, path: path.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn endpoint(directory: &Path) -> Endpoint {
        Endpoint::resolve("test", Some(&directory.join("test.sock"))).unwrap()
    }

    fn take(endpoint: &Endpoint) -> Result<Listening, TakeError> {
        Listening::take(endpoint, Replace::Nobody, Access::default())
    }

    #[test]
    fn a_stale_file_is_taken_over_and_removed_in_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = endpoint(directory.path());
        let first = take(&endpoint).unwrap();
        assert_eq!(fs::metadata(endpoint.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let held = take(&endpoint).unwrap_err();
        assert!(matches!(held, TakeError::Held { holder: Holder { embedded: None, .. }, .. }), "{held}");
        assert!(held.to_string().contains(&format!("process {}", std::process::id())), "{held}");
        drop(first);
        assert!(endpoint.path().exists(), "as after kill -9");
        let second = take(&endpoint).unwrap();
        second.remove_file();
        assert!(!endpoint.path().exists());
    }

    #[test]
    fn a_successors_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = endpoint(directory.path());
        let first = take(&endpoint).unwrap();
        fs::remove_file(endpoint.path()).unwrap();
        let _second = take(&endpoint).unwrap();
        first.remove_file();
        assert!(endpoint.path().exists());
    }

    #[test]
    fn what_is_no_socket_of_ours_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = endpoint(directory.path());
        fs::write(endpoint.path(), "precious").unwrap();
        assert!(matches!(
            Listening::take(&endpoint, Replace::Force, Access::default()),
            Err(TakeError::InTheWay { .. })
        ));
        assert_eq!(fs::read_to_string(endpoint.path()).unwrap(), "precious");
        fs::remove_file(endpoint.path()).unwrap();
        let _stream = std::os::unix::net::UnixListener::bind(endpoint.path()).unwrap();
        assert!(matches!(
            Listening::take(&endpoint, Replace::Force, Access::default()),
            Err(TakeError::InTheWay { .. })
        ));
    }

    #[test]
    fn a_missing_folder_is_said_with_its_cure() {
        let directory = tempfile::tempdir().unwrap();
        let error = take(&endpoint(&directory.path().join("none"))).unwrap_err();
        assert!(error.to_string().contains("make it"), "{error}");
    }
}
