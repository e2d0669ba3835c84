//! Node pages and signal pages: the small segments beside the logs.
//!
//! A *node page* is written by its node alone: its state, whether it sleeps, and a 64-byte line a link, in which the
//! subscriber says what it still needs of a log. A *signal page* is written by a publisher node and by the subscribers of
//! one user; it carries one `wake_wanted` word a publication and nothing on which memory safety depends.

/// How many lines a node page has.
const ALL_LINES: u32 = 65_536;
/// Lines that the dispatcher may assign to links: `0..LINES`. Those above are the node's own, for links that hold samples in
/// many blocks.
pub const LINES: u32 = ALL_LINES / 2;
/// Bytes of a node page's header.
const LINES_AT: usize = 4096;
/// Bytes of a line: one cache line.
const LINE_LEN: usize = 64;
/// Bytes of a node page; untouched pages cost no memory.
pub const NODE_PAGE_LEN: u64 = LINES_AT as u64 + ALL_LINES as u64 * LINE_LEN as u64;
/// How many publications a node can have: words of a signal page.
pub const SLOTS: u32 = 65_536;
/// Bytes of a signal page; untouched pages cost no memory.
pub const SIGNAL_PAGE_LEN: u64 = 4096 + SLOTS as u64 * 64;
