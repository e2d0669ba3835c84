//! Streams: items from one node to all that receive the stream, each over a lane of its own.
//!
//! The dispatcher brings sender and receivers together once; from then on items pass from one to the other in shared memory, with
//! or without it. A lane is what a direct publication has too ([`direct`](crate::direct)): so hand-back, quotas, sleeping, and what
//! becomes of the dead are the same as there. What is different: every receiver gets every item, a slow one is waited for, left
//! out or an error as the sender chose, and the end is said.
//!
//! What a frame's mark says is in [`mark`], how items become bytes in [`codec`], the sender's lanes are in [`fan`].

mod codec;
mod error;
mod fan;
#[cfg(feature = "lz4")]
mod lz4;
mod mark;
mod receiver;
mod sender;

use std::sync::Arc;

use nodeset_bus::topic::{AddressError, Topic};

pub use codec::{Bytes, Codec, CodecError, Typed};
pub use error::{PushError, StreamError};
pub use fan::OnFull;
#[cfg(feature = "lz4")]
pub use lz4::Lz4;
pub use receiver::{StreamItem, StreamReceiver, StreamReceiverBuilder};
pub use sender::{StreamBuilder, StreamSender};

use crate::node::Node;

impl Node {
    /// Begins to make the sender of a stream. It opens a lane of its own to each node that receives the stream, also to those
    /// that come later.
    ///
    /// ```
    /// use nodeset::{Node, StreamError};
    ///
    /// let node = Node::builder("microphone").instance("doc-stream").embedded().connect()?;
    /// let mut speaker = node.stream_receiver("sound").create()?;
    /// let mut sound = node.stream("sound").create()?;
    /// assert_eq!(sound.push(b"la")?, 1); // one receiver
    /// sound.finish()?;
    ///
    /// assert_eq!(*speaker.receive()?, b"la");
    /// assert!(matches!(speaker.receive(), Err(StreamError::Finished { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stream(&self, name: impl AsRef<str>) -> StreamBuilder<Bytes> {
        StreamBuilder::new(Arc::clone(&self.handle), name.as_ref())
    }

    /// Begins to make a receiver of a stream, from all its senders: those that are there, and those that come later.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("speaker").instance("doc-stream-receiver-first").embedded().connect()?;
    /// let mut speaker = node.stream_receiver("sound").create()?; // before there is a sender
    /// let mut sound = node.stream("sound").create()?;
    /// sound.push(b"la")?;
    /// assert_eq!(*speaker.receive()?, b"la");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stream_receiver(&self, name: impl AsRef<str>) -> StreamReceiverBuilder<Bytes> {
        StreamReceiverBuilder::new(Arc::clone(&self.handle), name.as_ref())
    }
}

/// The topic of a stream. Wildcards of subscriptions do not stand for its last level.
fn topic_of(stream: &str) -> Result<String, AddressError> {
    Topic::new(stream)?;
    let topic = format!("{stream}/$stream");
    Topic::new(&topic)?;
    Ok(topic)
}
