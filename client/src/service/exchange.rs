//! What is left of the answer to a request: decided by the marks of what comes, without any input or output.

use nodeset_bus::log::RequestMark;

/// Which part of an answer a message is; the second word of its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A reply, and more may follow.
    Reply,
    /// The last reply.
    Last,
    /// No reply, and none follows.
    End,
    /// No reply, and none follows: the server gave the request up.
    Abandoned,
}

impl Part {
    const ALL: [Part; 4] = [Part::Reply, Part::Last, Part::End, Part::Abandoned];

    /// The mark of that part of the answer to request `id`.
    pub(super) fn mark(self, id: u64) -> RequestMark {
        RequestMark { id, lane: self as u64 }
    }

    fn of(mark: RequestMark) -> Option<Part> {
        Part::ALL.into_iter().find(|part| *part as u64 == mark.lane)
    }
}

/// What a message means to whoever waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A reply.
    Reply,
    /// No reply any more.
    End,
    /// The server gave the request up.
    Abandoned,
    /// Of an earlier request, or nothing that is known here.
    Nothing,
}

/// One request, from when it was sent.
#[derive(Debug)]
pub(super) struct Exchange {
    id: u64,
    /// Nothing more follows.
    over: bool,
}

impl Exchange {
    pub(super) fn new(id: u64) -> Exchange {
        Exchange { id, over: false }
    }

    /// Whether nothing more follows.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The server went, or it is not waited for any longer.
    pub(super) fn finish(&mut self) {
        self.over = true;
    }

    /// A message came from the server that was asked.
    pub(super) fn hear(&mut self, mark: RequestMark) -> Heard {
        if mark.id != self.id || self.over {
            return Heard::Nothing;
        }
        let Some(part) = Part::of(mark) else { return Heard::Nothing };
        self.over = part != Part::Reply;
        match part {
            Part::Reply | Part::Last => Heard::Reply,
            Part::End => Heard::End,
            Part::Abandoned => Heard::Abandoned,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_ends_once() {
        let mut exchange = Exchange::new(3);
        assert_eq!(exchange.hear(Part::Reply.mark(3)), Heard::Reply);
        assert_eq!(exchange.hear(Part::Reply.mark(3)), Heard::Reply);
        assert!(!exchange.is_over());
        assert_eq!(exchange.hear(Part::End.mark(3)), Heard::End);
        assert!(exchange.is_over());
        assert_eq!(exchange.hear(Part::Reply.mark(3)), Heard::Nothing);
    }

    #[test]
    fn the_last_reply_is_one_and_the_end() {
        let mut exchange = Exchange::new(3);
        assert_eq!(exchange.hear(Part::Last.mark(3)), Heard::Reply);
        assert!(exchange.is_over());
    }

    #[test]
    fn what_is_given_up_is_said() {
        let mut exchange = Exchange::new(3);
        assert_eq!(exchange.hear(Part::Abandoned.mark(3)), Heard::Abandoned);
        assert!(exchange.is_over());
    }

    proptest! {
        /// Whatever comes between, an exchange hears exactly what belongs to it, up to its end.
        #[test]
        fn only_its_own_parts_count(marks in prop::collection::vec((0_u64..4, 0_u64..6), 0..40)) {
            let mut exchange = Exchange::new(2);
            let (mut replies, mut ended) = (0, false);
            for &(id, lane) in &marks {
                let heard = exchange.hear(RequestMark { id, lane });
                let own = id == 2 && lane < 4 && !ended;
                prop_assert_eq!(heard == Heard::Nothing, !own);
                ended |= own && lane != 0;
                prop_assert_eq!(exchange.is_over(), ended);
                replies += usize::from(heard == Heard::Reply);
            }
            let own = marks.iter().filter(|(id, lane)| *id == 2 && *lane < 4).map(|(_, lane)| *lane);
            let mut expected = 0;
            for lane in own {
                expected += usize::from(lane < 2);
                if lane != 0 {
                    break;
                }
            }
            prop_assert_eq!(replies, expected);
        }
    }
}
