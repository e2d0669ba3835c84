use std::collections::{BTreeMap, HashMap};
use std::mem::{MaybeUninit, offset_of};
use std::rc::Rc;

use rkyv::{Archive, Deserialize, Serialize};

use super::schema::{Field, Schema, SchemaError, Shape, Type};
use super::*;

/// Declares message types of the same name in modules of their own.
macro_rules! versions {
    ($($module:ident { $($item:item)* })*) => {$(
        mod $module {
            #![allow(dead_code, reason = "only described")]
            use rkyv::{Archive, Deserialize, Serialize};
            use crate::message::Message;
            $(
                #[derive(Archive, Serialize, Deserialize, Message)]
                #[message(crate = "crate")]
                $item
            )*
        }
    )*};
}

versions! {
    first {
        pub struct Point { pub x: f32, pub y: f32 }
        pub struct Pose { pub depth: u32, pub at: Point }
        pub struct Path { pub pose: Pose, pub points: Vec<Point>, pub best: Option<Box<Point>> }
        pub enum Command { Stop, Go { speed: f32 }, Turn(u8, u64) }
    }
    same {
        pub struct Point { pub x: f32, pub y: f32 }
        pub struct Pose { pub depth: u32, pub at: Point }
        pub struct Path { pub pose: Pose, pub points: Vec<Point>, pub best: Option<Box<Point>> }
        pub enum Command { Stop, Go { speed: f32 }, Turn(u8, u64) }
    }
    deep {
        pub struct Point { pub x: f32, pub y: f64 }
        pub struct Pose { pub depth: u64, pub at: super::first::Point }
        pub struct Path { pub pose: Pose, pub points: Vec<Point>, pub best: Option<Box<Point>> }
        pub enum Command { Stop, Go { speed: f64 }, Turn(u8, u64) }
    }
    inside {
        pub struct Point { pub x: f32, pub y: f64 }
        pub struct Path { pub pose: super::first::Pose, pub points: Vec<Point>, pub best: Option<Box<super::first::Point>> }
        pub enum Command { Go { speed: f32 }, Stop, Turn(u8, u64) }
    }
    less {
        pub struct Pose { pub depth: u32 }
        pub struct Point { pub y: f32, pub x: f32 }
        pub enum Command { Stop, Go { speed: f32 } }
        pub struct Path { pub pose: Pose, pub points: Vec<Point>, pub best: Option<Box<Point>> }
    }
}

fn difference<A: Message + ?Sized, B: Message + ?Sized>() -> Option<String> {
    let (ours, theirs) = (A::schema(), B::schema());
    let difference = ours.difference(&theirs);
    assert_eq!(difference.is_none(), ours.matches(&theirs));
    assert_eq!(difference.is_none(), theirs.difference(&ours).is_none());
    difference
}

#[test]
fn types_of_other_modules_match_when_they_are_the_same() {
    assert_eq!(difference::<first::Path, same::Path>(), None);
    assert_eq!(difference::<first::Command, same::Command>(), None);
    assert_eq!(difference::<Vec<(first::Point, same::Point)>, Vec<(same::Point, same::Point)>>(), None);
    assert_eq!(first::Path::schema(), same::Path::schema());
}

#[test]
fn a_difference_names_the_first_field_that_differs() {
    let says = |difference: Option<String>, expected: &str| assert_eq!(difference.as_deref(), Some(expected));
    says(difference::<first::Path, deep::Path>(), "field `pose.depth`: u32 here, u64 there");
    says(difference::<deep::Path, first::Path>(), "field `pose.depth`: u64 here, u32 there");
    says(difference::<first::Path, inside::Path>(), "field `points[].y`: f32 here, f64 there");
    says(difference::<first::Path, less::Path>(), "field `pose.at` is missing there");
    says(difference::<less::Path, first::Path>(), "field `pose.at` is missing here");
    says(difference::<first::Point, less::Point>(), "field 1 is `x` here, `y` there: their order differs");
    says(difference::<first::Point, first::Pose>(), "message type: Point here, Pose there");
    says(difference::<first::Command, deep::Command>(), "field `Go.speed`: f32 here, f64 there");
    says(difference::<first::Command, inside::Command>(), "variant `Stop`: tag 0 here, 1 there");
    says(difference::<first::Command, less::Command>(), "variant `Turn` is missing there");
    says(difference::<less::Command, first::Command>(), "variant `Turn` is missing here");
    says(difference::<[u8], Vec<u8>>(), "message type: bytes here, Vec<u8> there; use `[u8]` at both ends");
    says(difference::<String, str>(), "message type: String here, text there; use `str` at both ends");
    says(difference::<[u8], str>(), "message type: bytes here, text there");
}

/// The hash is part of what two builds agree on: a change of it parts new programs from old ones and needs a new
/// protocol version.
#[test]
fn the_hash_is_what_the_documentation_says() {
    // FNV-1a over the canonical form of `bytes`, written out by hand.
    let canonical = b"\x01\0\0\0\x05\0\0\0bytes\0\0\0\0\0\0\0\0\x01\0\0\0\0";
    let by_hand = canonical
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    assert_eq!(Schema::bytes().hash(), by_hand);
    assert_eq!(
        [first::Path::schema().hash(), first::Command::schema().hash(), Schema::text().hash()],
        [0xea3c_e243_c9be_276d, 0xd3ab_3ab8_1147_9996, 0x2a97_c663_bf15_4a02]
    );
}

#[derive(Archive, Serialize, Deserialize, Message, Debug, PartialEq)]
#[message(crate = "crate")]
struct Mixed {
    small: u8,
    wide: u128,
    flag: bool,
    letter: char,
    pair: (u8, u32),
    array: [u16; 3],
    maybe: Option<u16>,
    unit: (),
    text: String,
    last: u8,
}

#[derive(Archive, Serialize, Deserialize, Message, Debug, PartialEq)]
#[message(crate = "crate")]
#[repr(u8)]
enum Tagged {
    Empty = 3,
    Tuple(u8, u32, u8),
    Named { wide: u64, small: u8 } = 0x40,
}

fn fields(one: &Type) -> &[Field] {
    match &one.shape {
        Shape::Struct(fields) => fields,
        other => panic!("a struct was expected, not {other:?}"),
    }
}

#[test]
fn offsets_are_those_of_the_archived_type() {
    type Root = <Mixed as Archive>::Archived;
    let schema = Mixed::schema();
    let expected = [
        offset_of!(Root, small),
        offset_of!(Root, wide),
        offset_of!(Root, flag),
        offset_of!(Root, letter),
        offset_of!(Root, pair),
        offset_of!(Root, array),
        offset_of!(Root, maybe),
        offset_of!(Root, unit),
        offset_of!(Root, text),
        offset_of!(Root, last),
    ];
    let found: Vec<usize> = fields(&schema.types()[0]).iter().map(|field| field.offset as usize).collect();
    assert_eq!(found, expected);
    assert_eq!((schema.size(), schema.align()), (size_of::<Root>() as u64, align_of::<Root>() as u32));
}

#[test]
fn variants_have_the_tags_and_offsets_of_the_archived_type() {
    let schema = Tagged::schema();
    let Shape::Enum(variants) = &schema.types()[0].shape else { panic!("an enum was expected") };
    let tags: Vec<_> = variants.iter().map(|variant| (variant.name.as_str(), variant.tag)).collect();
    assert_eq!(tags, [("Empty", 3), ("Tuple", 4), ("Named", 0x40)]);

    let mut memory = Memory::new();
    for (value, variant) in
        [(Tagged::Tuple(0xa1, 0xa2a2_a2a2, 0xa3), 1), (Tagged::Named { wide: 0xb1, small: 0xb2 }, 2)]
    {
        let payload = memory.write(&value);
        assert_eq!(payload[0], variants[variant].tag);
        for field in &variants[variant].fields {
            assert!(
                matches!(payload[field.offset as usize], 0xa1..=0xa3 | 0xb1 | 0xb2),
                "{} at {}",
                field.name,
                field.offset
            );
        }
    }
}

#[derive(Archive, Serialize, Deserialize, Message)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
#[message(crate = "crate")]
struct Tree {
    value: u32,
    #[rkyv(omit_bounds)]
    next: Option<Box<Tree>>,
}

impl Tree {
    fn of_depth(depth: u32) -> Self {
        let mut tree = Self { value: 0, next: None };
        for value in 1..=depth {
            tree = Self { value, next: Some(Box::new(tree)) };
        }
        tree
    }
}

#[test]
fn a_type_that_contains_itself_describes_itself() {
    let schema = Tree::schema();
    let names: Vec<_> = schema.types().iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["Tree", "u32", "Option<Box<Tree>>", "Box<Tree>"]);
    assert_eq!(schema.check(), Ok(()));
    assert_eq!(schema.difference(&schema), None);
}

#[test]
fn nesting_has_a_limit_that_protects_the_readers_stack() {
    let mut memory = Memory::new();
    let depth = MAX_DEPTH as u32 - 1; // the root is a level too
    assert!(Tree::view(memory.write(&Tree::of_depth(depth))).is_ok());
    let error = Tree::view(memory.write(&Tree::of_depth(depth + 1))).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("maximum subtree depth"), "{error}");
}

#[derive(Archive, Serialize, Deserialize, Message)]
#[message(crate = "crate", name = "Stamp")]
struct Stamped<T, const N: usize> {
    at: u64,
    values: [T; N],
}

#[derive(Archive, Serialize, Deserialize, Message)]
#[message(crate = "crate")]
struct Foreign {
    #[message(opaque = "u16_le/1")]
    small: rkyv::rend::u16_le,
    #[rkyv(with = rkyv::with::Skip)]
    #[message(opaque = "skipped")]
    here_only: u64,
    large: u32,
}

#[derive(Archive, Serialize, Deserialize, Message)]
#[message(crate = "crate", opaque = "unit/1")]
struct Unit;

#[test]
fn parameters_labels_and_names_are_in_the_description() {
    assert_eq!(Stamped::<f32, 3>::schema().name(), "Stamp<f32, 3>");
    assert_eq!(
        difference::<Stamped<f32, 3>, Stamped<f32, 4>>().as_deref(),
        Some("message type: Stamp<f32, 3> here, Stamp<f32, 4> there")
    );
    let schema = Foreign::schema();
    let described: Vec<_> = fields(&schema.types()[0])
        .iter()
        .map(|field| (field.name.as_str(), field.offset, schema.types()[field.of as usize].name.as_str()))
        .collect();
    assert_eq!(described, [("small", 0, "u16_le/1"), ("here_only", 2, "skipped"), ("large", 4, "u32")]);
    assert_eq!(Unit::schema().types().len(), 1);
    assert_eq!(Unit::schema().types()[0].shape, Shape::Opaque);
}

#[test]
fn a_description_can_be_shown() {
    assert_eq!(first::Pose::schema().to_string(), "Pose { depth: u32, at: Point }");
    assert_eq!(
        Tagged::schema().to_string(),
        "Tagged { Empty | Tuple { 0: u8, 1: u32, 2: u8 } | Named { wide: u64, small: u8 } }"
    );
    assert_eq!(<(u8, String)>::schema().to_string(), "(u8, String)");
    assert_eq!(Schema::text().to_string(), "text");
    let block = format!("{:#}", first::Pose::schema());
    let (head, rest) = block.split_once('\n').expect("several lines");
    assert_eq!(head, format!("message Pose, hash {:016x}", first::Pose::schema().hash()));
    assert_eq!(
        rest,
        "struct Pose, 12 bytes, aligned to 4\n  depth: u32 at 0\n  at: Point at 4\n\
         struct Point, 8 bytes, aligned to 4\n  x: f32 at 0\n  y: f32 at 4\n"
    );
}

#[test]
fn plain_messages_are_told_from_types_of_their_name() {
    versions! { plain { #[allow(non_camel_case_types)] pub struct text; } }
    assert!(Schema::text().is_text() && !Schema::text().is_bytes());
    assert!(Schema::bytes().is_bytes() && !Schema::bytes().is_text());
    assert!(!plain::text::schema().is_text());
    assert!(!plain::text::schema().matches(&Schema::text()));
}

#[test]
fn a_schema_survives_its_own_archive() {
    for schema in [first::Path::schema(), Tagged::schema(), Tree::schema(), Schema::bytes()] {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&schema).unwrap();
        assert_eq!(schema.archived_len(), Ok(bytes.len()));
        let back: Schema = rkyv::from_bytes::<_, rkyv::rancor::Error>(&bytes).unwrap();
        assert_eq!(back, schema);
        assert_eq!(back.check(), Ok(()));
    }
}

/// A schema as another process might have forged it.
fn forged(change: impl FnOnce(&mut Vec<Type>, &mut u64)) -> Schema {
    first::Path::schema().forge(change)
}

#[test]
fn a_forged_schema_is_refused_and_harms_nobody() {
    let damaged = [
        forged(|types, _| types.clear()),
        forged(|types, _| types.truncate(2)),
        forged(|_, hash| *hash ^= 1),
        forged(|types, _| types[0].shape = Shape::Container(vec![u32::MAX; 9])),
        forged(|types, _| types.truncate(1)),
    ];
    for schema in &damaged {
        assert!(matches!(schema.check(), Err(SchemaError::Damaged(_))), "{schema:?}");
        let endless = forged(|types, _| types[0].shape = Shape::Array { of: 0, len: u64::MAX });
        for other in damaged.iter().chain([&first::Path::schema(), &endless]) {
            let _ = schema.difference(other);
            let _ = other.difference(schema);
        }
        let _ = format!("{schema} {schema:#}");
    }
    let large = forged(|types, _| types[1].name = "x".repeat(Schema::MAX_LEN));
    let error = large.check().unwrap_err();
    assert!(error.to_string().contains("the limit is 49152"), "{error}");
}

/// Every type leads to the next one in a chain far longer than any stack: the walk must end, and soon.
#[test]
fn comparing_does_not_exhaust_the_stack() {
    let chain = |len: u32, end: &'static str| {
        forged(move |types, _| {
            *types = (0..len)
                .map(|at| Type {
                    name: if at + 1 == len { end.to_owned() } else { String::new() },
                    size: 0,
                    align: 1,
                    shape: Shape::Container(vec![(at + 1) % len, (at + 7) % len]),
                })
                .collect();
        })
    };
    assert!(chain(1000, "a").difference(&chain(1001, "b")).is_some());
}

/// 16-aligned memory for one message.
struct Memory {
    words: Vec<u128>,
    scratch: Scratch,
}

impl Memory {
    fn new() -> Self {
        Self { words: vec![u128::MAX; 4096], scratch: Scratch::new() }
    }

    fn room(&mut self, capacity: usize) -> &mut [MaybeUninit<u8>] {
        assert!(capacity <= size_of_val(&self.words[..]));
        // SAFETY:
        // - valid for reads and writes of `capacity` bytes: compared above; borrowed as long as the result
        // - only initialised bytes are written through it: `write` writes no others
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), capacity) }
    }

    fn try_write<T: Message + ?Sized>(&mut self, value: &T, capacity: usize) -> Result<&[u8], WriteError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = value.write(&mut Room::from_slice(self.room(capacity)), &mut scratch);
        self.scratch = scratch;
        let len = result?;
        assert!(len <= capacity);
        // SAFETY:
        // - valid for reads of `len` bytes: within the vector, initialised there; borrowed as long as the result
        Ok(unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), len) })
    }

    fn write<T: Message + ?Sized>(&mut self, value: &T) -> &[u8] {
        self.try_write(value, 60_000).expect("there is room")
    }
}

/// The same bytes as rkyv's own writer makes, and for every room too small the exact length.
fn check_writing<T: Message>(value: &T, expected: &[u8]) {
    let mut memory = Memory::new();
    assert_eq!(memory.write(value), expected);
    for capacity in 0..expected.len() {
        assert_eq!(memory.try_write(value, capacity), Err(WriteError::Overflow { needed: expected.len() }));
        let beyond = memory.room(expected.len() + 64)[capacity..].to_vec();
        memory.words.fill(u128::MAX);
        let _ = memory.try_write(value, capacity);
        for (at, byte) in memory.room(beyond.len())[capacity.min(beyond.len())..].iter().enumerate() {
            // SAFETY:
            // - initialised: the vector was filled
            assert_eq!(unsafe { byte.assume_init() }, 0xff, "byte {at} behind the room was written");
        }
    }
    assert_eq!(memory.try_write(value, expected.len()), Ok(expected));
}

macro_rules! check_writing {
    ($($value:expr),* $(,)?) => {$(
        let value = $value;
        check_writing(&value, &rkyv::to_bytes::<rkyv::rancor::Error>(&value).unwrap());
    )*};
}

fn mixed() -> Mixed {
    Mixed {
        small: 1,
        wide: 2,
        flag: true,
        letter: 'ß',
        pair: (3, 4),
        array: [5, 6, 7],
        maybe: Some(8),
        unit: (),
        text: "more than eight bytes".to_owned(),
        last: 9,
    }
}

#[test]
fn writing_gives_rkyvs_own_bytes_or_the_exact_length() {
    check_writing!(
        7_u8,
        (),
        [1.5_f64; 8],
        first::Point { x: 1.0, y: 2.0 },
        mixed(),
        Tagged::Empty,
        Tagged::Named { wide: 1, small: 2 },
        vec![mixed(), mixed()],
        vec!["a".to_owned(), "a text that is longer".to_owned()],
        Tree::of_depth(9),
        BTreeMap::from([(1_u8, "one".to_owned()), (2, "two, which is longer".to_owned())]),
        HashMap::from([(1_u8, 1_u64)]),
        {
            let shared: Rc<str> = "only once".into();
            vec![shared.clone(), shared]
        },
        Unit,
        Stamped { at: 1, values: [1_u8, 2, 3] },
        Foreign { small: 1.into(), here_only: 2, large: 3 },
    );
}

#[test]
fn plain_messages_travel_as_they_are() {
    let mut memory = Memory::new();
    assert_eq!(memory.write(&b"any bytes"[..]), b"any bytes");
    assert_eq!(<[u8]>::view(b"any bytes").unwrap(), b"any bytes");
    assert_eq!(memory.try_write(&b"any bytes"[..], 8), Err(WriteError::Overflow { needed: 9 }));
    assert_eq!(str::view(memory.write("größer")).unwrap(), "größer");
    assert!(str::view(b"gr\xff").unwrap_err().to_string().contains("utf-8"));
}

/// A value whose shared pointers and arena were left behind by a failed message does not disturb the next one.
#[test]
fn a_failed_message_leaves_no_trace_in_the_scratch() {
    let mut memory = Memory::new();
    let shared: Rc<str> = "shared by two, and written once".into();
    let value = vec![shared.clone(), shared];
    let expected = memory.write(&value).to_vec();
    assert!(memory.try_write(&value, 10).is_err());
    assert_eq!(memory.write(&value), expected);
}

#[test]
fn a_reason_is_given_for_what_rkyv_refuses() {
    #[derive(Debug, thiserror::Error)]
    #[error("the sensor is upside down")]
    struct Refused;

    struct UpsideDown;

    impl rkyv::with::ArchiveWith<u8> for UpsideDown {
        type Archived = u8;
        type Resolver = ();
        fn resolve_with(field: &u8, (): (), out: rkyv::Place<u8>) {
            field.resolve((), out);
        }
    }
    impl<S: rkyv::rancor::Fallible<Error: rkyv::rancor::Source> + ?Sized> rkyv::with::SerializeWith<u8, S> for UpsideDown {
        fn serialize_with(_: &u8, _: &mut S) -> Result<(), S::Error> {
            rkyv::rancor::fail!(Refused)
        }
    }

    #[derive(Archive, Serialize, Message)]
    #[message(crate = "crate")]
    struct Reading {
        #[rkyv(with = UpsideDown)]
        #[message(opaque = "reading/1")]
        value: u8,
    }

    let error = Memory::new().try_write(&Reading { value: 1 }, 64).unwrap_err();
    assert_eq!(error.to_string(), "the message cannot be serialised: the sensor is upside down");
}

#[test]
fn a_message_beyond_rkyvs_pointers_is_refused() {
    let value = vec![0_u8; MAX_TYPED_LEN]; // never touched
    let error = value.write(&mut Room::from_slice(&mut []), &mut Scratch::new()).unwrap_err();
    assert_eq!(error, WriteError::TooLong { limit: MAX_TYPED_LEN });
    let fits = vec![0_u8; MAX_TYPED_LEN - 7 - 8]; // padded to four bytes, and then the root's eight
    let error = fits.write(&mut Room::from_slice(&mut []), &mut Scratch::new()).unwrap_err();
    assert_eq!(error, WriteError::Overflow { needed: MAX_TYPED_LEN - 7 });
}

#[test]
#[should_panic(expected = "multiple of 16")]
fn a_room_is_aligned() {
    let mut memory = Memory::new();
    Room::from_slice(&mut memory.room(64)[8..]);
}
