//! A dispatcher on a thread of a node's process: a stand-in until a standalone one starts.

use std::path::Path;
use std::thread::JoinHandle;

use tracing::{error, info};

use crate::{Config, Dispatcher, Endpoint, Replace, RunError, Shutdown};

/// A dispatcher on a thread of this process. Dropping it ends it in order: its socket file is removed, its sessions are
/// told, and their nodes look for a successor.
#[derive(Debug)]
pub struct Embedded {
    endpoint: Endpoint,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
}

impl Dispatcher {
    /// Starts one; when it returns, the socket accepts connections. It never takes over from another one; a standalone one
    /// that starts later takes over from it, after which [`Embedded::is_running`] says false.
    ///
    /// # Errors
    ///
    /// As [`run`](crate::run); [`TakeError::Held`](crate::TakeError::Held) when somebody else is there: then connect to it.
    pub fn start_embedded(config: Config) -> Result<Embedded, RunError> {
        let dispatcher = Dispatcher::bind(Config { embedded: true, replace: Replace::Nobody, ..config })?;
        let endpoint = dispatcher.endpoint().clone();
        let shutdown = Shutdown::new();
        let of_thread = shutdown.clone();
        let thread = std::thread::Builder::new().name("nodeset-dispatch".to_owned()).spawn(move || {
            match dispatcher.run(of_thread) {
                Ok(ended) => info!(event = "embedded_ended", ?ended),
                Err(error) => error!(event = "embedded_failed", %error),
            }
        });
        let thread = thread.map_err(|source| RunError::System { doing: "starting a thread", source })?;
        Ok(Embedded { endpoint, shutdown, thread: Some(thread) })
    }
}

impl Embedded {
    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        self.endpoint.path()
    }

    /// Whether it still serves; false once a standalone one took over.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends it and waits until it has ended; the same as dropping it.
    pub fn stop(self) {}
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shutdown.request();
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                error!(event = "embedded_panicked");
            }
        }
    }
}
