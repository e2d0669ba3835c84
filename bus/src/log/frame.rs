//! Frames: a 16-byte header, optional 16-byte extensions, the payload, packed to 16 bytes.
//!
//! ```text
//! 0       4    5     6    8                16                               16 + 16 x extensions
//! | length | kind|flags| 0 | sequence        | extension (one a flag bit) ... | payload ... | padding to 16
//! |<---- commit word ----->|
//! ```
//!
//! Whoever does not know a kind or an extension steps over it: the size follows from the commit word alone.

/// Bytes of a frame's header; frames start at multiples of it.
pub(crate) const HEADER_LEN: usize = 16;
/// Bytes of an extension.
pub(crate) const EXTENSION_LEN: usize = 16;

const KIND_SHIFT: u32 = 32;
const FLAGS_SHIFT: u32 = 40;
const RESERVED_SHIFT: u32 = 48;

/// A message.
pub(crate) const KIND_DATA: u8 = 1;
/// The last frame of a block. Its length field is the index of the next block, its second word the generation.
pub(crate) const KIND_CLOSING: u8 = 2;
/// Payload: how many messages from its sequence on were filtered out on purpose; no loss.
pub(crate) const KIND_SKIP: u8 = 3;
/// The last frame of a log; its second word is the sequence that would have come next.
pub(crate) const KIND_END: u8 = 4;

/// Extension: a word with the publish time and [`TAGGED`], then the user's tag.
pub(crate) const FLAG_STAMP: u8 = 1;
/// Extension: a request's id, then its reply lane.
pub(crate) const FLAG_REQUEST: u8 = 2;
/// In the first word of the extension [`FLAG_STAMP`]: the second word is a tag. The other bits are the publish time, 0 if it was
/// not sent.
pub(crate) const TAGGED: u64 = 1 << 63;

/// The first word of a frame: 0 means that it is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitWord(pub(crate) u64);

impl CommitWord {
    /// For a frame of that kind with a payload of `len` bytes and no extension.
    pub(crate) const fn new(kind: u8, len: u32) -> CommitWord {
        CommitWord(len as u64 | (kind as u64) << KIND_SHIFT)
    }

    /// The same, with extensions.
    pub(crate) const fn with_flags(self, flags: u8) -> CommitWord {
        CommitWord(self.0 | (flags as u64) << FLAGS_SHIFT)
    }

    /// Bytes of the payload (or what the kind says).
    #[inline]
    pub(crate) const fn len(self) -> u32 {
        self.0 as u32
    }

    /// One of the `KIND_` constants, or a newer one.
    #[inline]
    pub(crate) const fn kind(self) -> u8 {
        (self.0 >> KIND_SHIFT) as u8
    }

    /// A plain message without extensions: the case that the hot path looks for with one comparison.
    #[inline]
    pub(crate) const fn is_plain_data(self) -> bool {
        self.0 >> KIND_SHIFT == KIND_DATA as u64
    }

    /// A message with extensions.
    #[inline]
    pub(crate) const fn is_extended_data(self) -> bool {
        self.kind() == KIND_DATA && self.0 >> RESERVED_SHIFT == 0 && self.flags() != 0
    }

    /// Bits that no version writes are zero.
    pub(crate) const fn is_wellformed(self) -> bool {
        self.0 >> RESERVED_SHIFT == 0 && self.kind() != 0
    }

    /// Bytes of header and extensions.
    pub(crate) const fn payload_offset(self) -> usize {
        HEADER_LEN + EXTENSION_LEN * self.flags().count_ones() as usize
    }

    /// One flag an extension.
    #[inline]
    pub(crate) const fn flags(self) -> u8 {
        (self.0 >> FLAGS_SHIFT) as u8
    }

    /// Where in the frame the extension of that flag stands, if it is there: behind those with lower flags.
    #[inline]
    pub(crate) const fn extension_offset(self, flag: u8) -> Option<usize> {
        if self.flags() & flag == 0 {
            return None;
        }
        let before = self.flags() & (flag - 1);
        Some(HEADER_LEN + EXTENSION_LEN * before.count_ones() as usize)
    }

    /// Bytes from this frame's header to the next one's.
    pub(crate) const fn frame_len(self) -> usize {
        self.payload_offset() + (self.len() as usize).next_multiple_of(16)
    }
}

/// Bytes that a frame with a payload of `len` bytes takes.
#[inline]
pub(crate) const fn frame_len(len: usize) -> usize {
    HEADER_LEN + len.next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_the_commit_word() {
        let plain = CommitWord::new(KIND_DATA, 64);
        assert!(plain.is_plain_data() && plain.is_wellformed());
        assert_eq!((plain.len(), plain.kind(), plain.payload_offset(), plain.frame_len()), (64, KIND_DATA, 16, 80));
        let extended = plain.with_flags(0b101);
        assert!(!extended.is_plain_data() && extended.is_extended_data());
        assert!(!plain.is_extended_data() && !CommitWord::new(KIND_SKIP, 8).with_flags(1).is_extended_data());
        assert_eq!((extended.payload_offset(), extended.frame_len()), (48, 112));
        assert_eq!(extended.extension_offset(FLAG_STAMP), Some(16));
        assert_eq!(extended.extension_offset(FLAG_REQUEST), None);
        assert_eq!(extended.extension_offset(0b100), Some(32));
        assert_eq!(frame_len(0), 16);
        assert_eq!(frame_len(1), 32);
        assert_eq!(CommitWord::new(KIND_DATA, 0).frame_len(), 16);
        assert_ne!(CommitWord::new(KIND_DATA, 0).0, 0, "an empty message is still a message");
        assert!(!CommitWord(1 << RESERVED_SHIFT).is_wellformed());
    }
}
