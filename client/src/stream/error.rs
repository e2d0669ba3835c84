//! What can go wrong with a stream.

use std::sync::Arc;
use std::time::Duration;

use super::codec::CodecError;
use crate::error::ReceiveError;

/// An item was not pushed: nobody got it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// A receiver has to read first: try again, wait longer (`deadline`), or leave it out ([`OnFull::LeaveOut`](crate::OnFull)).
    #[error("the lane to node `{receiver}` is full after {waited:?}: it has to read first")]
    Full {
        /// Name of the receiver's node.
        receiver: Arc<str>,
        /// How long it was waited for it; zero where the sender does not wait.
        waited: Duration,
    },
    /// It never fits: split it, or ask for more `capacity`.
    #[error("an item of {len} bytes is longer than the stream can ever take, which is {limit}: ask for more capacity")]
    TooLong {
        /// bytes; encoded
        len: usize,
        /// bytes
        limit: u64,
    },
    /// The codec cannot encode it.
    #[error("the item cannot be encoded: {0}")]
    Codec(#[source] CodecError),
}

/// Something other than an item came. Receiving can go on after each of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A sender pushed its last item, and this receiver got all of them but those that were left out. Others may go on or come.
    #[error("node `{sender}` finished its stream")]
    Finished {
        /// Name of the sender's node.
        sender: Arc<str>,
        /// Items that it left out for this receiver directly before the end.
        missed: u64,
    },
    /// A sender died, or was dropped without having finished. Everything that it pushed was received.
    #[error("node `{sender}` is gone without having finished its stream")]
    SenderLost {
        /// Name of the sender's node.
        sender: Arc<str>,
    },
    /// What came is no item; it was passed over. The sender has another codec, or is broken.
    #[error("node `{sender}` sent what is no item: {reason}")]
    Codec {
        /// Name of the sender's node.
        sender: Arc<str>,
        /// What the codec says.
        #[source]
        reason: CodecError,
    },
    /// See there.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}
