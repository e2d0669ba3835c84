//! The one named segment: where the board stands (`shm_overview(7)`), made by the crate `shared_memory`.

use std::sync::atomic::{AtomicU64, Ordering};

use shared_memory::{Shmem, ShmemConf, ShmemError};

/// Named shared memory that this process writes and others read; its name goes with it.
pub(crate) struct Named {
    shmem: Shmem,
}

// SAFETY: the mapping belongs to this value alone, and nothing in it is bound to a thread.
unsafe impl Send for Named {}

impl Named {
    /// Makes memory of that name, which must be free: begins with `/`.
    pub(crate) fn create(name: &str, len: usize) -> Result<Named, ShmemError> {
        Ok(Named { shmem: ShmemConf::new().os_id(name).size(len).create()? })
    }

    /// bytes
    pub(crate) fn len(&self) -> usize {
        self.shmem.len()
    }

    /// The name stays when this value goes: somebody else's memory may have it by then.
    pub(crate) fn leave_name(&mut self) {
        self.shmem.set_owner(false);
    }

    /// Stores a word at a multiple of 8.
    ///
    /// # Panics
    ///
    /// When it lies outside.
    pub(crate) fn store(&mut self, at: usize, value: u64, ordering: Ordering) {
        assert!(at % 8 == 0 && at + 8 <= self.len(), "a word at {at:#x} of {:#x} bytes", self.len());
        // SAFETY: inside the mapping, checked above.
        let word = unsafe { self.shmem.as_ptr().add(at) };
        // SAFETY:
        // - aligned: a mapping begins at a page, `at` is a multiple of 8;
        // - valid while `self` lives, which it does here; other processes only read it, by the kernel's copy.
        let word = unsafe { AtomicU64::from_ptr(word.cast()) };
        word.store(value, ordering);
    }
}
