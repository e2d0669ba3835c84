//! [`Lz4`]: bytes that are compressed on their way.

use nodeset_bus::message::{Message, Schema};
use rkyv::{Archive, Deserialize, Serialize};

use super::codec::{Codec, CodecError};

/// bytes; of an item, unless asked otherwise
const LIMIT: usize = 16 << 20;
/// bytes; length of the item, before the block
const HEADER: usize = 8;
/// No LZ4 block grows by more than that.
const MOST_GROWTH: usize = 255;

/// Bytes, compressed as one LZ4 block each. Worth it for items of some hundred bytes and more that repeat themselves, where
/// room in the lane is scarcer than the senders' and receivers' time. With the crate's feature `lz4`, which is on by default.
///
/// A length that does not follow from what came, or is beyond the limit, is an error before any memory is taken for it.
///
/// ```
/// use nodeset::{Codec, Lz4};
///
/// let (mut sender, mut receiver) = (Lz4::default(), Lz4::default());
/// let packed = sender.encode(&[7; 1000])?;
/// assert!(packed.len() < 100);
/// assert_eq!(receiver.decode(packed)?, [7; 1000]);
/// # Ok::<(), nodeset::CodecError>(())
/// ```
#[derive(Debug)]
pub struct Lz4 {
    /// What was encoded or decoded last.
    buffer: Vec<u8>,
    /// bytes; longest item
    limit: usize,
}

impl Default for Lz4 {
    fn default() -> Lz4 {
        Lz4::with_limit(LIMIT)
    }
}

impl Lz4 {
    /// Items of at most so many bytes; 16 MiB by default. Both ends need the same, or the receiver's a larger one.
    ///
    /// ```
    /// use nodeset::{Codec, Lz4};
    ///
    /// let mut codec = Lz4::with_limit(1000);
    /// assert!(codec.encode(&[7; 1000]).is_ok());
    /// assert!(codec.encode(&[7; 1001]).is_err());
    /// ```
    pub fn with_limit(bytes: usize) -> Lz4 {
        Lz4 { buffer: Vec::new(), limit: bytes }
    }

    /// At least so many bytes to write to.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        &mut self.buffer[..len]
    }

    /// The length that the header says, if it can be.
    fn len_of(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let header = bytes.first_chunk::<HEADER>()?;
        let len = usize::try_from(u64::from_le_bytes(*header)).ok()?;
        let most = (bytes.len() - HEADER).saturating_mul(MOST_GROWTH);
        (len <= most).then_some((len, HEADER))
    }

    fn check(&self, len: usize) -> Result<(), CodecError> {
        if len <= self.limit {
            return Ok(());
        }
        Err(CodecError::new(format_args!(
            "an item of {len} bytes, and the limit is {}: raise it at both ends",
            self.limit
        )))
    }
}

/// Only its description is used: what tells these streams from those of plain bytes.
#[derive(Archive, Serialize, Deserialize, Message)]
#[message(crate = "crate")]
struct Lz4Block {
    #[allow(dead_code, reason = "see above")]
    item_len: u64,
}

impl Codec for Lz4 {
    type Item = [u8];
    type View<'a> = &'a [u8];

    fn schema(&self) -> Schema {
        Lz4Block::schema()
    }

    fn encode<'a>(&'a mut self, item: &'a [u8]) -> Result<&'a [u8], CodecError> {
        self.check(item.len())?;
        let room = self.room(HEADER + lz4_flex::block::get_maximum_output_size(item.len()));
        let (header, block) = room.split_at_mut(HEADER);
        header.copy_from_slice(&(item.len() as u64).to_le_bytes());
        let len = lz4_flex::block::compress_into(item, block).map_err(CodecError::new)?;
        Ok(&self.buffer[..HEADER + len])
    }

    fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> Result<&'a [u8], CodecError> {
        let damaged = || CodecError::new("no item: its length does not fit to its bytes");
        let (len, block_at) = self.len_of(bytes).ok_or_else(damaged)?;
        self.check(len)?;
        let found = lz4_flex::block::decompress_into(&bytes[block_at..], self.room(len)).map_err(CodecError::new)?;
        if found == len { Ok(&self.buffer[..len]) } else { Err(damaged()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_that_was_made_up_takes_no_memory() {
        let mut receiver = Lz4::with_limit(1000);
        for len in [u64::MAX, 1 << 40, 1001, 256] {
            let mut bytes = len.to_le_bytes().to_vec();
            bytes.push(0);
            assert!(receiver.decode(&bytes).is_err());
            assert_eq!(receiver.buffer.capacity(), 0, "{len}");
        }
        let long = Lz4::default().encode(&[1; 1001]).unwrap().to_vec();
        assert!(receiver.decode(&long).unwrap_err().to_string().contains("the limit is 1000"));
        assert_eq!(receiver.buffer.capacity(), 0);
    }

    proptest! {
        #[test]
        fn items_come_back(item in prop::collection::vec(0_u8..4, 0..5000)) {
            let (mut sender, mut receiver) = (Lz4::default(), Lz4::default());
            let packed = sender.encode(&item).unwrap();
            prop_assert_eq!(receiver.decode(packed).unwrap(), &item[..]);
        }

        #[test]
        fn any_bytes_are_an_item_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), len in 0_u64..2000) {
            let mut receiver = Lz4::default();
            let _ = receiver.decode(&bytes);
            let _ = receiver.decode(&[&len.to_le_bytes()[..], &bytes].concat());
            prop_assert!(receiver.buffer.len() <= 255 * bytes.len());
        }
    }
}
