//! What holds for each type of the public interface, whatever it is for: which ones may go to and be used from other threads,
//! what errors can be made into, what is small. Most of it is checked when this test is built.

use std::error::Error;
use std::fmt::Debug;
use std::hash::Hash;
use std::os::fd::AsFd;

use nodeset::wait_set::{Id, Key, Ready, WakeHandle};
use nodeset::{
    AdvertiseError, Answer, AppOptions, Armed, Bytes, Client, ClientBuilder, CodecError, ConnectError, DeliverError,
    Descriptor, DirectPublisher, DirectPublisherBuilder, HandlerFailure, HandlerId, Loan, LogFormat, LogLevelError,
    Node, NodeBuilder, NodeChange, NodeEvent, NodeInfo, NotEnoughSubscribers, OnFull, OwnedSample, PublishError,
    Publisher, PublisherBuilder, PushError, Readiness, ReceiveError, Request, RequestError, RunEnd, RunError, Sample,
    Samples, ServeError, Server, ServerBuilder, State, StateReader, StateWriter, StopHandle, StreamBuilder,
    StreamError, StreamItem, StreamReceiver, StreamReceiverBuilder, StreamSender, SubscribeError, Subscriber,
    SubscriberBuilder, Timer, Timestamp, Typed, WaitError, WaitSet, WaitStrategy,
};

/// Goes to other threads, and can be printed.
const fn moves<T: Send + Debug>() {}
/// Is used from several threads at once, too.
const fn is_shared<T: Send + Sync + Debug>() {}
/// Says what went wrong, to whoever it is handed to.
const fn is_error<E: Error + Send + Sync + 'static>() {}
/// Is handed around like a number.
const fn is_plain<T: Copy + Eq + Hash + Send + Sync + Debug>() {}
/// Can be waited for by other event loops.
const fn has_descriptor<T: AsFd>() {}

/// The same of each message type that is allowed: sized or not, archived or as it is.
macro_rules! for_messages {
    ($check:ident: $($type:ident)*) => {
        $($check::<$type<u32>>(); $check::<$type<str>>(); $check::<$type<[u8]>>(); $check::<$type<Vec<String>>>();)*
    };
}

const _: () = {
    is_shared::<Node>();
    moves::<NodeBuilder>();
    is_shared::<StopHandle>();
    is_shared::<WakeHandle>();
    is_shared::<AppOptions>();

    for_messages!(moves: Publisher PublisherBuilder DirectPublisher DirectPublisherBuilder StateWriter StateReader);
    for_messages!(moves: Subscriber SubscriberBuilder);
    for_messages!(is_shared: OwnedSample);
    moves::<State<'_, str>>();
    moves::<Samples<'_, str>>();
    is_shared::<Sample<'_, str>>();
    moves::<Loan<'_>>();
    moves::<Client<str, u32>>();
    moves::<ClientBuilder<str, u32>>();
    moves::<Answer<'_, str, u32>>();
    moves::<Server<str, u32>>();
    moves::<ServerBuilder<str, u32>>();
    moves::<Request<'_, str, u32>>();
    moves::<StreamSender<Typed<u32>>>();
    moves::<StreamBuilder<Typed<u32>>>();
    moves::<StreamReceiver<Typed<u32>>>();
    moves::<StreamReceiverBuilder<Typed<u32>>>();
    moves::<StreamItem<'_, Bytes>>();
    moves::<WaitSet>();
    moves::<Descriptor<std::fs::File>>();
    moves::<Readiness>();
    moves::<Armed>();
    has_descriptor::<Subscriber<str>>();
    has_descriptor::<StateReader<str>>();

    is_shared::<NodeEvent>();
    is_shared::<NodeChange>();
    is_shared::<NodeInfo>();
    is_shared::<HandlerFailure>();
    is_shared::<Ready>();
    is_plain::<HandlerId>();
    is_plain::<Id>();
    is_plain::<Key<WaitSet>>();
    is_plain::<Timer>();
    is_plain::<Timestamp>();
    is_plain::<WaitStrategy>();
    is_plain::<RunEnd>();
    is_plain::<OnFull>();
    is_plain::<LogFormat>();

    is_error::<AdvertiseError>();
    is_error::<CodecError>();
    is_error::<ConnectError>();
    is_error::<DeliverError>();
    is_error::<LogLevelError>();
    is_error::<NotEnoughSubscribers>();
    is_error::<PublishError>();
    is_error::<PushError>();
    is_error::<ReceiveError>();
    is_error::<RequestError>();
    is_error::<RunError>();
    is_error::<ServeError>();
    is_error::<StreamError>();
    is_error::<SubscribeError>();
    is_error::<WaitError>();
};

#[cfg(feature = "tokio")]
const _: () = {
    moves::<nodeset::Receive<'_, str>>();

    /// A task may hold a sample, in place, while it awaits something else, and be moved to another thread.
    #[allow(dead_code, reason = "that it can be spawned is all that is asked")]
    async fn hold(mut subscriber: Subscriber<str>) -> Result<usize, ReceiveError> {
        let sample = subscriber.receive_async().await?;
        tokio::task::yield_now().await;
        Ok(sample.len())
    }

    #[allow(dead_code, reason = "see above")]
    fn spawn(subscriber: Subscriber<str>) {
        drop(tokio::spawn(hold(subscriber)));
    }
};

/// What is handed back on the way of each message stays a few words.
#[test]
fn what_comes_with_each_message_is_small() {
    let word = size_of::<usize>();
    for (what, size, most) in [
        ("a publish", size_of::<Result<u64, PublishError>>(), 8 * word),
        ("a sample", size_of::<Result<Sample<'_, str>, ReceiveError>>(), 10 * word),
        ("a loan", size_of::<Result<Loan<'_>, PublishError>>(), 10 * word),
    ] {
        assert!(size <= most, "{what} takes {size} bytes, more than {most}");
    }
}
