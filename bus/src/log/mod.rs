//! The log: one producer, any number of consumers, frames of any length, read in place.
//!
//! A log is one sparse segment: a header, a table with a row a block, and a pool of equal blocks. The producer appends frames
//! to its current block; a closing frame names the next one. It looks at its consumers only there. A consumer polls the
//! commit word of its next frame: one cache-line transfer brings header and a small payload, and no counter is shared.
//!
//! Reading order: [`layout`](self) for where things stand, `frame.rs`, `extension.rs`, `producer.rs` (with the safety argument), `pool.rs`,
//! `cursor.rs`, `held.rs`, `links.rs`.

mod allowance;
mod cursor;
mod extension;
mod frame;
mod glimpse;
mod held;
mod layout;
mod links;
mod payload;
mod pool;
mod producer;

pub use cursor::{Cursor, CursorFault, CursorSpec, Frame, Lane, Payload};
pub use extension::{Extensions, RequestMark};
pub use glimpse::{Glimpse, LineState, LogState, glimpse_asleep, glimpse_line};
pub use held::{Pin, TooManyHeld};
pub(crate) use layout::FENCING_AT;
pub use layout::{
    DEFAULT_BLOCK_LEN, MAX_BLOCK_LEN, MAX_BLOCKS, MAX_PAYLOAD, MIN_BLOCK_LEN, MIN_BLOCKS, ShapeError, check,
    segment_len, shape_within,
};
pub use links::{Link, Links, Ring};
pub use payload::Kept;
pub use producer::{NoRoom, Producer, Reach, Retention};
