//! Keeps the board: looks at logs and lines from time to time, and writes down what it finds.
//!
//! Nothing is asked of anybody: descriptors that the dispatcher holds anyway are read. With no nodes there is nothing to
//! look at, and the dispatcher sleeps.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nodeset_bus::board::{self, Board, BoardError, BoardLink, BoardPeer, BoardPublication, BoardWriter};
use nodeset_bus::log::{Glimpse, LogState, glimpse_asleep, glimpse_line};
use nodeset_bus::protocol::PublicationId;
use rustix::time::{ClockId, clock_gettime};
use tracing::{debug, info, warn};

use crate::Config;
use crate::allocate::{Descriptor, Store, chain};
use crate::registry::{Handle, LinkRow, Registry};

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(crate) struct Keeper {
    writer: BoardWriter,
    glimpses: HashMap<PublicationId, Glimpse>,
    /// Everything that does not change.
    about: Board,
    /// When it was looked last; `None` before, and once nobody was there.
    last: Option<Instant>,
}

impl Keeper {
    /// The board of a dispatcher that has its socket; `None` when it is to have none, or cannot.
    pub(crate) fn start(config: &Config) -> Option<Keeper> {
        let instance = config.board.as_deref()?;
        let socket = config.endpoint.path().to_string_lossy().into_owned();
        let uid = rustix::process::geteuid().as_raw();
        if let Ok(other) = board::read(uid, instance) {
            // The same instance's name in another folder of this user's.
            if other.socket != socket && std::path::Path::new(&other.socket).exists() {
                warn!(event = "board_taken", instance, by = other.socket, "this dispatcher has no board (--board)");
                return None;
            }
        }
        let about = Board {
            pid: std::process::id(),
            embedded: config.embedded,
            host: config.host.clone(),
            socket,
            ..Board::default()
        };
        let made = BoardWriter::create(uid, instance).and_then(|mut writer| {
            writer.write(&Board { written_ns: now_ns(), ..about.clone() })?;
            Ok(writer)
        });
        match made {
            Ok(writer) => {
                info!(event = "board", path = %board::path(uid, instance).display());
                Some(Keeper { writer, glimpses: HashMap::new(), about, last: None })
            }
            Err(error) => {
                warn!(event = "no_board", error = chain(&error));
                None
            }
        }
    }

    /// When it wants to look again.
    pub(crate) fn due(&self, now: Instant, registry: &Registry) -> Option<Instant> {
        match self.last {
            Some(last) => Some(last + EVERY),
            None => has_anybody(registry).then_some(now),
        }
    }

    /// Looks, if it is time to.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        registry: &Registry,
        store: &Store,
        peers: impl FnOnce() -> Vec<BoardPeer>,
    ) {
        if self.due(now, registry).is_none_or(|due| due > now) {
            return;
        }
        self.last = has_anybody(registry).then_some(now);
        if let Err(error) = self.write(registry, store, peers()) {
            debug!(event = "board_not_written", error = chain(&error));
        }
    }

    fn write(&mut self, registry: &Registry, store: &Store, peers: Vec<BoardPeer>) -> Result<(), BoardError> {
        let mut states = HashMap::new();
        let mut board = Board { written_ns: now_ns(), counts: registry.counts(), peers, ..self.about.clone() };
        for row in registry.live_publications() {
            let glimpse = self.glimpses.entry(row.id).or_insert_with(|| Glimpse::new(row.shape));
            let state = match store.look_up(Handle::LogOf(row.id)).as_deref() {
                Some(Descriptor::Segment(log)) => glimpse.look(log.as_fd()).unwrap_or_default(),
                _ => LogState::default(),
            };
            board.publications.push(BoardPublication {
                id: row.id.0,
                topic: row.topic,
                node: row.node,
                schema: row.schema,
                messages: state.next_sequence,
                bytes: state.touched_bytes,
                waiting: state.waiting,
            });
            states.insert(row.id, state);
        }
        self.glimpses.retain(|id, _| states.contains_key(id));
        board.links = registry.ready_links().map(|row| link(row, &states, store)).collect();
        self.writer.write(&board)
    }

    /// A successor has the socket, and the board's name.
    pub(crate) fn leave(self) {
        self.writer.leave();
    }
}

fn link(row: LinkRow, states: &HashMap<PublicationId, LogState>, store: &Store) -> BoardLink {
    let page = store.look_up(Handle::PageOf(row.subscriber));
    let (line, asleep) = match page.as_deref() {
        Some(Descriptor::Segment(page)) => (
            glimpse_line(page.as_fd(), row.line, row.tag).unwrap_or_default(),
            glimpse_asleep(page.as_fd()).unwrap_or_default(),
        ),
        _ => Default::default(),
    };
    let state = states.get(&row.id.publication);
    BoardLink {
        publication: row.id.publication.0,
        subscriber: row.name,
        reliable: row.reliable && !row.demoted,
        demoted: row.demoted,
        behind: line.reads.zip(state).map_or(0, |(reads, state)| state.behind(reads)),
        // A lane misses nothing: the word says how far its reader is.
        missed: if row.lane { 0 } else { line.missed },
        held: line.held,
        asleep,
    }
}

fn has_anybody(registry: &Registry) -> bool {
    registry.counts() != [0; 3]
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
