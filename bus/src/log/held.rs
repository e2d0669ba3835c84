//! Blocks held for owned samples: one `held` word a block, counted inside the process.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use crate::atomics::{Fact, Words};
use crate::line::{MAX_HELD, OwnLine};
use crate::page::NodePage;

use super::layout;
use super::links::Ring;

/// A link holds samples in too many blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("samples of this subscriber lie in {limit} blocks already: drop some, or copy what must be kept")]
pub struct TooManyHeld {
    /// blocks
    pub limit: usize,
}

/// What all pins of a link share.
pub(super) struct Held<W: Words> {
    page: Arc<NodePage<W>>,
    line: OwnLine<W>,
    bell: Arc<dyn Ring>,
    log: W,
    words: Mutex<HeldWords>,
    on_released: Option<Box<dyn FnOnce() + Send + Sync>>,
}

struct HeldWords {
    /// Offsets of `held` words that hold nothing.
    free: Vec<usize>,
    /// Where the next further line is named.
    more: usize,
    /// The further lines that were taken.
    further: Vec<u32>,
    /// blocks held now
    in_use: usize,
}

impl<W: Words> Held<W> {
    pub(super) fn new(
        page: Arc<NodePage<W>>,
        line: OwnLine<W>,
        bell: Arc<dyn Ring>,
        log: W,
        on_released: Box<dyn FnOnce() + Send + Sync>,
    ) -> Arc<Held<W>> {
        let words =
            HeldWords { free: line.held_words().collect(), more: line.more_word(), further: Vec::new(), in_use: 0 };
        Arc::new(Held { page, line, bell, log, words: Mutex::new(words), on_released: Some(on_released) })
    }

    /// Holds `generation`, which `at` names: the word is stored before `at` moves.
    pub(super) fn pin(self: &Arc<Self>, generation: u64) -> Result<Arc<Pin<W>>, TooManyHeld> {
        let word = self.take_word()?;
        self.line.hold(word, generation);
        Ok(Arc::new(Pin { held: Arc::clone(self), word }))
    }

    fn take_word(&self) -> Result<usize, TooManyHeld> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.in_use == MAX_HELD {
            return Err(TooManyHeld { limit: MAX_HELD });
        }
        if words.free.is_empty() {
            let line = self.page.take_spare_line().ok_or(TooManyHeld { limit: words.in_use })?;
            let (free, more) = self.line.chain(words.more, line);
            words.further.push(line);
            words.free = free;
            words.more = more;
        }
        words.in_use += 1;
        Ok(words.free.pop().expect("a line has held words"))
    }

    fn give_back(&self, word: usize) {
        self.line.hold(word, 0);
        {
            let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
            words.free.push(word);
            words.in_use -= 1;
        }
        // PAIRS waiting-before-lines: keeps the store to `held` before the load of `waiting`; the producer's side is
        // Producer::arm_room.
        self.line.fence(Fact::LineBeforeWaiting);
        if self.log.load(layout::WAITING_AT) != 0 {
            self.bell.ring();
        }
    }
}

impl<W: Words> Drop for Held<W> {
    fn drop(&mut self) {
        let words = self.words.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The publisher may still follow the chain once: whoever gets these lines writes another tag into them.
        self.page.return_spare_lines(words.further.drain(..));
        if let Some(on_released) = self.on_released.take() {
            on_released();
        }
    }
}

/// Keeps one block of a log, and the log itself, for samples that outlive the cursor's place.
pub struct Pin<W: Words> {
    held: Arc<Held<W>>,
    /// offset of its `held` word in the node page
    word: usize,
}

impl<W: Words> Pin<W> {
    /// The log's words.
    pub fn words(&self) -> &W {
        &self.held.log
    }
}

impl<W: Words> Drop for Pin<W> {
    fn drop(&mut self) {
        self.held.give_back(self.word);
    }
}
