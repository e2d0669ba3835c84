//! What goes over a connection between two hosts, as bytes: records with a fixed header of 16 bytes, little endian.
//!
//! `docs/bridge-protocol.md` describes every record. Frames of messages travel as they lie in the log, several to a record,
//! so that a log's memory can be handed to `writev(2)` as it is; a long frame travels in pieces, so that its payload can be
//! read from the socket straight to where it is going to stay.
//!
//! [`decode`] tells what is not complete yet from what is invalid, never reads behind what it was given, allocates only for
//! greetings and never panics.

mod frames;
#[cfg(test)]
mod tests;
mod text;

use thiserror::Error;

pub use frames::{FrameIn, FramesError, frames, put_frame};

use text::{Fields, put_text};

/// First bytes of a greeting's body.
pub const MAGIC: [u8; 8] = *b"NSBRIDGE";
/// Oldest version of the protocol that this program speaks.
pub const VERSION_OLDEST: u16 = 1;
/// Newest version of the protocol that this program speaks.
pub const VERSION_NEWEST: u16 = 1;

/// bytes; every record begins with so many
pub const HEADER_LEN: usize = 16;
/// bytes; the most behind a header
pub const MAX_BODY: usize = 64 * 1024;
/// bytes; what stands between the header of a data record and its frames or payload
pub const DATA_HEAD_LEN: usize = 16;
/// bytes; the most frames, or payload of a piece, that a data record carries
pub const MAX_DATA: usize = MAX_BODY - DATA_HEAD_LEN;
/// bytes; a frame whose body is longer than this travels in pieces, a shorter one never does
pub const LONGEST_WHOLE: usize = 8 * 1024;
/// bytes; the most that a reason may have
pub const MAX_REASON: usize = 512;

/// First thing that either side says: who it is, and what it can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version of the protocol that it speaks.
    pub oldest: u16,
    /// Newest one.
    pub newest: u16,
    /// Name of the host that speaks.
    pub host: String,
    /// Name of the host that it means to speak to.
    pub to: String,
    /// Chosen at random each time its dispatcher starts.
    pub instance: u64,
    /// The dialler's number of this connection: higher than that of any one before from the same instance. The side that
    /// accepts repeats it.
    pub attempt: u64,
    /// Its own connections up to this attempt are over.
    pub over: u64,
    /// The other side's connections up to this attempt, of the instance `their_instance`, are over; 0: none that it knows of.
    pub their_over: u64,
    /// See `their_over`.
    pub their_instance: u64,
    /// Publications that it takes at a time.
    pub max_channels: u32,
    /// Interests that it takes at a time.
    pub max_interests: u32,
    /// milliseconds; how long it waits for any byte of the other side before it gives the connection up
    pub patience: u32,
}

/// How an interest, and the link that follows from it, treats messages that cannot be sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    /// What is old is left out.
    Lossy,
    /// Everything that the retention of the sending side holds.
    Reliable,
    /// Everything: the publisher waits.
    AcrossHosts,
}

/// Why a publication is no longer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Its publisher ended it or is gone; everything up to the end was sent.
    Finished,
    /// Nobody over there wants it.
    Unwanted,
    /// The other side refused it.
    Refused,
}

/// A publication, told to a host that wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced<'a> {
    /// Its random id.
    pub publication: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Sequence of the first message that the other side can have, unless it says that it was further already.
    pub first: u64,
    /// How it will be sent.
    pub quality: Quality,
    /// Name of the publisher's node.
    pub node: &'a str,
    /// The name that the node had asked for.
    pub base_name: &'a str,
    /// What it publishes on.
    pub topic: &'a str,
    /// The messages' schema, as a record of the control protocol (`nodeset_bus::protocol::record`).
    pub schema: &'a [u8],
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// Who speaks.
    Hello(Hello),
    /// The connection ends.
    Goodbye {
        /// See [`Reason::code`](super::peer::Reason::code).
        code: u16,
        /// For people; at most [`MAX_REASON`] bytes.
        text: &'a str,
    },
    /// To be answered by a `Pong`.
    Ping {
        /// Anything.
        token: u64,
    },
    /// The answer.
    Pong {
        /// As it came.
        token: u64,
    },
    /// The sender of this wants publications.
    Want {
        /// Chosen by who wants; used once a connection.
        interest: u32,
        /// How.
        quality: Quality,
        /// milliseconds for which publishers wait while nothing is taken; 0 unless that is the quality
        deadline: u32,
        /// messages from before that it would like, if they are still held
        history: u64,
        /// Topic, pattern or address.
        selector: &'a str,
    },
    /// It does no longer.
    Unwant {
        /// Which.
        interest: u32,
    },
    /// All that was wanted when the connection came about has been said.
    Synced,
    /// A publication that was asked for.
    Announce {
        /// Chosen by the publication's side; used once a connection.
        channel: u32,
        /// Which.
        announced: Announced<'a>,
    },
    /// No more of a publication; answered by `Closed`.
    End {
        /// Which.
        channel: u32,
        /// Why.
        reason: EndReason,
        /// The sequence that would have come next.
        next: u64,
    },
    /// The answer to `Announce`: send.
    Open {
        /// Which.
        channel: u32,
        /// Sequence of the first message wanted.
        next: u64,
        /// bytes of frames that may be sent, counted from here on
        credit: u64,
        /// bytes; the longest frame body that can be taken
        longest: u32,
    },
    /// Not wanted, or no longer; answered by `End`.
    Refuse {
        /// Which.
        channel: u32,
        /// For people; at most [`MAX_REASON`] bytes.
        text: &'a str,
    },
    /// The answer to `End`: the channel is no more.
    Closed {
        /// Which.
        channel: u32,
    },
    /// How far the receiving log is.
    Progress {
        /// Which.
        channel: u32,
        /// Every message below it is in the receiving log, or was told to be lost.
        next: u64,
        /// bytes of frames that may be sent, counted from `Open` on
        credit: u64,
    },
    /// Messages that are lost.
    Gap {
        /// Of which publication.
        channel: u32,
        /// Sequence of the first one.
        first: u64,
        /// How many; at least 1.
        count: u64,
    },
    /// Messages that were left out on purpose.
    Skip {
        /// Of which publication.
        channel: u32,
        /// Sequence of the first one.
        first: u64,
        /// How many; at least 1.
        count: u64,
    },
    /// Frames, one behind the other as they lie in a log ([`frames`]).
    Run {
        /// Of which publication.
        channel: u32,
        /// Sequence of the first one.
        first: u64,
        /// How many.
        count: u32,
        /// Not looked at yet.
        frames: &'a [u8],
    },
    /// A part of one long frame; its bytes follow behind what [`decode`] says that this record took.
    Piece {
        /// Of which publication.
        channel: u32,
        /// The piece.
        piece: Piece,
    },
}

/// A part of a long frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The frame's sequence.
    pub sequence: u64,
    /// The frame's flags.
    pub flags: u8,
    /// bytes; length of the whole frame's body: extensions and payload
    pub total: u32,
    /// bytes; where in the body this piece begins; 0 <= offset < total
    pub offset: u32,
    /// bytes; how many there are; 1 <= len <= total - offset
    pub len: u32,
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Not all of a record.
    Incomplete {
        /// bytes from the beginning that are needed to go on; more than there are
        needed: usize,
    },
    /// A record.
    Record {
        /// Which.
        record: Record<'a>,
        /// bytes that it took; of a [`Record::Piece`], without the piece itself
        len: usize,
    },
}

/// Bytes that are no record: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Invalid {
    /// The other side does not speak this protocol at all.
    #[error("a greeting does not begin with NSBRIDGE")]
    Magic,
    /// No such kind.
    #[error("there is no record of kind {0}")]
    Kind(u8),
    /// Longer than any record is.
    #[error("a record of {0} bytes, {MAX_BODY} are allowed")]
    TooLong(u32),
    /// Its length does not fit its kind.
    #[error("a record of kind {kind} has {len} bytes, which cannot be")]
    Length {
        /// The kind.
        kind: u8,
        /// bytes
        len: usize,
    },
    /// A field that must be zero is not, or holds what it cannot.
    #[error("a record of kind {kind}: {what}")]
    Field {
        /// The kind.
        kind: u8,
        /// Which field.
        what: &'static str,
    },
}

/// The kinds of records, as they stand in the header.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const GOODBYE: u8 = 2;
    pub(super) const PING: u8 = 3;
    pub(super) const PONG: u8 = 4;
    pub(super) const WANT: u8 = 5;
    pub(super) const UNWANT: u8 = 6;
    pub(super) const SYNCED: u8 = 7;
    pub(super) const ANNOUNCE: u8 = 8;
    pub(super) const END: u8 = 9;
    pub(super) const OPEN: u8 = 10;
    pub(super) const REFUSE: u8 = 11;
    pub(super) const CLOSED: u8 = 12;
    pub(super) const PROGRESS: u8 = 13;
    pub(super) const GAP: u8 = 14;
    pub(super) const SKIP: u8 = 15;
    pub(super) const RUN: u8 = 16;
    pub(super) const PIECE: u8 = 17;
}

/// The header, taken apart.
struct Header {
    len: u32,
    kind: u8,
    flags: u8,
    channel: u32,
    count: u32,
}

impl Header {
    fn read(bytes: &[u8; HEADER_LEN]) -> Result<Header, Invalid> {
        let [l0, l1, l2, l3, kind, flags, z0, z1, c0, c1, c2, c3, n0, n1, n2, n3] = *bytes;
        if [z0, z1] != [0, 0] {
            return Err(Invalid::Field { kind, what: "bytes 6 and 7 are not zero" });
        }
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let channel = u32::from_le_bytes([c0, c1, c2, c3]);
        let header = Header { len, kind, flags, channel, count: u32::from_le_bytes([n0, n1, n2, n3]) };
        header.check()?;
        Ok(header)
    }

    /// Before anybody waits for the body.
    fn check(&self) -> Result<(), Invalid> {
        let Header { len, kind, flags, channel, count } = *self;
        if !(kind::HELLO..=kind::PIECE).contains(&kind) {
            return Err(Invalid::Kind(kind));
        }
        if len as usize > MAX_BODY {
            return Err(Invalid::TooLong(len));
        }
        if flags != 0 && !matches!(kind, kind::WANT | kind::ANNOUNCE | kind::END | kind::PIECE) {
            return Err(Invalid::Field { kind, what: "flags are not zero" });
        }
        if channel != 0 && matches!(kind, kind::HELLO | kind::GOODBYE | kind::PING | kind::PONG | kind::SYNCED) {
            return Err(Invalid::Field { kind, what: "channel is not zero" });
        }
        if count != 0 && !matches!(kind, kind::GOODBYE | kind::WANT | kind::OPEN | kind::RUN) {
            return Err(Invalid::Field { kind, what: "count is not zero" });
        }
        Ok(())
    }
}

/// What stands at the beginning of `bytes`.
///
/// # Errors
///
/// When no bytes behind these could make a record of them.
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, Invalid> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Decoded::Incomplete { needed: HEADER_LEN });
    };
    let header = Header::read(header)?;
    let len = header.len as usize;
    if header.kind == kind::PIECE {
        let Some((head, _)) = rest.split_first_chunk::<DATA_HEAD_LEN>() else {
            return Ok(Decoded::Incomplete { needed: HEADER_LEN + DATA_HEAD_LEN });
        };
        let piece = read_piece(&header, head)?;
        let record = Record::Piece { channel: header.channel, piece };
        return Ok(Decoded::Record { record, len: HEADER_LEN + DATA_HEAD_LEN });
    }
    let Some(body) = rest.get(..len) else {
        return Ok(Decoded::Incomplete { needed: HEADER_LEN + len });
    };
    Ok(Decoded::Record { record: read_body(&header, body)?, len: HEADER_LEN + len })
}

fn read_piece(header: &Header, head: &[u8; DATA_HEAD_LEN]) -> Result<Piece, Invalid> {
    let kind = header.kind;
    let [s0, s1, s2, s3, s4, s5, s6, s7, o0, o1, o2, o3, t0, t1, t2, t3] = *head;
    let sequence = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let offset = u32::from_le_bytes([o0, o1, o2, o3]);
    let total = u32::from_le_bytes([t0, t1, t2, t3]);
    let len = header.len.checked_sub(DATA_HEAD_LEN as u32).filter(|&len| len > 0);
    let len = len.ok_or(Invalid::Length { kind, len: header.len as usize })?;
    if sequence == u64::MAX {
        return Err(Invalid::Field { kind, what: "the sequence is beyond all sequences" });
    }
    if u64::from(offset) + u64::from(len) > u64::from(total) {
        return Err(Invalid::Field { kind, what: "the piece does not lie inside its frame" });
    }
    if header.flags.count_ones() * 16 > total {
        return Err(Invalid::Field { kind, what: "the frame is shorter than its extensions" });
    }
    Ok(Piece { sequence, flags: header.flags, total, offset, len })
}

fn read_body<'a>(header: &Header, body: &'a [u8]) -> Result<Record<'a>, Invalid> {
    let channel = header.channel;
    let mut fields = Fields::new(header.kind, body);
    let record = match header.kind {
        kind::HELLO => Record::Hello(read_hello(&mut fields)?),
        kind::GOODBYE => {
            let code = u16::try_from(header.count);
            let code = code.map_err(|_| Invalid::Field { kind: header.kind, what: "the code is too large" })?;
            Record::Goodbye { code, text: fields.text(MAX_REASON)? }
        }
        kind::PING => Record::Ping { token: fields.u64()? },
        kind::PONG => Record::Pong { token: fields.u64()? },
        kind::WANT => Record::Want {
            interest: channel,
            quality: read_quality(header)?,
            deadline: header.count,
            history: fields.u64()?,
            selector: fields.text(nodeset_bus::topic::MAX_LEN)?,
        },
        kind::UNWANT => Record::Unwant { interest: channel },
        kind::SYNCED => Record::Synced,
        kind::ANNOUNCE => {
            let quality = read_quality(header)?;
            Record::Announce { channel, announced: read_announced(quality, &mut fields)? }
        }
        kind::END => Record::End { channel, reason: read_end_reason(header)?, next: fields.u64()? },
        kind::OPEN => Record::Open { channel, next: fields.u64()?, credit: fields.u64()?, longest: header.count },
        kind::REFUSE => Record::Refuse { channel, text: fields.text(MAX_REASON)? },
        kind::CLOSED => Record::Closed { channel },
        kind::PROGRESS => Record::Progress { channel, next: fields.u64()?, credit: fields.u64()? },
        kind::GAP => {
            let (first, count) = read_range(&mut fields)?;
            Record::Gap { channel, first, count }
        }
        kind::SKIP => {
            let (first, count) = read_range(&mut fields)?;
            Record::Skip { channel, first, count }
        }
        kind::RUN => read_run(header, &mut fields)?,
        other => return Err(Invalid::Kind(other)),
    };
    fields.finish()?;
    Ok(record)
}

fn read_run<'a>(header: &Header, fields: &mut Fields<'a>) -> Result<Record<'a>, Invalid> {
    let kind = header.kind;
    let first = fields.u64()?;
    if fields.u64()? != 0 {
        return Err(Invalid::Field { kind, what: "the second word is not zero" });
    }
    if header.count == 0 || first.checked_add(u64::from(header.count)).is_none() {
        return Err(Invalid::Field { kind, what: "so many frames cannot be" });
    }
    Ok(Record::Run { channel: header.channel, first, count: header.count, frames: fields.rest() })
}

fn read_hello(fields: &mut Fields<'_>) -> Result<Hello, Invalid> {
    if fields.bytes(MAGIC.len())? != MAGIC {
        return Err(Invalid::Magic);
    }
    let (oldest, newest) = (fields.u16()?, fields.u16()?);
    let (max_channels, max_interests, patience) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (instance, attempt, over) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (their_over, their_instance) = (fields.u64()?, fields.u64()?);
    let host = fields.text(nodeset_bus::topic::MAX_LEVEL_LEN)?.to_owned();
    let to = fields.text(nodeset_bus::topic::MAX_LEVEL_LEN)?.to_owned();
    // What newer versions add.
    fields.rest();
    let hello = Hello {
        oldest,
        newest,
        host,
        to,
        instance,
        attempt,
        over,
        their_over,
        their_instance,
        max_channels,
        max_interests,
        patience,
    };
    Ok(hello)
}

fn read_announced<'a>(quality: Quality, fields: &mut Fields<'a>) -> Result<Announced<'a>, Invalid> {
    Ok(Announced {
        publication: fields.u64()?,
        epoch: fields.u64()?,
        first: fields.u64()?,
        quality,
        node: fields.text(nodeset_bus::topic::MAX_LEVEL_LEN)?,
        base_name: fields.text(nodeset_bus::topic::MAX_LEVEL_LEN)?,
        topic: fields.text(nodeset_bus::topic::MAX_LEN)?,
        schema: fields.rest(),
    })
}

/// Of sequences; at least one, and none beyond the last that there can be.
fn read_range(fields: &mut Fields<'_>) -> Result<(u64, u64), Invalid> {
    let (first, count) = (fields.u64()?, fields.u64()?);
    if count == 0 || first.checked_add(count).is_none() {
        return Err(Invalid::Field { kind: fields.kind(), what: "so many messages cannot be" });
    }
    Ok((first, count))
}

fn read_quality(header: &Header) -> Result<Quality, Invalid> {
    match header.flags {
        0 => Ok(Quality::Lossy),
        1 => Ok(Quality::Reliable),
        2 => Ok(Quality::AcrossHosts),
        _ => Err(Invalid::Field { kind: header.kind, what: "there is no such quality" }),
    }
}

fn read_end_reason(header: &Header) -> Result<EndReason, Invalid> {
    match header.flags {
        0 => Ok(EndReason::Finished),
        1 => Ok(EndReason::Unwanted),
        2 => Ok(EndReason::Refused),
        _ => Err(Invalid::Field { kind: header.kind, what: "there is no such reason" }),
    }
}

impl Record<'_> {
    /// Appends its bytes to `out`; of a [`Record::Piece`], all but the piece itself.
    ///
    /// Texts are cut to what a record can carry; the caller keeps within the limits where that would change the meaning.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        let header = self.put_body(out);
        let mut len = (out.len() - start - HEADER_LEN) as u32;
        if let Record::Piece { piece, .. } = self {
            len += piece.len;
        }
        let words = [len.to_le_bytes(), [header.kind, header.flags, 0, 0], header.channel.to_le_bytes()];
        out[start..start + 12].copy_from_slice(words.as_flattened());
        out[start + 12..start + HEADER_LEN].copy_from_slice(&header.count.to_le_bytes());
    }

    fn put_body(&self, out: &mut Vec<u8>) -> Header {
        let header = |kind, flags, channel, count| Header { len: 0, kind, flags, channel, count };
        match self {
            Record::Hello(hello) => {
                put_hello(hello, out);
                header(kind::HELLO, 0, 0, 0)
            }
            Record::Goodbye { code, text } => {
                put_text(text, MAX_REASON, out);
                header(kind::GOODBYE, 0, 0, u32::from(*code))
            }
            Record::Ping { token } => {
                put_words(&[*token], out);
                header(kind::PING, 0, 0, 0)
            }
            Record::Pong { token } => {
                put_words(&[*token], out);
                header(kind::PONG, 0, 0, 0)
            }
            Record::Want { interest, quality, deadline, history, selector } => {
                put_words(&[*history], out);
                put_text(selector, nodeset_bus::topic::MAX_LEN, out);
                header(kind::WANT, *quality as u8, *interest, *deadline)
            }
            Record::Unwant { interest } => header(kind::UNWANT, 0, *interest, 0),
            Record::Synced => header(kind::SYNCED, 0, 0, 0),
            Record::Announce { channel, announced } => {
                put_announced(announced, out);
                header(kind::ANNOUNCE, announced.quality as u8, *channel, 0)
            }
            Record::End { channel, reason, next } => {
                put_words(&[*next], out);
                header(kind::END, *reason as u8, *channel, 0)
            }
            Record::Open { channel, next, credit, longest } => {
                put_words(&[*next, *credit], out);
                header(kind::OPEN, 0, *channel, *longest)
            }
            Record::Refuse { channel, text } => {
                put_text(text, MAX_REASON, out);
                header(kind::REFUSE, 0, *channel, 0)
            }
            Record::Closed { channel } => header(kind::CLOSED, 0, *channel, 0),
            Record::Progress { channel, next, credit } => {
                put_words(&[*next, *credit], out);
                header(kind::PROGRESS, 0, *channel, 0)
            }
            Record::Gap { channel, first, count } => {
                put_words(&[*first, *count], out);
                header(kind::GAP, 0, *channel, 0)
            }
            Record::Skip { channel, first, count } => {
                put_words(&[*first, *count], out);
                header(kind::SKIP, 0, *channel, 0)
            }
            Record::Run { channel, first, count, frames } => {
                put_words(&[*first, 0], out);
                out.extend_from_slice(frames);
                header(kind::RUN, 0, *channel, *count)
            }
            Record::Piece { channel, piece } => {
                put_words(&[piece.sequence, u64::from(piece.total) << 32 | u64::from(piece.offset)], out);
                header(kind::PIECE, piece.flags, *channel, 0)
            }
        }
    }
}

/// Appends what stands before `bytes` bytes of frames, so that they can be sent from where they are.
pub fn put_run_head(channel: u32, first: u64, count: u32, bytes: u32, out: &mut Vec<u8>) {
    let start = out.len();
    Record::Run { channel, first, count, frames: &[] }.encode(out);
    out[start..start + 4].copy_from_slice(&(DATA_HEAD_LEN as u32 + bytes).to_le_bytes());
}

fn put_words(words: &[u64], out: &mut Vec<u8>) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

fn put_hello(hello: &Hello, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&hello.oldest.to_le_bytes());
    out.extend_from_slice(&hello.newest.to_le_bytes());
    for word in [hello.max_channels, hello.max_interests, hello.patience] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    put_words(&[hello.instance, hello.attempt, hello.over, hello.their_over, hello.their_instance], out);
    put_text(&hello.host, nodeset_bus::topic::MAX_LEVEL_LEN, out);
    put_text(&hello.to, nodeset_bus::topic::MAX_LEVEL_LEN, out);
}

fn put_announced(announced: &Announced<'_>, out: &mut Vec<u8>) {
    put_words(&[announced.publication, announced.epoch, announced.first], out);
    put_text(announced.node, nodeset_bus::topic::MAX_LEVEL_LEN, out);
    put_text(announced.base_name, nodeset_bus::topic::MAX_LEVEL_LEN, out);
    put_text(announced.topic, nodeset_bus::topic::MAX_LEN, out);
    out.extend_from_slice(announced.schema);
}
