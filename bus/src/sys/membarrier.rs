//! `membarrier(2)`: the dear side of an asymmetric fence.

use std::sync::OnceLock;

/// From `linux/membarrier.h`.
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

fn call(command: libc::c_int) -> bool {
    let flags: libc::c_uint = 0;
    // SAFETY: membarrier takes two integers, and a third that it ignores without its flag; it touches no memory of ours.
    let outcome = unsafe { libc::syscall(libc::SYS_membarrier, command, flags, 0) };
    outcome == 0
}

/// Registers this process, once: other processes' [`membarrier`] calls then put a full fence into its running threads.
/// False where the kernel does not have it or forbids it.
pub fn membarrier_register() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| call(REGISTER_GLOBAL_EXPEDITED))
}

/// A full fence in this thread and in every running thread of the registered processes. Costs some microseconds. False where
/// the kernel does not have it or forbids it.
pub fn membarrier() -> bool {
    call(GLOBAL_EXPEDITED)
}
