//! Logs of this host that repeat those of one other host, and how much room they have.
//!
//! Room is granted before it is needed: half of what a log has free, and at most [`WINDOW`]. The other half is for what blocks
//! waste at their ends.

use std::collections::BTreeMap;

use nodeset_bus::log::{Extensions, NoRoom, Reach};
use nodeset_bus::outlet::Outlet;
use nodeset_bus::protocol::{LogShape, PublicationId};

use super::peer::{Incoming, LogKey};

/// bytes; granted to a log at a time
const WINDOW: u64 = 8 << 20;
/// bytes; of an extension in a frame
const EXTENSION: usize = 16;

/// All logs that come from one other host.
#[derive(Default)]
pub(super) struct Mirrors {
    by_log: BTreeMap<LogKey, Mirror>,
    /// Those that cannot go on, and why.
    failed: Vec<(LogKey, String)>,
}

/// One of them.
pub(super) struct Mirror {
    pub(super) publication: PublicationId,
    /// Where its messages begin.
    first: u64,
    log: Option<Log>,
}

struct Log {
    outlet: Box<Outlet>,
    /// bytes; of all blocks
    limit: u64,
    /// bytes of frames granted since it was opened
    granted: u64,
    /// bytes of frames that came since then; used <= granted
    used: u64,
    loan: Option<Loan>,
    /// Readers ring when they leave a block.
    starved: bool,
}

/// A long frame of which not all is there.
struct Loan {
    flags: u8,
    /// bytes of extensions and payload
    len: usize,
    /// Its extensions, as far as they came.
    front: Vec<u8>,
}

/// What a mirror that is there can take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    pub(super) next: u64,
    pub(super) room: u64,
    pub(super) longest: u32,
}

impl Mirrors {
    pub(super) fn insert(&mut self, log: LogKey, publication: PublicationId, first: u64) {
        self.by_log.insert(log, Mirror { publication, first, log: None });
    }

    /// Its log is there.
    pub(super) fn opened(&mut self, key: LogKey, mut outlet: Box<Outlet>, shape: LogShape) -> Option<Opened> {
        let mirror = self.by_log.get_mut(&key)?;
        outlet.start_at(mirror.first);
        let limit = u64::from(shape.block_len) * u64::from(shape.blocks);
        let longest = (outlet.longest_payload().min(limit / 4)).min(u64::from(u32::MAX)) as u32;
        let log = mirror.log.insert(Log { outlet, limit, granted: 0, used: 0, loan: None, starved: false });
        Some(Opened { next: mirror.first, room: log.grant(), longest })
    }

    /// It ends: its readers drain it. Gives its publication.
    pub(super) fn remove(&mut self, log: LogKey) -> Option<PublicationId> {
        let mut mirror = self.by_log.remove(&log)?;
        if let Some(log) = &mut mirror.log {
            log.outlet.finish();
        }
        Some(mirror.publication)
    }

    pub(super) fn log_of(&self, publication: PublicationId) -> Option<LogKey> {
        self.by_log.iter().find(|(_, mirror)| mirror.publication == publication).map(|(&log, _)| log)
    }

    pub(super) fn logs(&self) -> Vec<LogKey> {
        self.by_log.keys().copied().collect()
    }

    /// The loan is not written any more.
    pub(super) fn abandon(&mut self, log: LogKey) {
        if let Some(log) = self.by_log.get_mut(&log).and_then(|mirror| mirror.log.as_mut()) {
            if let Some(loan) = log.loan.take() {
                log.used = log.used.saturating_sub(loan.frame_len());
            }
        }
    }

    /// More room for each of them that has some, in bytes.
    pub(super) fn grants(&mut self) -> Vec<(LogKey, u64)> {
        let logs = self.by_log.iter_mut().filter_map(|(&key, mirror)| Some((key, mirror.log.as_mut()?)));
        logs.map(|(key, log)| (key, log.grant())).filter(|(_, freed)| *freed > 0).collect()
    }

    /// Those that cannot go on, since this was asked last.
    pub(super) fn take_failed(&mut self) -> Vec<(LogKey, String)> {
        std::mem::take(&mut self.failed)
    }

    /// Where bytes of the open loan go, as many as lie together from `offset` on; `None` where they cannot be read into place.
    pub(super) fn place(&mut self, log: LogKey, offset: usize, len: usize) -> Option<&mut [u8]> {
        self.by_log.get_mut(&log)?.log.as_mut()?.place(offset, len)
    }

    fn with(&mut self, key: LogKey, write: impl FnOnce(&mut Log) -> Result<(), String>) {
        let Some(log) = self.by_log.get_mut(&key).and_then(|mirror| mirror.log.as_mut()) else { return };
        if let Err(text) = write(log) {
            self.failed.push((key, text));
        }
    }
}

impl Incoming for Mirrors {
    fn frame(&mut self, log: LogKey, sequence: u64, flags: u8, body: &[u8]) {
        self.with(log, |log| log.frame(sequence, flags, body));
    }

    fn open(&mut self, log: LogKey, sequence: u64, flags: u8, len: u32) {
        self.with(log, |log| log.open(sequence, flags, len as usize));
    }

    fn fill(&mut self, log: LogKey, offset: u32, bytes: &[u8]) {
        self.with(log, |log| log.fill(offset as usize, bytes));
    }

    fn commit(&mut self, log: LogKey, _sequence: u64) {
        self.with(log, Log::commit);
    }

    fn gap(&mut self, log: LogKey, _first: u64, count: u64) {
        self.with(log, |log| {
            log.outlet.lose(count);
            Ok(())
        });
    }

    fn skip(&mut self, log: LogKey, _first: u64, count: u64) {
        self.with(log, |log| log.outlet.skip(count, Reach::Limit).map_err(no_room));
    }
}

impl Log {
    /// How many bytes more there is room for than was granted before; now they are.
    fn grant(&mut self) -> u64 {
        let outstanding = self.granted - self.used;
        if outstanding > WINDOW / 2 {
            return 0;
        }
        self.outlet.free_what_was_left();
        let free = self.limit.saturating_sub(self.outlet.occupied_bytes());
        let freed = (free / 2).min(WINDOW).saturating_sub(outstanding);
        self.granted += freed;
        let starves = self.granted - self.used < WINDOW / 4;
        if starves && !self.starved {
            self.outlet.arm_room();
        } else if self.starved && !starves {
            self.outlet.disarm_room();
        }
        self.starved = starves;
        freed
    }

    fn frame(&mut self, sequence: u64, flags: u8, body: &[u8]) -> Result<(), String> {
        self.expect(sequence)?;
        let (extensions, payload) = Extensions::from_bytes(flags, body).ok_or("its extensions are cut off")?;
        self.used += frame_len(body.len());
        let mut frame = self.outlet.try_open_extended(payload.len(), extensions, Reach::Limit).map_err(no_room)?;
        frame.bytes_mut()[..payload.len()].copy_from_slice(payload);
        frame.commit(payload.len());
        Ok(())
    }

    fn expect(&self, sequence: u64) -> Result<(), String> {
        let next = self.outlet.next_sequence();
        if next == sequence { Ok(()) } else { Err(format!("message {sequence} came where {next} was to come")) }
    }

    fn open(&mut self, sequence: u64, flags: u8, len: usize) -> Result<(), String> {
        self.expect(sequence)?;
        let loan = Loan { flags, len, front: Vec::new() };
        self.used += loan.frame_len();
        self.loan = Some(loan);
        Ok(())
    }

    fn fill(&mut self, mut offset: usize, mut bytes: &[u8]) -> Result<(), String> {
        let loan = self.loan.as_mut().ok_or("no message was begun")?;
        let missing = loan.front_len().saturating_sub(loan.front.len());
        if missing > 0 {
            let (front, rest) = bytes.split_at(missing.min(bytes.len()));
            loan.front.extend_from_slice(front);
            (offset, bytes) = (offset + front.len(), rest);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let place = self.place(offset, bytes.len()).ok_or("there is no room for a long message")?;
        if place.len() != bytes.len() {
            return Err("a long message is longer than it said".to_owned());
        }
        place.copy_from_slice(bytes);
        Ok(())
    }

    /// The frame that is open is the next one of the log, where it lies again each time it is opened.
    fn place(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        let loan = self.loan.as_ref()?;
        let front = loan.front_len();
        let (extensions, _) = Extensions::from_bytes(loan.flags, &loan.front)?;
        let start = offset.checked_sub(front)?;
        let payload = loan.len - front;
        if start >= payload {
            return None;
        }
        let end = payload.min(start.checked_add(len)?);
        let frame = self.outlet.try_open_extended(payload, extensions, Reach::Limit).ok()?;
        frame.into_bytes().get_mut(start..end)
    }

    fn commit(&mut self) -> Result<(), String> {
        let loan = self.loan.take().ok_or("no message was begun")?;
        let (extensions, _) = Extensions::from_bytes(loan.flags, &loan.front).ok_or("its extensions are cut off")?;
        let payload = loan.len - loan.front_len();
        let frame = self.outlet.try_open_extended(payload, extensions, Reach::Limit).map_err(no_room)?;
        frame.commit(payload);
        Ok(())
    }
}

impl Loan {
    fn front_len(&self) -> usize {
        EXTENSION * self.flags.count_ones() as usize
    }

    fn frame_len(&self) -> u64 {
        frame_len(self.len)
    }
}

/// bytes that a frame with such a body takes
fn frame_len(body: usize) -> u64 {
    16 + body.next_multiple_of(16) as u64
}

fn no_room(error: NoRoom) -> String {
    format!("there is no room for it: {error:?}")
}
