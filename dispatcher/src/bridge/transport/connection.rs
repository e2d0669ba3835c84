//! One TCP connection to another host, plain or encrypted, without blocking.
//!
//! Whoever owns it calls [`advance`](Connection::advance) when its socket is ready until it says [`Stage::Open`], then
//! [`read`](Connection::read) and [`write`](Connection::write) until they say that nothing more goes: readiness is told once
//! (edge-triggered), and comes again only after that.
//!
//! Plain bytes go from the slices of a caller into the socket by `writev`, and from the socket into the slice of a caller,
//! with no copy in between. What an encrypted connection copies stands in docs/decisions/bridge-transport.md.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::net::sockopt;
use thiserror::Error;

use super::encrypted::Encrypted;
use super::keys::PublicKey;
use super::progress::{Progress, SLICES};
use super::tls::Tls;

/// A connection over which nothing was said for so long is probed.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(3);
const PROBES: u32 = 3;
/// What was sent and is not acknowledged for so long ends the connection.
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(20);

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The kernel is reaching the other host.
    Connecting,
    /// Both sides are proving who they are.
    Handshaking,
    /// Bytes can be read and written.
    Open,
    /// Ours is said; what is still on its way is waited for.
    Closing,
    /// Both sides are done.
    Closed,
}

/// A connection is lost: drop it, and dial again later.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// Nobody listens there, it cannot be reached, or it was cut.
    #[error("{doing} failed")]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The other side is not who it should be, does not take our key, or does not speak TLS: see both configurations.
    #[error("the other side cannot be trusted, or does not trust this one: compare the keys of both configurations")]
    Untrusted(#[source] rustls::Error),
    /// What arrived was changed on its way, or is no TLS.
    #[error("what arrived is damaged")]
    Damaged(#[source] rustls::Error),
    /// It ended in the middle: the process at the other end died, or somebody cut it.
    #[error("the connection ended without a goodbye")]
    Truncated,
}

impl ConnectionError {
    pub(super) fn socket(doing: &'static str) -> impl FnOnce(io::Error) -> ConnectionError {
        move |source| ConnectionError::Socket { doing, source }
    }
}

/// What reading had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, at least one; there may be more.
    Bytes(usize),
    /// Nothing for now; the socket will be readable again.
    Nothing,
    /// The other side says that nothing more comes.
    End,
}

/// What became of a list of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// All of it was taken.
    All,
    /// Some of it; the socket will be writable again.
    Blocked,
}

/// How many bytes crossed the wire, those of handshakes and encryption included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// bytes; given to the kernel
    pub sent: u64,
    /// bytes; taken from the kernel
    pub received: u64,
}

/// Who must be at the other end of a connection that is dialled.
#[derive(Debug, Clone)]
pub enum Security<'a> {
    /// Whoever listens there.
    Plain,
    /// Who has this key.
    Encrypted(&'a Tls, PublicKey),
}

/// A connection to another host.
pub struct Connection {
    socket: Counted,
    encrypted: Option<Box<Encrypted>>,
    tls: Option<Tls>,
    stage: Stage,
    peer: Option<Arc<str>>,
    remote: SocketAddr,
    /// The other side's end was read.
    ended: bool,
}

impl Connection {
    /// Begins to connect. System calls, none of which waits.
    ///
    /// # Errors
    ///
    /// There are no descriptors, or no way to that address.
    pub fn dial(to: SocketAddr, security: Security<'_>) -> Result<Connection, ConnectionError> {
        let stream = TcpStream::connect(to).map_err(ConnectionError::socket("connecting"))?;
        let (session, tls) = match security {
            Security::Plain => (None, None),
            Security::Encrypted(tls, expected) => {
                (Some(tls.dial(expected).map_err(ConnectionError::Untrusted)?), Some(tls.clone()))
            }
        };
        Connection::new(stream, to, session, tls, Stage::Connecting)
    }

    /// A connection that was accepted, encrypted where there is a `tls`.
    ///
    /// # Errors
    ///
    /// The kernel refuses the options of its socket.
    pub fn accept(stream: TcpStream, from: SocketAddr, tls: Option<&Tls>) -> Result<Connection, ConnectionError> {
        let session = tls.map(Tls::accept).transpose().map_err(ConnectionError::Untrusted)?;
        let stage = if session.is_some() { Stage::Handshaking } else { Stage::Open };
        Connection::new(stream, from, session, tls.cloned(), stage)
    }

    fn new(
        stream: TcpStream,
        remote: SocketAddr,
        session: Option<rustls::Connection>,
        tls: Option<Tls>,
        stage: Stage,
    ) -> Result<Connection, ConnectionError> {
        set_options(&stream).map_err(|error| ConnectionError::socket("setting up a connection")(error.into()))?;
        let socket = Counted { stream, traffic: Traffic::default() };
        let encrypted = session.map(|session| Box::new(Encrypted::new(session)));
        Ok(Connection { socket, encrypted, tls, stage, peer: None, remote, ended: false })
    }

    /// Who is there, as its key says; `None` before the handshake is done, and always for a plain connection.
    pub fn peer(&self) -> Option<&Arc<str>> {
        self.peer.as_ref()
    }

    /// The address at the other end.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What crossed the wire so far.
    pub fn traffic(&self) -> Traffic {
        self.socket.traffic
    }

    /// Whether bytes that were taken have not gone to the kernel yet: call [`flush`](Self::flush) when the socket is
    /// writable.
    pub fn wants_write(&self) -> bool {
        self.stage == Stage::Connecting || self.encrypted.as_ref().is_some_and(|it| it.wants_write())
    }

    /// Has `registry` tell when its socket is ready; once, for its whole life.
    ///
    /// # Errors
    ///
    /// The kernel does not watch any more sockets.
    pub fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        registry.register(&mut self.socket.stream, token, interest)
    }

    /// The opposite, before it is dropped.
    ///
    /// # Errors
    ///
    /// It was not registered.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.socket.stream)
    }

    /// Does what connecting, the handshake or the end still need; to be called whenever the socket is ready and the
    /// connection is not open. An open one is not changed.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub fn advance(&mut self) -> Result<Stage, ConnectionError> {
        if self.stage == Stage::Connecting && self.is_connected()? {
            self.stage = if self.encrypted.is_some() { Stage::Handshaking } else { Stage::Open };
        }
        if self.stage == Stage::Handshaking {
            self.shake_hands()?;
        }
        if self.stage == Stage::Closing {
            self.finish_closing()?;
        }
        Ok(self.stage)
    }

    fn is_connected(&mut self) -> Result<bool, ConnectionError> {
        let failed = ConnectionError::socket("connecting");
        match self.socket.stream.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(failed(error)),
        }
        match self.socket.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    fn shake_hands(&mut self) -> Result<(), ConnectionError> {
        let (Some(encrypted), Some(tls)) = (&mut self.encrypted, &self.tls) else { return Ok(()) };
        if encrypted.shake_hands(&mut self.socket)? {
            self.peer = tls.peer(encrypted.session());
            self.stage = Stage::Open;
        }
        Ok(())
    }

    /// Reads into `into`, which must have room. One system call, or none if something is there already.
    ///
    /// # Errors
    ///
    /// The connection is lost. What was read before stays valid.
    pub fn read(&mut self, into: &mut [u8]) -> Result<Received, ConnectionError> {
        if self.stage < Stage::Open || into.is_empty() {
            return Ok(Received::Nothing);
        }
        if self.ended {
            return Ok(Received::End);
        }
        let received = match &mut self.encrypted {
            Some(encrypted) => encrypted.read(&mut self.socket, into)?,
            None => match until_blocked(|| self.socket.read(into)) {
                Ok(Some(0)) => Received::End,
                Ok(Some(count)) => Received::Bytes(count),
                Ok(None) => Received::Nothing,
                Err(error) => return Err(ConnectionError::socket("receiving")(error)),
            },
        };
        self.ended = received == Received::End;
        Ok(received)
    }

    /// Writes header and payload of each pair, in their order, from where `progress` says, until all is taken or the socket
    /// takes no more. What was taken need not stay where it is. A system call for every 32 pairs.
    ///
    /// To go on, give the same pairs with the same `progress`; pairs that are [done](Progress::pairs) may be left out if it is
    /// told ([`Progress::forget`]).
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub fn write(&mut self, pairs: &[(&[u8], &[u8])], progress: &mut Progress) -> Result<Written, ConnectionError> {
        if self.stage < Stage::Open {
            return Ok(Written::Blocked);
        }
        if self.stage > Stage::Open {
            return Err(ConnectionError::socket("sending")(io::ErrorKind::BrokenPipe.into()));
        }
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = progress.gather(pairs, &mut slices);
            if count == 0 {
                return Ok(Written::All);
            }
            let taken = match &mut self.encrypted {
                Some(encrypted) => encrypted.write(&mut self.socket, &slices[..count])?,
                None => until_blocked(|| self.socket.write_vectored(&slices[..count]))
                    .map_err(ConnectionError::socket("sending"))?,
            };
            match taken {
                Some(taken) => progress.advance(pairs, taken),
                None => return Ok(Written::Blocked),
            }
        }
    }

    /// Gives the kernel what was taken and encrypted before.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub fn flush(&mut self) -> Result<Written, ConnectionError> {
        match &mut self.encrypted {
            Some(encrypted) if self.stage >= Stage::Handshaking => encrypted.flush(&mut self.socket),
            _ => Ok(Written::All),
        }
    }

    /// Says that nothing more comes from this side. What was taken still arrives; what the other side still sends is thrown
    /// away. [`advance`](Self::advance) until [`Stage::Closed`], or drop it.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub fn close(&mut self) -> Result<Stage, ConnectionError> {
        if self.stage < Stage::Open {
            self.stage = Stage::Closed;
        } else if self.stage == Stage::Open {
            self.stage = Stage::Closing;
            if let Some(encrypted) = &mut self.encrypted {
                encrypted.say_goodbye();
            }
        }
        self.advance()
    }

    fn finish_closing(&mut self) -> Result<(), ConnectionError> {
        if self.flush()? == Written::Blocked {
            return Ok(());
        }
        match self.socket.stream.shutdown(std::net::Shutdown::Write) {
            // The other side was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => self.ended = true,
            outcome => outcome.map_err(ConnectionError::socket("ending a connection"))?,
        }
        let mut rest = [0; 4096];
        loop {
            match self.read(&mut rest)? {
                Received::Bytes(_) => {}
                Received::Nothing => return Ok(()),
                Received::End => break,
            }
        }
        self.stage = Stage::Closed;
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("remote", &self.remote)
            .field("peer", &self.peer)
            .field("encrypted", &self.encrypted.is_some())
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// A socket that counts.
pub(super) struct Counted {
    stream: TcpStream,
    traffic: Traffic,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(into)?;
        self.traffic.received += count as u64;
        Ok(count)
    }
}

impl Write for Counted {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let count = self.stream.write(from)?;
        self.traffic.sent += count as u64;
        Ok(count)
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = self.stream.write_vectored(from)?;
        self.traffic.sent += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does it again while a signal interrupts it; `None` where it would have to wait.
pub(super) fn until_blocked<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    loop {
        match attempt() {
            Ok(value) => return Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Small messages go at once, and a host that vanished without a word is noticed also while nothing is sent.
fn set_options(stream: &TcpStream) -> rustix::io::Result<()> {
    let socket = stream.as_fd();
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(socket, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_FOR.as_millis() as u32)
}
