//! The log: one producer, any number of consumers, frames of any length, read in place.

mod layout;

pub use layout::{
    DEFAULT_BLOCK_LEN, MAX_BLOCK_LEN, MAX_BLOCKS, MAX_PAYLOAD, MIN_BLOCK_LEN, MIN_BLOCKS, ShapeError, check,
    segment_len, shape_within,
};
