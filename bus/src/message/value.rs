//! Reading a message without its type: by the schema that its publication carries.
//!
//! For tools. The bytes are hostile, and so is the schema: every position, pointer and length is checked against the message
//! before it is used, and what is shown is bounded in depth and number, so that a message that points at itself ends as well.
//! Archived forms are rkyv's, as this workspace sets it up (little-endian, relative pointers of 32 bits); what rkyv itself can
//! check and read (strings, durations, addresses) it does.

use std::fmt;

use rkyv::net::{ArchivedIpAddr, ArchivedIpv4Addr, ArchivedIpv6Addr, ArchivedSocketAddr};
use rkyv::net::{ArchivedSocketAddrV4, ArchivedSocketAddrV6};
use rkyv::string::ArchivedString;
use rkyv::time::ArchivedDuration;
use rkyv::{Portable, rancor};

use super::Schema;
use super::schema::{Field, Shape, Type};

/// How deep values are looked into.
const DEEPEST: usize = 24;
/// Items of a list that are shown.
const ITEMS: u64 = 64;
/// Values that are shown of one message.
const VALUES: usize = 2_000;
/// bytes of text that are shown of one string
const TEXT: usize = 4_096;
/// bytes of what is not described that are shown
const BYTES: usize = 16;

/// A part of a message.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number that may be negative.
    Int(i128),
    /// A whole number that may not.
    Uint(u128),
    /// A number with a fraction of 32 bits.
    F32(f32),
    /// A number with a fraction of 64 bits.
    F64(f64),
    /// A character.
    Char(char),
    /// Text.
    Text(String),
    /// What has a textual form of its own: a duration (`1.5s`), an address.
    Plain(String),
    /// `None`, or nothing.
    Nothing,
    /// Fields by their names; those of a tuple are named by numbers.
    Record {
        /// The type's name, or the variant's; empty for a tuple.
        name: String,
        /// In the order of their declaration.
        fields: Vec<(String, Value)>,
    },
    /// One behind the other.
    List {
        /// As many as are shown.
        items: Vec<Value>,
        /// How many more there are.
        more: u64,
    },
    /// Keys and values.
    Map {
        /// As many as are shown, in no order.
        entries: Vec<(Value, Value)>,
        /// How many more there are.
        more: u64,
    },
    /// What cannot be shown, and why.
    Hidden(String),
}

impl Schema {
    /// Reads a message of this schema, without its type: what tools show.
    ///
    /// Never fails and never panics, whatever bytes these are: what cannot be read is [`Value::Hidden`], with the reason. Time and
    /// memory are bounded. `payload` is best aligned to 16 bytes, as it is in a log; otherwise parts may stay hidden.
    ///
    /// ```
    /// use nodeset_bus::message::{Message, Schema};
    ///
    /// assert_eq!(Schema::text().read("hello".as_bytes()).to_string(), "\"hello\"");
    /// ```
    pub fn read(&self, payload: &[u8]) -> Value {
        if self.is_text() {
            return match std::str::from_utf8(payload) {
                Ok(text) => text_value(text),
                Err(_) => Value::Hidden("no UTF-8".to_owned()),
            };
        }
        if self.is_bytes() {
            return bytes_value(payload);
        }
        let size = usize::try_from(self.size()).unwrap_or(usize::MAX);
        match payload.len().checked_sub(size) {
            Some(root) => Reader { types: self.types(), payload, left: VALUES }.value(0, root, 0),
            None => Value::Hidden(format!("{} bytes are too few for `{}`", payload.len(), self.name())),
        }
    }
}

/// Why a part cannot be read.
type Hidden = &'static str;

const OUTSIDE: Hidden = "it lies outside of the message";

struct Reader<'a> {
    types: &'a [Type],
    payload: &'a [u8],
    /// Values that may still be shown.
    left: usize,
}

impl Reader<'_> {
    fn value(&mut self, of: u32, at: usize, depth: usize) -> Value {
        self.try_value(of, at, depth).unwrap_or_else(|why| Value::Hidden(why.to_owned()))
    }

    fn try_value(&mut self, of: u32, at: usize, depth: usize) -> Result<Value, Hidden> {
        self.left = self.left.checked_sub(1).ok_or("too many values")?;
        if depth > DEEPEST {
            return Err("too deep");
        }
        let types = self.types;
        let ty = types.get(of as usize).ok_or("its type is missing")?;
        match &ty.shape {
            Shape::Primitive => self.primitive(ty, at),
            Shape::Struct(fields) => {
                let name = if ty.name.starts_with('(') { String::new() } else { ty.name.clone() };
                Ok(Value::Record { name, fields: self.fields(fields, at, depth)? })
            }
            Shape::Enum(variants) => {
                let [tag] = self.bytes(at)?;
                let variant = variants.iter().find(|variant| variant.tag == tag).ok_or("a variant that is unknown")?;
                Ok(Value::Record { name: variant.name.clone(), fields: self.fields(&variant.fields, at, depth)? })
            }
            Shape::Array { of, len } => self.list(*of, at, *len, depth),
            Shape::Container(of) => self.container(ty, of, at, depth),
            Shape::Opaque => {
                let size = usize::try_from(ty.size).map_err(|_| OUTSIDE)?;
                Ok(bytes_value(self.slice(at, size)?))
            }
        }
    }

    fn fields(&mut self, fields: &[Field], at: usize, depth: usize) -> Result<Vec<(String, Value)>, Hidden> {
        let mut found = Vec::new();
        for field in fields {
            let at = usize::try_from(field.offset).ok().and_then(|offset| at.checked_add(offset)).ok_or(OUTSIDE)?;
            found.push((field.name.clone(), self.value(field.of, at, depth + 1)));
        }
        Ok(found)
    }

    /// `len` of one type, one behind the other.
    fn list(&mut self, of: u32, at: usize, len: u64, depth: usize) -> Result<Value, Hidden> {
        let ty = self.types.get(of as usize).ok_or("its type is missing")?;
        let size = usize::try_from(ty.size).map_err(|_| OUTSIDE)?;
        let bytes = usize::try_from(len).ok().and_then(|len| len.checked_mul(size)).ok_or(OUTSIDE)?;
        let all = self.slice(at, bytes)?;
        if ty.name == "u8" && ty.shape == Shape::Primitive {
            return Ok(bytes_value(all));
        }
        let shown = len.min(ITEMS);
        let items = (0..shown as usize).map(|index| self.value(of, at + index * size, depth + 1)).collect();
        Ok(Value::List { items, more: len - shown })
    }

    fn container(&mut self, ty: &Type, of: &[u32], at: usize, depth: usize) -> Result<Value, Hidden> {
        let name = ty.name.split('<').next().unwrap_or_default();
        let first = *of.first().ok_or("its type is missing")?;
        match (name, ty.size) {
            ("Vec" | "VecDeque", _) | ("Box" | "Rc" | "Arc", 8) => {
                let len = self.number(at + 4)?;
                let target = if len == 0 { at } else { self.target(at)? };
                self.list(first, target, len.into(), depth)
            }
            ("Box" | "Rc" | "Arc", _) => {
                let target = self.target(at)?;
                self.try_value(first, target, depth + 1)
            }
            ("Option", _) => match self.bytes(at)? {
                [0] => Ok(Value::Nothing),
                [1] => self.behind_tag(first, at, depth),
                _ => Err("neither `None` nor `Some`"),
            },
            ("Result", _) => {
                let (name, of) = match self.bytes(at)? {
                    [0] => ("Ok", first),
                    [1] => ("Err", *of.get(1).ok_or("its type is missing")?),
                    _ => return Err("neither `Ok` nor `Err`"),
                };
                let value = self.behind_tag(of, at, depth)?;
                Ok(Value::Record { name: name.to_owned(), fields: vec![("0".to_owned(), value)] })
            }
            ("Bound", _) => match self.bytes(at)? {
                [2] => Ok(Value::Plain("Unbounded".to_owned())),
                [tag @ 0..=1] => {
                    let name = if tag == 0 { "Included" } else { "Excluded" };
                    let value = self.behind_tag(first, at, depth)?;
                    Ok(Value::Record { name: name.to_owned(), fields: vec![("0".to_owned(), value)] })
                }
                _ => Err("no bound"),
            },
            ("Range" | "RangeInclusive" | "RangeFrom" | "RangeTo" | "RangeToInclusive", _) => {
                self.range(name, first, at, depth)
            }
            ("HashSet", _) => {
                let buckets = self.buckets(first, None, at)?;
                let items = buckets.shown.iter().map(|&(key, _)| self.value(first, key, depth + 1)).collect();
                Ok(Value::List { items, more: buckets.more })
            }
            ("HashMap", _) => {
                let second = *of.get(1).ok_or("its type is missing")?;
                let buckets = self.buckets(first, Some(second), at)?;
                let mut entries = Vec::new();
                for (key, value) in buckets.shown {
                    entries.push((self.value(first, key, depth + 1), self.value(second, value, depth + 1)));
                }
                Ok(Value::Map { entries, more: buckets.more })
            }
            ("BTreeMap" | "BTreeSet", _) => Ok(Value::Map { entries: Vec::new(), more: self.number(at + 4)?.into() }),
            _ => Err("a container that is not known here"),
        }
    }

    /// What follows a tag of one byte.
    fn behind_tag(&mut self, of: u32, at: usize, depth: usize) -> Result<Value, Hidden> {
        let at = at.checked_add(self.aligned(1, of)?).ok_or(OUTSIDE)?;
        self.try_value(of, at, depth + 1)
    }

    fn range(&mut self, name: &str, of: u32, at: usize, depth: usize) -> Result<Value, Hidden> {
        let size = self.types.get(of as usize).map_or(0, |ty| ty.size) as usize;
        let ends: &[&str] = match name {
            "RangeFrom" => &["start"],
            "RangeTo" | "RangeToInclusive" => &["end"],
            _ => &["start", "end"],
        };
        let mut fields = Vec::new();
        for (index, end) in ends.iter().enumerate() {
            let at = index.checked_mul(size).and_then(|offset| at.checked_add(offset)).ok_or(OUTSIDE)?;
            fields.push(((*end).to_owned(), self.value(of, at, depth + 1)));
        }
        Ok(Value::Record { name: name.to_owned(), fields })
    }

    /// The full buckets of rkyv's hash table: the entries stand before its control bytes, last one first.
    fn buckets(&self, key: u32, value: Option<u32>, at: usize) -> Result<Buckets, Hidden> {
        let (len, capacity) = (self.number(at + 4)?, self.number(at + 8)? as usize);
        if len == 0 {
            return Ok(Buckets { shown: Vec::new(), more: 0 });
        }
        let controls = self.target(at)?;
        let size = |of: u32| self.types.get(of as usize).map(|ty| (ty.size as usize, (ty.align as usize).max(1)));
        let (key_size, key_align) = size(key).ok_or("its type is missing")?;
        let (mut end, mut align, mut value_at) = (key_size, key_align, 0);
        if let Some(value) = value {
            let (value_size, value_align) = size(value).ok_or("its type is missing")?;
            value_at = key_size.checked_next_multiple_of(value_align).ok_or(OUTSIDE)?;
            end = value_at.checked_add(value_size).ok_or(OUTSIDE)?;
            align = align.max(value_align);
        }
        let stride = end.checked_next_multiple_of(align).ok_or(OUTSIDE)?;
        let first = capacity.checked_mul(stride).and_then(|all| controls.checked_sub(all)).ok_or(OUTSIDE)?;
        self.slice(first, controls - first)?;
        let full = self.slice(controls, capacity)?.iter().enumerate().filter(|(_, control)| **control & 0x80 == 0);
        let places = full.map(|(index, _)| controls - (index + 1) * stride);
        let shown: Vec<_> = places.take(ITEMS as usize).map(|at| (at, at + value_at)).collect();
        let more = u64::from(len).saturating_sub(shown.len() as u64);
        Ok(Buckets { shown, more })
    }

    fn primitive(&self, ty: &Type, at: usize) -> Result<Value, Hidden> {
        let number = |size: u64| {
            let mut whole = [0; 16];
            let bytes = self.slice(at, size as usize)?;
            whole.get_mut(..bytes.len()).ok_or("a number that is too long")?.copy_from_slice(bytes);
            Ok::<_, Hidden>(u128::from_le_bytes(whole))
        };
        Ok(match ty.name.strip_prefix("NonZero").map_or_else(|| ty.name.clone(), str::to_lowercase).as_str() {
            "bool" => match self.bytes(at)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return Err("neither `true` nor `false`"),
            },
            "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => Value::Uint(number(ty.size)?),
            "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => {
                let unused = 128_u32.checked_sub(8 * ty.size as u32).ok_or("a number that is too long")?;
                Value::Int((number(ty.size)? as i128) << unused >> unused)
            }
            "f32" => Value::F32(f32::from_le_bytes(self.bytes(at)?)),
            "f64" => Value::F64(f64::from_le_bytes(self.bytes(at)?)),
            "char" => Value::Char(char::from_u32(self.number(at)?).ok_or("no character")?),
            "String" => text_value(self.access::<ArchivedString>(at)?.as_str()),
            "Box<str>" | "Rc<str>" | "Arc<str>" => {
                let len = self.number(at + 4)? as usize;
                let target = if len == 0 { at } else { self.target(at)? };
                text_value(std::str::from_utf8(self.slice(target, len)?).map_err(|_| "no UTF-8")?)
            }
            "Duration" => {
                let duration = self.access::<ArchivedDuration>(at)?;
                Value::Plain(format!("{:?}", std::time::Duration::new(duration.as_secs(), duration.subsec_nanos())))
            }
            "Ipv4Addr" => Value::Plain(self.access::<ArchivedIpv4Addr>(at)?.as_ipv4().to_string()),
            "Ipv6Addr" => Value::Plain(self.access::<ArchivedIpv6Addr>(at)?.as_ipv6().to_string()),
            "IpAddr" => Value::Plain(self.access::<ArchivedIpAddr>(at)?.as_ipaddr().to_string()),
            "SocketAddrV4" => Value::Plain(self.access::<ArchivedSocketAddrV4>(at)?.as_socket_addr_v4().to_string()),
            "SocketAddrV6" => Value::Plain(self.access::<ArchivedSocketAddrV6>(at)?.as_socket_addr_v6().to_string()),
            "SocketAddr" => Value::Plain(self.access::<ArchivedSocketAddr>(at)?.as_socket_addr().to_string()),
            _ => return Err("a type that is not known here"),
        })
    }

    /// What rkyv can check and read by itself.
    fn access<T>(&self, at: usize) -> Result<&T, Hidden>
    where
        T: Portable + for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, rancor::Failure>>,
    {
        // The check takes the message up to the end of this value for the whole.
        let end = at.checked_add(size_of::<T>()).filter(|&end| end <= self.payload.len()).ok_or(OUTSIDE)?;
        rkyv::api::high::access_pos::<T, rancor::Failure>(&self.payload[..end], at).map_err(|_| "it is damaged")
    }

    /// Where the relative pointer at `at` points.
    fn target(&self, at: usize) -> Result<usize, Hidden> {
        let offset = i32::from_le_bytes(self.bytes(at)?);
        at.checked_add_signed(offset as isize).filter(|&target| target <= self.payload.len()).ok_or(OUTSIDE)
    }

    fn number(&self, at: usize) -> Result<u32, Hidden> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], Hidden> {
        self.slice(at, N)?.try_into().map_err(|_| OUTSIDE)
    }

    fn slice(&self, at: usize, len: usize) -> Result<&[u8], Hidden> {
        at.checked_add(len).and_then(|end| self.payload.get(at..end)).ok_or(OUTSIDE)
    }

    /// The first multiple of a type's alignment from `at` on.
    fn aligned(&self, at: usize, of: u32) -> Result<usize, Hidden> {
        let align = self.types.get(of as usize).map(|ty| ty.align as usize).filter(|align| *align > 0);
        align.and_then(|align| at.checked_next_multiple_of(align)).ok_or("its type is missing")
    }
}

struct Buckets {
    /// Where key and value of each begin.
    shown: Vec<(usize, usize)>,
    more: u64,
}

fn text_value(text: &str) -> Value {
    if text.len() <= TEXT {
        return Value::Text(text.to_owned());
    }
    let end = (0..=TEXT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    Value::Text(format!("{}...", &text[..end]))
}

/// Bytes: all of a few, of more the first ones and how many there are.
fn bytes_value(bytes: &[u8]) -> Value {
    let shown = &bytes[..bytes.len().min(BYTES)];
    let hex: Vec<_> = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    let more = if shown.len() < bytes.len() { " .." } else { "" };
    let space = if shown.is_empty() { "" } else { " " };
    Value::Plain(format!("<{} bytes{space}{}{more}>", bytes.len(), hex.join(" ")))
}

impl fmt::Display for Value {
    /// On one line, much as `Debug` shows the type itself; what would break the line is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Uint(value) => write!(f, "{value}"),
            Value::F32(value) => write!(f, "{value:?}"),
            Value::F64(value) => write!(f, "{value:?}"),
            Value::Char(value) => write!(f, "{value:?}"),
            Value::Text(value) => write!(f, "{value:?}"),
            Value::Plain(value) => f.write_str(value),
            Value::Nothing => f.write_str("None"),
            Value::Hidden(why) => write!(f, "<not shown: {why}>"),
            Value::Record { name, fields } => {
                let tuple = fields.iter().enumerate().all(|(at, (name, _))| *name == at.to_string());
                f.write_str(name)?;
                if fields.is_empty() {
                    return if name.is_empty() { f.write_str("()") } else { Ok(()) };
                }
                f.write_str(if tuple { "(" } else { " { " })?;
                for (at, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if at > 0 { ", " } else { "" })?;
                    if !tuple {
                        write!(f, "{name}: ")?;
                    }
                    write!(f, "{value}")?;
                }
                f.write_str(if tuple { ")" } else { " }" })
            }
            Value::List { items, more } => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at > 0 { ", " } else { "" })?;
                }
                write_more(f, items.is_empty(), *more)?;
                f.write_str("]")
            }
            Value::Map { entries, more } => {
                f.write_str("{")?;
                for (at, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if at > 0 { ", " } else { "" })?;
                }
                write_more(f, entries.is_empty(), *more)?;
                f.write_str("}")
            }
        }
    }
}

fn write_more(f: &mut fmt::Formatter<'_>, none_before: bool, more: u64) -> fmt::Result {
    match (none_before, more) {
        (_, 0) => Ok(()),
        (true, more) => write!(f, "{more} not shown"),
        (false, more) => write!(f, ", {more} more"),
    }
}
