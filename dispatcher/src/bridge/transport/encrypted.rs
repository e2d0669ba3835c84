//! The bytes of one encrypted connection: between a TLS session and its socket.
//!
//! Arriving bytes are taken from the socket in large pieces, since the session itself asks for 4 KiB at a time, and a system
//! call costs more than a copy of warm bytes.

use std::io::{self, IoSlice, Read, Write};

use rustls::Error;

use super::connection::{ConnectionError, Counted, Received, Written, until_blocked};

/// bytes; taken from a socket at a time: four records
const ARRIVING: usize = 64 << 10;
/// bytes; encrypted and not yet taken by the socket: then nothing more is encrypted
const LEAVING: usize = 256 << 10;

pub(super) struct Encrypted {
    session: rustls::Connection,
    /// From the socket, not yet seen by the session: `arrived[from..until]`
    arrived: Box<[u8]>,
    from: usize,
    until: usize,
    /// The socket said that nothing more comes.
    ended: bool,
}

impl Encrypted {
    pub(super) fn new(mut session: rustls::Connection) -> Encrypted {
        session.set_buffer_limit(Some(LEAVING));
        Encrypted { session, arrived: Box::default(), from: 0, until: 0, ended: false }
    }

    pub(super) fn session(&self) -> &rustls::Connection {
        &self.session
    }

    pub(super) fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// Goes on with the handshake; true when it is done and said.
    pub(super) fn shake_hands(&mut self, socket: &mut Counted) -> Result<bool, ConnectionError> {
        loop {
            let flushed = self.flush(socket)?;
            if !self.session.is_handshaking() {
                return Ok(true);
            }
            if flushed == Written::Blocked || !self.take_more(socket, ConnectionError::Untrusted)? {
                return Ok(false);
            }
            if self.ended && self.session.is_handshaking() {
                return Err(ConnectionError::Truncated);
            }
        }
    }

    /// Decrypts what comes next into `into`.
    pub(super) fn read(&mut self, socket: &mut Counted, into: &mut [u8]) -> Result<Received, ConnectionError> {
        loop {
            match self.session.reader().read(into) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => return Ok(Received::Bytes(count)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ConnectionError::Truncated),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(ConnectionError::socket("decrypting")(error)),
            }
            if !self.take_more(socket, of_a_session)? {
                return Ok(Received::Nothing);
            }
        }
    }

    /// Encrypts what there is room for; `None` when there is none. What was taken has left the slices.
    pub(super) fn write(
        &mut self,
        socket: &mut Counted,
        slices: &[IoSlice<'_>],
    ) -> Result<Option<usize>, ConnectionError> {
        loop {
            let taken = self.session.writer().write_vectored(slices).map_err(ConnectionError::socket("encrypting"))?;
            let flushed = self.flush(socket)?;
            if taken > 0 {
                return Ok(Some(taken));
            }
            if flushed == Written::Blocked {
                return Ok(None);
            }
        }
    }

    pub(super) fn flush(&mut self, socket: &mut Counted) -> Result<Written, ConnectionError> {
        while self.session.wants_write() {
            match until_blocked(|| self.session.write_tls(socket)) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Written::Blocked),
                Err(error) => return Err(ConnectionError::socket("sending")(error)),
            }
        }
        Ok(Written::All)
    }

    pub(super) fn say_goodbye(&mut self) {
        self.session.send_close_notify();
    }

    /// Gives the session more of what arrived; false when nothing is there for now.
    fn take_more(
        &mut self,
        socket: &mut Counted,
        failure: impl FnOnce(Error) -> ConnectionError,
    ) -> Result<bool, ConnectionError> {
        if self.from == self.until && !self.refill(socket)? {
            return Ok(false);
        }
        let mut rest = &self.arrived[self.from..self.until];
        // An empty rest tells the session that nothing more comes.
        let taken = self.session.read_tls(&mut rest).map_err(ConnectionError::socket("decrypting"))?;
        self.from += taken;
        if let Err(error) = self.session.process_new_packets() {
            // The other side is told why, if it still listens.
            let _ = self.flush(socket);
            return Err(failure(error));
        }
        Ok(true)
    }

    /// False when nothing is there for now.
    fn refill(&mut self, socket: &mut Counted) -> Result<bool, ConnectionError> {
        if self.ended {
            return Ok(true);
        }
        if self.arrived.is_empty() {
            self.arrived = vec![0; ARRIVING].into_boxed_slice();
        }
        let received = until_blocked(|| socket.read(&mut self.arrived));
        let Some(count) = received.map_err(ConnectionError::socket("receiving"))? else { return Ok(false) };
        (self.from, self.until, self.ended) = (0, count, count == 0);
        Ok(true)
    }
}

/// After our side of the handshake is done, the other side's refusal of our key still arrives.
fn of_a_session(error: Error) -> ConnectionError {
    match error {
        Error::AlertReceived(_) | Error::InvalidCertificate(_) => ConnectionError::Untrusted(error),
        error => ConnectionError::Damaged(error),
    }
}
