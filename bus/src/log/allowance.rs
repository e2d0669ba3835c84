//! Whether a log may touch memory that it has never touched: asked of the system in large steps, so that asking costs little
//! beside the touching.

/// bytes; asked for at a time.
const STEP: u64 = 1 << 20;

/// What a log may still touch.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// bytes that may be touched without asking again
    granted: u64,
    /// Says how many bytes are left for all; `None`: nobody limits them.
    left: Option<fn() -> u64>,
    refused: bool,
}

impl Allowance {
    /// For a log whose own limit is the only one.
    pub(crate) fn unlimited() -> Allowance {
        Allowance { granted: 0, left: None, refused: false }
    }

    /// For one that asks `left` how many bytes there are.
    pub(crate) fn asking(left: fn() -> u64) -> Allowance {
        Allowance { left: Some(left), ..Allowance::unlimited() }
    }

    /// Takes that many bytes, if there are so many.
    pub(crate) fn take(&mut self, bytes: u64) -> bool {
        let Some(left) = self.left else { return true };
        if bytes > self.granted {
            self.granted = bytes.max(STEP).min(left());
        }
        self.refused = bytes > self.granted;
        if !self.refused {
            self.granted -= bytes;
        }
        !self.refused
    }

    /// Whether the last request was refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static LEFT: Cell<u64> = const { Cell::new(0) };
        static ASKED: Cell<u32> = const { Cell::new(0) };
    }

    fn left() -> u64 {
        ASKED.set(ASKED.get() + 1);
        LEFT.get()
    }

    #[test]
    fn it_asks_in_steps_and_refuses_what_is_not_there() {
        let mut allowance = Allowance::asking(left);
        LEFT.set(10 << 20);
        for _ in 0..16 {
            assert!(allowance.take(64 << 10));
        }
        assert_eq!(ASKED.get(), 1, "16 blocks are one step");
        assert!(allowance.take(3 << 20), "more than a step");
        LEFT.set((1 << 20) - 1);
        assert!(!allowance.take(1 << 20));
        assert!(allowance.is_refused());
        assert!(allowance.take(64 << 10), "what is there can be had");
        assert!(!allowance.is_refused());
        LEFT.set(0);
        assert!(allowance.take(64 << 10), "granted before");
        assert!(Allowance::unlimited().take(u64::MAX));
    }
}
