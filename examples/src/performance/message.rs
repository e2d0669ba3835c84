//! What is sent: bytes that are filled in place, or a typed message of the same archived length.

use nodeset::{Message, PublishError, Publisher};
use rkyv::{Archive, Deserialize, Serialize};

use crate::measure::fill;

/// A typed message of 64 bytes: plain numbers, as a pose or a quote would be.
#[derive(Archive, Serialize, Deserialize, Message, Debug, Clone, PartialEq)]
pub struct Short {
    number: u64,
    words: [u64; 7],
}

/// A typed message of any other length: a number and a list.
#[derive(Archive, Serialize, Deserialize, Message, Debug, Clone, PartialEq)]
pub struct Long {
    number: u64,
    words: Vec<u64>,
}

/// bytes; what an empty [`Long`] takes
const LONG_EMPTY: usize = 16;

/// Something that carries a sequence number and content that depends on it.
pub trait Payload: Message {
    /// What is kept from message to message, so that filling one allocates nothing.
    type Draft;

    /// A draft for messages of `size` bytes; `None` when there are none of that size.
    fn draft(size: usize) -> Option<Self::Draft>;

    /// Publishes message `number`.
    fn publish(publisher: &mut Publisher<Self>, draft: &mut Self::Draft, number: u64) -> Result<(), PublishError>;

    /// Publishes the message that ends a run.
    fn publish_end(publisher: &mut Publisher<Self>) -> Result<(), PublishError>;

    /// Whether it is that one.
    fn is_end(view: &Self::View) -> bool;

    /// Its number. A few bytes hold only a part of one.
    fn number(view: &Self::View) -> u64;

    /// Reads all of it: whether it is message `number`, whole and unharmed.
    fn is_intact(view: &Self::View, number: u64) -> bool;
}

impl Payload for [u8] {
    type Draft = usize;

    fn draft(size: usize) -> Option<usize> {
        Some(size)
    }

    #[inline(always)]
    fn publish(publisher: &mut Publisher<[u8]>, size: &mut usize, number: u64) -> Result<(), PublishError> {
        let mut loan = publisher.loan_uninit(*size)?;
        fill::fill(&mut loan, number);
        loan.send();
        Ok(())
    }

    fn publish_end(publisher: &mut Publisher<[u8]>) -> Result<(), PublishError> {
        publisher.publish(&[]).map(drop)
    }

    #[inline(always)]
    fn is_end(view: &[u8]) -> bool {
        view.is_empty()
    }

    #[inline]
    fn number(view: &[u8]) -> u64 {
        fill::sequence(view)
    }

    #[inline(always)]
    fn is_intact(view: &[u8], number: u64) -> bool {
        fill::is_intact(view, number)
    }
}

/// The number of the message that ends a run.
const END: u64 = u64::MAX;

impl Payload for Short {
    type Draft = ();

    fn draft(size: usize) -> Option<()> {
        (size == size_of::<Short>()).then_some(())
    }

    #[inline(always)]
    fn publish(publisher: &mut Publisher<Short>, _draft: &mut (), number: u64) -> Result<(), PublishError> {
        publisher.publish(&Short { number, words: [fill::pattern(number); 7] }).map(drop)
    }

    fn publish_end(publisher: &mut Publisher<Short>) -> Result<(), PublishError> {
        publisher.publish(&Short { number: END, words: [0; 7] }).map(drop)
    }

    #[inline(always)]
    fn is_end(view: &ArchivedShort) -> bool {
        view.number == END
    }

    #[inline]
    fn number(view: &ArchivedShort) -> u64 {
        view.number.to_native()
    }

    #[inline(always)]
    fn is_intact(view: &ArchivedShort, number: u64) -> bool {
        let sum = view.words.iter().fold(0_u64, |sum, word| sum.wrapping_add(word.to_native()));
        view.number == number && sum == fill::pattern(number).wrapping_mul(7)
    }
}

impl Payload for Long {
    type Draft = Long;

    fn draft(size: usize) -> Option<Long> {
        let words = size.checked_sub(LONG_EMPTY).filter(|bytes| bytes % 8 == 0)? / 8;
        Some(Long { number: 0, words: vec![0; words] })
    }

    #[inline(always)]
    fn publish(publisher: &mut Publisher<Long>, draft: &mut Long, number: u64) -> Result<(), PublishError> {
        draft.number = number;
        draft.words.fill(fill::pattern(number));
        publisher.publish(draft).map(drop)
    }

    fn publish_end(publisher: &mut Publisher<Long>) -> Result<(), PublishError> {
        publisher.publish(&Long { number: END, words: Vec::new() }).map(drop)
    }

    #[inline(always)]
    fn is_end(view: &ArchivedLong) -> bool {
        view.number == END
    }

    #[inline]
    fn number(view: &ArchivedLong) -> u64 {
        view.number.to_native()
    }

    #[inline(always)]
    fn is_intact(view: &ArchivedLong, number: u64) -> bool {
        let sum = view.words.iter().fold(0_u64, |sum, word| sum.wrapping_add(word.to_native()));
        view.number == number && sum == fill::pattern(number).wrapping_mul(view.words.len() as u64)
    }
}

/// Whether a typed message can have that many bytes.
pub fn has_typed(size: usize) -> bool {
    Short::draft(size).is_some() || Long::draft(size).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_messages_have_the_length_that_is_said() {
        let len = |size: usize| {
            let draft = Long::draft(size).unwrap();
            rkyv::to_bytes::<rkyv::rancor::Error>(&draft).unwrap().len()
        };
        for size in [16, 24, 64, 1024, 1 << 20] {
            assert_eq!(len(size), size);
        }
        let short = Short { number: 0, words: [0; 7] };
        assert_eq!(rkyv::to_bytes::<rkyv::rancor::Error>(&short).unwrap().len(), 64);
        assert!(has_typed(64) && !has_typed(65) && !has_typed(8));
    }
}
