//! A log that mirrors one of another host, and everything that must hold for what is written to it.

use std::collections::{BTreeMap, VecDeque};

use nodeset_dispatcher::bridge::peer::{Incoming, LogKey, Publication};

use super::log::{Message, frame_len, is_skipped, message};

#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) publication: Publication,
    /// Sequence of the next message.
    pub(crate) next: u64,
    /// bytes of frames that it holds at most
    pub(crate) room: u64,
    /// bytes of the frames that were not read yet
    pub(crate) unread: VecDeque<u64>,
    /// bytes; the sum of `unread`
    pub(crate) held: u64,
    /// The peer may write to it.
    pub(crate) is_open: bool,
    /// Its readers are slow.
    pub(crate) is_slow: bool,
    loan: Option<(u64, u8, Vec<u8>)>,
    /// Gaps that were told and not looked at: first, count.
    pub(crate) gaps: Vec<(u64, u64)>,
}

impl Mirror {
    pub(crate) fn new(publication: Publication, first: u64, room: u64, is_slow: bool) -> Mirror {
        Mirror {
            publication,
            next: first,
            room,
            unread: VecDeque::new(),
            held: 0,
            is_open: false,
            is_slow,
            loan: None,
            gaps: Vec::new(),
        }
    }

    /// Nobody writes to it now.
    pub(crate) fn abandon(&mut self) -> bool {
        self.loan.take().is_some()
    }

    fn take(&mut self, log: LogKey, sequence: u64, flags: u8, body: &[u8]) {
        assert!(self.is_open, "written before it was opened");
        assert_eq!(sequence, self.next, "another message than the next one");
        match message(log, sequence) {
            Message::Data(published, text) => {
                assert!(published == flags && text == body, "message {sequence} was changed on the way");
            }
            Message::Skipped => panic!("message {sequence} was filtered out"),
        }
        let len = frame_len(body.len() as u64);
        self.held += len;
        assert!(self.held <= self.room, "more came than was granted");
        self.unread.push_back(len);
        self.next += 1;
    }
}

/// The mirrors of one peer of a host.
pub(crate) struct Mirrors<'a> {
    pub(crate) mirrors: &'a mut BTreeMap<LogKey, Mirror>,
    /// How far each publication really is.
    pub(crate) truth: &'a BTreeMap<LogKey, u64>,
    /// Counted up.
    pub(crate) delivered: &'a mut u64,
}

impl Mirrors<'_> {
    fn mirror(&mut self, log: LogKey) -> &mut Mirror {
        self.mirrors.get_mut(&log).expect("it writes to a mirror that is not")
    }

    fn exists(&self, log: LogKey, next: u64) {
        assert!(next <= self.truth[&log], "it tells of messages that were never published");
    }
}

impl Incoming for Mirrors<'_> {
    fn frame(&mut self, log: LogKey, sequence: u64, flags: u8, body: &[u8]) {
        self.exists(log, sequence + 1);
        *self.delivered += 1;
        let mirror = self.mirror(log);
        assert!(mirror.loan.is_none(), "a frame in the midst of another");
        mirror.take(log, sequence, flags, body);
    }

    fn open(&mut self, log: LogKey, sequence: u64, flags: u8, len: u32) {
        self.exists(log, sequence + 1);
        let mirror = self.mirror(log);
        assert!(mirror.loan.is_none(), "two loans at once");
        assert!(mirror.held + frame_len(u64::from(len)) <= mirror.room, "a loan that would fail");
        mirror.loan = Some((sequence, flags, vec![0; len as usize]));
    }

    fn fill(&mut self, log: LogKey, offset: u32, bytes: &[u8]) {
        let (_, _, body) = self.mirror(log).loan.as_mut().expect("it fills what is not open");
        body[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn commit(&mut self, log: LogKey, sequence: u64) {
        *self.delivered += 1;
        let mirror = self.mirror(log);
        let (opened, flags, body) = mirror.loan.take().expect("it commits what is not open");
        assert_eq!(opened, sequence);
        mirror.take(log, sequence, flags, &body);
    }

    fn gap(&mut self, log: LogKey, first: u64, count: u64) {
        self.exists(log, first + count);
        let mirror = self.mirror(log);
        assert_eq!(first, mirror.next, "a gap in the wrong place");
        mirror.next += count;
        mirror.gaps.push((first, count));
    }

    fn skip(&mut self, log: LogKey, first: u64, count: u64) {
        self.exists(log, first + count);
        let mirror = self.mirror(log);
        assert_eq!(first, mirror.next, "a skip in the wrong place");
        let all = (first..first + count).all(|sequence| is_skipped(log, sequence));
        assert!(all, "what was published is told as filtered out");
        mirror.next += count;
    }
}
