//! What a message carries beside its payload, from an outlet to an inlet over mapped memory.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::sync::Arc;

use nodeset_bus::clock::Timestamp;
use nodeset_bus::inlet::{Inlet, InletSpec};
use nodeset_bus::log::{Extensions, NoRoom, Reach, RequestMark, Retention, Ring, segment_len};
use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::outlet::{Outlet, OutletError, OutletLink};
use nodeset_bus::page::{NODE_PAGE_LEN, NodePage, PeerPage, SIGNAL_PAGE_LEN, SignalPage};
use nodeset_bus::protocol::{LinkId, LogShape, PublicationId, SubscriptionId};

const SHAPE: LogShape = LogShape { block_len: 4096, blocks: 8 };

struct Nobody;

impl Ring for Nobody {
    fn ring(&self) {}
}

/// Both ends of a reliable link.
fn link() -> (Outlet, Inlet) {
    let segment = Segment::create("log", segment_len(SHAPE)).unwrap();
    let outlet = Outlet::create(segment.map_writable().unwrap(), SHAPE, 1, Retention::default());
    let words = SharedWords::heap(NODE_PAGE_LEN as usize);
    let page = Arc::new(NodePage::create(words.clone()));
    let signal = SignalPage::open(SharedWords::heap(SIGNAL_PAGE_LEN as usize));
    let id = LinkId { publication: PublicationId(1), epoch: 1, subscription: SubscriptionId(1) };
    let bell: Arc<dyn Ring> = Arc::new(Nobody);
    outlet.links().add(OutletLink {
        id,
        page: PeerPage::open(words).unwrap(),
        line: 0,
        tag: 1,
        reliable: true,
        bell: Arc::clone(&bell),
        signal: signal.clone(),
        slot: 0,
    });
    let inlet = Inlet::enter(InletSpec {
        id,
        log: segment.map_readable().unwrap(),
        shape: SHAPE,
        page,
        line: 0,
        tag: 1,
        reliable: true,
        depth: 0,
        history: 0,
        signal,
        slot: 0,
        bell,
        lane: None,
        on_released: Box::new(|| {}),
    });
    (outlet, inlet.unwrap())
}

/// The next message: its payload and what it carries.
fn next(inlet: &mut Inlet) -> (Vec<u8>, Extensions) {
    inlet.poll().unwrap().expect("a message");
    (inlet.payload().to_vec(), inlet.extensions())
}

#[test]
fn each_message_has_its_own_or_none() {
    let (mut outlet, mut inlet) = link();
    let request = Some(RequestMark { id: 9, lane: u64::MAX });
    let all = Extensions { time: Timestamp::from_nanos(5), tag: Some(0), request };
    // Long enough for several blocks, so that frames of each kind end a block.
    for round in 0..200_u8 {
        let message = vec![round; usize::from(round)];
        outlet.try_publish(message.as_slice(), Reach::Limit).unwrap();
        outlet.try_publish_extended(message.as_slice(), all, Reach::Limit).unwrap();
        let mut frame =
            outlet.try_open_extended(300, Extensions { request, ..Extensions::NONE }, Reach::Limit).unwrap();
        frame.bytes_mut().fill(round);
        assert_eq!(frame.bytes(), [round; 300]);
        frame.commit(usize::from(round));
        assert_eq!(next(&mut inlet), (message.clone(), Extensions::NONE));
        assert_eq!(next(&mut inlet), (message.clone(), all));
        assert_eq!(next(&mut inlet), (message, Extensions { request, ..Extensions::NONE }));
        assert_eq!(inlet.poll(), Ok(None));
    }
}

#[test]
fn an_outlet_that_stamps_tells_when_each_message_was_committed() {
    let (mut outlet, mut inlet) = link();
    outlet.set_stamping(true);
    let sent = Timestamp::from_nanos(5);
    let mut frame = outlet.try_open(8, Reach::Limit).unwrap();
    frame.bytes_mut().fill(1);
    let opened = Timestamp::now();
    frame.commit(8);
    outlet.try_publish(b"typed".as_slice(), Reach::Limit).unwrap();
    let tagged = Extensions { tag: Some(7), ..Extensions::NONE };
    outlet.try_publish_extended(b"tagged".as_slice(), tagged, Reach::Limit).unwrap();
    // What came from elsewhere keeps its time.
    let elsewhere = Extensions { time: sent, ..Extensions::NONE };
    outlet.try_publish_extended(b"passed on".as_slice(), elsewhere, Reach::Limit).unwrap();
    outlet.set_stamping(false);
    outlet.try_publish(b"plain".as_slice(), Reach::Limit).unwrap();

    let (payload, extensions) = next(&mut inlet);
    assert_eq!((payload, extensions.tag), (vec![1; 8], None));
    assert!(extensions.time.unwrap() >= opened, "the time is that of the commit");
    let (payload, second) = next(&mut inlet);
    assert_eq!(payload, b"typed");
    assert!(second.time >= extensions.time);
    let (payload, third) = next(&mut inlet);
    assert_eq!((payload.as_slice(), third.tag), (b"tagged".as_slice(), Some(7)));
    assert!(third.time >= second.time && third.time.unwrap() <= Timestamp::now());
    assert_eq!(next(&mut inlet).1, elsewhere);
    assert_eq!(next(&mut inlet), (b"plain".to_vec(), Extensions::NONE));
}

#[test]
fn the_limit_of_a_payload_counts_them() {
    let (mut outlet, _inlet) = link();
    let extensions = Extensions { tag: Some(1), request: Some(RequestMark::default()), ..Extensions::NONE };
    let limit = outlet.longest_payload() - extensions.frame_bytes() as u64;
    let too_long = NoRoom::TooLong { limit };
    let message = vec![0; limit as usize + 1];
    assert_eq!(outlet.try_open_extended(message.len(), extensions, Reach::Limit).err(), Some(too_long));
    assert_eq!(outlet.try_open_extended(usize::MAX, extensions, Reach::Limit).err(), Some(too_long));
    let refused = outlet.try_publish_extended(message.as_slice(), extensions, Reach::Limit);
    assert_eq!(refused, Err(OutletError::NoRoom(too_long)));
    outlet.try_publish_extended(&message[1..], extensions, Reach::Limit).unwrap();
}
