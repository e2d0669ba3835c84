//! Accepting connections of other hosts, also when there are no descriptors left.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use tracing::warn;

/// When the kernel refuses to accept: try again after this.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Connections that come to nothing before others have their turn.
const REFUSALS_A_TURN: usize = 64;

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    /// As the kernel says.
    pub(super) address: SocketAddr,
    /// As the configuration says: perhaps without a port.
    pub(super) asked: SocketAddr,
    /// Connections may wait.
    ready: bool,
    /// None is accepted before this time.
    not_before: Option<Instant>,
    /// Given up for a moment when there are no more descriptors, so that whoever connects is turned away, and does not wait
    /// in the kernel's queue for something that may not come.
    spare: Option<File>,
    /// It was logged that somebody was turned away, and nobody was accepted since.
    told: bool,
}

impl Listener {
    pub(super) fn bind(asked: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(asked)?;
        let address = socket.local_addr()?;
        Ok(Listener { socket, address, asked, ready: true, not_before: None, spare: spare(), told: false })
    }

    pub(super) fn is_ready(&mut self) {
        self.ready = true;
    }

    /// The next connection; `None`: there is none for now, or none can be taken before [`due`](Self::due).
    pub(super) fn accept(&mut self, now: Instant) -> Option<(TcpStream, SocketAddr)> {
        if !self.ready || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        self.not_before = None;
        for _ in 0..REFUSALS_A_TURN {
            match self.socket.accept() {
                Ok(accepted) => {
                    self.told = false;
                    return Some(accepted);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready = false;
                    return None;
                }
                Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => {
                    if !std::mem::replace(&mut self.told, true) {
                        warn!(event = "host_turned_away", listen = %self.address, "no descriptors are left: raise ulimit -n");
                    }
                    if !self.turn_away() {
                        self.not_before = Some(now + TRY_AGAIN);
                        return None;
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    warn!(event = "accept_failed", listen = %self.address, %error);
                    self.not_before = Some(now + TRY_AGAIN);
                    return None;
                }
            }
        }
        self.rest(now);
        None
    }

    /// Accepts one and drops it, over the spare descriptor. False where that did not help.
    fn turn_away(&mut self) -> bool {
        let had = self.spare.take().is_some();
        let accepted = self.socket.accept().is_ok();
        self.spare = spare();
        had && accepted
    }

    /// The others have their turn; the rest waits in the kernel's queue.
    pub(super) fn rest(&mut self, now: Instant) {
        self.not_before = Some(now);
    }

    /// When to accept again without having been told that it is ready.
    pub(super) fn due(&self) -> Option<Instant> {
        self.not_before.filter(|_| self.ready)
    }
}

/// Linux tells errors of the connection that was to be accepted (accept(2)); the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use Errno as E;
    let of_one = [
        E::INTR,
        E::CONNABORTED,
        E::NETDOWN,
        E::PROTO,
        E::NOPROTOOPT,
        E::HOSTDOWN,
        E::HOSTUNREACH,
        E::OPNOTSUPP,
        E::NETUNREACH,
        E::PERM,
    ];
    Errno::from_io_error(error).is_some_and(|it| of_one.contains(&it))
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
