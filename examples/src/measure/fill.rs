//! How a payload is filled by its sender and summed by its receiver.
//!
//! The first eight bytes are the sequence number, the rest repeats one word that depends on it, so a message that is
//! late, torn or of an earlier lap has another sum. The limits and NodeSet use these same two functions: what they
//! differ in is how the bytes travel.

const WORD: usize = size_of::<u64>();

/// The word that fills message `sequence`; two messages in a row differ in most of its bits.
#[inline]
pub fn pattern(sequence: u64) -> u64 {
    sequence.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Fills `bytes`: sequence, then pattern; of less than eight bytes, as much of the sequence as fits.
#[inline(always)]
pub fn fill(bytes: &mut [u8], sequence: u64) {
    // A program knows how long its messages are: so does the compiler, for the usual ones.
    match <&mut [u8; 64]>::try_from(&mut *bytes) {
        Ok(short) => fill_any(short, sequence),
        Err(_) => fill_any(bytes, sequence),
    }
}

#[inline(always)]
fn fill_any(bytes: &mut [u8], sequence: u64) {
    let Some((head, rest)) = bytes.split_first_chunk_mut::<WORD>() else {
        let whole = sequence.to_le_bytes();
        bytes.iter_mut().zip(whole).for_each(|(byte, value)| *byte = value);
        return;
    };
    *head = sequence.to_le_bytes();
    let pattern = pattern(sequence).to_le_bytes();
    let mut words = rest.chunks_exact_mut(WORD);
    for word in &mut words {
        word.copy_from_slice(&pattern);
    }
    words.into_remainder().iter_mut().zip(pattern).for_each(|(byte, value)| *byte = value);
}

/// The sequence number in a payload, as far as it fits there.
#[inline(always)]
pub fn sequence(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<WORD>() {
        Some(head) => u64::from_le_bytes(*head),
        None => bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    }
}

/// Adds up all words of a payload behind the sequence number, then the bytes that are left.
#[inline(always)]
pub fn sum(bytes: &[u8]) -> u64 {
    let Some((_, rest)) = bytes.split_first_chunk::<WORD>() else { return 0 };
    let words = rest.chunks_exact(WORD);
    let tail: u64 = words.remainder().iter().map(|byte| u64::from(*byte)).sum();
    words.fold(tail, |sum, word| {
        sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("chunks of eight have eight bytes")))
    })
}

/// What [`sum`] finds in an intact payload of `len` bytes with number `sequence`.
#[inline(always)]
pub fn expected_sum(len: usize, sequence: u64) -> u64 {
    let rest = len.saturating_sub(WORD);
    let pattern = pattern(sequence);
    let tail: u64 = pattern.to_le_bytes()[..rest % WORD].iter().map(|byte| u64::from(*byte)).sum();
    pattern.wrapping_mul((rest / WORD) as u64).wrapping_add(tail)
}

/// Whether a payload is message `sequence`, whole and unharmed.
#[inline(always)]
pub fn is_intact(bytes: &[u8], sequence: u64) -> bool {
    match <&[u8; 64]>::try_from(bytes) {
        Ok(short) => is_intact_any(short, sequence),
        Err(_) => is_intact_any(bytes, sequence),
    }
}

#[inline(always)]
fn is_intact_any(bytes: &[u8], sequence: u64) -> bool {
    let expected = match bytes.len() {
        len if len < WORD => sequence & ((1u64 << (8 * len)) - 1),
        _ => sequence,
    };
    self::sequence(bytes) == expected && sum(bytes) == expected_sum(bytes.len(), sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(len: usize, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0xaa; len];
        fill(&mut bytes, sequence);
        bytes
    }

    #[test]
    fn what_was_filled_is_intact_at_every_length() {
        for len in 1..200 {
            for number in [0, 1, 255, 256, 77_777, u64::MAX] {
                assert!(is_intact(&filled(len, number), number), "length {len}, number {number}");
            }
        }
    }

    #[test]
    fn one_changed_byte_is_found() {
        for len in [1, 7, 8, 9, 16, 64, 100] {
            for at in 0..len {
                let mut bytes = filled(len, 41);
                bytes[at] ^= 4;
                assert!(!is_intact(&bytes, 41), "length {len}, byte {at}");
            }
        }
    }

    #[test]
    fn a_message_that_is_half_its_predecessor_is_found() {
        let (mut torn, next) = (filled(1024, 7), filled(1024, 8));
        torn[..512].copy_from_slice(&next[..512]);
        assert!(!is_intact(&torn, 7) && !is_intact(&torn, 8));
    }
}
