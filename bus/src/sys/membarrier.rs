//! `membarrier(2)`: the dear side of an asymmetric fence.

use std::sync::OnceLock;

use rustix::thread::{MembarrierCommand, membarrier as call};

/// Registers this process, once: other processes' [`membarrier`] calls then put a full fence into its running threads.
/// False where the kernel does not have it or forbids it.
pub fn membarrier_register() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| call(MembarrierCommand::RegisterGlobalExpedited).is_ok())
}

/// A full fence in this thread and in every running thread of the registered processes. Costs some microseconds. False where
/// the kernel does not have it or forbids it.
pub fn membarrier() -> bool {
    call(MembarrierCommand::GlobalExpedited).is_ok()
}
