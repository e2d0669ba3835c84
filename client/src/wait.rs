//! Waiting: how the threads of a node sleep until something comes, without losing a wake-up to each other.
//!
//! A node has one bell (an eventfd) for each user among its peers, all in one epoll descriptor, and one local bell that its
//! session thread rings. A thread that waits takes a [`Ticket`], says what it waits for (`nodeset_bus::wake`), looks once
//! more, and sleeps. Of those that sleep one *leads*: it waits in the kernel. When it wakes it advances the epoch and wakes
//! all others, who look for themselves. `asleep` in the node page stays set as long as anybody holds a ticket.
//!
//! The bells are registered edge-triggered, so nobody has to read them: each ring is an event of its own, taken by whoever
//! waits in the kernel next (<https://man7.org/linux/man-pages/man7/epoll.7.html>).
//!
//! Tasks, wait sets and foreign event loops do not sleep here. They have the descriptor in an epoll instance of their own, edge-triggered: each
//! of these hears each ring, whoever hears it besides. Only when somebody else takes what rang before their own instance
//! looked do they not hear of it; so they leave a [`Waker`] with their ticket, and whoever takes what rang wakes them.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(feature = "tokio")]
use std::sync::OnceLock;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use nodeset_bus::memory::SharedWords;
use nodeset_bus::page::NodePage;
use nodeset_bus::sys::Bell;
use nodeset_bus::wake::{self, Wish};
use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::io::Errno;

/// How a subscriber or publisher waits.
///
/// ```
/// use nodeset::{Node, WaitStrategy};
///
/// let node = Node::builder("eager").instance("doc-wait-strategy").embedded().connect()?;
/// let mut publisher = node.publisher::<str>("orders").create()?;
/// let mut orders = node.subscriber::<str>("orders").wait(WaitStrategy::Spin).create()?;
/// publisher.publish("go")?;
/// assert_eq!(&*orders.receive()?, "go");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WaitStrategy {
    /// Looks again and again: the lowest latency, at the price of a core. Gives way to other threads now and then.
    Spin,
    /// Looks again and again and gives way to other threads each time.
    Yield,
    /// Looks a few microseconds long, then sleeps.
    #[default]
    Block,
}

/// What "never" is where a deadline has to be a time: thirty years.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `time` after `since`; never, where the clock cannot say that any more.
pub(crate) fn after(since: Instant, time: Duration) -> Instant {
    since.checked_add(time).unwrap_or_else(|| since + NEVER)
}

/// Where publishers cannot be told by `membarrier` that somebody sleeps, a sleeper looks again after this time.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// See the module.
pub(crate) struct Waiter {
    epoll: OwnedFd,
    local: Bell,
    page: Arc<NodePage<SharedWords>>,
    /// Registered, and so kept open.
    bells: Mutex<Vec<Arc<Bell>>>,
    /// Rings for tasks that have to look again by themselves; made when one has to.
    #[cfg(feature = "tokio")]
    timer: OnceLock<OwnedFd>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Grows whenever everybody has to look again.
    epoch: u64,
    /// How many tickets there are.
    tickets: usize,
    /// Somebody waits in the kernel for all.
    led: bool,
    /// Number of the next ticket.
    next_ticket: u64,
    /// Of those who sleep elsewhere, by the number of their ticket.
    wakers: Vec<(u64, Waker)>,
}

impl Waiter {
    pub(crate) fn new(page: Arc<NodePage<SharedWords>>) -> std::io::Result<Waiter> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let local = Bell::new()?;
        epoll::add(&epoll, &local, epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        Ok(Waiter {
            epoll,
            local,
            page,
            bells: Mutex::new(Vec::new()),
            #[cfg(feature = "tokio")]
            timer: OnceLock::new(),
            state: Mutex::new(State { epoch: 0, tickets: 0, led: false, next_ticket: 0, wakers: Vec::new() }),
            changed: Condvar::new(),
        })
    }

    /// Waits on another bell, too.
    pub(crate) fn add_bell(&self, bell: Arc<Bell>) -> std::io::Result<()> {
        let data = epoll::EventData::new_u64(1);
        epoll::add(&self.epoll, &bell, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        self.bells.lock().unwrap_or_else(PoisonError::into_inner).push(bell);
        Ok(())
    }

    /// Makes everybody look again.
    pub(crate) fn kick(&self) {
        self.local.ring();
    }

    /// Makes everybody look again after that time, or earlier if somebody else asked for that.
    #[cfg(feature = "tokio")]
    pub(crate) fn kick_in(&self, after: Duration) -> rustix::io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
        if self.timer.get().is_none() {
            let made = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
            // Of several threads one registers the one that is kept.
            let mut mine = false;
            let timer = self.timer.get_or_init(|| {
                mine = true;
                made
            });
            if mine {
                let data = epoll::EventData::new_u64(2);
                epoll::add(&self.epoll, timer, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
            }
        }
        let Some(timer) = self.timer.get() else { return Ok(()) };
        let set = rustix::time::timerfd_gettime(timer)?.it_value;
        if (set.tv_sec, set.tv_nsec) != (0, 0) {
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(after) };
        rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Announces that a thread is about to sleep.
    pub(crate) fn ticket(self: &Arc<Self>) -> Ticket {
        let mut state = self.lock();
        state.tickets += 1;
        state.next_ticket += 1;
        Ticket { epoch: state.epoch, number: state.next_ticket, waiter: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what rang from the kernel; says whether anything did.
    fn take_events(&self, timeout: Option<Duration>) -> rustix::io::Result<bool> {
        let timeout = timeout.map(timespec);
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 16];
        match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Ok((rang, _)) => Ok(!rang.is_empty()),
            // A signal: whoever waits looks whether the program has to end.
            Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(errno),
        }
    }

    /// Something rang, and was taken from the kernel: everybody looks again.
    fn advance(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.epoch += 1;
        if state.tickets > 1 {
            self.changed.notify_all();
        }
        if state.wakers.is_empty() {
            return state;
        }
        let wakers = std::mem::take(&mut state.wakers);
        // What they wake may ask for a ticket, or give one back.
        drop(state);
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
        self.lock()
    }
}

impl AsFd for Waiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// A duration, as the kernel takes it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

/// Somebody who sleeps or is about to.
pub(crate) struct Ticket {
    waiter: Arc<Waiter>,
    number: u64,
    epoch: u64,
}

impl Ticket {
    /// The steps before sleeping: from now on commits of these publications ring. Then the caller looks once more. Says how
    /// long one may sleep at most.
    #[must_use]
    pub(crate) fn wish<'a>(&self, wishes: impl IntoIterator<Item = &'a Wish<SharedWords>> + Clone) -> Option<Duration> {
        wake::wish(&self.waiter.page, wishes.clone());
        (!wake::make_visible(&self.waiter.page, wishes)).then_some(LOOK_AGAIN)
    }

    /// Sleeps until something may have come since the ticket was made (or this returned), or until `deadline`: false.
    pub(crate) fn sleep(&mut self, deadline: Option<Instant>, at_most: Option<Duration>) -> rustix::io::Result<bool> {
        let until = |now: Instant| deadline.map(|deadline| deadline.saturating_duration_since(now));
        let mut state = self.waiter.lock();
        loop {
            if state.epoch != self.epoch {
                self.epoch = state.epoch;
                return Ok(true);
            }
            let remaining = until(Instant::now());
            if remaining.is_some_and(|it| it.is_zero()) {
                return Ok(false);
            }
            let timeout = match (remaining, at_most) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            if state.led {
                state = match timeout {
                    None => self.waiter.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(timeout) => {
                        self.waiter.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
                    }
                };
            } else {
                state.led = true;
                drop(state);
                let rang = self.waiter.take_events(timeout);
                state = if matches!(rang, Ok(false)) { self.waiter.lock() } else { self.waiter.advance() };
                state.led = false;
                if state.tickets > 1 {
                    // They look for themselves, or one of them leads from now on.
                    self.waiter.changed.notify_all();
                }
                rang?;
            }
            if at_most.is_some() {
                self.epoch = state.epoch;
                return Ok(true);
            }
        }
    }

    /// For those who sleep elsewhere: from now on whoever takes what rang uses `waker`, once. Says false when something
    /// was taken since the ticket was made or this was called last: then look once more.
    #[must_use]
    pub(crate) fn wake_with(&mut self, waker: &Waker) -> bool {
        let waker = waker.clone();
        let mut state = self.waiter.lock();
        let quiet = state.epoch == self.epoch;
        self.epoch = state.epoch;
        let before = match state.wakers.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, kept)) => Some(std::mem::replace(kept, waker)),
            None => {
                state.wakers.push((self.number, waker));
                None
            }
        };
        drop(state);
        // With it may go its task, and with that another ticket.
        drop(before);
        quiet
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.waiter.lock();
        state.tickets -= 1;
        // Under the lock: whoever takes the next ticket sets it again.
        if state.tickets == 0 {
            self.waiter.page.set_asleep(false);
        }
        let waker = state.wakers.iter().position(|(number, _)| *number == self.number);
        let waker = waker.map(|at| state.wakers.swap_remove(at));
        drop(state);
        // With it may go its task, and with that another ticket.
        drop(waker);
    }
}

/// A waker that rings a bell.
pub(crate) struct Ringer(pub(crate) Bell);

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.0.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.ring();
    }
}

/// Finds out whether messages stream, and then lets the publisher run ahead.
///
/// A reader that looks for the next message right behind a fast writer takes the very line away that the writer is about to
/// write: both then move at the pace of a line that goes back and forth (measured: a third of the throughput). So whoever
/// finds several messages, or the next one at once, time after time, pauses for a moment before it looks again. Whoever gets
/// one message a wait, as in a round trip, or has to wait for long, never pauses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chase {
    /// messages received when it last had to wait
    received: u64,
    /// Only one message came since the wait before.
    alone: bool,
    /// How often in a row it looked like a stream.
    close: u32,
}

impl Chase {
    /// Looks within which a message counts as just arriving.
    const AT_ONCE: u32 = 8;
    /// Looks after which nothing streams; a few hundred nanoseconds.
    const LONG: u32 = 128;
    /// How often in a row it takes.
    const TIMES: u32 = 16;
    /// Long enough for the publisher to get well ahead, short beside what a message at a stream's end may take anyway.
    const PAUSE: Duration = Duration::from_micros(5);

    /// There is nothing now: pauses if messages stream. `received` counts all messages so far.
    #[inline]
    pub(crate) fn pause(&mut self, received: u64) {
        self.alone = received - self.received < 2;
        self.received = received;
        if !self.alone {
            self.closer();
        }
        if self.close == Chase::TIMES {
            let started = Instant::now();
            while started.elapsed() < Chase::PAUSE {
                std::hint::spin_loop();
            }
        }
    }

    /// Something came after so many looks.
    #[inline]
    pub(crate) fn came(&mut self, looks: u32) {
        match looks {
            0..=Chase::AT_ONCE => self.closer(),
            looks if looks > Chase::LONG => self.close = 0,
            _ if self.alone => self.close = self.close.saturating_sub(1),
            _ => {}
        }
    }

    fn closer(&mut self) {
        self.close = (self.close + 1).min(Chase::TIMES);
    }
}

/// How long to look before sleeping, learnt from what came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpinBudget {
    nanos: u32,
}

impl SpinBudget {
    const LEAST: u32 = 500;
    const MOST: u32 = 20_000;

    pub(crate) fn new() -> SpinBudget {
        SpinBudget { nanos: 5_000 }
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_nanos(self.nanos.into())
    }

    /// It came while looking: looking is worth it.
    pub(crate) fn hit(&mut self) {
        self.nanos = (self.nanos + self.nanos / 4).min(SpinBudget::MOST);
    }

    /// Nothing came while looking.
    pub(crate) fn missed(&mut self) {
        self.nanos = (self.nanos - self.nanos / 4).max(SpinBudget::LEAST);
    }
}
