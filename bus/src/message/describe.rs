//! How types describe themselves.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8, NonZeroU16, NonZeroU32,
    NonZeroU64, NonZeroU128, NonZeroUsize,
};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rkyv::Archive;

use super::schema::{Field, Shape, Type};

/// A type that can be part of a message: it says what its archived form consists of.
///
/// Derived by `#[derive(Message)]`; implemented here for what the standard library has and rkyv archives: numbers,
/// `bool`, `char`, `String`, `Option`, `Result`, `Box`, `Rc`, `Arc`, `Vec`, `VecDeque`, arrays, tuples up to twelve,
/// maps and sets, ranges, `Duration` and network addresses. Types of other crates are named by
/// `#[message(opaque = "label/1")]` where they are used.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not describe itself, so it cannot be part of a message",
    label = "not described",
    note = "a type of your own: `#[derive(Archive, Serialize, Deserialize, Message)]`",
    note = "a type of another crate: `#[message(opaque = \"label/1\")]` on the field"
)]
pub trait Describe: Archive + 'static {
    /// The type's name without crate and modules, with its parameters.
    fn name() -> String;

    /// What it consists of; types that it names are added to `types`.
    fn shape(types: &mut Types) -> Shape;
}

/// Collects the types of a message, each once, also where types contain themselves.
#[derive(Debug, Default)]
pub struct Types {
    known: HashMap<TypeId, u32>,
    types: Vec<Type>,
}

impl Types {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn into_types(self) -> Vec<Type> {
        self.types
    }

    /// Adds `T`, and all that it consists of, unless it is there already; returns its index.
    pub fn add<T: Describe>(&mut self) -> u32 {
        if let Some(index) = self.known.get(&TypeId::of::<T>()) {
            return *index;
        }
        let index = self.push::<T::Archived>(T::name(), Shape::Opaque);
        self.known.insert(TypeId::of::<T>(), index);
        let shape = T::shape(self);
        self.types[index as usize].shape = shape;
        index
    }

    fn push<A>(&mut self, name: String, shape: Shape) -> u32 {
        let index = u32::try_from(self.types.len()).expect("fewer types than bytes of memory");
        self.types.push(Type { name, size: size_of::<A>() as u64, align: align_of::<A>() as u32, shape });
        index
    }

    /// The fields of a struct, to be named in the order of their declaration.
    pub fn fields(&mut self) -> Record<'_> {
        Record { types: self, end: 0, fields: Vec::new() }
    }

    /// The fields of an enum's variant: they begin behind the tag.
    pub fn variant_fields(&mut self) -> Record<'_> {
        Record { types: self, end: 1, fields: Vec::new() }
    }
}

/// Collects the fields of a struct or of a variant. Archived types are `repr(C)` and `repr(u8)`: each field comes at the
/// next offset of its alignment.
#[derive(Debug)]
pub struct Record<'a> {
    types: &'a mut Types,
    /// bytes; where the fields so far end
    end: usize,
    fields: Vec<Field>,
}

impl Record<'_> {
    /// The next field, of a type that describes itself.
    #[must_use]
    pub fn field<T: Describe>(self, name: &str) -> Self {
        let of = self.types.add::<T>();
        self.place::<T::Archived>(name, of)
    }

    /// The next field, archived as an `A` that is known by its label only.
    #[must_use]
    pub fn opaque<A>(self, name: &str, label: &str) -> Self {
        let of = self.types.push::<A>(label.to_owned(), Shape::Opaque);
        self.place::<A>(name, of)
    }

    fn place<A>(mut self, name: &str, of: u32) -> Self {
        let offset = self.end.next_multiple_of(align_of::<A>());
        self.end = offset + size_of::<A>();
        self.fields.push(Field { name: name.to_owned(), offset: offset as u64, of });
        self
    }

    /// All fields.
    pub fn finish(self) -> Vec<Field> {
        self.fields
    }
}

macro_rules! primitives {
    ($($type:ident)*) => {$(
        impl Describe for $type {
            fn name() -> String {
                stringify!($type).to_owned()
            }

            fn shape(_: &mut Types) -> Shape {
                Shape::Primitive
            }
        }
    )*};
}

primitives! {
    bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64
    NonZeroU8 NonZeroU16 NonZeroU32 NonZeroU64 NonZeroU128 NonZeroUsize
    NonZeroI8 NonZeroI16 NonZeroI32 NonZeroI64 NonZeroI128 NonZeroIsize
    String Duration
    Ipv4Addr Ipv6Addr IpAddr SocketAddrV4 SocketAddrV6 SocketAddr
}

macro_rules! containers {
    ($($name:ident<$($parameter:ident),*>)*) => {$(
        impl<$($parameter: Describe),*> Describe for $name<$($parameter),*>
        where
            Self: Archive,
        {
            fn name() -> String {
                format!("{}<{}>", stringify!($name), [$($parameter::name()),*].join(", "))
            }

            fn shape(types: &mut Types) -> Shape {
                Shape::Container(vec![$(types.add::<$parameter>()),*])
            }
        }
    )*};
}

containers! {
    Option<T> Result<T, E> Vec<T> VecDeque<T> Box<T> Rc<T> Arc<T> BTreeMap<K, V> BTreeSet<K>
    Range<T> RangeInclusive<T> RangeFrom<T> RangeTo<T> RangeToInclusive<T> Bound<T>
}

impl<K: Describe, V: Describe, S: 'static> Describe for HashMap<K, V, S>
where
    Self: Archive,
{
    fn name() -> String {
        format!("HashMap<{}, {}>", K::name(), V::name())
    }

    fn shape(types: &mut Types) -> Shape {
        Shape::Container(vec![types.add::<K>(), types.add::<V>()])
    }
}

impl<K: Describe, S: 'static> Describe for HashSet<K, S>
where
    Self: Archive,
{
    fn name() -> String {
        format!("HashSet<{}>", K::name())
    }

    fn shape(types: &mut Types) -> Shape {
        Shape::Container(vec![types.add::<K>()])
    }
}

macro_rules! pointers_to_unsized {
    ($($pointer:ident)*) => {$(
        impl<T: Describe> Describe for $pointer<[T]>
        where
            Self: Archive,
        {
            fn name() -> String {
                format!("{}<[{}]>", stringify!($pointer), T::name())
            }

            fn shape(types: &mut Types) -> Shape {
                Shape::Container(vec![types.add::<T>()])
            }
        }

        impl Describe for $pointer<str> {
            fn name() -> String {
                concat!(stringify!($pointer), "<str>").to_owned()
            }

            fn shape(_: &mut Types) -> Shape {
                Shape::Primitive
            }
        }
    )*};
}

pointers_to_unsized! { Box Rc Arc }

impl<T: Describe, const N: usize> Describe for [T; N] {
    fn name() -> String {
        format!("[{}; {N}]", T::name())
    }

    fn shape(types: &mut Types) -> Shape {
        Shape::Array { of: types.add::<T>(), len: N as u64 }
    }
}

impl<T: ?Sized + 'static> Describe for PhantomData<T> {
    fn name() -> String {
        "()".to_owned()
    }

    fn shape(_: &mut Types) -> Shape {
        Shape::Struct(Vec::new())
    }
}

impl Describe for () {
    fn name() -> String {
        "()".to_owned()
    }

    fn shape(_: &mut Types) -> Shape {
        Shape::Struct(Vec::new())
    }
}

macro_rules! tuples {
    ($($type:ident $place:literal),+) => {
        impl<$($type: Describe),+> Describe for ($($type,)+)
        where
            Self: Archive,
        {
            fn name() -> String {
                format!("({})", [$($type::name()),+].join(", "))
            }

            fn shape(types: &mut Types) -> Shape {
                Shape::Struct(types.fields()$(.field::<$type>($place))+.finish())
            }
        }
    };
}

tuples! { A "0" }
tuples! { A "0", B "1" }
tuples! { A "0", B "1", C "2" }
tuples! { A "0", B "1", C "2", D "3" }
tuples! { A "0", B "1", C "2", D "3", E "4" }
tuples! { A "0", B "1", C "2", D "3", E "4", F "5" }
tuples! { A "0", B "1", C "2", D "3", E "4", F "5", G "6" }
tuples! { A "0", B "1", C "2", D "3", E "4", F "5", G "6", H "7" }
tuples! { A "0", B "1", C "2", D "3", E "4", F "5", G "6", H "7", I "8" }
tuples! { A "0", B "1", C "2", D "3", E "4", F "5", G "6", H "7", I "8", J "9" }
tuples! { A "0", B "1", C "2", D "3", E "4", F "5", G "6", H "7", I "8", J "9", K "10" }
tuples! { A "0", B "1", C "2", D "3", E "4", F "5", G "6", H "7", I "8", J "9", K "10", L "11" }
