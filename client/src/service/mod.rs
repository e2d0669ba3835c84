//! Requests and replies.
//!
//! A *server* answers the requests on a topic, a *client* makes them. Everything goes over ordinary publications, each with its
//! own log, so that what holds for those holds here: in place, freed by the kernel, untouched by the dispatcher's death. Their
//! topics have a reserved level, which no wildcard of a subscription stands for:
//!
//! ```text
//! T/$offer/SERVER           of the server; carries nothing: it is there, and says the type of its replies
//! T/$call/SERVER/CLIENT     of the client, read by that server: requests
//! T/$reply/CLIENT/SERVER    of the server, read by that client: replies
//! ```
//!
//! SERVER and CLIENT are random numbers. A server subscribes `T/$call/SERVER/*`, a client `T/$offer/*` and `T/$reply/CLIENT/*`.
//!
//! # How they meet
//!
//! ```text
//! client                                      server
//!                                             publishes T/$offer/SERVER
//! is linked to it: publishes T/$call/SERVER/CLIENT
//!                                             is linked to it: publishes T/$reply/CLIENT/SERVER
//! is linked to it: may ask that server
//! ```
//!
//! Neither waits for the other: each step is taken when its link arrives. A client that has the link of replies knows that
//! the server has the one of its requests, since the server published because of it.
//!
//! # What a message says beside its payload
//!
//! Its frame has the extension [`RequestMark`](nodeset_bus::log::RequestMark): the client's number of the request, and, in a
//! reply, which [`Part`](exchange::Part) of the answer it is.
//!
//! # Who dies
//!
//! The link of replies ends only after everything that the server had committed was read. So a client whose server dies gets
//! each reply that there is, and then [`RequestError::ServerGone`](crate::RequestError::ServerGone) at once. A server whose client
//! dies stops publishing to it.
//!
//! Reading order: `exchange.rs` (what the parts of an answer mean), `names.rs`, `server.rs`, `client.rs`, `servers.rs`, `one.rs`.

mod client;
mod exchange;
mod names;
mod one;
mod server;
mod servers;

pub use client::{Answer, Client, ClientBuilder};
pub(crate) use one::Clients;
pub use server::{Request, Server, ServerBuilder};

/// bytes of a block of each log: there is one a client and server in each direction, and most messages are short
const BLOCK_LEN: u32 = 16 << 10;
