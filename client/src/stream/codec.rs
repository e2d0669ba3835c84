//! How the items of a stream become bytes, and bytes items again.

use std::fmt;
use std::marker::PhantomData;

use nodeset_bus::message::{Message, Schema};
use rkyv::api::high::HighSerializer;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;

/// How the items of a stream become bytes, and bytes items again. Sender and receivers have one each.
///
/// ```
/// use nodeset::{Codec, CodecError, Schema};
///
/// /// Text in capitals.
/// #[derive(Default)]
/// struct Capitals(String);
///
/// impl Codec for Capitals {
///     type Item = str;
///     type View<'a> = &'a str;
///
///     fn schema(&self) -> Schema {
///         Schema::text()
///     }
///
///     fn encode<'a>(&'a mut self, item: &'a str) -> Result<&'a [u8], CodecError> {
///         self.0 = item.to_uppercase();
///         Ok(self.0.as_bytes())
///     }
///
///     fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> Result<&'a str, CodecError> {
///         std::str::from_utf8(bytes).map_err(CodecError::new)
///     }
/// }
///
/// let mut capitals = Capitals::default();
/// assert_eq!(capitals.encode("low")?, b"LOW");
/// # Ok::<(), CodecError>(())
/// ```
pub trait Codec {
    /// What is pushed.
    type Item: ?Sized;
    /// What a receiver sees.
    type View<'a>
    where
        Self: 'a;

    /// What the bytes are: a sender and a receiver that do not say the same are not brought together.
    fn schema(&self) -> Schema;

    /// The bytes of an item, in the codec's own memory or the item's. Called once an item, however many receive it.
    ///
    /// # Errors
    ///
    /// When it has none; it is not sent then.
    fn encode<'a>(&'a mut self, item: &'a Self::Item) -> Result<&'a [u8], CodecError>;

    /// The item of such bytes, which are 16-byte aligned, in place or in the codec's own memory. Another process wrote them: they
    /// may be anything, and must neither panic nor make the codec take memory without bound.
    ///
    /// # Errors
    ///
    /// When they are no item.
    fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Self::View<'a>, CodecError>;
}

/// Why an item could not be encoded or decoded.
///
/// ```
/// use nodeset::CodecError;
///
/// let digits = |bytes| std::str::from_utf8(bytes).map_err(CodecError::new)?.parse::<u32>().map_err(CodecError::new);
/// assert_eq!(digits(b"42"), Ok(42));
/// assert_eq!(digits(b"many").unwrap_err().to_string(), "invalid digit found in string");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(String);

impl CodecError {
    /// With that reason.
    ///
    /// ```
    /// use nodeset::CodecError;
    ///
    /// assert_eq!(CodecError::new("its length is odd").to_string(), "its length is odd");
    /// ```
    pub fn new(reason: impl fmt::Display) -> CodecError {
        CodecError(reason.to_string())
    }
}

/// Bytes as they are. Nothing is copied at the receiver.
///
/// ```
/// use nodeset::{Bytes, Codec};
///
/// assert_eq!(Bytes.encode(b"as it is")?, b"as it is");
/// # Ok::<(), nodeset::CodecError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Bytes;

impl Codec for Bytes {
    type Item = [u8];
    type View<'a> = &'a [u8];

    fn schema(&self) -> Schema {
        Schema::bytes()
    }

    fn encode<'a>(&'a mut self, item: &'a [u8]) -> Result<&'a [u8], CodecError> {
        Ok(item)
    }

    fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> Result<&'a [u8], CodecError> {
        Ok(bytes)
    }
}

/// Typed messages: archived by rkyv, checked, then seen in place.
///
/// ```
/// use nodeset::{Node, Typed};
///
/// let node = Node::builder("counter").instance("doc-typed").embedded().connect()?;
/// let mut receiver = node.stream_receiver("count").codec(Typed::<u32>::new()).create()?;
/// let mut sender = node.stream("count").codec(Typed::<u32>::new()).create()?;
/// sender.push(&7)?;
/// assert_eq!(**receiver.receive()?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Typed<T> {
    /// The item that was encoded last.
    buffer: AlignedVec,
    items: PhantomData<fn(&T)>,
}

impl<T> Typed<T> {
    /// Allocates nothing before the first item.
    pub fn new() -> Typed<T> {
        Typed { buffer: AlignedVec::new(), items: PhantomData }
    }
}

impl<T> Default for Typed<T> {
    fn default() -> Typed<T> {
        Typed::new()
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").finish_non_exhaustive()
    }
}

impl<T> Codec for Typed<T>
where
    T: Message + for<'a> rkyv::Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    type Item = T;
    type View<'a>
        = &'a T::View
    where
        Self: 'a;

    fn schema(&self) -> Schema {
        T::schema()
    }

    fn encode<'a>(&'a mut self, item: &'a T) -> Result<&'a [u8], CodecError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.buffer = rkyv::api::high::to_bytes_in::<_, rancor::Error>(item, buffer).map_err(CodecError::new)?;
        Ok(&self.buffer)
    }

    fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> Result<&'a T::View, CodecError> {
        T::view(bytes).map_err(CodecError::new)
    }
}
