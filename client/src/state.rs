//! States: a writer sets a value, a reader sees the newest complete one, however late it comes or however seldom it looks.
//!
//! A state is made of publications that keep their last message for those who come later, and of lossy subscriptions that ask
//! for it: a writer never waits for a reader, and a value is read in place. Each value carries its publish time, by which
//! readers put those of different writers in order ([`Rank`]).
//!
//! # Who holds a value
//!
//! Its writer, in the publication's log, for readers to come; and each reader that has seen it. So a value outlives its
//! writer for those who saw it, or were linked when it died. Whoever comes after that sees nothing until somebody sets the state anew:
//! the memory went with the last who held it, and nothing is left to clean up.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::clock::Timestamp;
use nodeset_bus::evict::Evict;
use nodeset_bus::memory::SharedWords;
use nodeset_bus::message::Message;
use nodeset_bus::protocol::PublicationId;
use nodeset_bus::wake::Wish;

use crate::armed::Readiness;
use crate::error::{AdvertiseError, PublishError, ReceiveError, SubscribeError};
use crate::loan::Loan;
use crate::node::Node;
use crate::publisher::Publisher;
use crate::sample::{OwnedSample, Unchecked};
use crate::subscriber::{Found, Subscriber};
use crate::wait::Waiter;
use crate::wait_set::{Kind, Member, Receives, Source};

/// How many values are kept for readers that come later or fall behind.
const KEPT: u64 = 1;
/// bytes; short blocks, since a reader goes through the newest one
const BLOCK_LEN: u32 = 4096;
/// A publish time that is further ahead of the own clock is not believed: one of the clocks was set meanwhile.
const BELIEVED_AHEAD: Duration = Duration::from_secs(1);

impl Node {
    /// A value under a name: whoever [writes](State::writer) it sets it, whoever [reads](State::reader) it sees the newest one.
    ///
    /// The name is a topic: its subscribers get each value as a message, and `nodeset echo --history 1` shows it.
    ///
    /// ```
    /// use nodeset::Node;
    ///
    /// let node = Node::builder("robot").instance("doc-state").embedded().connect()?;
    /// let mut speed = node.state::<f64>("robot/speed").writer()?;
    /// speed.set(&0.5)?;
    /// speed.set(&1.5)?;
    ///
    /// // Whoever comes later sees the newest one at once.
    /// let mut display = node.state::<f64>("robot/speed").reader()?;
    /// let newest = display.get()?.expect("it was set");
    /// assert_eq!(**newest, 1.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn state<T: Message + ?Sized>(&self, name: impl AsRef<str>) -> State<'_, T> {
        State { node: self, name: name.as_ref().to_owned(), values: std::marker::PhantomData }
    }
}

/// One end of a state is about to be made. See [`Node::state`].
///
/// ```
/// # let node = nodeset::Node::builder("robot").instance("doc-state-ends").embedded().connect()?;
/// let mut mode = node.state::<str>("robot/mode").writer()?;
/// let mut display = node.state::<str>("robot/mode").reader()?;
/// mode.set("standing")?;
/// assert_eq!(&**display.get()?.expect("it was set"), "standing");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing happens before `writer` or `reader`"]
pub struct State<'a, T: Message + ?Sized> {
    node: &'a Node,
    name: String,
    values: std::marker::PhantomData<fn() -> Box<T>>,
}

impl<T: Message + ?Sized> State<'_, T> {
    /// The end that sets it. Nothing is there to read before [`StateWriter::set`]. A state may have several writers, in
    /// any processes: the value that was set last is the one that is seen.
    ///
    /// # Errors
    ///
    /// See [`AdvertiseError`].
    pub fn writer(self) -> Result<StateWriter<T>, AdvertiseError> {
        let builder = self.node.publisher(self.name).block_len(BLOCK_LEN).timestamps(true).depth(KEPT).history(KEPT);
        // Nobody is waited for: whoever wants each value as a message and does not keep up misses some.
        let publisher = builder.evict(Evict::Lag(0)).deadline(Duration::ZERO).create()?;
        Ok(StateWriter { publisher })
    }

    /// An end that reads it. When this returns, the values of all writers that are there and answer are there to read.
    ///
    /// Of a pattern, it reads the newest of all states that match.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn reader(self) -> Result<StateReader<T>, SubscribeError> {
        let subscriber = self.node.subscriber(self.name).lossy().depth(KEPT).history(KEPT).create()?;
        Ok(StateReader { subscriber, latest: None, unseen: false })
    }
}

/// Sets a value. Dropped, it takes the value from readers that come later; those that have seen it keep it.
///
/// ```
/// use nodeset::Node;
///
/// let node = Node::builder("robot").instance("doc-state-writer").embedded().connect()?;
/// let mut mode = node.state::<str>("robot/mode").writer()?;
/// mode.set("standing")?;
/// mode.set("walking")?;
/// assert_eq!((mode.topic(), mode.readers()), ("robot/mode", 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the value goes when this is dropped"]
pub struct StateWriter<T: Message + ?Sized> {
    publisher: Publisher<T>,
}

impl<T: Message + ?Sized> StateWriter<T> {
    /// Sets it, in place: readers see it whole or not at all. Never waits for anybody; no system call, unless somebody sleeps
    /// who waits for it.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; the value before it stays. [`PublishError::Full`] when readers hold so many old values that the
    /// log's limit is reached.
    #[inline]
    pub fn set(&mut self, value: &T) -> Result<(), PublishError> {
        self.publisher.try_publish(value).map(drop)
    }

    /// How many readers are linked, and subscribers of the same topic.
    pub fn readers(&self) -> usize {
        self.publisher.subscribers()
    }

    /// The state's name: a topic.
    pub fn topic(&self) -> &str {
        self.publisher.topic()
    }
}

impl StateWriter<[u8]> {
    /// Room for a value of `len` bytes, zeroed, to be written in place: it is set with [`Loan::send`].
    ///
    /// ```
    /// use nodeset::Node;
    ///
    /// let node = Node::builder("map").instance("doc-state-loan").embedded().connect()?;
    /// let mut map = node.state::<[u8]>("map/occupied").writer()?;
    /// let mut cells = map.loan(1_000_000)?;
    /// cells[4711] = 1;
    /// cells.send();
    /// let mut reader = node.state::<[u8]>("map/occupied").reader()?;
    /// assert_eq!(reader.get()?.expect("it was set")[4711], 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`set`](StateWriter::set).
    pub fn loan(&mut self, len: usize) -> Result<Loan<'_>, PublishError> {
        self.publisher.loan(len)
    }
}

/// Reads a value: [`get`](Self::get) what it is now, or wait until it [changes](Self::changed): blocking, awaiting (feature
/// `tokio`), in a [`WaitSet`](crate::WaitSet) or a foreign event loop ([`arm`](Self::arm)).
///
/// Among the values of several writers the one with the latest publish time is seen; of one writer, the one that it set last.
/// Messages without a publish time, of publishers of the same topic that are no writers of a state, count as older than all
/// others. The order is that of the writers' clocks. A value that seems to be set more than a second in the future loses against
/// each that comes after it, so that no clock that was wrong once stops a state.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, Readiness};
///
/// let node = Node::builder("robot").instance("doc-state-reader").embedded().connect()?;
/// let mut mode = node.state::<str>("robot/mode").writer()?;
/// let mut display = node.state::<str>("robot/mode").reader()?;
/// assert_eq!((display.writers(), display.topic()), (1, "robot/mode"));
/// assert!(display.get()?.is_none()); // not set so far
///
/// mode.set("standing")?;
/// assert!(matches!(display.arm()?, Readiness::Ready));
/// assert_eq!(&**display.changed()?, "standing");
/// assert!(display.changed_timeout(Duration::from_millis(1))?.is_none()); // since then
/// mode.set("walking")?;
/// assert_eq!(&**display.last().expect("it was read"), "standing");
/// assert_eq!(&**display.get()?.expect("it was set"), "walking");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the subscription ends when this is dropped"]
pub struct StateReader<T: Message + ?Sized> {
    subscriber: Subscriber<T>,
    latest: Option<Latest<T>>,
    /// Nobody was given the latest value so far.
    unseen: bool,
}

struct Latest<T: Message + ?Sized> {
    value: OwnedSample<T>,
    rank: Rank,
}

impl<T: Message + ?Sized> StateReader<T> {
    /// The newest value; `None` when none was set. Never waits, copies nothing, calls no system.
    ///
    /// Takes the time of a look at each writer, and of a step for each value that was set since the last call and stands in the
    /// newest block of a log: 128 at most, fewer where they are large. To keep a value, [clone](OwnedSample::clone) it; it
    /// stays as it is.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`]; the value from before stays, and reading can go on.
    pub fn get(&mut self) -> Result<Option<&OwnedSample<T>>, ReceiveError> {
        self.catch_up(None)?;
        Ok(self.see())
    }

    /// Waits for a newer value than those that were given so far, then gives the newest one. Values between may be passed over.
    ///
    /// ```
    /// use nodeset::Node;
    ///
    /// let node = Node::builder("door").instance("doc-changed").embedded().connect()?;
    /// let mut reader = node.state::<str>("door/lock").reader()?;
    /// let mut lock = node.state::<str>("door/lock").writer()?;
    /// let other = std::thread::spawn(move || lock.set("open").map(|()| lock));
    /// assert_eq!(&**reader.changed()?, "open");
    /// # drop(other.join());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    #[allow(clippy::missing_panics_doc, reason = "`unseen` says that there is a value")]
    pub fn changed(&mut self) -> Result<&OwnedSample<T>, ReceiveError> {
        loop {
            self.wait_until(None)?;
            if self.unseen {
                return Ok(self.see().expect("what nobody was given is there"));
            }
        }
    }

    /// As [`changed`](Self::changed), but `None` when nothing comes within `timeout`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn changed_timeout(&mut self, timeout: Duration) -> Result<Option<&OwnedSample<T>>, ReceiveError> {
        // A timeout beyond what the clock can say is none.
        self.wait_until(Instant::now().checked_add(timeout))?;
        Ok(if self.unseen { self.see() } else { None })
    }

    /// As [`changed`](Self::changed), for a task. Cancellation-safe: a future that is dropped before it was ready has passed
    /// over nothing.
    ///
    /// ```
    /// use nodeset::Node;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let node = Node::builder("door").instance("doc-changed-async").embedded().connect()?;
    /// let mut reader = node.state::<str>("door/lock").reader()?;
    /// let mut lock = node.state::<str>("door/lock").writer()?;
    /// let watch = tokio::spawn(async move {
    ///     let word = reader.changed_async().await?;
    ///     Ok::<_, nodeset::ReceiveError>(word.to_string())
    /// });
    /// lock.set("open")?;
    /// assert_eq!(watch.await??, "open");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and [`ReceiveError::NoRuntime`].
    #[cfg(feature = "tokio")]
    #[allow(clippy::missing_panics_doc, reason = "`unseen` says that there is a value")]
    pub async fn changed_async(&mut self) -> Result<&OwnedSample<T>, ReceiveError> {
        self.catch_up(None)?;
        while !self.unseen {
            let found = std::future::poll_fn(|context| self.subscriber.poll_found(context)).await?;
            self.catch_up(Some(found))?;
        }
        Ok(self.see().expect("what nobody was given is there"))
    }

    /// The value that was given last, without a look whether there is a newer one.
    pub fn last(&self) -> Option<&OwnedSample<T>> {
        self.latest.as_ref().map(|latest| &latest.value)
    }

    /// How many writers are linked.
    pub fn writers(&mut self) -> usize {
        self.subscriber.publishers()
    }

    /// The state's name: a topic.
    pub fn topic(&self) -> &str {
        self.subscriber.topic()
    }

    /// As [`Subscriber::arm`]: before a foreign event loop waits for the descriptor ([`AsFd`]). Afterwards, and when it says
    /// [`Ready`](Readiness::Ready), [`get`](Self::get) the value; it may be the same as before.
    ///
    /// # Errors
    ///
    /// As [`Subscriber::arm`].
    pub fn arm(&mut self) -> Result<Readiness, ReceiveError> {
        if self.unseen { Ok(Readiness::Ready) } else { self.subscriber.arm() }
    }

    fn see(&mut self) -> Option<&OwnedSample<T>> {
        self.unseen = false;
        self.last()
    }

    /// Waits until there is a value that nobody was given; it may also return without one, and does so at the deadline.
    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<(), ReceiveError> {
        self.catch_up(None)?;
        while !self.unseen {
            let Some(found) = self.subscriber.find(deadline)? else { break };
            self.catch_up(Some(found))?;
        }
        Ok(())
    }

    /// Takes the newest of what came: `found`, and what is there behind it.
    fn catch_up(&mut self, found: Option<Found>) -> Result<(), ReceiveError> {
        let mut newest: Option<(Unchecked<T>, Rank)> = None;
        let mut outcome = Ok(());
        if let Some(found) = found {
            self.consider(&found, &mut newest)?;
        }
        // Two blocks of each log have whatever was there when this began; what is set meanwhile may be left for the next time.
        for _ in 0..2 * self.skip_to_newest() {
            let considered = match self.subscriber.poll() {
                Ok(Some(found)) => self.consider(&found, &mut newest),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            if considered.is_err() {
                outcome = considered;
                break;
            }
        }
        // Whatever came last: what came before it is not lost.
        if let Some((value, rank)) = newest {
            self.latest = Some(Latest { value: value.check()?, rank });
            self.unseen = true;
        }
        outcome
    }

    /// Passes over what lies before the newest block of each log. Returns how many messages those blocks can hold.
    fn skip_to_newest(&mut self) -> usize {
        self.subscriber.refresh();
        let ports = self.subscriber.ports.iter_mut();
        ports
            .map(|port| {
                port.inlet.skip_to_newest();
                port.inlet.per_block()
            })
            .sum()
    }

    /// Keeps what was found, if it is newer than all before.
    fn consider(&mut self, found: &Found, newest: &mut Option<(Unchecked<T>, Rank)>) -> Result<(), ReceiveError> {
        let port = &self.subscriber.ports[found.port];
        let rank = Rank {
            time: port.inlet.extensions().time,
            publication: port.inlet.id().publication,
            sequence: found.frame.sequence,
        };
        let before = newest.as_ref().map(|(_, rank)| *rank).or(self.latest.as_ref().map(|latest| latest.rank));
        if before.is_none_or(|before| rank.is_newer_than(before, port.follows, Timestamp::now)) {
            *newest = Some((self.subscriber.keep(found)?, rank));
        }
        Ok(())
    }
}

/// Where a value stands among those of all writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rank {
    time: Option<Timestamp>,
    publication: PublicationId,
    sequence: u64,
}

impl Rank {
    /// Whether this value takes the place of `other`. `follows` is the publication from which this one's log goes on.
    ///
    /// 1. *Of one writer*, the log has the order, whatever its clock said: also where a fresh log took an old one's place. What
    ///    comes once more, over a fresh link, is not newer.
    /// 2. *Of two*, the later time wins. If both tell the same, one of them must, for all readers alike: the one whose
    ///    publication has the higher number.
    /// 3. *Unless the other's time cannot be*: one that lies in the future says only that a clock was set. If it were believed,
    ///    the state would stand still until then.
    fn is_newer_than(self, other: Rank, follows: Option<PublicationId>, now: impl FnOnce() -> Timestamp) -> bool {
        if self.publication == other.publication || follows == Some(other.publication) {
            return self.sequence > other.sequence;
        }
        match (self.time, other.time) {
            // Neither has said when: the one that is heard of later.
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(_), None) => true,
            (Some(time), Some(before)) => {
                (time, self.publication.0) > (before, other.publication.0) || before.since(now()) > BELIEVED_AHEAD
            }
        }
    }
}

impl<T: Message + ?Sized> AsFd for StateReader<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.subscriber.as_fd()
    }
}

impl<T: Message + ?Sized + 'static> Source for StateReader<T> where T::View: Send {}

impl<T: Message + ?Sized + 'static> Member for StateReader<T>
where
    T::View: Send,
{
    fn kind(&self) -> Kind<'_> {
        Kind::Subscriber(self)
    }
}

impl<T: Message + ?Sized> Receives for StateReader<T> {
    fn waiter(&self) -> &Arc<Waiter> {
        self.subscriber.waiter()
    }

    fn is_ready(&self) -> bool {
        self.unseen || self.subscriber.is_ready()
    }

    fn wishes<'a>(&'a self, wishes: &mut Vec<&'a Wish<SharedWords>>) {
        self.subscriber.wishes(wishes);
    }
}

impl<T: Message + ?Sized> fmt::Debug for StateWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateWriter").field("topic", &self.topic()).finish_non_exhaustive()
    }
}

impl<T: Message + ?Sized> fmt::Debug for StateReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateReader").field("topic", &self.topic()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos).expect("a time")
    }

    fn rank(at: Option<u64>, publication: u64, sequence: u64) -> Rank {
        Rank { time: at.map(time), publication: PublicationId(publication), sequence }
    }

    fn newer(this: Rank, other: Rank) -> bool {
        this.is_newer_than(other, None, || time(1_000))
    }

    #[test]
    fn of_one_writer_the_log_has_the_order() {
        assert!(newer(rank(Some(5), 1, 8), rank(Some(9), 1, 7)), "its clock was set back");
        assert!(!newer(rank(Some(5), 1, 7), rank(Some(5), 1, 7)), "the same once more");
        let follows = Some(PublicationId(1));
        assert!(rank(Some(5), 2, 8).is_newer_than(rank(Some(9), 1, 7), follows, || time(10)));
        assert!(!rank(Some(5), 2, 7).is_newer_than(rank(Some(9), 1, 7), follows, || time(10)));
    }

    #[test]
    fn of_two_writers_the_later_one_wins_in_whatever_order_they_are_heard_of() {
        for (early, late) in [
            (rank(Some(5), 2, 100), rank(Some(6), 1, 0)),
            (rank(Some(5), 1, 100), rank(Some(5), 2, 0)),
            (rank(None, 2, 100), rank(Some(1), 1, 0)),
        ] {
            assert!(newer(late, early), "{late:?} {early:?}");
            assert!(!newer(early, late), "{late:?} {early:?}");
        }
        assert!(newer(rank(None, 1, 0), rank(None, 2, 9)), "the one that is heard of later");
    }

    #[test]
    fn a_time_that_cannot_be_stops_nobody() {
        let (now, second) = (5_000_000_000, 1_000_000_000);
        let wins_against =
            |ahead: u64| rank(Some(now), 1, 0).is_newer_than(rank(Some(now + ahead), 2, 0), None, || time(now));
        assert!(!wins_against(second), "clocks of two hosts may differ a little");
        assert!(wins_against(second + 1));
        assert!(wins_against(i64::MAX as u64 - now));
    }
}
