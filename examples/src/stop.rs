//! Signals, which are the program's and never the library's: SIGINT and SIGTERM end it in order, SIGHUP makes its nodes look for
//! their dispatcher at once.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nodeset::Node;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// While this lives, SIGHUP lets its nodes, if they are detached, attach at once instead of when their back-off is over.
#[derive(Debug)]
pub struct ReconnectOnHangup {
    signals: Handle,
    thread: Option<JoinHandle<()>>,
}

impl ReconnectOnHangup {
    /// From now on.
    ///
    /// # Errors
    ///
    /// When signals cannot be caught.
    pub fn of(nodes: Vec<Node>) -> io::Result<ReconnectOnHangup> {
        let mut signals = Signals::new([SIGHUP])?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("hangups".to_owned()).spawn(move || {
            signals.forever().for_each(|_| nodes.iter().for_each(Node::reconnect_now));
        })?;
        Ok(ReconnectOnHangup { signals: handle, thread: Some(thread) })
    }
}

impl Drop for ReconnectOnHangup {
    fn drop(&mut self) {
        self.signals.close();
        if let Some(thread) = self.thread.take() {
            // With it go its nodes, which leave in order: the program must not end before.
            thread.join().expect("asking nodes to reconnect does not panic");
        }
    }
}

/// Whether the program has been asked to end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<(Mutex<bool>, Condvar)>,
}

impl Stop {
    /// Raised by SIGINT and SIGTERM, from now on.
    ///
    /// # Errors
    ///
    /// When signals cannot be caught.
    pub fn on_signals() -> io::Result<Stop> {
        let stop = Stop::default();
        let asked = stop.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if signals.forever().next().is_some() {
                asked.ask();
            }
        })?;
        Ok(stop)
    }

    /// Asks the program to end.
    pub fn ask(&self) {
        let (asked, changed) = &*self.asked;
        *asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Whether it was asked.
    pub fn is_asked(&self) -> bool {
        *self.asked.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `until`; true at once when the program was asked to end.
    pub fn wait_until(&self, until: Instant) -> bool {
        let (asked, changed) = &*self.asked;
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        while !*asked {
            let left = until.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            asked = changed.wait_timeout(asked, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
