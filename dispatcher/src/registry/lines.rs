//! Which lines of a node page and which words of its signal pages are taken.

use std::collections::{BTreeSet, VecDeque};

use nodeset_bus::page::{LINES, SLOTS};

/// The lines of one node page that the dispatcher assigns.
#[derive(Debug)]
pub(super) struct Lines {
    /// One row a line that was ever taken, and those below it.
    rows: Vec<Row>,
    /// Rows that are not taken.
    free: BTreeSet<u32>,
    /// The tag before the first one of each line.
    before_first: u16,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    /// The last tag given.
    tag: u16,
    taken: bool,
}

impl Lines {
    /// All free. `before_first` is anything for a page of which it is not known which tags it has seen.
    pub(super) fn new(before_first: u16) -> Lines {
        Lines { rows: Vec::new(), free: BTreeSet::new(), before_first }
    }

    /// Takes a line under a tag that it did not have last; `None` when all are taken.
    pub(super) fn take(&mut self) -> Option<(u32, u16)> {
        let line = match self.free.pop_first() {
            Some(line) => line,
            None => {
                let line = u32::try_from(self.rows.len()).ok().filter(|&line| line < LINES)?;
                self.rows.push(Row { tag: self.before_first, taken: false });
                line
            }
        };
        let row = &mut self.rows[line as usize];
        // 0 says that a word is empty.
        row.tag = row.tag.checked_add(1).unwrap_or(1);
        row.taken = true;
        Some((line, row.tag))
    }

    /// Takes that very line; false when somebody has it, or there is no such line or tag.
    pub(super) fn reserve(&mut self, line: u32, tag: u16) -> bool {
        if line >= LINES || tag == 0 {
            return false;
        }
        while self.rows.len() <= line as usize {
            self.free.insert(self.rows.len() as u32);
            self.rows.push(Row { tag: self.before_first, taken: false });
        }
        if !self.free.remove(&line) {
            return false;
        }
        self.rows[line as usize] = Row { tag, taken: true };
        true
    }

    /// The lines that are taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> impl Iterator<Item = u32> + '_ {
        self.rows.iter().zip(0..).filter(|(row, _)| row.taken).map(|(_, line)| line)
    }

    /// Gives a line back.
    pub(super) fn release(&mut self, line: u32) {
        if let Some(row) = self.rows.get_mut(line as usize).filter(|row| row.taken) {
            row.taken = false;
            self.free.insert(line);
        }
    }
}

/// Free slots that rest before one is used again: late readers of an ended publication disturb nobody, and a node that
/// often changes its publications does not touch its whole signal page.
const RESTING: usize = 64;

/// The words of a node's signal pages, one a publication.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Slots that were ever taken are below it.
    touched: u32,
    /// The one that has been free longest comes first.
    free: VecDeque<u32>,
}

impl Slots {
    /// Takes a slot; `None` when all are taken.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.free.len() < RESTING && self.touched < SLOTS {
            self.touched += 1;
            return Some(self.touched - 1);
        }
        self.free.pop_front()
    }

    /// Takes that very slot; false when somebody has it or there is none such.
    pub(super) fn reserve(&mut self, slot: u32) -> bool {
        if slot >= SLOTS {
            return false;
        }
        while self.touched <= slot {
            self.free.push_back(self.touched);
            self.touched += 1;
        }
        match self.free.iter().position(|&free| free == slot) {
            Some(at) => self.free.remove(at).is_some(),
            None => false,
        }
    }

    /// Gives a slot back.
    pub(super) fn release(&mut self, slot: u32) {
        self.free.push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_under_another_tag() {
        let mut lines = Lines::new(u16::MAX);
        assert_eq!(lines.take(), Some((0, 1)));
        assert_eq!(lines.take(), Some((1, 1)));
        lines.release(0);
        assert_eq!(lines.take(), Some((0, 2)));
        assert!(!lines.reserve(1, 7), "taken");
        assert!(!lines.reserve(5, 0), "0 is no tag");
        assert!(!lines.reserve(LINES, 1), "no such line");
        assert!(lines.reserve(5, u16::MAX));
        lines.release(5);
        assert_eq!(lines.take(), Some((2, 1)));
        lines.reserve(3, 1);
        lines.reserve(4, 1);
        assert_eq!(lines.take(), Some((5, 1)), "the tag after the last is the first, never 0");
    }

    #[test]
    fn lines_run_out() {
        let mut lines = Lines::new(0);
        for line in 0..LINES {
            assert_eq!(lines.take(), Some((line, 1)));
        }
        assert_eq!(lines.take(), None);
        lines.release(17);
        assert_eq!(lines.take(), Some((17, 2)));
    }

    #[test]
    fn slots_rest_before_they_are_used_again() {
        let mut slots = Slots::default();
        assert_eq!(slots.take(), Some(0));
        slots.release(0);
        assert_eq!(slots.take(), Some(1));
        assert!(slots.reserve(0));
        assert!(!slots.reserve(0));
        assert!(!slots.reserve(SLOTS));
        assert!(slots.reserve(100));
        assert_eq!(slots.take(), Some(2), "98 others are free");
        while slots.free.len() >= RESTING {
            slots.take();
        }
        assert_eq!(slots.take(), Some(101));
    }

    #[test]
    fn slots_run_out() {
        let mut slots = Slots::default();
        for slot in 0..SLOTS {
            assert_eq!(slots.take(), Some(slot));
        }
        assert_eq!(slots.take(), None);
        slots.release(9);
        assert_eq!(slots.take(), Some(9));
    }
}
