//! The board: what a dispatcher knows, in named memory, for tools that have no session and for when it is dead.
//!
//! Two slots, written in turns, each behind a sequence lock (Lameter, *Effective synchronization on Linux/NUMA systems*, 2005):
//! odd while it is being written. A reader copies the newest slot by `pread(2)`, looks at its lock before and after, and checks
//! what it copied (rkyv's validation) before it believes a word of it: a board may hold anything.
//!
//! | at | holds |
//! |---|---|
//! | `0x00` | `b"NSETBRD"`, then the version, 1 |
//! | `0x08` | bytes of a slot |
//! | `0x10` | the slot written last, 0 or 1 |
//! | `4096`, `4096` + bytes of a slot | the slots: lock, length of the content, content (archived by rkyv) |
//!
//! Nothing on a message's path depends on it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};

use rkyv::rancor::Error as Invalid;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

use crate::memory::Named;

const MAGIC: u64 = u64::from_le_bytes(*b"NSETBRD\x01");
const SLOT_LEN_AT: usize = 0x08;
const NEWEST_AT: usize = 0x10;
const SLOTS_AT: usize = 4096;
/// Bytes of a slot before its content.
const SLOT_HEADER: usize = 16;
/// bytes of a slot, to begin with
const FIRST_SLOT_LEN: usize = 64 * 1024;
/// bytes; no board is longer
const MAX_SLOT_LEN: u64 = 1 << 30;
/// Where named memory is to be found.
const NAMED: &str = "/dev/shm";
/// How often a reader tries again while it is being written.
const TRIES: usize = 100;

/// What a dispatcher knows.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
pub struct Board {
    /// The dispatcher's process.
    pub pid: u32,
    /// It runs in some node's process.
    pub embedded: bool,
    /// Name of the host.
    pub host: String,
    /// Its socket.
    pub socket: String,
    /// When this was written: nanoseconds of `CLOCK_MONOTONIC`, which all processes of a host share.
    pub written_ns: u64,
    /// How many nodes, publications and subscriptions there are.
    pub counts: [u64; 3],
    /// Publications.
    pub publications: Vec<BoardPublication>,
    /// Links that are ready.
    pub links: Vec<BoardLink>,
    /// Other hosts.
    pub peers: Vec<BoardPeer>,
}

/// One publication.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
pub struct BoardPublication {
    /// Drawn at random by its node.
    pub id: u64,
    /// Where it publishes.
    pub topic: String,
    /// The publisher's node.
    pub node: String,
    /// What it publishes.
    pub schema: String,
    /// Messages so far.
    pub messages: u64,
    /// Bytes of its log that were ever in use.
    pub bytes: u64,
    /// Its publisher waits for room.
    pub waiting: bool,
}

/// One link.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
pub struct BoardLink {
    /// Which publication.
    pub publication: u64,
    /// The subscriber's node.
    pub subscriber: String,
    /// The publisher keeps everything for it.
    pub reliable: bool,
    /// It was reliable, and the publisher gave it up.
    pub demoted: bool,
    /// Messages that it has not read, counted from the first one of the block that it reads: at most so many.
    pub behind: u64,
    /// Messages that it missed so far.
    pub missed: u64,
    /// Blocks in which it holds samples; more of its lines may hold more.
    pub held: u32,
    /// All threads of its node sleep, or run user code, without looking at their logs.
    pub asleep: bool,
}

/// Another host, as this dispatcher's bridge has it. Counters count since the bridge began to speak to it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
pub struct BoardPeer {
    /// Its name.
    pub host: String,
    /// There is a connection.
    pub connected: bool,
    /// Nanoseconds; the last one that was measured.
    pub round_trip_ns: Option<u64>,
    /// Connections so far.
    pub connections: u64,
    /// Messages sent, those sent again included.
    pub sent: u64,
    /// Bytes of their frames.
    pub sent_bytes: u64,
    /// Messages sent again after a connection broke.
    pub resent: u64,
    /// Messages that it was told to be lost.
    pub lost: u64,
    /// Messages that arrived.
    pub received: u64,
    /// Bytes of their frames.
    pub received_bytes: u64,
    /// Messages that it said to be lost.
    pub missed: u64,
    /// Messages for it that it has not acknowledged.
    pub behind: u64,
    /// Why the last connection ended.
    pub last_end: Option<String>,
}

/// A board was not written or not read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BoardError {
    /// No dispatcher of that name ever ran, or the last one ended in order.
    #[error("there is no board {path:?}: no dispatcher of that instance runs, or it runs without one (--no-board)")]
    None {
        /// Where it would be.
        path: PathBuf,
    },
    /// Not this user's nor root's: it may say anything.
    #[error("the board {path:?} belongs to user {uid}: remove it, or take another --instance")]
    Foreign {
        /// Where it is.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// It is no board of this version, or damaged.
    #[error("the board {path:?} cannot be read: {what}")]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The kernel refused.
    #[error("{doing} the board {path:?} failed: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// With which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Where the board of that instance is.
pub fn path(uid: u32, instance: &str) -> PathBuf {
    Path::new(NAMED).join(name(uid, instance).trim_start_matches('/'))
}

fn name(uid: u32, instance: &str) -> String {
    format!("/nodeset-{uid}-{instance}")
}

/// The end that is written: one dispatcher's. Its name goes with it.
pub struct BoardWriter {
    name: String,
    path: PathBuf,
    memory: Named,
    slot_len: usize,
    newest: usize,
    /// The slots' locks.
    locks: [u64; 2],
}

impl BoardWriter {
    /// Makes the board of an instance. What a dead dispatcher of this user left there is removed.
    ///
    /// # Errors
    ///
    /// See [`BoardError`].
    pub fn create(uid: u32, instance: &str) -> Result<BoardWriter, BoardError> {
        let (name, path) = (name(uid, instance), path(uid, instance));
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.uid() != uid => return Err(BoardError::Foreign { path, uid: found.uid() }),
            Ok(_) => remove(&path)?,
            Err(_) => {}
        }
        let memory = memory(&name, &path, FIRST_SLOT_LEN)?;
        let mut writer = BoardWriter { name, path, memory, slot_len: 0, newest: 0, locks: [0; 2] };
        writer.begin(FIRST_SLOT_LEN);
        Ok(writer)
    }

    fn begin(&mut self, slot_len: usize) {
        (self.slot_len, self.newest, self.locks) = (slot_len, 0, [0; 2]);
        self.memory.store(SLOT_LEN_AT, slot_len as u64, Ordering::Relaxed);
        // Nobody relies on it: what a reader copies is checked.
        self.memory.store(0, MAGIC, Ordering::Relaxed);
    }

    /// Writes a board; readers see it as a whole.
    ///
    /// # Errors
    ///
    /// See [`BoardError`].
    pub fn write(&mut self, board: &Board) -> Result<(), BoardError> {
        let content = rkyv::to_bytes::<Invalid>(board)
            .map_err(|error| BoardError::Damaged { path: self.path.clone(), what: error.to_string() })?;
        let needed = SLOT_HEADER + content.len().next_multiple_of(8);
        if needed > self.slot_len {
            self.grow((2 * needed).next_multiple_of(4096))?;
        }
        let slot = 1 - self.newest;
        let at = SLOTS_AT + slot * self.slot_len;
        let lock = self.locks[slot] + 2;
        // A reader looks at the lock, copies, looks again. The kernel copies for it; a copy that is torn all the same does not pass
        // the validation.
        self.memory.store(at, lock - 1, Ordering::Relaxed);
        // PAIRS board-lock: Release here, before the content; Acquire in read_from.
        fence(Ordering::Release);
        self.memory.store(at + 8, content.len() as u64, Ordering::Relaxed);
        for (index, bytes) in content.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.memory.store(at + SLOT_HEADER + 8 * index, u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        // PAIRS board-lock: Release here, behind the content; Acquire in read_from.
        fence(Ordering::Release);
        self.memory.store(at, lock, Ordering::Relaxed);
        self.memory.store(NEWEST_AT, slot as u64, Ordering::Relaxed);
        self.locks[slot] = lock;
        self.newest = slot;
        Ok(())
    }

    /// Longer memory of the same name. Readers open it anew each time.
    fn grow(&mut self, slot_len: usize) -> Result<(), BoardError> {
        remove(&self.path)?;
        // The name is the new one's from now on.
        self.memory.leave_name();
        self.memory = memory(&self.name, &self.path, slot_len)?;
        self.begin(slot_len);
        Ok(())
    }

    /// A successor has the name by now: it stays.
    pub fn leave(mut self) {
        self.memory.leave_name();
    }
}

impl std::fmt::Debug for BoardWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoardWriter")
            .field("name", &self.name)
            .field("slot_len", &self.slot_len)
            .finish_non_exhaustive()
    }
}

fn memory(name: &str, path: &Path, slot_len: usize) -> Result<Named, BoardError> {
    Named::create(name, SLOTS_AT + 2 * slot_len).map_err(|error| BoardError::System {
        doing: "making",
        path: path.to_owned(),
        source: io::Error::other(error),
    })
}

fn remove(path: &Path) -> Result<(), BoardError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BoardError::System { doing: "removing", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Reads the board of an instance, whether its dispatcher lives or not.
///
/// # Errors
///
/// See [`BoardError`].
pub fn read(uid: u32, instance: &str) -> Result<Board, BoardError> {
    let path = path(uid, instance);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => BoardError::None { path: path.clone() },
        _ => BoardError::System { doing: "reading", path: path.clone(), source },
    };
    // Whatever lies there: it is not waited for.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let mut what = String::new();
    for _ in 0..TRIES {
        let file = File::options().read(true).custom_flags(flags.bits() as i32).open(&path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.uid() != uid && found.uid() != 0 {
            return Err(BoardError::Foreign { path, uid: found.uid() });
        }
        match read_from(&file).map_err(failed)? {
            Ok(board) => return Ok(board),
            Err(wrong) => what = wrong,
        }
        std::thread::yield_now();
    }
    Err(BoardError::Damaged { path, what })
}

/// One try; what is wrong may be right the next time.
fn read_from(file: &File) -> io::Result<Result<Board, String>> {
    let word = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).map(|()| u64::from_ne_bytes(bytes))
    };
    let wrong = |what: &str| Ok(Err(what.to_owned()));
    let outcome = (|| -> io::Result<Result<Board, String>> {
        if word(0)? != MAGIC {
            return wrong("it does not begin as a board of this version does");
        }
        let (slot_len, newest) = (word(SLOT_LEN_AT as u64)?, word(NEWEST_AT as u64)?);
        if slot_len > MAX_SLOT_LEN || newest > 1 {
            return wrong("its slots make no sense");
        }
        let at = SLOTS_AT as u64 + newest * slot_len;
        let (lock, len) = (word(at)?, word(at + 8)?);
        if lock == 0 {
            return wrong("nothing was written to it so far");
        }
        if lock % 2 == 1 || len > slot_len.saturating_sub(SLOT_HEADER as u64) {
            return wrong("it is being written");
        }
        let mut content = AlignedVec::<16>::new();
        content.resize(len as usize, 0);
        // PAIRS board-lock: Acquire here, behind the lock; Release in BoardWriter::write.
        fence(Ordering::Acquire);
        file.read_exact_at(&mut content, at + SLOT_HEADER as u64)?;
        // PAIRS board-lock: Acquire here, before the lock; Release in BoardWriter::write.
        fence(Ordering::Acquire);
        if word(at)? != lock {
            return wrong("it is being written");
        }
        Ok(rkyv::from_bytes::<Board, Invalid>(&content).map_err(|error| error.to_string()))
    })();
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => wrong("it is too short"),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn instance(test: &str) -> String {
        format!("test-{test}-{}", std::process::id())
    }

    fn board(links: u64) -> Board {
        let link = |at| BoardLink { publication: at, subscriber: format!("node-{at}"), ..BoardLink::default() };
        Board { pid: 1, written_ns: links, links: (0..links).map(link).collect(), ..Board::default() }
    }

    #[test]
    fn what_is_written_is_read_however_long_it_gets_and_goes_with_its_writer() {
        let instance = instance("grows");
        assert!(matches!(read(uid(), &instance), Err(BoardError::None { .. })));
        let mut writer = BoardWriter::create(uid(), &instance).unwrap();
        assert!(matches!(read(uid(), &instance), Err(BoardError::Damaged { .. })), "nothing was written");
        for links in [0, 1, 5, 100_000, 3] {
            writer.write(&board(links)).unwrap();
            assert_eq!(read(uid(), &instance).unwrap(), board(links));
        }
        drop(writer);
        assert!(matches!(read(uid(), &instance), Err(BoardError::None { .. })));
    }

    #[test]
    fn what_a_dead_one_left_is_taken_over_and_a_successors_stays() {
        let instance = instance("left");
        let mut dead = BoardWriter::create(uid(), &instance).unwrap();
        dead.write(&board(1)).unwrap();
        let mut successor = BoardWriter::create(uid(), &instance).unwrap();
        successor.write(&board(2)).unwrap();
        dead.leave();
        assert_eq!(read(uid(), &instance).unwrap(), board(2));
    }

    #[test]
    fn readers_never_see_half_a_board() {
        let instance = instance("torn");
        let mut writer = BoardWriter::create(uid(), &instance).unwrap();
        writer.write(&board(0)).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while last < 300 {
                    // A writer without a pause may keep a reader from all its tries.
                    let Ok(found) = read(uid(), &instance) else { continue };
                    assert_eq!(found, board(found.written_ns));
                    assert!(found.written_ns >= last);
                    last = found.written_ns;
                }
            });
            for links in 0..=300 {
                writer.write(&board(links)).unwrap();
            }
            reader.join().unwrap();
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn a_board_may_hold_anything(
            head in any::<bool>(),
            slot_len in 0..4096_u64,
            newest in 0..3_u64,
            rest in prop::collection::vec(any::<u8>(), 0..6000),
            cut in 0..10_000_usize,
        ) {
            let mut bytes = Vec::new();
            for word in [if head { MAGIC } else { 7 }, slot_len, newest] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.resize(SLOTS_AT, 0);
            bytes.extend(rest);
            bytes.truncate(cut);
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            // Whatever comes of it, it comes.
            let _ = read_from(&file).unwrap();
        }
    }
}
