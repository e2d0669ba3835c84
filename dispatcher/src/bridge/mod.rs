//! The bridge: joins this dispatcher with those of other hosts over TCP.
//!
//! [`config`] says with whom; [`transport`] carries bytes there and back.

pub mod config;
pub mod transport;
