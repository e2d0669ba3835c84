//! What is on its way to a connection: heads in a buffer, frames where they are kept.

use std::ops::Range;
use std::time::Instant;

use super::peer::{LogKey, Peer, Transmit};
use super::sources::Sources;
use super::transport::connection::{Connection, ConnectionError, Written};
use super::transport::progress::Progress;

/// Pairs of head and frames that are given to the kernel at once.
const BATCH: usize = 32;
/// bytes; then a batch is given to the kernel, however few pairs it has
const BATCH_BYTES: usize = 512 << 10;
/// bytes; before others have their turn
const BYTES_A_TURN: usize = 4 << 20;

#[derive(Default)]
pub(super) struct Outbox {
    heads: Vec<u8>,
    items: Vec<Item>,
    /// What the connection did not take of the last batch: by then, what is kept may change.
    rest: Vec<u8>,
    /// bytes of `rest` that it took since
    taken: usize,
}

struct Item {
    head: Range<usize>,
    body: Body,
}

enum Body {
    None,
    Frames { log: LogKey, first: u64, bytes: usize },
    Piece { log: LogKey, sequence: u64, offset: usize, len: usize },
}

impl Outbox {
    /// The connection is over; says whether something was left that it had not taken.
    pub(super) fn clear(&mut self) -> bool {
        let left = !self.rest.is_empty();
        self.rest.clear();
        self.taken = 0;
        left
    }

    pub(super) fn transmit(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        sources: &mut Sources,
        connection: &mut Connection,
    ) -> Result<bool, ConnectionError> {
        let mut total = 0;
        while self.write_rest(connection)? {
            if total >= BYTES_A_TURN {
                return Ok(true);
            }
            let bytes = self.collect(now, peer, sources);
            if bytes == 0 {
                return Ok(false);
            }
            total += bytes;
            self.write_batch(sources, connection)?;
        }
        Ok(false)
    }

    /// True when nothing is left of what was collected before.
    pub(super) fn write_rest(&mut self, connection: &mut Connection) -> Result<bool, ConnectionError> {
        if self.rest.is_empty() {
            return Ok(connection.flush()? == Written::All);
        }
        let mut progress = Progress::default();
        let written = connection.write(&[(&self.rest[self.taken..], &[])], &mut progress)?;
        if written == Written::Blocked {
            self.taken += progress.bytes();
            return Ok(false);
        }
        self.clear();
        Ok(true)
    }

    /// Asks the peer for a batch; gives its bytes.
    fn collect(&mut self, now: Instant, peer: &mut Peer, sources: &mut Sources) -> usize {
        self.heads.clear();
        self.items.clear();
        let mut bytes = 0;
        while self.items.len() < BATCH && bytes < BATCH_BYTES {
            let start = self.heads.len();
            let Some(transmit) = peer.poll_transmit(now, sources, &mut self.heads) else { break };
            let (body, len) = match transmit {
                Transmit::Record => (Body::None, 0),
                Transmit::Frames { log, first, bytes, .. } => {
                    (Body::Frames { log, first, bytes: bytes as usize }, bytes as usize)
                }
                Transmit::Piece { log, sequence, offset, len } => {
                    let (offset, len) = (offset as usize, len as usize);
                    (Body::Piece { log, sequence, offset, len }, len)
                }
            };
            let head = start..self.heads.len();
            bytes += head.len() + len;
            self.items.push(Item { head, body });
        }
        bytes
    }

    fn write_batch(&mut self, sources: &Sources, connection: &mut Connection) -> Result<(), ConnectionError> {
        let Outbox { heads, items, rest, .. } = self;
        let mut pairs: [(&[u8], &[u8]); BATCH] = [(&[], &[]); BATCH];
        for (pair, item) in pairs.iter_mut().zip(items.iter()) {
            let body = match item.body {
                Body::None => Some(&[][..]),
                Body::Frames { log, first, bytes } => sources.frames(log, first, bytes),
                Body::Piece { log, sequence, offset, len } => sources.piece(log, sequence, offset, len),
            };
            *pair = (&heads[item.head.clone()], body.expect("what is kept does not change while a batch is collected"));
        }
        let pairs = &pairs[..items.len()];
        let mut progress = Progress::default();
        if connection.write(pairs, &mut progress)? == Written::Blocked {
            let mut skip = progress.bytes();
            for part in pairs[progress.pairs()..].iter().flat_map(|&(head, body)| [head, body]) {
                let left = &part[skip.min(part.len())..];
                skip -= part.len() - left.len();
                rest.extend_from_slice(left);
            }
        }
        Ok(())
    }
}
