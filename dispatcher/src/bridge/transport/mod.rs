//! How bytes get from host to host: sockets, encryption, who dials whom, and what strangers may cost.
//!
//! Reading order: [`connection`] is one connection, plain or encrypted ([`tls`], by [`keys`]), written through
//! [`progress`]; [`network`] has all of them. What it decides is decided by [`dialer`] and [`admission`], which touch
//! nothing. What the bytes mean is not known here.

pub mod admission;
pub mod connection;
pub mod dialer;
pub mod keys;
pub mod network;
pub mod progress;
pub mod tls;

mod encrypted;
mod listener;
