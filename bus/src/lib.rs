//! What the two ends of a link agree on: segments, the log, wake-ups, messages, topics and the control protocol.
//!
//! A publisher writes a message into its *log*, a segment of shared memory that only it can write; subscribers read it
//! there. This crate has both ends as types without sockets and threads: [`outlet::Outlet`] for whoever publishes,
//! [`inlet::Inlet`] for whoever subscribes. It knows what a record to the dispatcher looks like, not who sends it when: that
//! is for the crates `nodeset` (nodes) and `nodeset-dispatcher`.
//!
//! # What it guarantees
//!
//! - A message appears whole or not at all, and stays as it is for as long as somebody looks at it.
//! - A reliable link misses nothing; a lossy one counts what it misses, exactly.
//! - A producer with lossy links only waits for none of them. A producer with reliable links can be asked whether it would
//!   have to wait, and for whom.
//! - Whoever dies between any two stores leaves nothing that stops or misleads the others.
//! - Whatever another process wrote is loaded once and checked before it becomes an offset, a length or an index. No reader
//!   panics or leaves its segment because of it.
//! - No commit is missed by a sleeper who followed the steps in [`wake`].
//!
//! # What it does not promise
//!
//! - That a payload's bytes make sense: [`message::Message::view`] checks that, at the price of a pass over them.
//! - That a checked payload stays as it was checked, if its publisher is hostile: then copy first
//!   ([`inlet::Inlet::copy_payload`], `docs/security.md`).
//! - Order between publications; anything at all across hosts.
//! - Room: a log grows to its limit and no further. Pins, also those of lossy links, count.
//!
//! # Trade-offs
//!
//! - Looking at the subscribers costs a full fence and a read of each line, so it is done once a block, not once a message.
//!   The price is that memory is freed by blocks.
//! - The publisher's side of the wake-up is nearly free, so the sleeper's side is dear (`membarrier`).
//! - All shared words are accessed through the trait [`atomics::Words`], so that loom can explore the very same source.
//!
//! # Modules in reading order
//!
//! 1. [`atomics`]: the shared words and the facts that ordered accesses publish; listed in `docs/memory-model.md`.
//! 2. [`log`]: the layout, the frame, the producer (with the safety argument), the cursor. `docs/layout.md` is its byte map.
//! 3. `line` and [`page`]: what a subscriber says of itself to its publishers.
//! 4. [`wake`]: how a sleeper is woken for the price of one cached load a message.
//! 5. [`outlet`] and [`inlet`]: all of that put together; [`evict`]: whom a publisher gives up.
//! 6. [`stream`]: the ring for exactly one sender and one receiver.
//! 7. [`message`] and [`topic`]: what is sent, and where to.
//! 8. [`protocol`]: what nodes and dispatcher say to each other.
//! 9. [`memory`], [`sys`] and [`clock`]: the kernel's part.
//!
//! Unsafe code stands in `memory`, `log`, `stream`, `message` and `sys` only.

#![deny(unsafe_code)]

pub mod atomics;
pub mod board;
pub mod clock;
pub mod evict;
#[cfg(nodeset_failpoints)]
pub mod failpoint;
mod footprint;
pub mod inlet;
mod line;
#[allow(unsafe_code)]
pub mod log;
#[allow(unsafe_code)]
pub mod memory;
#[allow(unsafe_code)]
pub mod message;
pub mod outlet;
pub mod page;
pub mod protocol;
#[allow(unsafe_code)]
pub mod stream;
#[allow(unsafe_code)]
pub mod sys;
pub mod topic;
pub mod wake;

#[doc(hidden)]
pub use message::private as __private;
