//! NodeSet.

#[doc(hidden)]
pub use nodeset_bus::message::private as __private;
