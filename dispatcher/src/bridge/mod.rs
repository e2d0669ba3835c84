//! The bridge: joins this dispatcher with those of other hosts over TCP.
//!
//! [`config`] says with whom; [`transport`] carries bytes there and back; [`codec`] says how records look among these bytes;
//! [`peer`] decides everything about one other host and touches nothing. The protocol is described in
//! `docs/bridge-protocol.md`.

pub mod codec;
pub mod config;
pub mod peer;
pub mod transport;
