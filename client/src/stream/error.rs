//! What can go wrong with a stream.

use std::sync::Arc;
use std::time::Duration;

use super::codec::CodecError;
use crate::error::ReceiveError;

/// An item was not pushed: nobody got it.
///
/// ```
/// use nodeset::{Node, OnFull, PushError};
///
/// let node = Node::builder("meter").instance("doc-push-error").embedded().connect()?;
/// let mut slow = node.stream_receiver("level").create()?;
/// let mut level = node.stream("level").on_full(OnFull::Fail).create()?;
/// let full = loop {
///     if let Err(error) = level.push(&[0; 1000]) {
///         break error;
///     }
/// };
/// assert!(matches!(full, PushError::Full { receiver, .. } if *receiver == *"meter"));
/// slow.receive()?; // and there will be room again
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use nodeset::{Node, StreamError};
///
/// let node = Node::builder("speaker").instance("doc-stream-error").embedded().connect()?;
/// let mut speaker = node.stream_receiver("sound").create()?;
/// let mut sound = node.stream("sound").create()?;
/// sound.push(b"la")?;
/// drop(sound); // without `finish`
/// loop {
///     match speaker.receive() {
///         Ok(item) => assert_eq!(*item, b"la"),
///         Err(StreamError::Finished { sender, .. }) => println!("{sender} said all that it had to say"),
///         Err(StreamError::SenderLost { sender }) => {
///             assert_eq!(&*sender, "speaker");
///             break;
///         }
///         Err(error) => return Err(error.into()),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
