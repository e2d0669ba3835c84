//! What a message carries beside its payload: the extensions of its frame.
//!
//! Each takes 16 bytes between header and payload and has a flag in the commit word; the one with the lower flag comes first.
//! A frame without any is the common case and pays nothing for them.

use crate::atomics::Words;
use crate::clock::Timestamp;

use super::frame::{CommitWord, EXTENSION_LEN, FLAG_REQUEST, FLAG_STAMP, HEADER_LEN, TAGGED};

/// A request, or the reply to one: carried, not interpreted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestMark {
    /// The requester's number of it.
    pub id: u64,
    /// Where the replies go; in a reply, which part of the answer it is.
    pub lane: u64,
}

/// What a message carries beside its payload; nothing unless somebody asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// When it was published.
    pub time: Option<Timestamp>,
    /// A number of the user's.
    pub tag: Option<u64>,
    /// Which request it is, or answers.
    pub request: Option<RequestMark>,
}

impl Extensions {
    /// Nothing beside the payload.
    pub const NONE: Extensions = Extensions { time: None, tag: None, request: None };

    /// One flag an extension.
    #[inline(always)]
    pub(crate) fn flags(&self) -> u8 {
        let stamp = if self.time.is_some() || self.tag.is_some() { FLAG_STAMP } else { 0 };
        let request = if self.request.is_some() { FLAG_REQUEST } else { 0 };
        stamp | request
    }

    /// bytes that they take in a frame; a multiple of 16
    #[inline(always)]
    pub fn frame_bytes(&self) -> usize {
        EXTENSION_LEN * self.flags().count_ones() as usize
    }

    /// One bit an extension, as in a frame's header: for those who carry frames elsewhere ([`to_bytes`](Self::to_bytes)).
    pub fn frame_flags(&self) -> u8 {
        self.flags()
    }

    /// Appends them as they stand in a frame, between header and payload.
    pub fn to_bytes(&self, out: &mut Vec<u8>) {
        let mut put = |words: [u64; 2]| words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        if self.flags() & FLAG_STAMP != 0 {
            put(self.stamp());
        }
        if let Some(RequestMark { id, lane }) = self.request {
            put([id, lane]);
        }
    }

    /// Takes those with `flags` from the front of a frame's body, and gives the rest: the payload. Those that this version does
    /// not know are left out; `None` when the body is too short.
    pub fn from_bytes(flags: u8, body: &[u8]) -> Option<(Extensions, &[u8])> {
        let (mut extensions, mut rest) = (Extensions::NONE, body);
        for flag in (0..u8::BITS).map(|bit| 1 << bit).filter(|flag| flags & flag != 0) {
            let (front, behind) = rest.split_first_chunk::<EXTENSION_LEN>()?;
            let (first, second) = front.split_at(8);
            let [first, second] = [first, second].map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
            match flag {
                FLAG_STAMP => extensions.set_stamp(first, second),
                FLAG_REQUEST => extensions.request = Some(RequestMark { id: first, lane: second }),
                _ => {}
            }
            rest = behind;
        }
        Some((extensions, rest))
    }

    fn stamp(&self) -> [u64; 2] {
        let tagged = if self.tag.is_some() { TAGGED } else { 0 };
        [self.time.map_or(0, Timestamp::as_nanos) | tagged, self.tag.unwrap_or(0)]
    }

    fn set_stamp(&mut self, first: u64, second: u64) {
        self.time = Timestamp::from_nanos(first & !TAGGED);
        self.tag = (first & TAGGED != 0).then_some(second);
    }

    /// Writes them behind the header of the frame at `frame_at`, which is not committed yet.
    #[inline(always)]
    pub(super) fn write<W: Words>(&self, words: &W, frame_at: usize) {
        // Relaxed, all: published by the commit word.
        let mut at = frame_at + HEADER_LEN;
        if self.flags() & FLAG_STAMP != 0 {
            let tagged = if self.tag.is_some() { TAGGED } else { 0 };
            words.store(at, self.time.map_or(0, Timestamp::as_nanos) | tagged);
            words.store(at + 8, self.tag.unwrap_or(0));
            at += EXTENSION_LEN;
        }
        if let Some(request) = self.request {
            words.store(at, request.id);
            words.store(at + 8, request.lane);
        }
    }

    /// Reads those that this version knows from the frame at `frame_at`, which lies inside its block as `word` says.
    #[inline]
    pub(super) fn read<W: Words>(words: &W, frame_at: usize, word: CommitWord) -> Extensions {
        // Relaxed, all: published by the commit word.
        let mut extensions = Extensions::NONE;
        if let Some(offset) = word.extension_offset(FLAG_STAMP) {
            let first = words.load(frame_at + offset);
            extensions.time = Timestamp::from_nanos(first & !TAGGED);
            extensions.tag = (first & TAGGED != 0).then(|| words.load(frame_at + offset + 8));
        }
        if let Some(offset) = word.extension_offset(FLAG_REQUEST) {
            let at = frame_at + offset;
            extensions.request = Some(RequestMark { id: words.load(at), lane: words.load(at + 8) });
        }
        extensions
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::KIND_DATA;
    use super::*;
    use crate::memory::SharedWords;

    fn there_and_back(extensions: Extensions) {
        let words = SharedWords::heap(256);
        extensions.write(&words, 64);
        let word = CommitWord::new(KIND_DATA, 8).with_flags(extensions.flags());
        assert_eq!(word.payload_offset(), HEADER_LEN + extensions.frame_bytes());
        assert_eq!(Extensions::read(&words, 64, word), extensions);

        let mut bytes = Vec::new();
        extensions.to_bytes(&mut bytes);
        assert_eq!(bytes.len(), extensions.frame_bytes());
        let in_log: Vec<u8> = (80..80 + bytes.len()).step_by(8).flat_map(|at| words.load(at).to_le_bytes()).collect();
        assert_eq!(bytes, in_log);
        bytes.extend_from_slice(b"payload");
        assert_eq!(Extensions::from_bytes(extensions.frame_flags(), &bytes), Some((extensions, &b"payload"[..])));
    }

    #[test]
    fn what_is_written_is_read() {
        let time = Timestamp::from_nanos((1 << 63) - 1);
        let request = Some(RequestMark { id: u64::MAX, lane: 0 });
        for time in [None, time] {
            for tag in [None, Some(0), Some(u64::MAX)] {
                for request in [None, request] {
                    there_and_back(Extensions { time, tag, request });
                }
            }
        }
        assert_eq!(Extensions::NONE.frame_bytes(), 0);
    }

    #[test]
    fn those_of_a_later_version_are_stepped_over() {
        let words = SharedWords::heap(256);
        for (at, value) in [(16, 5), (24, 6), (32, 7), (40, 8), (48, 9)] {
            words.store(at, value);
        }
        // The flag between is nobody's so far, and so is the last.
        let word = CommitWord::new(KIND_DATA, 8).with_flags(FLAG_REQUEST | 0b100 | 0x80);
        assert_eq!(word.payload_offset(), 64);
        let read = Extensions::read(&words, 0, word);
        assert_eq!(read, Extensions { request: Some(RequestMark { id: 5, lane: 6 }), ..Extensions::NONE });

        let body: Vec<u8> = (16..64).step_by(8).flat_map(|at| words.load(at).to_le_bytes()).collect();
        assert_eq!(Extensions::from_bytes(word.flags(), &body), Some((read, &[][..])));
        assert_eq!(Extensions::from_bytes(word.flags(), &body[1..]), None);
    }
}
