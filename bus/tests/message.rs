//! Messages through the public interface only: any value crosses, any bytes are safe to look at.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use nodeset_bus::message::{MAX_ALIGN, Message, Room, Schema, Scratch};
use proptest::prelude::*;
use rkyv::{Archive, Deserialize, Serialize};

/// One of everything that describes itself.
#[derive(Archive, Serialize, Deserialize, Message, Debug, Clone, PartialEq)]
#[message(crate = "nodeset_bus")]
struct Everything {
    numbers: (u8, i16, u32, i64, f32, f64, u128),
    flag: bool,
    letter: char,
    positive: Option<NonZeroU32>,
    name: String,
    lists: Vec<Vec<u16>>,
    parts: Vec<Part>,
    queue: VecDeque<Part>,
    boxed: Option<Box<Part>>,
    bytes: Box<[u8]>,
    label: Box<str>,
    shared: Vec<Arc<String>>,
    table: HashMap<String, u32>,
    set: HashSet<u64>,
    tree: BTreeMap<u16, String>,
    ordered: BTreeSet<i8>,
    result: Option<Result<u8, String>>,
    wait: Duration,
    host: Option<IpAddr>,
    array: [Part; 2],
}

#[derive(Archive, Serialize, Deserialize, Message, Debug, Clone, PartialEq)]
#[message(crate = "nodeset_bus")]
enum Part {
    Nothing,
    Text(String),
    Place { x: i32, letter: char, flag: bool },
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        Just(Part::Nothing),
        ".{0,20}".prop_map(Part::Text),
        any::<(i32, char, bool)>().prop_map(|(x, letter, flag)| Part::Place { x, letter, flag }),
    ]
}

fn everything() -> impl Strategy<Value = Everything> {
    let plain = (any::<(u8, i16, u32, i64, u128)>(), any::<(bool, char)>(), any::<Option<NonZeroU32>>(), ".{0,20}");
    let lists = (
        prop::collection::vec(prop::collection::vec(any::<u16>(), 0..4), 0..4),
        prop::collection::vec(part(), 0..4),
        prop::collection::vec_deque(part(), 0..4),
        prop::option::of(part().prop_map(Box::new)),
        any::<Vec<u8>>(),
    );
    let tables = (
        prop::collection::vec(".{0,12}", 0..3),
        prop::collection::hash_map(".{0,12}", any::<u32>(), 0..6),
        prop::collection::hash_set(any::<u64>(), 0..6),
        prop::collection::btree_map(any::<u16>(), ".{0,12}", 0..12),
        prop::collection::btree_set(any::<i8>(), 0..12),
    );
    let rest = (any::<Option<Result<u8, String>>>(), any::<Duration>(), any::<Option<IpAddr>>(), part(), part());
    (plain, lists, tables, rest).prop_map(|(plain, lists, tables, rest)| {
        let ((a, b, c, d, e), (flag, letter), positive, name) = plain;
        let (lists, parts, queue, boxed, bytes) = lists;
        let (shared, table, set, tree, ordered) = tables;
        let (result, wait, host, first, second) = rest;
        let shared: Vec<_> = shared.into_iter().map(Arc::new).collect();
        Everything {
            numbers: (a, b, c, d, c as f32, d as f64, e),
            flag,
            letter,
            positive,
            label: name.clone().into(),
            name,
            lists,
            parts,
            queue,
            boxed,
            bytes: bytes.into(),
            shared: shared.iter().chain(&shared).cloned().collect(),
            table,
            set,
            tree,
            ordered,
            result,
            wait,
            host,
            array: [first, second],
        }
    })
}

/// Bytes that start where a payload starts.
struct Aligned {
    words: Vec<u128>,
    len: usize,
}

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        assert_eq!(align_of::<u128>(), MAX_ALIGN);
        let mut words = vec![0_u128; bytes.len().div_ceil(size_of::<u128>())];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks(size_of::<u128>())) {
            let mut whole = [0; size_of::<u128>()];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u128::from_ne_bytes(whole);
        }
        Self { words, len: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY:
        // - valid for reads of `len` bytes: the words were made for as many
        // - borrowed as long as the result
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }
}

fn write<T: Message + ?Sized>(value: &T) -> Vec<u8> {
    let mut words = vec![u128::from_ne_bytes([0xee; 16]); 4096];
    // SAFETY:
    // - valid for reads and writes of as many bytes as the words have; the only borrow while it lives
    // - only initialised bytes are stored through it: a message writes no others
    let room = unsafe {
        std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<MaybeUninit<u8>>(), size_of_val(&words[..]))
    };
    let len = value.write(&mut Room::from_slice(room), &mut Scratch::new()).expect("there is room");
    let payload: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    payload[..len].to_vec()
}

/// Looks at every part of what a view shows, so that a view that should not have been given away is found out.
fn look_at(payload: &[u8]) -> Option<Everything> {
    let view = Everything::view(payload).ok()?;
    Some(rkyv::deserialize::<Everything, rkyv::rancor::Error>(view).expect("a view can be read"))
}

proptest! {
    #[test]
    fn every_value_crosses(value in everything()) {
        let payload = Aligned::new(&write(&value));
        prop_assert_eq!(look_at(payload.bytes()), Some(value));
    }

    #[test]
    fn any_bytes_are_safe_to_look_at(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        look_at(Aligned::new(&bytes).bytes());
    }

    #[test]
    fn damaged_messages_are_safe_to_look_at(
        value in everything(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = write(&value);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.drain(..cut.index(bytes.len()));
        }
        look_at(Aligned::new(&bytes).bytes());
    }

    #[test]
    fn every_value_is_shown_without_its_type(value in everything()) {
        let payload = Aligned::new(&write(&value));
        let shown = Everything::schema().read(payload.bytes()).to_string();
        prop_assert!(!shown.contains("<not shown"), "{shown}");
        prop_assert!(shown.contains(&format!("name: {:?}", value.name)), "{shown}");
        prop_assert!(shown.contains(&format!("wait: {:?}", value.wait)), "{shown}");
        prop_assert!(shown.contains(&format!("letter: {:?}", value.letter)), "{shown}");
        for (key, number) in &value.table {
            prop_assert!(shown.contains(&format!("{key:?}: {number}")), "{key}: {shown}");
        }
        prop_assert!(value.set.iter().all(|key| shown.contains(&key.to_string())), "{shown}");
    }

    #[test]
    fn any_bytes_are_shown_somehow(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let shown = Everything::schema().read(Aligned::new(&bytes).bytes()).to_string();
        prop_assert!(shown.len() < 1 << 20, "{} bytes", shown.len());
    }

    #[test]
    fn damaged_messages_are_shown_somehow(
        value in everything(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        shift in 0..MAX_ALIGN,
    ) {
        let mut bytes = vec![0; shift];
        bytes.extend(write(&value));
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let shown = Everything::schema().read(&Aligned::new(&bytes).bytes()[shift..]).to_string();
        prop_assert!(shown.len() < 1 << 20, "{} bytes", shown.len());
    }

    #[test]
    fn two_schemas_may_differ_in_any_way(one in schema(), other in schema()) {
        let difference = one.difference(&other);
        prop_assert_eq!(difference.is_none(), one.hash() == other.hash());
        prop_assert_eq!(one.difference(&one), None);
    }

    #[test]
    fn text_is_checked(bytes in any::<Vec<u8>>()) {
        prop_assert_eq!(str::view(&bytes).ok(), std::str::from_utf8(&bytes).ok());
    }
}

/// Of real types, as they come over the control protocol.
fn schema() -> impl Strategy<Value = Schema> {
    prop::sample::select(vec![
        Schema::bytes(),
        Schema::text(),
        Everything::schema(),
        Part::schema(),
        <Vec<Part>>::schema(),
        <(u8, Part)>::schema(),
        <(u8, Option<Part>)>::schema(),
        <[f32; 3]>::schema(),
        <[f32; 4]>::schema(),
        <HashMap<String, Vec<Part>>>::schema(),
    ])
}

#[test]
fn a_message_is_shown_on_one_line() {
    let show = |schema: Schema, payload: Vec<u8>| schema.read(Aligned::new(&payload).bytes()).to_string();
    let parts =
        vec![Part::Place { x: -3, letter: '\n', flag: true }, Part::Text("a \"quote\"".to_owned()), Part::Nothing];
    assert_eq!(
        show(<Vec<Part>>::schema(), write(&parts)),
        r#"[Place { x: -3, letter: '\n', flag: true }, Text("a \"quote\""), Nothing]"#
    );
    let nested = (1.5_f32, Some(Box::new((2_u64, None::<i8>))), "far away, out of line".to_owned(), ());
    assert_eq!(
        show(<(f32, Option<Box<(u64, Option<i8>)>>, String, ())>::schema(), write(&nested)),
        r#"(1.5, (2, None), "far away, out of line", ())"#
    );
    let long: Vec<u32> = (0..100).collect();
    assert!(show(<Vec<u32>>::schema(), write(&long)).ends_with("62, 63, 36 more]"));
    assert_eq!(show(<Vec<u8>>::schema(), write(&vec![1_u8, 0xfe])), "<2 bytes 01 fe>");
    let tree = BTreeMap::from([(1_u8, 2_u8), (3, 4)]);
    assert_eq!(show(<BTreeMap<u8, u8>>::schema(), write(&tree)), "{2 not shown}");
    let ends = (1_u16..=4, Err::<u8, _>("no".to_owned()), Duration::from_millis(1500));
    assert_eq!(
        show(<(std::ops::RangeInclusive<u16>, Result<u8, String>, Duration)>::schema(), write(&ends)),
        r#"(RangeInclusive { start: 1, end: 4 }, Err("no"), 1.5s)"#
    );
    assert_eq!(show(Part::schema(), vec![9; 32]), "<not shown: a variant that is unknown>");
    assert!(show(Part::schema(), vec![1]).contains("too few"));
    assert_eq!(show(Schema::bytes(), vec![0xab; 20]), format!("<20 bytes {}..>", "ab ".repeat(16)));
}

#[test]
fn a_message_that_points_at_itself_ends() {
    // A vector of vectors whose one item is itself.
    let mut bytes = vec![0_u8; 8];
    bytes[4..].copy_from_slice(&1_u32.to_le_bytes());
    let shown = <Vec<Vec<Vec<u8>>>>::schema().read(Aligned::new(&bytes).bytes()).to_string();
    assert!(shown.starts_with("[["), "{shown}");
}

#[test]
fn a_payload_that_is_not_aligned_is_refused() {
    let bytes = write(&[7_u128; 4]);
    for shift in 1..MAX_ALIGN {
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(&bytes);
        let shifted = Aligned::new(&shifted);
        assert!(<[u128; 4]>::view(&shifted.bytes()[shift..]).is_err(), "shifted by {shift}");
    }
}

#[test]
fn an_error_says_what_is_wrong() {
    let mut bytes = write(&(true, 7_u32));
    assert!(<(bool, u32)>::view(Aligned::new(&bytes).bytes()).is_ok());
    bytes[0] = 2;
    let error = <(bool, u32)>::view(Aligned::new(&bytes).bytes()).map(|_| ()).expect_err("2 is no bool");
    assert!(error.to_string().starts_with("the bytes are not a valid message: "), "{error}");
    assert!(error.to_string().contains("bool"), "{error}");
    let error = <(bool, u32)>::view(&[]).map(|_| ()).expect_err("it is too short");
    assert!(error.to_string().contains("overran"), "{error}");
}

#[test]
fn padding_carries_nothing() {
    #[derive(Archive, Serialize, Deserialize, Message)]
    #[message(crate = "nodeset_bus")]
    struct Holes {
        small: u8,
        wide: u64,
        maybe: Option<u64>,
        last: u8,
    }

    let bytes = write(&Holes { small: 0xff, wide: u64::MAX, maybe: None, last: 0xff });
    let expected: Vec<u8> = [(0xff, 1), (0, 7), (0xff, 8), (0, 16), (0xff, 1), (0, 7)]
        .iter()
        .flat_map(|(byte, count)| std::iter::repeat_n(*byte, *count))
        .collect();
    assert_eq!(bytes, expected, "the room was filled with 0xee before");
}
