//! Publishing allocates nothing once the scratch has grown: counted by an allocator of our own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::mem::MaybeUninit;
use std::rc::Rc;

use nodeset_bus::message::{Message, Room, Scratch};
use rkyv::{Archive, Deserialize, Serialize};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY:
// - every call is handed on to the system's allocator as it is
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY:
        // - the caller keeps to the contract of `alloc`
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY:
        // - the caller keeps to the contract of `dealloc`, and `ptr` came from the same allocator
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[derive(Archive, Serialize, Deserialize, Message)]
#[message(crate = "nodeset_bus")]
struct Nested {
    names: Vec<String>,
    table: HashMap<String, Vec<String>>,
    tree: BTreeMap<u32, String>,
    shared: Vec<Rc<String>>,
}

#[derive(Archive, Serialize, Deserialize, Message)]
#[message(crate = "nodeset_bus")]
struct Plain {
    place: [f64; 7],
    flag: bool,
}

/// How often a hundred messages allocate, to be written (and not to fit) and to be seen.
fn steady<T: Message>(value: &T) -> (usize, usize) {
    let mut words = vec![0_u128; 64 * 1024];
    // SAFETY:
    // - valid for reads and writes of as many bytes as the words have; the only borrow while it lives
    // - only initialised bytes are stored through it: a message writes no others
    let bytes = unsafe {
        std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<MaybeUninit<u8>>(), size_of_val(&words[..]))
    };
    let mut scratch = Scratch::new();
    let mut len = 0;
    for _ in 0..4 {
        len = value.write(&mut Room::from_slice(bytes), &mut scratch).expect("there is room");
    }
    let writing = allocations(|| {
        for _ in 0..100 {
            value.write(&mut Room::from_slice(&mut bytes[..16]), &mut scratch).expect_err("there is none");
            value.write(&mut Room::from_slice(bytes), &mut scratch).expect("there is room");
        }
    });
    // SAFETY:
    // - initialised: all of it was, and a message stores initialised bytes only
    // - borrowed as long as the slice
    let payload = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), len) };
    let viewing = allocations(|| {
        for _ in 0..100 {
            assert!(T::view(payload).is_ok());
        }
    });
    (writing, viewing)
}

#[test]
fn plain_messages_never_allocate() {
    assert_eq!(steady(&Plain { place: [1.0; 7], flag: true }), (0, 0));
    assert_eq!(steady(&[7_u64; 8]), (0, 0));
}

#[test]
fn nested_messages_allocate_nothing_to_be_written() {
    let text = |at: usize| format!("a text that is not kept in place, number {at:06}");
    let shared = Rc::new(text(0));
    let nested = Nested {
        names: (0..512).map(text).collect(),
        table: (0..50).map(|at| (text(at), (0..at).map(text).collect())).collect(),
        tree: (0..500).map(|at| (at as u32, text(at))).collect(),
        shared: (0..50).map(|at| if at % 2 == 0 { shared.clone() } else { Rc::new(text(at)) }).collect(),
    };
    let (writing, _) = steady(&nested);
    assert_eq!(writing, 0);
    assert_eq!(steady(&nested.names), (0, 0));
}
