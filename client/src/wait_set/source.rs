//! What a wait set waits for.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::memory::SharedWords;
use nodeset_bus::message::Message;
use nodeset_bus::wake::Wish;
use rustix::event::epoll::EventFlags;

use crate::service::Server;
use crate::stream::{Codec, StreamReceiver};
use crate::subscriber::Subscriber;
use crate::wait::Waiter;

/// What can be attached to a [`WaitSet`](crate::WaitSet): a [`Subscriber`], a [`StateReader`](crate::StateReader), a [`Server`],
/// a [`StreamReceiver`], a [`Timer`] or a [`Descriptor`].
///
/// ```
/// use std::time::Duration;
/// use nodeset::wait_set::{Key, Source};
/// use nodeset::{Node, Timer, WaitError, WaitSet};
///
/// /// Waits for what comes first, and says whether `source` was it.
/// fn comes_in_time<S: Source>(source: S, time: Duration) -> Result<bool, WaitError> {
///     let mut set = WaitSet::new()?;
///     let key: Key<S> = set.attach(source)?;
///     set.attach(Timer::after(time))?;
///     Ok(set.wait()?.has(key))
/// }
///
/// let node = Node::builder("hasty").instance("doc-source").embedded().connect()?;
/// let nobody = node.subscriber::<str>("nobody/publishes/this").create()?;
/// assert!(!comes_in_time(nobody, Duration::from_millis(1))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[allow(private_bounds, reason = "nobody else can say how its own types are waited for")]
pub trait Source: Member {}

/// A member of a set.
pub(crate) trait Member: Any + Send {
    fn kind(&self) -> Kind<'_>;

    /// Itself, if it is one.
    fn timer_mut(&mut self) -> Option<&mut Timer> {
        None
    }
}

/// How a member is waited for.
pub(crate) enum Kind<'a> {
    Subscriber(&'a dyn Receives),
    Timer,
    Descriptor(BorrowedFd<'a>, EventFlags),
}

/// A subscriber, whatever it receives.
pub(crate) trait Receives {
    fn waiter(&self) -> &Arc<Waiter>;
    fn is_ready(&self) -> bool;
    /// Adds what to wish for before sleeping.
    fn wishes<'a>(&'a self, wishes: &mut Vec<&'a Wish<SharedWords>>);
}

impl<T: Message + ?Sized + 'static> Source for Subscriber<T> {}

impl<T: Message + ?Sized + 'static> Member for Subscriber<T> {
    fn kind(&self) -> Kind<'_> {
        Kind::Subscriber(self)
    }
}

impl<T: Message + ?Sized> Receives for Subscriber<T> {
    fn waiter(&self) -> &Arc<Waiter> {
        Subscriber::waiter(self)
    }

    fn is_ready(&self) -> bool {
        Subscriber::is_ready(self)
    }

    fn wishes<'a>(&'a self, wishes: &mut Vec<&'a Wish<SharedWords>>) {
        wishes.extend(self.ports.iter().map(|port| port.inlet.wish()));
    }
}

impl<C: Codec + Send + 'static> Source for StreamReceiver<C> {}

impl<C: Codec + Send + 'static> Member for StreamReceiver<C> {
    fn kind(&self) -> Kind<'_> {
        Kind::Subscriber(self.subscriber())
    }
}

impl<Req: Message + ?Sized + 'static, Rep: Message + ?Sized + 'static> Source for Server<Req, Rep> {}

impl<Req: Message + ?Sized + 'static, Rep: Message + ?Sized + 'static> Member for Server<Req, Rep> {
    fn kind(&self) -> Kind<'_> {
        Kind::Subscriber(self.requests())
    }
}

/// A time that a [`WaitSet`](crate::WaitSet) waits for, once or again and again. It is ready in one wait each time it is over;
/// a period that is over before the one before was heard of is not made up for.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Timer, WaitSet};
///
/// let mut set = WaitSet::new()?;
/// let often = set.attach(Timer::every(Duration::from_millis(1)))?;
/// let once = set.attach(Timer::after(Duration::from_millis(5)))?;
/// let mut ticks = 0;
/// loop {
///     let ready = set.wait()?;
///     ticks += u32::from(ready.has(often));
///     if ready.has(once) {
///         break;
///     }
/// }
/// assert!(ticks > 0);
/// set[once] = Timer::after(Duration::from_secs(1)); // once more
/// # Ok::<(), nodeset::WaitError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timer {
    /// `None`: never (again).
    due: Option<Instant>,
    period: Option<Duration>,
}

impl Timer {
    /// Once, at that time.
    ///
    /// ```
    /// use std::time::Instant;
    /// use nodeset::{Timer, WaitSet};
    ///
    /// let noon = Instant::now();
    /// let mut set = WaitSet::new()?;
    /// let bell = set.attach(Timer::at(noon))?;
    /// assert!(set.wait()?.has(bell));
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    pub fn at(due: Instant) -> Timer {
        Timer { due: Some(due), period: None }
    }

    /// Once, so long from now.
    pub fn after(time: Duration) -> Timer {
        // A time beyond what the clock can say never comes.
        Timer { due: Instant::now().checked_add(time), period: None }
    }

    /// Again and again, for the first time one period from now.
    pub fn every(period: Duration) -> Timer {
        Timer { period: Some(period), ..Timer::after(period) }
    }

    /// When it is over next; `None` if it will not be.
    ///
    /// ```
    /// use std::time::Instant;
    /// use nodeset::{Timer, WaitSet};
    ///
    /// let noon = Instant::now();
    /// let mut set = WaitSet::new()?;
    /// let bell = set.attach(Timer::at(noon))?;
    /// assert_eq!(set[bell].due(), Some(noon));
    /// set.wait()?;
    /// assert_eq!(set[bell].due(), None);
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is over; then the next period begins.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else { return false };
        let next = |from: Instant| self.period.and_then(|period| from.checked_add(period));
        // In step with the one before, unless that is over, too.
        self.due = next(due).filter(|next| *next > now).or_else(|| next(now));
        true
    }
}

impl Source for Timer {}

impl Member for Timer {
    fn kind(&self) -> Kind<'_> {
        Kind::Timer
    }

    fn timer_mut(&mut self) -> Option<&mut Timer> {
        Some(self)
    }
}

/// A foreign descriptor (a socket, a pipe, an eventfd) that a [`WaitSet`](crate::WaitSet) waits for, with what it belongs to. It is
/// ready for as long as it can be read from (or written to), has hung up or has failed.
///
/// What is inside must not be replaced by something with another descriptor while it is attached: detach it first.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use nodeset::{Descriptor, WaitSet};
///
/// let (mut here, there) = UnixStream::pair()?;
/// let mut set = WaitSet::new()?;
/// let stream = set.attach(Descriptor::readable(there))?;
/// here.write_all(b"hello")?;
/// assert!(set.wait()?.has(stream));
/// let mut text = [0; 5];
/// set[stream].read_exact(&mut text)?;
/// assert_eq!(&text, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Descriptor<F> {
    inner: F,
    flags: EventFlags,
}

impl<F: AsFd + Send + 'static> Descriptor<F> {
    /// Ready when something can be read from it.
    pub fn readable(inner: F) -> Descriptor<F> {
        Descriptor { inner, flags: EventFlags::IN }
    }

    /// Ready when something can be written to it.
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use nodeset::{Descriptor, WaitSet};
    ///
    /// let (here, _there) = UnixStream::pair()?;
    /// let mut set = WaitSet::new()?;
    /// let stream = set.attach(Descriptor::writable(here))?;
    /// assert!(set.wait()?.has(stream));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn writable(inner: F) -> Descriptor<F> {
        Descriptor { inner, flags: EventFlags::OUT }
    }

    /// What it belongs to.
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use nodeset::{Descriptor, WaitSet};
    ///
    /// let (here, _there) = UnixStream::pair()?;
    /// let mut set = WaitSet::new()?;
    /// let key = set.attach(Descriptor::readable(here))?;
    /// let here: UnixStream = set.detach(key).expect("it is attached").into_inner();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_inner(self) -> F {
        self.inner
    }
}

impl<F> Deref for Descriptor<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.inner
    }
}

impl<F> DerefMut for Descriptor<F> {
    fn deref_mut(&mut self) -> &mut F {
        &mut self.inner
    }
}

impl<F: AsFd + Send + 'static> Source for Descriptor<F> {}

impl<F: AsFd + Send + 'static> Member for Descriptor<F> {
    fn kind(&self) -> Kind<'_> {
        Kind::Descriptor(self.inner.as_fd(), self.flags)
    }
}
