//! Segments and mappings: the only place that maps memory.
//!
//! Data segments are anonymous (`memfd_create(2)`), passed on as descriptors: the kernel frees them when their last holder
//! dies, no clean-up is ever needed. Seals (`F_ADD_SEALS` in `fcntl(2)`) make what they promise unbreakable: nobody can
//! shrink a segment under its readers (no SIGBUS), and nobody but its one writer can ever map it writable.
//!
//! The order is: whoever creates a segment sizes it and forbids resizing at once; its one writer maps it, then forbids
//! every further writable mapping; whoever made it then reads the seals back from its own descriptor.

mod mapping;
mod named;
mod segment;
mod words;

pub use mapping::Mapping;
pub(crate) use named::Named;
pub use segment::{Segment, SegmentError};
pub use words::SharedWords;
