use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn hello() -> Hello {
    Hello {
        oldest: 1,
        newest: 3,
        host: "a".to_owned(),
        to: "bé".to_owned(),
        instance: 4,
        attempt: 5,
        over: 6,
        their_over: 7,
        their_instance: 8,
        max_channels: 9,
        max_interests: 10,
        patience: 1000,
    }
}

/// One of each kind, but no piece.
fn records() -> Vec<Record<'static>> {
    let announced = Announced {
        publication: 1,
        epoch: 2,
        first: 3,
        quality: Quality::AcrossHosts,
        node: "node-2",
        base_name: "node",
        topic: "a/b",
        schema: &[1, 2, 3],
    };
    vec![
        Record::Hello(hello()),
        Record::Goodbye { code: 2, text: "no" },
        Record::Ping { token: 1 },
        Record::Pong { token: u64::MAX },
        Record::Want { interest: 7, quality: Quality::AcrossHosts, deadline: 5_000, history: 3, selector: "n@h/**" },
        Record::Unwant { interest: 7 },
        Record::Synced,
        Record::Announce { channel: 1, announced },
        Record::End { channel: 1, reason: EndReason::Refused, next: 9 },
        Record::Open { channel: 1, next: 2, credit: 3, longest: 4 },
        Record::Refuse { channel: 1, text: "" },
        Record::Closed { channel: u32::MAX },
        Record::Progress { channel: 1, next: 2, credit: 3 },
        Record::Gap { channel: 1, first: 2, count: 3 },
        Record::Skip { channel: 1, first: 2, count: 1 },
        Record::Run { channel: 1, first: 2, count: 1, frames: &[5; 32] },
    ]
}

fn encoded(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

/// The error that decoding gives once the bytes are changed.
fn changed(record: &Record<'_>, change: impl FnOnce(&mut Vec<u8>)) -> Invalid {
    let mut bytes = encoded(record);
    change(&mut bytes);
    decode(&bytes).expect_err("it is no record any more")
}

#[test]
fn every_record_comes_back() {
    for record in records() {
        let mut bytes = encoded(&record);
        let len = bytes.len();
        assert_eq!(decode(&bytes), Ok(Decoded::Record { record: record.clone(), len }));
        bytes.extend([0xff; 20]);
        assert_eq!(decode(&bytes), Ok(Decoded::Record { record, len }), "whatever follows");
    }
}

#[test]
fn a_part_of_a_record_is_incomplete_wherever_it_ends() {
    for record in records() {
        let bytes = encoded(&record);
        for end in 0..bytes.len() {
            let needed = if end < HEADER_LEN { HEADER_LEN } else { bytes.len() };
            assert_eq!(decode(&bytes[..end]), Ok(Decoded::Incomplete { needed }), "{record:?}");
        }
    }
}

#[test]
fn a_piece_is_told_before_its_bytes_are_there() {
    let piece = Piece { sequence: 7, flags: 1, total: 20_000, offset: 8_000, len: 12_000 };
    let record = Record::Piece { channel: 3, piece };
    let bytes = encoded(&record);
    assert_eq!(bytes.len(), HEADER_LEN + DATA_HEAD_LEN);
    for end in HEADER_LEN..bytes.len() {
        assert_eq!(decode(&bytes[..end]), Ok(Decoded::Incomplete { needed: bytes.len() }));
    }
    assert_eq!(decode(&bytes), Ok(Decoded::Record { record, len: bytes.len() }));
    for wrong in [
        Piece { len: 12_001, ..piece },
        Piece { len: 0, ..piece },
        Piece { offset: u32::MAX, ..piece },
        Piece { total: 8, offset: 0, len: 8, ..piece },
        Piece { sequence: u64::MAX, ..piece },
    ] {
        let bytes = encoded(&Record::Piece { channel: 3, piece: wrong });
        assert!(decode(&bytes).is_err(), "{wrong:?}");
    }
}

#[test]
fn the_head_of_a_run_is_that_of_its_record() {
    let mut head = Vec::new();
    put_run_head(1, 2, 1, 32, &mut head);
    let whole = encoded(&Record::Run { channel: 1, first: 2, count: 1, frames: &[5; 32] });
    assert_eq!(head, whole[..HEADER_LEN + DATA_HEAD_LEN]);
}

#[test]
fn what_is_no_record_is_said_to_be_none() {
    let ping = Record::Ping { token: 1 };
    assert_eq!(changed(&ping, |bytes| bytes[4] = 0), Invalid::Kind(0));
    assert_eq!(changed(&ping, |bytes| bytes[4] = 18), Invalid::Kind(18));
    assert_eq!(changed(&ping, |bytes| bytes[2] = 2), Invalid::TooLong(131_080));
    assert!(matches!(changed(&ping, |bytes| bytes[5] = 1), Invalid::Field { what: "flags are not zero", .. }));
    assert!(matches!(changed(&ping, |bytes| bytes[7] = 1), Invalid::Field { .. }));
    assert!(matches!(changed(&ping, |bytes| bytes[9] = 1), Invalid::Field { what: "channel is not zero", .. }));
    assert!(matches!(changed(&ping, |bytes| bytes[12] = 1), Invalid::Field { what: "count is not zero", .. }));
    assert_eq!(changed(&ping, |bytes| bytes[0] = 7), Invalid::Length { kind: 3, len: 7 });
    let want = Record::Want { interest: 7, quality: Quality::Lossy, deadline: 0, history: 3, selector: "a" };
    assert!(matches!(changed(&want, |bytes| bytes[5] = 3), Invalid::Field { what: "there is no such quality", .. }));
    assert!(matches!(changed(&want, |bytes| bytes[26] = 0xff), Invalid::Field { what: "a text is not UTF-8", .. }));
    assert!(matches!(changed(&want, |bytes| bytes[25] = 0xff), Invalid::Field { what: "a text is too long", .. }));
    assert_eq!(changed(&want, |bytes| bytes[24] = 2), Invalid::Length { kind: 5, len: 11 });
    let gap = Record::Gap { channel: 1, first: u64::MAX, count: 1 };
    assert!(matches!(changed(&gap, |_| ()), Invalid::Field { what: "so many messages cannot be", .. }));
    let gap = Record::Gap { channel: 1, first: 1, count: 0 };
    assert!(matches!(changed(&gap, |_| ()), Invalid::Field { what: "so many messages cannot be", .. }));
    let run = Record::Run { channel: 1, first: 1, count: 0, frames: &[] };
    assert!(matches!(changed(&run, |_| ()), Invalid::Field { what: "so many frames cannot be", .. }));
    assert_eq!(changed(&Record::Hello(hello()), |bytes| bytes[16] = b'X'), Invalid::Magic);
}

#[test]
fn a_greeting_of_a_newer_version_may_say_more() {
    let mut bytes = encoded(&Record::Hello(hello()));
    bytes.extend([9; 10]);
    bytes[0] += 10;
    let len = bytes.len();
    assert_eq!(decode(&bytes), Ok(Decoded::Record { record: Record::Hello(hello()), len }));
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let text = "é".repeat(400);
    let bytes = encoded(&Record::Refuse { channel: 1, text: &text });
    let Ok(Decoded::Record { record: Record::Refuse { text: cut, .. }, .. }) = decode(&bytes) else {
        panic!("it is a refusal");
    };
    assert_eq!(cut, &text[..MAX_REASON]);
}

fn run_of(bodies: &[(u8, Vec<u8>)], first: u64) -> Vec<u8> {
    let mut run = Vec::new();
    for (at, (flags, body)) in bodies.iter().enumerate() {
        put_frame(FrameIn { sequence: first + at as u64, flags: *flags, body }, &mut run);
    }
    run
}

fn fault(run: &[u8], count: u32) -> FramesError {
    let found: Vec<_> = frames(5, count, run).collect();
    found.last().copied().expect("there is a frame").expect_err("the last one is damaged")
}

#[test]
fn frames_are_checked_one_by_one() {
    let bodies = [(0, vec![1; 5]), (1, vec![2; 16]), (0, vec![]), (3, vec![3; 100])];
    let run = run_of(&bodies, 5);
    let found: Vec<_> = frames(5, 4, &run).map(|frame| frame.map(|frame| (frame.flags, frame.body.to_vec()))).collect();
    assert_eq!(found, bodies.map(Ok));

    assert_eq!(fault(&run, 3), FramesError::Length { sequence: 7 }, "more follows");
    assert_eq!(fault(&run, 5), FramesError::Length { sequence: 9 }, "one is missing");
    assert_eq!(fault(&run[..run.len() - 16], 4), FramesError::Length { sequence: 8 });
    let changed = |at: usize, value: u8| {
        let mut run = run.clone();
        run[at] = value;
        fault(&run, 4)
    };
    assert_eq!(changed(8, 6), FramesError::Sequence { expected: 5, found: 6 });
    assert_eq!(changed(4, 2), FramesError::Shape { sequence: 5 });
    assert_eq!(changed(6, 1), FramesError::Shape { sequence: 5 });
    assert_eq!(changed(3, 0xff), FramesError::Shape { sequence: 5 }, "longer than any in a run");
    assert_eq!(changed(1, 0x10), FramesError::Length { sequence: 5 }, "longer than the run");
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_harm(bytes in vec(any::<u8>(), 0..200), kind in 0..20u8, len in 0..100u8) {
        let _ = decode(&bytes);
        let mut likely = bytes;
        if likely.len() >= HEADER_LEN {
            likely[..HEADER_LEN].copy_from_slice(&[len, 0, 0, 0, kind, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        }
        if let Ok(Decoded::Record { record, len }) = decode(&likely) {
            prop_assert!(len <= likely.len());
            // What was understood can be said again.
            let again = encoded(&record);
            let same = matches!(record, Record::Hello(_)) || again[..] == likely[..len];
            prop_assert!(same, "{record:?}");
        }
    }

    #[test]
    fn any_bytes_are_taken_apart_into_frames_without_harm(run in vec(any::<u8>(), 0..200), count in 1..10u32) {
        for frame in frames(5, count, &run).flatten() {
            prop_assert!(frame.body.len() <= run.len());
        }
    }

    #[test]
    fn any_frames_come_back(bodies in vec(vec(any::<u8>(), 0..60), 1..20), first in 0..u64::MAX / 2) {
        let bodies: Vec<_> = bodies.into_iter().map(|body| (0, body)).collect();
        let run = run_of(&bodies, first);
        let found: Result<Vec<_>, _> =
            frames(first, bodies.len() as u32, &run).map(|frame| frame.map(|frame| (0, frame.body.to_vec()))).collect();
        prop_assert_eq!(found.unwrap(), bodies);
    }
}
