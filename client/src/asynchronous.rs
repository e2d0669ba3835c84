//! Awaiting messages in a Tokio runtime (feature `tokio`).
//!
//! A task that finds no message goes through the same steps as a thread that goes to sleep (`wait`): ticket, wishes, one more
//! look. Then it is woken by the runtime's own epoll instance, in which a duplicate of the node's descriptor stands,
//! edge-triggered. Nothing is read from that descriptor, so no task takes the ring that another one waits for; and if a
//! *thread* of the node takes it, it uses the waker that the task left with its ticket.
//!
//! What a task waits with stays in the subscriber ([`WaitingTask`]), not in the future. So a future may be dropped at any
//! point: it holds nothing, and the next one goes on where it was, without a new ticket or system call.

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use nodeset_bus::message::Message;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime;
use tokio::task::coop::poll_proceed;

use crate::error::ReceiveError;
use crate::sample::{OwnedSample, Sample};
use crate::subscriber::{Found, Subscriber};
use crate::wait::{Ticket, Waiter};

/// Looks of one poll. Each but the last found something that was no message; a damaged log may go on like that for ever.
const LOOKS: usize = 16;

impl<T: Message + ?Sized> Subscriber<T> {
    /// The next message; the task waits for it, also for publishers to come.
    ///
    /// Cancellation-safe: a future that is dropped before it was ready has taken no message. Other subscribers of the node may
    /// be awaited by other tasks, or waited for by threads, at the same time. A message that is there is given without any
    /// system call, and within Tokio's cooperative budget, so that a fast publisher does not keep other tasks from running.
    ///
    /// A task does not spin before it sleeps, whatever the subscriber's [`WaitStrategy`](crate::WaitStrategy). The first time it
    /// has to wait in a runtime, one more descriptor of the process is registered there.
    ///
    /// ```
    /// use nodeset::Node;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let node = Node::builder("chat").instance("doc-receive-async").embedded().connect()?;
    /// let mut publisher = node.publisher::<str>("chat").create()?;
    /// let mut subscriber = node.subscriber::<str>("chat").create()?;
    /// let listener = tokio::spawn(async move {
    ///     let text = subscriber.receive_async().await?;
    ///     Ok::<_, nodeset::ReceiveError>(text.to_string())
    /// });
    /// publisher.publish("hello")?;
    /// assert_eq!(listener.await??, "hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive), and [`ReceiveError::NoRuntime`].
    ///
    /// # Panics
    ///
    /// If the runtime was built without I/O (`enable_io` or `enable_all`), as everything of Tokio that does I/O.
    pub fn receive_async(&mut self) -> Receive<'_, T> {
        Receive { subscriber: Some(self) }
    }

    /// The next message; if there is none, the task is woken when there may be one.
    pub(crate) fn poll_found(&mut self, context: &mut Context<'_>) -> Poll<Result<Found, ReceiveError>> {
        let budget = ready!(poll_proceed(context));
        for _ in 0..LOOKS {
            if let Some(found) = self.poll().transpose() {
                self.task.ticket = None;
                budget.made_progress();
                return Poll::Ready(found);
            }
            if self.prepare_sleep(context)? {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The steps before the task sleeps. Says false when there may be something to receive.
    fn prepare_sleep(&mut self, context: &mut Context<'_>) -> Result<bool, ReceiveError> {
        let waiter = Arc::clone(self.waiter());
        let mut quiet = !self.task.take_rings(&waiter, context)?;
        let ticket = match self.task.ticket.take() {
            Some(ticket) => self.task.ticket.insert(ticket),
            None => {
                quiet = false;
                self.task.ticket.insert(waiter.ticket())
            }
        };
        quiet &= ticket.wake_with(context.waker());
        if !quiet {
            // Wishes hold until something rings.
            let ticket = self.task.ticket.as_ref().expect("it was just made");
            if let Some(at_most) = self.wish(ticket) {
                waiter.kick_in(at_most).map_err(ReceiveError::Wait)?;
            }
        }
        Ok(!self.is_ready())
    }
}

/// What a task waits with for the messages of one subscriber.
#[derive(Default)]
pub(crate) struct WaitingTask {
    registration: Option<Box<Registration>>,
    /// From the poll that found nothing to the one that finds something.
    ticket: Option<Ticket>,
}

/// The node's descriptor in the epoll instance of a runtime.
struct Registration {
    runtime: runtime::Id,
    /// A duplicate: an instance takes each descriptor once, and other subscribers of the node are registered, too.
    descriptor: AsyncFd<OwnedFd>,
}

impl WaitingTask {
    /// Whether something rang since the task was last here; it is woken by what rings from now on.
    fn take_rings(&mut self, waiter: &Waiter, context: &mut Context<'_>) -> Result<bool, ReceiveError> {
        let descriptor = &self.registration(waiter)?.descriptor;
        let mut rang = false;
        loop {
            match descriptor.poll_read_ready(context) {
                Poll::Pending => return Ok(rang),
                Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                Poll::Ready(Err(_)) => {
                    self.registration = None;
                    return Err(ReceiveError::NoRuntime);
                }
            }
            rang = true;
        }
    }

    /// In the runtime of this task: the subscriber may have been awaited in another one before.
    fn registration(&mut self, waiter: &Waiter) -> Result<&Registration, ReceiveError> {
        let runtime = runtime::Handle::try_current().map_err(|_| ReceiveError::NoRuntime)?.id();
        let kept = self.registration.take().filter(|it| it.runtime == runtime);
        let registration = match kept {
            Some(registration) => registration,
            None => {
                // What was wished for rang in another runtime, perhaps.
                self.ticket = None;
                Box::new(Registration { runtime, descriptor: register(waiter).map_err(ReceiveError::Wait)? })
            }
        };
        Ok(self.registration.insert(registration))
    }
}

#[allow(
    deprecated,
    reason = "its successor is unsafe for the sake of types that do not own their descriptor; this one does"
)]
fn register(waiter: &Waiter) -> Result<AsyncFd<OwnedFd>, Errno> {
    let register = || AsyncFd::with_interest(waiter.as_fd().try_clone_to_owned()?, Interest::READABLE);
    register().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// A message to come, see [`Subscriber::receive_async`]. Polled after it was ready it panics, as futures do. Dropped before it
/// was ready it has taken none:
///
/// ```
/// use std::time::Duration;
/// use nodeset::Node;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Node::builder("patient").instance("doc-receive").embedded().connect()?;
/// let mut publisher = node.publisher::<u32>("numbers").create()?;
/// let mut subscriber = node.subscriber::<u32>("numbers").reliable().create()?;
/// let late = tokio::time::timeout(Duration::from_millis(1), subscriber.receive_async()).await;
/// assert!(late.is_err());
/// publisher.publish(&7)?;
/// assert_eq!(*subscriber.receive_async().await?, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Receive<'a, T: Message + ?Sized> {
    /// Until it is ready.
    subscriber: Option<&'a mut Subscriber<T>>,
}

impl<'a, T: Message + ?Sized> Future for Receive<'a, T> {
    type Output = Result<Sample<'a, T>, ReceiveError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let subscriber = self.subscriber.as_mut().expect("a future is not polled after it was ready");
        let found = ready!(subscriber.poll_found(context));
        let subscriber = self.subscriber.take().expect("it was there above");
        Poll::Ready(found.and_then(|found| subscriber.sample(found)))
    }
}

/// All messages, each kept for as long as its sample lives; it never ends. With the feature `tokio`.
///
/// ```
/// use std::pin::pin;
/// use nodeset::Node;
/// use tokio_stream::StreamExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Node::builder("sums").instance("doc-stream").embedded().connect()?;
/// let mut publisher = node.publisher::<u64>("numbers").create()?;
/// let subscriber = node.subscriber::<u64>("numbers").reliable().create()?;
/// (1..=4_u64).try_for_each(|number| publisher.publish(&number).map(drop))?;
/// let mut even = pin!(subscriber.filter(|number| number.as_ref().is_ok_and(|number| **number % 2 == 0)));
/// assert_eq!(*even.next().await.expect("it never ends")?, 2);
/// assert_eq!(*even.next().await.expect("it never ends")?, 4);
/// # Ok(())
/// # }
/// ```
impl<T: Message + ?Sized> Stream for Subscriber<T> {
    type Item = Result<OwnedSample<T>, ReceiveError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let found = ready!(self.poll_found(context));
        Poll::Ready(Some(found.and_then(|found| self.sample(found)).and_then(Sample::into_owned)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crate::Node;

    /// Where publishers cannot be told by `membarrier` that a task sleeps, it looks again after a while.
    #[test]
    fn a_node_can_be_made_to_look_again_after_a_while() {
        let place = tempfile::tempdir().unwrap();
        let node = Node::builder("node").socket(place.path().join("d.sock")).embedded().connect().unwrap();
        let subscriber = node.subscriber::<u32>("topic").create().unwrap();
        let waiter = subscriber.waiter();
        for _ in 0..2 {
            let mut ticket = waiter.ticket();
            // What rang before.
            while ticket.sleep(Some(Instant::now() + Duration::from_millis(2)), None).unwrap() {}
            waiter.kick_in(Duration::from_millis(1)).unwrap();
            assert!(ticket.sleep(None, None).unwrap(), "it rang");
        }
    }
}
