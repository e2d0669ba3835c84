//! How far a list of (header, payload) pairs is written, when a socket takes only a part at a time.

use std::io::IoSlice;

/// Slices of one `writev`: 32 pairs. More gain nothing, since by then the call costs little beside the bytes.
pub const SLICES: usize = 64;

/// A place in a list of pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pairs: usize,
    /// bytes of the pair at `pairs`; 0 <= bytes < its length, or 0
    bytes: usize,
}

impl Progress {
    /// So many pairs are done.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// bytes; of the pair that was begun and is not done
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a pair was begun and is not done: it has to come next, unchanged.
    pub fn is_within_a_pair(&self) -> bool {
        self.bytes > 0
    }

    /// The done pairs were taken off the front of the list.
    pub fn forget(&mut self) {
        self.pairs = 0;
    }

    /// Fills `slices` with what comes next, and says how many it filled; 0: all is done. Empty slices are left out.
    pub(super) fn gather<'a>(&self, pairs: &[(&'a [u8], &'a [u8])], slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut skip = self.bytes;
        let mut count = 0;
        for part in pairs[self.pairs.min(pairs.len())..].iter().flat_map(|&(header, payload)| [header, payload]) {
            let rest = &part[skip.min(part.len())..];
            skip -= part.len() - rest.len();
            if rest.is_empty() {
                continue;
            }
            if count == SLICES {
                break;
            }
            slices[count] = IoSlice::new(rest);
            count += 1;
        }
        count
    }

    /// `taken` more bytes are written.
    pub(super) fn advance(&mut self, pairs: &[(&[u8], &[u8])], taken: usize) {
        self.bytes += taken;
        while let Some((header, payload)) = pairs.get(self.pairs) {
            let len = header.len() + payload.len();
            if self.bytes < len {
                break;
            }
            self.bytes -= len;
            self.pairs += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a socket takes at a time, each byte is offered once and in order.
        #[test]
        fn every_byte_goes_once_and_in_order(
            pairs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..60)), 0..80),
            takes in prop::collection::vec(1_usize..200, 1..20),
        ) {
            let pairs: Vec<(&[u8], &[u8])> = pairs.iter().map(|(header, payload)| (&header[..], &payload[..])).collect();
            let expected: Vec<u8> = pairs.iter().flat_map(|(header, payload)| [*header, *payload]).flatten().copied().collect();
            let (mut progress, mut written, mut takes) = (Progress::default(), Vec::new(), takes.iter().cycle());
            loop {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = progress.gather(&pairs, &mut slices);
                if count == 0 {
                    break;
                }
                let offered: Vec<u8> = slices[..count].iter().flat_map(|it| it.iter().copied()).collect();
                let take = takes.next().copied().unwrap_or(1).min(offered.len());
                written.extend_from_slice(&offered[..take]);
                progress.advance(&pairs, take);
            }
            prop_assert_eq!(written, expected);
            prop_assert!(!progress.is_within_a_pair());
        }
    }

    #[test]
    fn pairs_that_are_done_can_be_left_out() {
        let pairs: [(&[u8], &[u8]); 2] = [(b"ab", b"cd"), (b"ef", b"gh")];
        let mut progress = Progress::default();
        progress.advance(&pairs, 5);
        assert_eq!((progress.pairs(), progress.is_within_a_pair()), (1, true));
        progress.forget();
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = progress.gather(&pairs[1..], &mut slices);
        assert_eq!(slices[..count].iter().map(|it| &**it).collect::<Vec<_>>().concat(), b"fgh");
    }
}
