//! Handlers: functions that are called with each message of a topic, or again and again, on the thread that runs them
//! ([`Node::on`], [`Node::every`], [`Node::run`]).
//!
//! What handlers wait for is in a [`WaitSet`]. It belongs to whoever runs; everybody else, handlers among them, leaves wishes
//! (one more handler, one less, an end) in an inbox and wakes the set.

mod entry;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use nodeset_bus::message::Message;
use tracing::{error, warn};

use crate::error::{RunError, SubscribeError, WaitError};
use crate::event::NodeEvent;
use crate::node::Node;
use crate::sample::Sample;
use crate::service::{Request, Server};
use crate::session::Core;
use crate::subscriber::Subscriber;
use crate::wait_set::{Id, Timer, WaitSet, WakeHandle};
use entry::{Entry, Start, of_server, of_subscriber, of_timer};

pub use entry::Outcome;

/// Tells a handler from the others of its node.
///
/// ```
/// use nodeset::{Node, NodeEvent, Sample};
///
/// let node = Node::builder("reader").instance("doc-handler-id").embedded().connect()?;
/// let first = node.on("a", |text: Sample<'_, str>| println!("a: {}", &*text))?;
/// let second = node.on("b", |text: Sample<'_, str>| println!("b: {}", &*text))?;
/// assert_ne!(first, second);
/// node.on_event(move |event| match event {
///     NodeEvent::HandlerFailed { handler, .. } if *handler == first => eprintln!("the first one failed"),
///     _ => {}
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandlerId(u64);

/// Why [`Node::run_until`] returned.
///
/// ```
/// use std::time::Instant;
/// use nodeset::{Node, RunEnd};
///
/// let node = Node::builder("brief").instance("doc-run-end").embedded().connect()?;
/// assert_eq!(node.run_until(Instant::now())?, RunEnd::Deadline);
/// node.stop_handle().stop();
/// assert_eq!(node.run_until(Instant::now())?, RunEnd::Stopped);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunEnd {
    /// A [`StopHandle`] was used.
    Stopped,
    /// The deadline is over.
    Deadline,
}

/// What went wrong in a handler. It is called again all the same, with the next message.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{HandlerFailure, Node, NodeEvent};
///
/// let node = Node::builder("clumsy").instance("doc-handler-failure").embedded().connect()?;
/// let stop = node.stop_handle();
/// node.on_event(move |event| {
///     if let NodeEvent::HandlerFailed { failure, .. } = event {
///         assert_eq!(*failure, HandlerFailure::Returned("out of tea".to_owned()));
///         stop.stop();
///     }
/// });
/// node.every(Duration::from_millis(1), || Err::<(), _>("out of tea"));
/// node.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandlerFailure {
    /// It panicked, and said that.
    Panicked(String),
    /// It returned that error.
    Returned(String),
    /// It was not called: there is something to know instead of a message, see [`ReceiveError`](crate::ReceiveError), or what
    /// it waits for cannot be waited for, see [`WaitError`].
    Receive(String),
}

impl fmt::Display for HandlerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandlerFailure::Panicked(text) => write!(f, "it panicked: {text}"),
            HandlerFailure::Returned(text) | HandlerFailure::Receive(text) => f.write_str(text),
        }
    }
}

/// Ends [`Node::run`] from a handler or another thread. Does not keep the node.
///
/// ```
/// use std::time::Duration;
/// use nodeset::Node;
///
/// let node = Node::builder("brief").instance("doc-stop-handle").embedded().connect()?;
/// let stop = node.stop_handle();
/// node.every(Duration::from_millis(1), move || stop.stop());
/// node.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct StopHandle(Weak<Handlers>);

impl StopHandle {
    /// Ends the run that goes on after the handler that is called just now; if nobody runs, the next one at once.
    pub fn stop(&self) {
        if let Some(handlers) = self.0.upgrade() {
            handlers.change(|inbox| inbox.stop = true);
        }
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHandle").finish_non_exhaustive()
    }
}

impl Node {
    /// Calls `handler` with each message of `topic`, while [`run`](Self::run) runs. It may return nothing, or a `Result` whose
    /// error is reported. The subscriber is one with the defaults; [`handle`](Self::handle) takes any.
    ///
    /// A handler that panics or fails stops nothing: that is logged, told as [`NodeEvent::HandlerFailed`], and the handler is
    /// called again with the next message. A handler that captures its own node keeps it for ever: capture publishers and
    /// stop handles instead.
    ///
    /// ```
    /// use nodeset::{Node, Sample};
    ///
    /// let node = Node::builder("scales").instance("doc-on").embedded().connect()?;
    /// let mut publisher = node.publisher::<u32>("scales/grams").create()?;
    /// let mut total = node.publisher::<u64>("scales/total").create()?;
    /// let (mut sum, stop) = (0, node.stop_handle());
    /// node.on("scales/grams", move |grams: Sample<'_, u32>| {
    ///     sum += u64::from(grams.to_native());
    ///     total.publish(&sum).map(drop)
    /// })?;
    /// node.on("scales/total", move |total: Sample<'_, u64>| {
    ///     if *total == 6 {
    ///         stop.stop();
    ///     }
    /// })?;
    /// for grams in 1..=3 {
    ///     publisher.publish(&grams)?;
    /// }
    /// node.run()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn on<T, R>(
        &self,
        topic: impl AsRef<str>,
        handler: impl FnMut(Sample<'_, T>) -> R + Send + 'static,
    ) -> Result<HandlerId, SubscribeError>
    where
        T: Message + ?Sized + 'static,
        R: Outcome,
    {
        Ok(self.handle(self.subscriber(topic).create()?, handler))
    }

    /// As [`on`](Self::on), for the messages of a subscriber that was made before, which may be reliable, have a history, or be
    /// one of another node.
    ///
    /// ```
    /// # use nodeset::Node;
    /// # let node = Node::builder("log").instance("doc-handle").embedded().connect()?;
    /// let subscriber = node.subscriber::<str>("log/lines").reliable().create()?;
    /// node.handle(subscriber, |line| println!("{}: {}", line.publisher(), &*line));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handle<T, R>(
        &self,
        subscriber: Subscriber<T>,
        handler: impl FnMut(Sample<'_, T>) -> R + Send + 'static,
    ) -> HandlerId
    where
        T: Message + ?Sized + 'static,
        R: Outcome,
    {
        self.handlers.add(of_subscriber(subscriber, handler))
    }

    /// Calls `handler` with each request to a server that was made before, while [`run`](Self::run) runs: for those who answer
    /// several times, or not at once. Panics and errors are reported as those of [`on`](Self::on); a request that was not
    /// answered by then is told to its client as such.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nodeset::{Node, Request};
    ///
    /// let node = Node::builder("counter").instance("doc-handle-requests").embedded().connect()?;
    /// let server = node.server::<u32, u32>("count/down").create()?;
    /// node.handle_requests(server, |mut request: Request<'_, u32, u32>| {
    ///     for number in (0..request.to_native()).rev() {
    ///         request.send(&number)?;
    ///     }
    ///     request.end()
    /// });
    /// let (running, stop) = (node.clone(), node.stop_handle());
    /// let running = std::thread::spawn(move || running.run());
    ///
    /// let mut client = node.client::<u32, u32>("count/down").create()?;
    /// let mut answer = client.ask(&3, Duration::from_secs(10))?;
    /// let mut numbers = Vec::new();
    /// while let Some(number) = answer.receive()? {
    ///     numbers.push(number.to_native());
    /// }
    /// assert_eq!(numbers, [2, 1, 0]);
    /// stop.stop();
    /// running.join().expect("handlers do not end their thread")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handle_requests<Req, Rep, R>(
        &self,
        server: Server<Req, Rep>,
        handler: impl FnMut(Request<'_, Req, Rep>) -> R + Send + 'static,
    ) -> HandlerId
    where
        Req: Message + ?Sized + 'static,
        Rep: Message + ?Sized + 'static,
        R: Outcome,
    {
        self.handlers.add(of_server(server, handler))
    }

    /// Calls `handler` once a `period`, while [`run`](Self::run) runs; for the first time one period from now. Periods that are
    /// over before the one before was handled are not made up for.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let node = nodeset::Node::builder("clock").instance("doc-every").embedded().connect()?;
    /// let (mut ticks, stop) = (0, node.stop_handle());
    /// node.every(Duration::from_millis(1), move || {
    ///     ticks += 1;
    ///     if ticks == 3 {
    ///         stop.stop();
    ///     }
    /// });
    /// node.run()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn every<R: Outcome>(&self, period: Duration, handler: impl FnMut() -> R + Send + 'static) -> HandlerId {
        self.handlers.add(of_timer(Timer::every(period), handler))
    }

    /// Removes a handler. If another thread runs the handlers it may be in the midst of this one; otherwise it is not called
    /// again.
    ///
    /// ```
    /// # use nodeset::{Node, Sample};
    /// # let node = Node::builder("deaf").instance("doc-off").embedded().connect()?;
    /// let id = node.on("noise", |_: Sample<'_, [u8]>| println!("heard"))?;
    /// node.off(id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn off(&self, handler: HandlerId) {
        self.handlers.remove(handler);
    }

    /// Calls the node's handlers on this thread, one at a time, until a [`StopHandle`] ends it. Handlers may be added and
    /// removed meanwhile, from anywhere.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("node").instance("doc-run").embedded().connect()?;
    /// let stop = node.stop_handle();
    /// let running = std::thread::spawn(move || node.run());
    /// stop.stop();
    /// running.join().expect("handlers do not end their thread")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub fn run(&self) -> Result<(), RunError> {
        self.handlers.run(&self.handle.core, None).map(drop)
    }

    /// The same, at most until `deadline`.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use nodeset::{Node, RunEnd};
    /// # let node = Node::builder("node").instance("doc-run-until").embedded().connect()?;
    /// let end = node.run_until(Instant::now() + Duration::from_millis(1))?;
    /// assert_eq!(end, RunEnd::Deadline);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub fn run_until(&self, deadline: Instant) -> Result<RunEnd, RunError> {
        self.handlers.run(&self.handle.core, Some(deadline))
    }

    /// Ends [`run`](Self::run) from a handler or another thread.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("brief").instance("doc-node-stop-handle").embedded().connect()?;
    /// let stop = node.stop_handle();
    /// std::thread::spawn(move || stop.stop()); // as a signal might
    /// node.run()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::downgrade(&self.handlers))
    }
}

/// The handlers of a node.
#[derive(Default)]
pub(crate) struct Handlers {
    inbox: Mutex<Inbox>,
    /// Something is in the inbox. Only a hint, so that looking costs a load between two calls.
    changed: AtomicBool,
    /// Held by whoever runs; `None` before the first run.
    runner: Mutex<Option<Runner>>,
}

/// What is asked of whoever runs.
#[derive(Default)]
struct Inbox {
    added: Vec<(HandlerId, Start)>,
    removed: Vec<HandlerId>,
    stop: bool,
    /// Number of the handler that was made last.
    last: u64,
    /// Wakes whoever runs; `None` before the first run.
    wake: Option<WakeHandle>,
}

/// What runs.
struct Runner {
    set: WaitSet,
    entries: HashMap<Id, (HandlerId, Box<dyn Entry>)>,
}

impl Handlers {
    fn add(&self, start: Start) -> HandlerId {
        self.change(|inbox| {
            inbox.last += 1;
            let id = HandlerId(inbox.last);
            inbox.added.push((id, start));
            id
        })
    }

    fn remove(&self, id: HandlerId) {
        let waiting = self.change(|inbox| match inbox.added.iter().position(|(added, _)| *added == id) {
            Some(at) => Some(inbox.added.remove(at)),
            None => {
                inbox.removed.push(id);
                None
            }
        });
        // It may hold anything, even this node: not dropped under the lock.
        drop(waiting);
    }

    /// Asks something of whoever runs.
    fn change<R>(&self, change: impl FnOnce(&mut Inbox) -> R) -> R {
        let mut inbox = self.inbox();
        let outcome = change(&mut inbox);
        // Relaxed: what it is about is under the lock, and a runner that sleeps is woken.
        self.changed.store(true, Ordering::Relaxed);
        if let Some(wake) = &inbox.wake {
            wake.wake();
        }
        outcome
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is something in the inbox.
    fn is_changed(&self) -> bool {
        // Relaxed: see `change`.
        self.changed.load(Ordering::Relaxed)
    }

    fn run(&self, core: &Core, deadline: Option<Instant>) -> Result<RunEnd, RunError> {
        let mut runner = match self.runner.try_lock() {
            Ok(runner) => runner,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(RunError::Running),
        };
        let runner = match &mut *runner {
            Some(runner) => runner,
            none => none.insert(self.first_runner()?),
        };
        loop {
            if self.take_changes(core, runner) {
                return Ok(RunEnd::Stopped);
            }
            let ready = match deadline {
                Some(deadline) => runner.set.wait_until(deadline)?,
                None => runner.set.wait()?,
            };
            for id in &ready {
                if let Some((handler, entry)) = runner.entries.get_mut(&id) {
                    let go_on = || !self.is_changed();
                    entry.call(&mut runner.set, &go_on, &mut |topic, failure| report(core, *handler, topic, failure));
                }
                // A handler may have removed another one that is ready.
                if self.take_changes(core, runner) {
                    return Ok(RunEnd::Stopped);
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(RunEnd::Deadline);
            }
        }
    }

    fn first_runner(&self) -> Result<Runner, WaitError> {
        let set = WaitSet::new()?;
        self.inbox().wake = Some(set.wake_handle());
        Ok(Runner { set, entries: HashMap::new() })
    }

    /// Does what was asked. Says whether to stop.
    fn take_changes(&self, core: &Core, runner: &mut Runner) -> bool {
        if !self.is_changed() {
            return false;
        }
        let mut inbox = self.inbox();
        // Relaxed: see `change`.
        self.changed.store(false, Ordering::Relaxed);
        let (added, removed) = (std::mem::take(&mut inbox.added), std::mem::take(&mut inbox.removed));
        let stop = std::mem::take(&mut inbox.stop);
        drop(inbox);
        for (handler, start) in added {
            match start(&mut runner.set) {
                Ok((id, entry)) => drop(runner.entries.insert(id, (handler, entry))),
                Err(error) => report(core, handler, None, HandlerFailure::Receive(error.to_string())),
            }
        }
        let Runner { set, entries } = runner;
        entries.retain(|_, (handler, entry)| {
            let stays = !removed.contains(handler);
            if !stays {
                entry.detach(set);
            }
            stays
        });
        stop
    }
}

/// Says what went wrong; nothing stops for it.
fn report(core: &Core, handler: HandlerId, topic: Option<Arc<str>>, failure: HandlerFailure) {
    let name = topic.as_deref().unwrap_or("(a timer)");
    match &failure {
        HandlerFailure::Panicked(text) => error!(event = "handler_panicked", topic = name, text),
        HandlerFailure::Returned(text) => warn!(event = "handler_failed", topic = name, text),
        HandlerFailure::Receive(text) => warn!(event = "receive_failed", topic = name, text),
    }
    core.tell(&NodeEvent::HandlerFailed { handler, topic, failure });
}
