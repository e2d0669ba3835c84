//! What a publication carries, as data: compared when a link is made, shown by tools.
//!
//! # Identity
//!
//! Two schemas are the same when their types are: by name (without crate and modules), archived size and alignment, and
//! the names, order, offsets and types of the fields, all the way down. The hash says so in one comparison. It is
//! FNV-1a with 64 bits (offset basis `cbf29ce484222325`, prime `100000001b3`) over this canonical form; integers are
//! little-endian, a text is its length in bytes (u32) and its UTF-8 bytes, a list is its length (u32) and its items:
//!
//! ```text
//! schema    list of types; the first is the message, the others in the order of their first appearance, depth first
//! type      name text | size u64 | align u32 | shape
//! shape     0 u8                                   primitive
//!           1 u8 | list of fields                  struct
//!           2 u8 | list of variants                enum
//!           3 u8 | type index u32 | length u64     array
//!           4 u8 | list of type indices u32        container
//!           5 u8                                   opaque
//! field     name text | offset u64 | type index u32
//! variant   name text | tag u8 | list of fields
//! ```
//!
//! Types that are equal count as one, wherever they are defined, so the list is the smallest one that says the same.
//! The hash keeps honest programs apart; it is no protection against a forged schema, and none is needed: what a
//! publisher sends is checked when it is seen.

// rkyv's derive makes public types whose fields it does not document.
#![allow(missing_docs, reason = "the archived forms that rkyv derives have fields without documentation")]

use std::collections::{HashMap, HashSet};
use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use super::describe::Types;
use super::{Describe, Room, Scratch, WriteError, archived};

/// What a publication carries: name, archived layout and version hash of its message type.
///
/// Can be archived itself (it travels in the control protocol). Display gives one line, `{:#}` a block for each type.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Over `types`, see the module.
    hash: u64,
    /// The first is the message; indices in shapes are below its length, unless the schema comes from another process
    /// and was not checked.
    types: Vec<Type>,
}

/// One type of a [`Schema`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Hash)]
pub struct Type {
    /// Without crate and modules, with parameters: `u32`, `Pose`, `Vec<Pose>`, `[f32; 3]`.
    pub name: String,
    /// bytes; archived, without what it points to
    pub size: u64,
    /// bytes; archived, a power of two
    pub align: u32,
    /// What it consists of.
    pub shape: Shape,
}

/// What a type consists of. Types are named by their index, see [`Schema::types`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shape {
    /// Nothing more to say: its name is well known (`u32`, `bool`, `String`, `Duration`, `bytes`, ...).
    Primitive,
    /// Fields in the order of their declaration; those of a tuple are named `0`, `1`, ...
    Struct(Vec<Field>),
    /// One of several variants; its tag is the first byte.
    Enum(Vec<Variant>),
    /// So many of one type, one behind the other.
    Array {
        /// The type's index.
        of: u32,
        /// How many.
        len: u64,
    },
    /// A generic type of rkyv's, with its parameters' indices; the part of its name before `<` says which one.
    Container(Vec<u32>),
    /// Not described: the name is the label that its user gave it.
    Opaque,
}

/// A field of a struct or of a variant.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Hash)]
pub struct Field {
    /// As declared.
    pub name: String,
    /// bytes; from the start of the archived type
    pub offset: u64,
    /// Its type's index.
    pub of: u32,
}

/// A variant of an enum.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Hash)]
pub struct Variant {
    /// As declared.
    pub name: String,
    /// Its first byte.
    pub tag: u8,
    /// Its fields; their offsets count from the start of the enum.
    pub fields: Vec<Field>,
}

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// It would not fit into one record of the control protocol. Give up: shrink the type or name parts of it.
    #[error(
        "the description of message type `{name}` takes {len} bytes, the limit is {limit}: \
         name parts of it by #[message(opaque = \"label/1\")] or split the type"
    )]
    TooLarge {
        /// The message type.
        name: String,
        /// bytes
        len: usize,
        /// bytes; [`Schema::MAX_LEN`]
        limit: usize,
    },
    /// Only of one that was received: it contradicts itself. Refuse it.
    #[error("the description of a message type is damaged: {0}")]
    Damaged(&'static str),
}

impl Schema {
    /// bytes; the most that an archived schema may have, so that it fits into a record with all that goes with it.
    pub const MAX_LEN: usize = 48 * 1024;

    /// The schema of `T`.
    pub(super) fn of<T: Describe>() -> Self {
        let mut types = Types::new();
        types.add::<T>();
        Self::from_types(merge_equal(types.into_types()))
    }

    /// Of messages that are any bytes: `[u8]`.
    pub fn bytes() -> Self {
        Self::plain("bytes")
    }

    /// Of messages that are UTF-8 text: `str`.
    pub fn text() -> Self {
        Self::plain("text")
    }

    fn plain(name: &str) -> Self {
        Self::from_types(vec![Type { name: name.to_owned(), size: 0, align: 1, shape: Shape::Primitive }])
    }

    fn from_types(types: Vec<Type>) -> Self {
        Self { hash: hash(&types), types }
    }

    /// The message type's name, without crate and modules.
    pub fn name(&self) -> &str {
        self.types.first().map_or("", |root| &root.name)
    }

    /// The version hash: equal if and only if the types are, see the module.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// bytes; the archived root without what it points to, 0 for `bytes` and `text`
    pub fn size(&self) -> u64 {
        self.types.first().map_or(0, |root| root.size)
    }

    /// bytes; what the archived root is aligned to
    pub fn align(&self) -> u32 {
        self.types.first().map_or(1, |root| root.align)
    }

    /// All types of the message: the first is the message itself, the others are named by their index.
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// Whether messages are any bytes.
    pub fn is_bytes(&self) -> bool {
        self.is_plain("bytes")
    }

    /// Whether messages are UTF-8 text.
    pub fn is_text(&self) -> bool {
        self.is_plain("text")
    }

    fn is_plain(&self, name: &str) -> bool {
        matches!(&self.types[..], [only] if only.name == name && only.shape == Shape::Primitive)
    }

    /// Whether both describe the same type. Compares two words.
    pub fn matches(&self, theirs: &Self) -> bool {
        self.hash == theirs.hash && self.types.len() == theirs.types.len()
    }

    /// What differs first, seen from `self`: ``field `pose.depth`: u32 here, u64 there``; `None` when they match.
    ///
    /// Safe to ask about a schema that another process sent, checked or not: it takes bounded time and stack, and never
    /// panics. When the first difference lies beyond these bounds, the text names the two hashes.
    pub fn difference(&self, theirs: &Self) -> Option<String> {
        if self.matches(theirs) {
            return None;
        }
        let difference = Comparison { ours: self, theirs, seen: HashSet::new() }.compare(0, 0, "", 0);
        Some(match difference {
            Some(text) => match self.cure(theirs) {
                Some(cure) => format!("{text}; {cure}"),
                None => text,
            },
            None => format!(
                "message type `{}`: hash {:016x} here, {:016x} there, and no field found that differs",
                self.name(),
                self.hash,
                theirs.hash
            ),
        })
    }

    /// The two mismatches that everybody meets once.
    fn cure(&self, theirs: &Self) -> Option<&'static str> {
        let pair = |plain: fn(&Self) -> bool, typed: &str| {
            (plain(self) && theirs.name() == typed) || (self.name() == typed && plain(theirs))
        };
        if pair(Self::is_bytes, "Vec<u8>") {
            Some("use `[u8]` at both ends")
        } else if pair(Self::is_text, "String") {
            Some("use `str` at both ends")
        } else {
            None
        }
    }

    /// bytes; how long the archived schema is.
    pub fn archived_len(&self) -> Result<usize, WriteError> {
        match archived::write(self, &mut Room::from_slice(&mut []), &mut Scratch::new()) {
            Ok(len) | Err(WriteError::Overflow { needed: len }) => Ok(len),
            Err(error) => Err(error),
        }
    }

    /// Whether it can be sent, and, for one that was received, whether it can be used.
    ///
    /// # Errors
    ///
    /// [`SchemaError::TooLarge`] names the type and the limit; [`SchemaError::Damaged`] is only possible for a schema
    /// that another process made.
    pub fn check(&self) -> Result<(), SchemaError> {
        let len = self.archived_len().map_err(|_| SchemaError::Damaged("its length cannot be told"))?;
        if len > Self::MAX_LEN {
            return Err(SchemaError::TooLarge { name: self.name().to_owned(), len, limit: Self::MAX_LEN });
        }
        if self.types.is_empty() {
            return Err(SchemaError::Damaged("it has no types"));
        }
        let mut in_range = true;
        for one in &self.types {
            one.shape.each_index(|index| in_range &= (index as usize) < self.types.len());
        }
        if !in_range {
            return Err(SchemaError::Damaged("it names a type that it does not have"));
        }
        if self.hash != hash(&self.types) {
            return Err(SchemaError::Damaged("its hash is not that of its types"));
        }
        Ok(())
    }

    /// As an enemy would change it; the hash is made anew before it is handed over.
    #[cfg(test)]
    pub(super) fn forge(&self, change: impl FnOnce(&mut Vec<Type>, &mut u64)) -> Self {
        let mut forged = self.clone();
        let mut hash_change = 0;
        change(&mut forged.types, &mut hash_change);
        forged.hash = hash(&forged.types) ^ hash_change;
        forged
    }

    fn name_of(&self, index: u32) -> &str {
        self.types.get(index as usize).map_or("?", |found| &found.name)
    }
}

impl Shape {
    fn each_index(&self, mut look: impl FnMut(u32)) {
        match self {
            Self::Primitive | Self::Opaque => {}
            Self::Struct(fields) => fields.iter().for_each(|field| look(field.of)),
            Self::Enum(variants) => {
                variants.iter().flat_map(|variant| &variant.fields).for_each(|field| look(field.of));
            }
            Self::Array { of, .. } => look(*of),
            Self::Container(of) => of.iter().for_each(|of| look(*of)),
        }
    }

    fn each_index_mut(&mut self, mut change: impl FnMut(&mut u32)) {
        match self {
            Self::Primitive | Self::Opaque => {}
            Self::Struct(fields) => fields.iter_mut().for_each(|field| change(&mut field.of)),
            Self::Enum(variants) => {
                variants.iter_mut().flat_map(|variant| &mut variant.fields).for_each(|field| change(&mut field.of));
            }
            Self::Array { of, .. } => change(of),
            Self::Container(of) => of.iter_mut().for_each(change),
        }
    }

    /// What it is, in a sentence.
    fn kind(&self) -> &'static str {
        match self {
            Self::Primitive => "a plain value",
            Self::Struct(_) => "a struct",
            Self::Enum(_) => "an enum",
            Self::Array { .. } => "an array",
            Self::Container(_) => "a container",
            Self::Opaque => "opaque",
        }
    }
}

impl fmt::Display for Schema {
    /// One line: the message's own fields. With `{:#}`: size, alignment and offsets of every type that has fields.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return match self.types.first() {
                Some(root) => self.write_line(f, root),
                None => f.write_str("(no type)"),
            };
        }
        writeln!(f, "message {}, hash {:016x}", self.name(), self.hash)?;
        for (at, one) in self.types.iter().enumerate() {
            match &one.shape {
                Shape::Struct(fields) => {
                    writeln!(f, "struct {}, {} bytes, aligned to {}", one.name, one.size, one.align)?;
                    self.write_block(f, "  ", fields)?;
                }
                Shape::Enum(variants) => {
                    writeln!(f, "enum {}, {} bytes, aligned to {}", one.name, one.size, one.align)?;
                    for variant in variants {
                        writeln!(f, "  {} = {}", variant.name, variant.tag)?;
                        self.write_block(f, "    ", &variant.fields)?;
                    }
                }
                Shape::Opaque => writeln!(f, "opaque {}, {} bytes, aligned to {}", one.name, one.size, one.align)?,
                Shape::Primitive | Shape::Array { .. } | Shape::Container(_) if at > 0 => {}
                _ => writeln!(f, "{}, {} bytes, aligned to {}", one.name, one.size, one.align)?,
            }
        }
        Ok(())
    }
}

impl Schema {
    fn write_line(&self, f: &mut fmt::Formatter<'_>, one: &Type) -> fmt::Result {
        f.write_str(&one.name)?;
        match &one.shape {
            Shape::Struct(fields) if !one.name.starts_with('(') => self.write_fields(f, fields),
            Shape::Enum(variants) => {
                f.write_str(" { ")?;
                for (at, variant) in variants.iter().enumerate() {
                    f.write_str(if at > 0 { " | " } else { "" })?;
                    f.write_str(&variant.name)?;
                    self.write_fields(f, &variant.fields)?;
                }
                f.write_str(" }")
            }
            _ => Ok(()),
        }
    }

    fn write_fields(&self, f: &mut fmt::Formatter<'_>, fields: &[Field]) -> fmt::Result {
        for (at, field) in fields.iter().enumerate() {
            f.write_str(if at > 0 { ", " } else { " { " })?;
            write!(f, "{}: {}", field.name, self.name_of(field.of))?;
        }
        f.write_str(if fields.is_empty() { "" } else { " }" })
    }

    fn write_block(&self, f: &mut fmt::Formatter<'_>, indent: &str, fields: &[Field]) -> fmt::Result {
        for field in fields {
            writeln!(f, "{indent}{}: {} at {}", field.name, self.name_of(field.of), field.offset)?;
        }
        Ok(())
    }
}

/// Walks two schemas at once until something differs.
struct Comparison<'a> {
    ours: &'a Schema,
    theirs: &'a Schema,
    /// Pairs that were looked at: types may contain themselves.
    seen: HashSet<(u32, u32)>,
}

impl Comparison<'_> {
    /// levels; the walk goes no deeper, so that a schema made by an enemy cannot exhaust the stack.
    const MAX_LEVELS: u32 = 128;

    /// pairs of types; nor does it take longer. Honest schemas have about as many pairs as types.
    const MAX_PAIRS: usize = 10_000;

    fn compare(&mut self, ours: u32, theirs: u32, path: &str, level: u32) -> Option<String> {
        let give_up = level > Self::MAX_LEVELS || self.seen.len() >= Self::MAX_PAIRS;
        if give_up || !self.seen.insert((ours, theirs)) {
            return None;
        }
        let (Some(a), Some(b)) = (self.ours.types.get(ours as usize), self.theirs.types.get(theirs as usize)) else {
            return Some(format!("{}: its type is missing from the description", place(path)));
        };
        if a.name != b.name {
            return Some(format!("{}: {} here, {} there", place(path), a.name, b.name));
        }
        let level = level + 1;
        let inside = match (&a.shape, &b.shape) {
            (Shape::Primitive, Shape::Primitive) | (Shape::Opaque, Shape::Opaque) => None,
            (Shape::Struct(a), Shape::Struct(b)) => self.fields(a, b, path, level),
            (Shape::Enum(a), Shape::Enum(b)) => self.variants(a, b, path, level),
            (Shape::Array { of: a, .. }, Shape::Array { of: b, .. }) => {
                self.compare(*a, *b, &format!("{path}[]"), level)
            }
            (Shape::Container(of_a), Shape::Container(of_b)) => {
                let suffix = match a.name.split('<').next() {
                    Some("Option" | "Box" | "Rc" | "Arc") => "",
                    _ => "[]",
                };
                let path = format!("{path}{suffix}");
                of_a.iter().zip(of_b).find_map(|(a, b)| self.compare(*a, *b, &path, level))
            }
            (ours, theirs) => {
                Some(format!("{}: {} is {} here, {} there", place(path), a.name, ours.kind(), theirs.kind()))
            }
        };
        inside.or_else(|| {
            ((a.size, a.align) != (b.size, b.align)).then(|| {
                format!(
                    "{}: {} has {} bytes aligned to {} here, {} bytes aligned to {} there",
                    place(path),
                    a.name,
                    a.size,
                    a.align,
                    b.size,
                    b.align
                )
            })
        })
    }

    fn fields(&mut self, ours: &[Field], theirs: &[Field], path: &str, level: u32) -> Option<String> {
        let full = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if let Some(a) = ours.iter().find(|a| theirs.iter().all(|b| a.name != b.name)) {
            return Some(format!("field `{}` is missing there", full(&a.name)));
        }
        if let Some(b) = theirs.iter().find(|b| ours.iter().all(|a| a.name != b.name)) {
            return Some(format!("field `{}` is missing here", full(&b.name)));
        }
        for a in ours {
            let b = theirs.iter().find(|b| a.name == b.name)?;
            if let Some(difference) = self.compare(a.of, b.of, &full(&a.name), level) {
                return Some(difference);
            }
        }
        let moved = ours.iter().zip(theirs).position(|(a, b)| a.name != b.name || a.offset != b.offset)?;
        let (a, b) = (&ours[moved], &theirs[moved]);
        if a.name == b.name {
            return Some(format!("field `{}`: at byte {} here, {} there", full(&a.name), a.offset, b.offset));
        }
        Some(format!("field {} is `{}` here, `{}` there: their order differs", moved + 1, full(&a.name), full(&b.name)))
    }

    fn variants(&mut self, ours: &[Variant], theirs: &[Variant], path: &str, level: u32) -> Option<String> {
        let full = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if let Some(a) = ours.iter().find(|a| theirs.iter().all(|b| a.name != b.name)) {
            return Some(format!("variant `{}` is missing there", full(&a.name)));
        }
        if let Some(b) = theirs.iter().find(|b| ours.iter().all(|a| a.name != b.name)) {
            return Some(format!("variant `{}` is missing here", full(&b.name)));
        }
        for a in ours {
            let b = theirs.iter().find(|b| a.name == b.name)?;
            if a.tag != b.tag {
                return Some(format!("variant `{}`: tag {} here, {} there", full(&a.name), a.tag, b.tag));
            }
            if let Some(difference) = self.fields(&a.fields, &b.fields, &full(&a.name), level) {
                return Some(difference);
            }
        }
        let moved = ours.iter().zip(theirs).find(|(a, b)| a.name != b.name)?.0;
        Some(format!("variant `{}` is declared at another place there", full(&moved.name)))
    }
}

fn place(path: &str) -> String {
    if path.is_empty() { "message type".to_owned() } else { format!("field `{path}`") }
}

/// Makes one type of all that are equal, and numbers what is left in the order of first appearance, depth first.
///
/// Types that contain themselves cannot be compared by looking inside. So all count as equal at first, and classes are
/// split as long as two members differ, in themselves or in the classes of what they contain (Moore's minimisation).
fn merge_equal(types: Vec<Type>) -> Vec<Type> {
    let mut class = vec![0; types.len()];
    let mut classes = 1;
    let representatives = loop {
        let mut found = HashMap::new();
        let next = types.iter().map(|one| {
            let mut one = one.clone();
            one.shape.each_index_mut(|of| *of = class[*of as usize]);
            let number = found.len() as u32;
            *found.entry(one).or_insert(number)
        });
        class = next.collect();
        if found.len() == classes {
            break found.into_iter().map(|(one, number)| (number, one)).collect::<HashMap<u32, Type>>();
        }
        classes = found.len();
    };
    // The representatives name the classes of the round before the last; both rounds number them alike, in the order of
    // `types`, since no class was split.
    let mut order: Vec<u32> = Vec::new();
    let mut number = HashMap::new();
    let mut waiting: Vec<u32> = class.first().copied().into_iter().collect();
    while let Some(next) = waiting.pop() {
        if number.contains_key(&next) {
            continue;
        }
        number.insert(next, order.len() as u32);
        order.push(next);
        let mut inside = Vec::new();
        representatives[&next].shape.each_index(|of| inside.push(of));
        waiting.extend(inside.into_iter().rev());
    }
    let renumbered = order.iter().map(|class| {
        let mut one = representatives[class].clone();
        one.shape.each_index_mut(|of| *of = number[of]);
        one
    });
    renumbered.collect()
}

/// FNV-1a, 64 bits, over the canonical form.
fn hash(types: &[Type]) -> u64 {
    struct Fnv(u64);

    impl Fnv {
        fn bytes(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        fn len(&mut self, len: usize) {
            self.bytes(&(len as u32).to_le_bytes());
        }
        fn text(&mut self, text: &str) {
            self.len(text.len());
            self.bytes(text.as_bytes());
        }
        fn fields(&mut self, fields: &[Field]) {
            self.len(fields.len());
            for field in fields {
                self.text(&field.name);
                self.bytes(&field.offset.to_le_bytes());
                self.bytes(&field.of.to_le_bytes());
            }
        }
    }

    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    fnv.len(types.len());
    for one in types {
        fnv.text(&one.name);
        fnv.bytes(&one.size.to_le_bytes());
        fnv.bytes(&one.align.to_le_bytes());
        match &one.shape {
            Shape::Primitive => fnv.bytes(&[0]),
            Shape::Struct(fields) => {
                fnv.bytes(&[1]);
                fnv.fields(fields);
            }
            Shape::Enum(variants) => {
                fnv.bytes(&[2]);
                fnv.len(variants.len());
                for variant in variants {
                    fnv.text(&variant.name);
                    fnv.bytes(&[variant.tag]);
                    fnv.fields(&variant.fields);
                }
            }
            Shape::Array { of, len } => {
                fnv.bytes(&[3]);
                fnv.bytes(&of.to_le_bytes());
                fnv.bytes(&len.to_le_bytes());
            }
            Shape::Container(of) => {
                fnv.bytes(&[4]);
                fnv.len(of.len());
                of.iter().for_each(|of| fnv.bytes(&of.to_le_bytes()));
            }
            Shape::Opaque => fnv.bytes(&[5]),
        }
    }
    fnv.0
}
