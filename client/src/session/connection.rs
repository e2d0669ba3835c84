//! The socket to the dispatcher: what comes, what goes, what waits to go.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nodeset_bus::memory::Segment;
use nodeset_bus::protocol::endpoint::{Endpoint, Place};
use nodeset_bus::protocol::record::{self, Received, Receiver, SendError};
use nodeset_bus::protocol::{ToDispatcher, ToNode};
use nodeset_bus::sys::{Bell, peer_credentials};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::error::ConnectError;

/// A descriptor that goes with a message.
#[derive(Debug, Clone)]
pub(crate) enum Attached {
    Segment(Arc<Segment>),
    Bell(Arc<Bell>),
    Descriptor(Arc<OwnedFd>),
}

impl AsFd for Attached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Attached::Segment(segment) => segment.fd(),
            Attached::Bell(bell) => bell.as_fd(),
            Attached::Descriptor(fd) => fd.as_fd(),
        }
    }
}

/// What is to be said, in order.
pub(crate) type Outbox = VecDeque<(ToDispatcher, Vec<Attached>)>;

/// A connection.
pub(crate) struct Connection {
    socket: OwnedFd,
    receiver: Receiver,
}

impl Connection {
    /// Connects. Does not block: a Unix socket is connected at once or not at all.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Nobody`] when nobody listens.
    pub(crate) fn open(endpoint: &Endpoint) -> Result<Connection, ConnectError> {
        endpoint.check()?;
        let path = endpoint.path();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(ConnectError::system("making a socket"))?;
        let address = SocketAddrUnix::new(path).map_err(ConnectError::system("using the socket's path"))?;
        connect(&socket, &address).map_err(|errno| match errno {
            Errno::CONNREFUSED | Errno::NOENT => ConnectError::Nobody { path: path.to_owned() },
            Errno::ACCESS | Errno::PERM => ConnectError::Denied { path: path.to_owned() },
            Errno::AGAIN => {
                ConnectError::System { doing: "connecting (the dispatcher's queue is full)", source: errno.into() }
            }
            other => ConnectError::System { doing: "connecting to the dispatcher", source: other.into() },
        })?;
        // A path that was given is trusted by who gave it.
        if endpoint.place() != Place::Explicit {
            let found = peer_credentials(socket.as_fd())
                .map_err(|source| ConnectError::System { doing: "asking who listens", source })?
                .uid;
            if found != 0 && found != rustix::process::geteuid().as_raw() {
                return Err(ConnectError::ForeignDispatcher { path: path.to_owned(), found });
            }
        }
        Ok(Connection { socket, receiver: Receiver::new() })
    }

    /// The next message; `None` when none is there.
    pub(crate) fn receive(&mut self) -> Result<Option<Received<ToNode>>, ConnectError> {
        Ok(self.receiver.receive(self.socket.as_fd())?)
    }

    /// Says what is to be said, as far as the socket takes it; says whether all is said.
    pub(crate) fn flush(&self, outbox: &mut Outbox) -> Result<bool, ConnectError> {
        while let Some((message, attached)) = outbox.front() {
            let descriptors: Vec<_> = attached.iter().map(AsFd::as_fd).collect();
            match record::send(self.socket.as_fd(), message, &descriptors) {
                Ok(()) => drop(outbox.pop_front()),
                Err(SendError::WouldBlock | SendError::TooManyReferences) => return Ok(false),
                Err(other) => return Err(other.into()),
            }
        }
        Ok(true)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
