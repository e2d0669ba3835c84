//! One handler with what it waits for.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use nodeset_bus::message::Message;

use super::HandlerFailure;
use crate::error::WaitError;
use crate::sample::Sample;
use crate::service::{Request, Server};
use crate::subscriber::Subscriber;
use crate::wait_set::{Id, Key, Timer, WaitSet};

/// Messages that a handler is given in one turn, before others have theirs.
const MESSAGES_A_TURN: usize = 64;

/// What a handler may return: nothing, or a `Result` whose error is reported ([`NodeEvent::HandlerFailed`]).
///
/// ```
/// use nodeset::Outcome;
///
/// assert_eq!(().failure(), None);
/// assert_eq!("7".parse::<i32>().map(drop).failure(), None);
/// assert_eq!(Err::<(), _>("out of tea").failure().as_deref(), Some("out of tea"));
/// ```
///
/// [`NodeEvent::HandlerFailed`]: crate::NodeEvent::HandlerFailed
pub trait Outcome {
    /// The error, in words.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Display> Outcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

/// Takes what went wrong, and on which topic.
pub(super) type Report<'a> = &'a mut dyn FnMut(Option<Arc<str>>, HandlerFailure);

/// A handler, whatever it takes and returns.
pub(super) trait Entry: Send {
    /// It is ready: calls the handler, more than once if there is more and `go_on` says so.
    fn call(&mut self, set: &mut WaitSet, go_on: &dyn Fn() -> bool, report: Report<'_>);

    /// Drops what it waits for.
    fn detach(&mut self, set: &mut WaitSet);
}

/// A handler that nobody has run so far, with what it waits for: puts that into a set.
pub(super) type Start = Box<dyn FnOnce(&mut WaitSet) -> Result<(Id, Box<dyn Entry>), WaitError> + Send>;

/// Called with each message of a subscriber.
pub(super) fn of_subscriber<T, R>(
    subscriber: Subscriber<T>,
    handler: impl FnMut(Sample<'_, T>) -> R + Send + 'static,
) -> Start
where
    T: Message + ?Sized + 'static,
    R: Outcome,
{
    Box::new(move |set| {
        let key = set.attach(subscriber)?;
        Ok((key.id(), Box::new(OfSubscriber { key, handler })))
    })
}

/// Called with each request of a server.
pub(super) fn of_server<Req, Rep, R>(
    server: Server<Req, Rep>,
    handler: impl FnMut(Request<'_, Req, Rep>) -> R + Send + 'static,
) -> Start
where
    Req: Message + ?Sized + 'static,
    Rep: Message + ?Sized + 'static,
    R: Outcome,
{
    Box::new(move |set| {
        let key = set.attach(server)?;
        Ok((key.id(), Box::new(OfServer { key, handler })))
    })
}

/// Called each time a timer is over.
pub(super) fn of_timer<R: Outcome>(timer: Timer, handler: impl FnMut() -> R + Send + 'static) -> Start {
    Box::new(move |set| {
        let key = set.attach(timer)?;
        Ok((key.id(), Box::new(OfTimer { key, handler })))
    })
}

struct OfSubscriber<T: Message + ?Sized, F> {
    key: Key<Subscriber<T>>,
    handler: F,
}

impl<T, F, R> Entry for OfSubscriber<T, F>
where
    T: Message + ?Sized + 'static,
    F: FnMut(Sample<'_, T>) -> R + Send,
    R: Outcome,
{
    fn call(&mut self, set: &mut WaitSet, go_on: &dyn Fn() -> bool, report: Report<'_>) {
        let Some(subscriber) = set.get_mut(self.key) else { return };
        for _ in 0..MESSAGES_A_TURN {
            let failure = match subscriber.try_receive() {
                Ok(None) => return,
                Ok(Some(sample)) => guarded(|| (self.handler)(sample)),
                Err(error) => Some(HandlerFailure::Receive(error.to_string())),
            };
            if let Some(failure) = failure {
                report(Some(Arc::clone(&subscriber.topic)), failure);
            }
            if !go_on() {
                return;
            }
        }
    }

    fn detach(&mut self, set: &mut WaitSet) {
        drop(set.detach(self.key));
    }
}

struct OfServer<Req: Message + ?Sized, Rep: Message + ?Sized, F> {
    key: Key<Server<Req, Rep>>,
    handler: F,
}

impl<Req, Rep, F, R> Entry for OfServer<Req, Rep, F>
where
    Req: Message + ?Sized + 'static,
    Rep: Message + ?Sized + 'static,
    F: FnMut(Request<'_, Req, Rep>) -> R + Send,
    R: Outcome,
{
    fn call(&mut self, set: &mut WaitSet, go_on: &dyn Fn() -> bool, report: Report<'_>) {
        let Some(server) = set.get_mut(self.key) else { return };
        for _ in 0..MESSAGES_A_TURN {
            let failure = match server.try_receive() {
                Ok(None) => return,
                Ok(Some(request)) => guarded(|| (self.handler)(request)),
                Err(error) => Some(HandlerFailure::Receive(error.to_string())),
            };
            if let Some(failure) = failure {
                report(Some(server.name()), failure);
            }
            if !go_on() {
                return;
            }
        }
    }

    fn detach(&mut self, set: &mut WaitSet) {
        drop(set.detach(self.key));
    }
}

struct OfTimer<F> {
    key: Key<Timer>,
    handler: F,
}

impl<F: FnMut() -> R + Send, R: Outcome> Entry for OfTimer<F> {
    fn call(&mut self, _set: &mut WaitSet, _go_on: &dyn Fn() -> bool, report: Report<'_>) {
        if let Some(failure) = guarded(|| (self.handler)()) {
            report(None, failure);
        }
    }

    fn detach(&mut self, set: &mut WaitSet) {
        set.detach(self.key);
    }
}

/// Calls a handler; says what went wrong.
fn guarded<R: Outcome>(call: impl FnOnce() -> R) -> Option<HandlerFailure> {
    match catch_unwind(AssertUnwindSafe(|| call().failure())) {
        Ok(failure) => failure.map(HandlerFailure::Returned),
        Err(panic) => Some(HandlerFailure::Panicked(text_of(&*panic))),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text").to_owned()
}
