//! What a frame of a stream says beside its bytes. Most say nothing, and pay nothing for it.

use nodeset_bus::log::{Extensions, RequestMark};

/// First word of the mark of an item that others were left out before.
const LEFT_OUT: u64 = u64::from_le_bytes(*b"left-out");
/// First word of the mark of the end, which has no bytes.
const FINISHED: u64 = u64::from_le_bytes(*b"finished");

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// An item.
    Item {
        /// Items that were left out directly before it.
        missed: u64,
    },
    /// The sender said everything.
    Finished {
        /// Items that were left out directly before the end.
        missed: u64,
    },
}

impl Mark {
    pub(super) fn extensions(self) -> Extensions {
        let request = match self {
            Mark::Item { missed: 0 } => None,
            Mark::Item { missed } => Some(RequestMark { id: LEFT_OUT, lane: missed }),
            Mark::Finished { missed } => Some(RequestMark { id: FINISHED, lane: missed }),
        };
        Extensions { request, ..Extensions::NONE }
    }

    /// Of what came from another process: anything that is not known here is an item.
    pub(super) fn of(extensions: Extensions) -> Mark {
        match extensions.request {
            Some(RequestMark { id: LEFT_OUT, lane }) => Mark::Item { missed: lane },
            Some(RequestMark { id: FINISHED, lane }) => Mark::Finished { missed: lane },
            _ => Mark::Item { missed: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        for missed in [0, 1, u64::MAX] {
            for mark in [Mark::Item { missed }, Mark::Finished { missed }] {
                assert_eq!(Mark::of(mark.extensions()), mark);
            }
        }
        assert_eq!(Mark::Item { missed: 0 }.extensions(), Extensions::NONE, "a plain item costs nothing");
        let unknown = Extensions { request: Some(RequestMark { id: 7, lane: 9 }), ..Extensions::NONE };
        assert_eq!(Mark::of(unknown), Mark::Item { missed: 0 });
    }
}
