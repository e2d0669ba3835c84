//! The socket to the dispatcher.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nodeset_bus::protocol::endpoint::Endpoint;
use nodeset_bus::protocol::record::{self, Receiver, RecordError, SendError};
use nodeset_bus::protocol::{Hello, NodeId, ToDispatcher, ToNode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};

use super::LocalError;

pub(super) struct Session {
    socket: OwnedFd,
    receiver: Receiver,
    outbox: VecDeque<ToDispatcher>,
}

impl Session {
    /// Connects and says hello; gives the end of the life-line that hangs up with this process.
    pub(super) fn connect(endpoint: &Endpoint, id: NodeId, name: &str) -> Result<(Session, OwnedFd), LocalError> {
        let failed = |doing| move |error: rustix::io::Errno| LocalError::System { doing, source: error.into() };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed("making a socket"))?;
        let address = SocketAddrUnix::new(endpoint.path()).map_err(failed("using the socket's path"))?;
        connect(&socket, &address).map_err(failed("connecting the bridge to its dispatcher"))?;
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("making a pipe"))?;
        // A fresh connection takes one record.
        record::send(socket.as_fd(), &ToDispatcher::Hello(Hello::new(id, name)), &[theirs.as_fd()])
            .map_err(|error| LocalError::System { doing: "saying hello", source: io::Error::other(error) })?;
        Ok((Session { socket, receiver: Receiver::new(), outbox: VecDeque::new() }, ours))
    }

    pub(super) fn register(&self, registry: &Registry, token: Token) -> Result<(), LocalError> {
        registry
            .register(&mut SourceFd(&self.socket.as_raw_fd()), token, Interest::READABLE | Interest::WRITABLE)
            .map_err(|source| LocalError::System { doing: "watching the dispatcher's socket", source })
    }

    pub(super) fn say(&mut self, message: ToDispatcher) {
        self.outbox.push_back(message);
    }

    pub(super) fn flush(&mut self) -> Result<(), LocalError> {
        while let Some(message) = self.outbox.front() {
            match record::send(self.socket.as_fd(), message, &[]) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(SendError::WouldBlock) => return Ok(()),
                Err(SendError::Closed) => return Err(LocalError::Gone),
                Err(error) => {
                    return Err(LocalError::System {
                        doing: "speaking to the dispatcher",
                        source: io::Error::other(error),
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn receive(&mut self) -> Result<Option<(ToNode, Vec<OwnedFd>)>, LocalError> {
        match self.receiver.receive::<ToNode>(self.socket.as_fd()) {
            Ok(received) => Ok(received.map(|it| (it.message, it.descriptors))),
            Err(RecordError::Closed) => Err(LocalError::Gone),
            Err(error) => Err(LocalError::System { doing: "hearing the dispatcher", source: io::Error::other(error) }),
        }
    }
}

/// Has a descriptor watched for becoming readable.
pub(super) fn watch(registry: &Registry, descriptor: &impl AsFd, token: Token) -> Result<(), LocalError> {
    registry
        .register(&mut SourceFd(&descriptor.as_fd().as_raw_fd()), token, Interest::READABLE)
        .map_err(|source| LocalError::System { doing: "watching a descriptor", source })
}
