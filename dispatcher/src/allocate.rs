//! The descriptors that the registry names: making, checking and keeping them.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nodeset_bus::log;
use nodeset_bus::memory::{Segment, SegmentError};
use nodeset_bus::page::{NODE_PAGE_LEN, SIGNAL_PAGE_LEN};
use nodeset_bus::protocol::RefusalCode;
use nodeset_bus::sys::Bell;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, info, warn};

use crate::registry::{Failure, Handle, Kind};

/// Something that the dispatcher holds; closed when nobody keeps it and no record with it is still to be sent.
#[derive(Debug)]
pub(crate) enum Descriptor {
    Segment(Segment),
    Bell(Bell),
    Pidfd(OwnedFd),
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Descriptor::Segment(segment) => segment.as_fd(),
            Descriptor::Bell(bell) => bell.as_fd(),
            Descriptor::Pidfd(pidfd) => pidfd.as_fd(),
        }
    }
}

/// All descriptors that have a name.
#[derive(Debug, Default)]
pub(crate) struct Store {
    held: HashMap<Handle, Arc<Descriptor>>,
}

impl Store {
    pub(crate) fn look_up(&self, handle: Handle) -> Option<Arc<Descriptor>> {
        self.held.get(&handle).cloned()
    }

    pub(crate) fn keep(&mut self, handle: Handle, descriptor: Arc<Descriptor>) {
        self.held.insert(handle, descriptor);
    }

    pub(crate) fn forget(&mut self, handle: Handle) {
        self.held.remove(&handle);
    }

    /// Makes something new.
    pub(crate) fn create(&mut self, handle: Handle, kind: Kind) -> Result<(), Failure> {
        let made = match kind {
            Kind::Page => Descriptor::Segment(Segment::create("nodeset-page", NODE_PAGE_LEN).map_err(segment_failure)?),
            Kind::Signal => {
                Descriptor::Segment(Segment::create_shared("nodeset-signal", SIGNAL_PAGE_LEN).map_err(segment_failure)?)
            }
            Kind::Log(shape) => {
                Descriptor::Segment(Segment::create("nodeset-log", log::segment_len(shape)).map_err(segment_failure)?)
            }
            Kind::Bell => Descriptor::Bell(Bell::new().map_err(|error| system_failure("making an eventfd", &error))?),
        };
        debug!(event = "created", ?handle);
        self.keep(handle, Arc::new(made));
        Ok(())
    }

    /// Takes over a descriptor that a node brought, if it is what it must be.
    pub(crate) fn adopt(&mut self, fd: OwnedFd, handle: Handle, kind: Kind) -> Result<(), Failure> {
        let adopted = match kind {
            Kind::Bell => {
                check_eventfd(&fd)?;
                Descriptor::Bell(Bell::from_fd(fd).map_err(|error| system_failure("taking over an eventfd", &error))?)
            }
            Kind::Page | Kind::Signal | Kind::Log(_) => {
                let segment = Segment::from_fd(fd).map_err(segment_failure)?;
                check_segment(&segment, kind)?;
                Descriptor::Segment(segment)
            }
        };
        debug!(event = "adopted", ?handle);
        self.keep(handle, Arc::new(adopted));
        Ok(())
    }

    /// Reads seals and size back from our own descriptor.
    pub(crate) fn check(&self, handle: Handle, kind: Kind) -> Result<(), Failure> {
        match self.held.get(&handle).map(Arc::as_ref) {
            Some(Descriptor::Segment(segment)) => check_segment(segment, kind),
            _ => Err(Failure::new(RefusalCode::Protocol, "there is nothing to check")),
        }
    }
}

fn check_segment(segment: &Segment, kind: Kind) -> Result<(), Failure> {
    match kind {
        Kind::Page => segment.check_one_writer(NODE_PAGE_LEN),
        Kind::Signal => segment.check_shared(SIGNAL_PAGE_LEN),
        Kind::Log(shape) => segment.check_one_writer(log::segment_len(shape)),
        Kind::Bell => return Err(Failure::new(RefusalCode::Damaged, "a bell is no segment")),
    }
    .map_err(segment_failure)
}

/// Peers write to a bell: it must be an eventfd and nothing else.
fn check_eventfd(fd: &OwnedFd) -> Result<(), Failure> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    match std::fs::read_link(link) {
        Ok(what) if what.as_os_str() == "anon_inode:[eventfd]" => Ok(()),
        Ok(what) => {
            Err(Failure::new(RefusalCode::Damaged, format!("a bell must be an eventfd, not {}", what.display())))
        }
        Err(error) => Err(system_failure("looking at a bell (is /proc mounted?)", &error)),
    }
}

fn segment_failure(error: SegmentError) -> Failure {
    let code = match &error {
        SegmentError::System { source, .. } => code_of(*source),
        _ => RefusalCode::Damaged,
    };
    Failure::new(code, chain(&error))
}

/// A failed system call of the dispatcher's, with the cure if there is one.
pub(crate) fn system_failure(doing: &str, error: &io::Error) -> Failure {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    let cure = match errno {
        Errno::MFILE => "; the dispatcher has too many open descriptors: raise its limit (`ulimit -n`, LimitNOFILE=)",
        Errno::NFILE => "; the system has too many open descriptors: raise fs.file-max",
        Errno::NOMEM => "; there is no memory left: end something",
        _ => "",
    };
    Failure::new(code_of(errno), format!("{doing} failed: {error}{cure}"))
}

fn code_of(errno: Errno) -> RefusalCode {
    match errno {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOSPC => RefusalCode::Limit,
        _ => RefusalCode::Damaged,
    }
}

/// An error and what caused it, in one line; causes that its text already holds are not said twice.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Lets this process open as many descriptors as it may.
pub(crate) fn raise_descriptor_limit() {
    let found = getrlimit(Resource::Nofile);
    if found.current == found.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: found.maximum, maximum: found.maximum }) {
        Ok(()) => info!(event = "descriptor_limit", from = ?found.current, to = ?found.maximum),
        Err(error) => warn!(event = "descriptor_limit", kept = ?found.current, %error),
    }
}

#[cfg(test)]
mod tests {
    use nodeset_bus::protocol::{LogShape, NodeId, PublicationId};

    use super::*;

    const NODE: NodeId = NodeId(1);
    const SHAPE: LogShape = LogShape { block_len: 4096, blocks: 4 };

    #[test]
    fn a_page_passes_only_with_all_seals() {
        let mut store = Store::default();
        let handle = Handle::PageOf(NODE);
        store.create(handle, Kind::Page).unwrap();
        let failure = store.check(handle, Kind::Page).unwrap_err();
        assert_eq!(failure.code, RefusalCode::Damaged);
        assert!(failure.text.contains("F_SEAL_FUTURE_WRITE"), "{}", failure.text);
        let descriptor = store.look_up(handle).unwrap();
        let Descriptor::Segment(segment) = &*descriptor else { panic!("a page is a segment") };
        let _mapping = segment.map_writable().unwrap();
        segment.seal_for_one_writer().unwrap();
        store.check(handle, Kind::Page).unwrap();
        assert_eq!(store.check(handle, Kind::Log(SHAPE)).unwrap_err().code, RefusalCode::Damaged);
        store.forget(handle);
        assert!(store.look_up(handle).is_none());
    }

    #[test]
    fn what_is_brought_must_be_what_it_says() {
        let mut store = Store::default();
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let failure = store.adopt(file, Handle::BellOf(NODE, 0), Kind::Bell).unwrap_err();
        assert!(failure.text.contains("eventfd"), "{}", failure.text);
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(store.adopt(file, Handle::LogOf(PublicationId(1)), Kind::Log(SHAPE)).is_err());
        let bell = Bell::new().unwrap().as_fd().try_clone_to_owned().unwrap();
        store.adopt(bell, Handle::BellOf(NODE, 0), Kind::Bell).unwrap();
        let signal = Segment::create_shared("signal", SIGNAL_PAGE_LEN).unwrap();
        store.adopt(signal.into(), Handle::SignalOf(NODE, 0), Kind::Signal).unwrap();
        let page = Segment::create("page", NODE_PAGE_LEN).unwrap();
        assert!(store.adopt(page.into(), Handle::SignalOf(NODE, 0), Kind::Signal).is_err());
    }

    #[test]
    fn too_many_descriptors_is_a_limit_with_its_cure() {
        let failure = system_failure("making an eventfd", &io::Error::from(Errno::MFILE));
        assert_eq!(failure.code, RefusalCode::Limit);
        assert!(failure.text.contains("ulimit -n"));
    }
}
