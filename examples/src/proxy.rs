//! A link between two hosts that can be cut: forwards TCP connections over the loopback.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module. It forwards for as long as the process runs.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    to: Option<String>,
    is_cut: bool,
    /// How many bytes of either way each of the next connections carries before it breaks; the last one comes first.
    budgets: Vec<u64>,
    /// Connections that were forwarded so far.
    forwarded: usize,
    /// Both ends of each of them.
    open: Vec<TcpStream>,
}

impl Proxy {
    /// Listens at a port that nobody has; forwards nothing yet.
    ///
    /// # Errors
    ///
    /// When there is no port, or no thread.
    pub fn start() -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared::default());
        let forwarding = Arc::clone(&shared);
        std::thread::Builder::new().name("link".to_owned()).spawn(move || {
            for near in listener.incoming() {
                // A connection that is not forwarded is closed here, as by a link that is cut.
                let _ = near.and_then(|near| forwarding.forward(near));
            }
        })?;
        Ok(Proxy { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connections go there from now on.
    pub fn forward_to(&self, address: &str) {
        self.shared.lock().to = Some(address.to_owned());
    }

    /// Nothing crosses any more.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.is_cut = true;
        for end in state.open.drain(..) {
            // It may be closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Things cross again.
    pub fn mend(&self) {
        self.shared.lock().is_cut = false;
    }

    /// The next connections break after so many bytes of either way, one after the other; those behind them do not.
    pub fn break_after(&self, mut bytes: Vec<u64>) {
        bytes.reverse();
        self.shared.lock().budgets = bytes;
    }

    /// How many of these are still to come.
    pub fn breaks_left(&self) -> usize {
        self.shared.lock().budgets.len()
    }

    /// Connections that were forwarded so far.
    pub fn forwarded(&self) -> usize {
        self.shared.lock().forwarded
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forward(&self, near: TcpStream) -> io::Result<()> {
        let mut state = self.lock();
        let Some(to) = state.to.as_ref().filter(|_| !state.is_cut) else { return Ok(()) };
        let far = TcpStream::connect(to)?;
        for end in [&near, &far] {
            end.set_nodelay(true)?;
        }
        let budget = state.budgets.pop().unwrap_or(u64::MAX);
        for (from, into) in [(&near, &far), (&far, &near)] {
            let (from, into) = (from.try_clone()?, into.try_clone()?);
            std::thread::Builder::new().name("way".to_owned()).spawn(move || carry(from, into, budget))?;
        }
        state.forwarded += 1;
        // Those that are over need not be cut any more.
        state.open.retain(|end| matches!(end.take_error(), Ok(None)) && end.peer_addr().is_ok());
        state.open.extend([near, far]);
        Ok(())
    }
}

/// One way of a connection, until either side ends it or `budget` bytes crossed.
fn carry(mut from: TcpStream, mut into: TcpStream, mut budget: u64) {
    let mut buffer = vec![0; 64 << 10];
    while budget > 0 {
        let most = budget.min(buffer.len() as u64) as usize;
        let Ok(count @ 1..) = from.read(&mut buffer[..most]) else { break };
        if into.write_all(&buffer[..count]).is_err() {
            break;
        }
        budget -= count as u64;
    }
    // Both ways: whichever ends, the other one must not wait.
    for end in [from, into] {
        let _ = end.shutdown(Shutdown::Both);
    }
}
