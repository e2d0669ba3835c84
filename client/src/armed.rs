//! Waiting for a subscriber in a foreign event loop: its descriptor, and how it is armed.
//!
//! The descriptor is an epoll instance of the subscriber's own, in which the node's stands, edge-triggered. Arming takes what
//! rang so far out of the own one only. So no event loop takes the ring that somebody else of the node waits for; and if a
//! thread of the node takes it, it rings the bell that stands beside (`wait`).

use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use nodeset_bus::message::Message;
use nodeset_bus::sys::Bell;
use rustix::event::epoll;
use rustix::io::Errno;

use crate::error::ReceiveError;
use crate::subscriber::Subscriber;
use crate::wait::{Ringer, Ticket, Waiter};

impl<T: Message + ?Sized> Subscriber<T> {
    /// Prepares for waiting in a foreign event loop: [`Ready`](Readiness::Ready) when there is something to receive now, else
    /// [`Armed`](Readiness::Armed): then this subscriber's descriptor ([`AsFd`]) becomes readable when something comes. Keep
    /// the guard while waiting, receive everything afterwards, then arm again.
    ///
    /// The descriptor is the subscriber's own, made when it is first asked for; it costs the process two. It also becomes
    /// readable for messages of other subscribers of the node. These may be waited for at the same time, in other event loops
    /// or otherwise.
    ///
    /// ```
    /// use nodeset::{Node, Readiness};
    /// use rustix::event::{PollFd, PollFlags, poll};
    ///
    /// let node = Node::builder("loop").instance("doc-arm").embedded().connect()?;
    /// let mut subscriber = node.subscriber::<str>("chat").create()?;
    /// let mut publisher = node.publisher::<str>("chat").create()?;
    /// let other = std::thread::spawn(move || publisher.publish("hello"));
    /// loop {
    ///     if let Some(text) = subscriber.try_receive()? {
    ///         assert_eq!(&*text, "hello");
    ///         break;
    ///     }
    ///     if let Readiness::Armed(armed) = subscriber.arm()? {
    ///         let at_most = armed.at_most().map(TryInto::try_into).transpose()?;
    ///         poll(&mut [PollFd::new(&subscriber, PollFlags::IN)], at_most.as_ref())?;
    ///     }
    /// }
    /// other.join().expect("it only publishes")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Wait`], most likely because the process has too many descriptors (`ulimit -n`).
    pub fn arm(&mut self) -> Result<Readiness, ReceiveError> {
        let mut ticket = self.waiter().ticket();
        let own = self.watch.own(self.waiter()).map_err(ReceiveError::Wait)?;
        own.take_rings().map_err(ReceiveError::Wait)?;
        // Whatever was taken before is found below.
        let _ = ticket.wake_with(&own.waker);
        let at_most = self.wish(&ticket);
        Ok(if self.is_ready() { Readiness::Ready } else { Readiness::Armed(Armed { _ticket: ticket, at_most }) })
    }
}

impl<T: Message + ?Sized> AsFd for Subscriber<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.watch.own(self.waiter()) {
            Ok(own) => own.epoll.as_fd(),
            // `arm` fails for the same reason, so nobody waits on this one in vain.
            Err(_) => self.waiter().as_fd(),
        }
    }
}

/// A subscriber's descriptor, once somebody asked for it.
#[derive(Default)]
pub(crate) struct Watch {
    own: OnceLock<Box<Result<Own, Errno>>>,
}

struct Own {
    epoll: OwnedFd,
    /// Rings the bell in it.
    waker: Waker,
}

impl Watch {
    fn own(&self, waiter: &Waiter) -> Result<&Own, Errno> {
        self.own.get_or_init(|| Box::new(Own::new(waiter))).as_ref().as_ref().map_err(|errno| *errno)
    }
}

impl Own {
    fn new(waiter: &Waiter) -> Result<Own, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Bell::new().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        for descriptor in [waiter.as_fd(), bell.as_fd()] {
            epoll::add(
                &epoll,
                descriptor,
                epoll::EventData::new_u64(0),
                epoll::EventFlags::IN | epoll::EventFlags::ET,
            )?;
        }
        Ok(Own { epoll, waker: Waker::from(Arc::new(Ringer(bell))) })
    }

    /// The descriptor is readable only by what rings from now on.
    fn take_rings(&self) -> Result<(), Errno> {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 2];
        match epoll::wait(&self.epoll, &mut events[..], Some(&crate::wait::timespec(Duration::ZERO))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// What [`Subscriber::arm`] found.
///
/// ```
/// use nodeset::{Node, Readiness};
///
/// let node = Node::builder("loop").instance("doc-readiness").embedded().connect()?;
/// let mut publisher = node.publisher::<str>("chat").create()?;
/// let mut subscriber = node.subscriber::<str>("chat").create()?;
/// assert!(subscriber.try_receive()?.is_none());
/// let armed = subscriber.arm()?; // keep it while the event loop waits
/// assert!(matches!(armed, Readiness::Armed(_)));
/// drop(armed);
/// publisher.publish("hello")?;
/// assert!(matches!(subscriber.arm()?, Readiness::Ready)); // nothing to wait for
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "an armed subscriber is disarmed when this is dropped"]
pub enum Readiness {
    /// There is something to receive.
    Ready,
    /// The descriptor becomes readable when there is.
    Armed(Armed),
}

/// Keeps a subscriber armed.
///
/// ```
/// use nodeset::{Node, Readiness};
///
/// let node = Node::builder("loop").instance("doc-armed").embedded().connect()?;
/// let mut subscriber = node.subscriber::<str>("chat").create()?;
/// while subscriber.try_receive()?.is_some() {}
/// if let Readiness::Armed(armed) = subscriber.arm()? {
///     match armed.at_most() {
///         None => println!("wait until the descriptor is readable"),
///         Some(time) => println!("the same, but look again after {time:?}"),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a subscriber is disarmed when this is dropped"]
pub struct Armed {
    _ticket: Ticket,
    at_most: Option<Duration>,
}

impl Armed {
    /// How long to wait at most before receiving is tried anyway; `None` where publishers can always tell (the kernel has
    /// `membarrier`).
    pub fn at_most(&self) -> Option<Duration> {
        self.at_most
    }
}

impl fmt::Debug for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Armed").field("at_most", &self.at_most).finish_non_exhaustive()
    }
}
