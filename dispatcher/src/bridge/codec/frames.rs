//! Frames of a run: each as it lies in a log, 16 bytes of header, extensions, payload, padding to 16 bytes.
//!
//! What a run holds was written by a publisher, which may be hostile, into memory that it can still write while it is sent.
//! So a fault in here is the publication's, not the connection's: the record around it says where the next record begins.

use thiserror::Error;

use super::LONGEST_WHOLE;

/// bytes; of the header that a frame has in its log
const FRAME_HEADER_LEN: usize = 16;
/// The kind of frame that carries a message; no other kind travels in a run.
const KIND_DATA: u8 = 1;

/// One frame of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameIn<'a> {
    /// Its sequence.
    pub sequence: u64,
    /// One bit an extension of 16 bytes.
    pub flags: u8,
    /// Extensions, then the payload.
    pub body: &'a [u8],
}

/// A run that is not what it says: the publication cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FramesError {
    /// A frame reaches beyond the run, or the run beyond its frames.
    #[error("a frame of message {sequence} does not end where it should")]
    Length {
        /// The message.
        sequence: u64,
    },
    /// No frame of a message, or one that should have travelled in pieces.
    #[error("message {sequence} came in a frame that cannot be sent in a run")]
    Shape {
        /// The message.
        sequence: u64,
    },
    /// Another message than the next one.
    #[error("message {found} came in the place of message {expected}")]
    Sequence {
        /// The next one.
        expected: u64,
        /// The one that came.
        found: u64,
    },
}

/// The frames of a run of `count` messages from `first` on. After an error nothing more comes.
pub fn frames(first: u64, count: u32, run: &[u8]) -> impl Iterator<Item = Result<FrameIn<'_>, FramesError>> {
    let mut rest = Some(run);
    (0..u64::from(count)).map_while(move |at| {
        let sequence = first + at;
        let is_last = at + 1 == u64::from(count);
        let split = split_frame(sequence, rest.take()?);
        Some(split.and_then(|(frame, behind)| {
            if is_last && !behind.is_empty() {
                return Err(FramesError::Length { sequence });
            }
            rest = Some(behind);
            Ok(frame)
        }))
    })
}

fn split_frame(expected: u64, run: &[u8]) -> Result<(FrameIn<'_>, &[u8]), FramesError> {
    let cut_off = FramesError::Length { sequence: expected };
    let (header, rest) = run.split_first_chunk::<FRAME_HEADER_LEN>().ok_or(cut_off)?;
    let [l0, l1, l2, l3, kind, flags, z0, z1, s0, s1, s2, s3, s4, s5, s6, s7] = *header;
    let found = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    if found != expected {
        return Err(FramesError::Sequence { expected, found });
    }
    let payload = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let len = payload.saturating_add(16 * flags.count_ones() as usize);
    if kind != KIND_DATA || [z0, z1] != [0, 0] || len > LONGEST_WHOLE {
        return Err(FramesError::Shape { sequence: expected });
    }
    let (padded, behind) = rest.split_at_checked(len.next_multiple_of(16)).ok_or(cut_off)?;
    Ok((FrameIn { sequence: expected, flags, body: &padded[..len] }, behind))
}

/// Appends a frame as it would lie in a log.
pub fn put_frame(frame: FrameIn<'_>, out: &mut Vec<u8>) {
    let payload = frame.body.len() - 16 * frame.flags.count_ones() as usize;
    out.extend_from_slice(&(payload as u32).to_le_bytes());
    out.extend_from_slice(&[KIND_DATA, frame.flags, 0, 0]);
    out.extend_from_slice(&frame.sequence.to_le_bytes());
    out.extend_from_slice(frame.body);
    let padding = frame.body.len().next_multiple_of(16) - frame.body.len();
    out.resize(out.len() + padding, 0);
}
