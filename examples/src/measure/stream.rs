//! An unframed byte stream through shared memory: what one core can fill and another one sum up.
//!
//! No messages, no headers, large batches, indices that are looked at once a batch: the fastest honest single-producer
//! single-consumer stream of this machine. The bytes are filled and summed by the same two functions as NodeSet's
//! payloads.

use super::fill;
use super::shared::{BATCH_LEN, Ring, RingRole, Shared};
use super::worker::{Finish, Role, WorkError};
use super::{Budget, Report, monotonic_ns};

/// Fills; its report says when the run began.
pub struct StreamWriter {
    ring: Ring,
}

impl StreamWriter {
    /// Over that memory, as its only writer.
    pub fn new(shared: &Shared) -> Result<StreamWriter, WorkError> {
        Ok(StreamWriter { ring: shared.claim(RingRole::Writer)? })
    }
}

impl Role for StreamWriter {
    fn run(&mut self, budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let messages = self.ring.write_run(budget, started_ns, fill::fill);
        Ok(report(started_ns, messages))
    }
}

/// Sums and checks; its report says when the run ended.
pub struct StreamReader {
    ring: Ring,
}

impl StreamReader {
    /// Over that memory, as its only reader.
    pub fn new(shared: &Shared) -> Result<StreamReader, WorkError> {
        Ok(StreamReader { ring: shared.claim(RingRole::Reader)? })
    }
}

impl Role for StreamReader {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut damaged = None;
        let messages = self.ring.read_run(|bytes, number| {
            if !fill::is_intact(bytes, number) {
                damaged.get_or_insert(number);
            }
        });
        match damaged {
            None => Ok(report(started_ns, messages)),
            Some(number) => Err(format!("batch {number} of the raw stream arrived damaged").into()),
        }
    }
}

fn report(started_ns: u64, messages: u64) -> Report {
    Report { started_ns, ended_ns: monotonic_ns(), messages, bytes: messages * BATCH_LEN as u64, ..Report::default() }
}
