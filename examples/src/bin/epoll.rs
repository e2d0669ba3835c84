//! Messages in an event loop of one's own: standard input and a subscriber in one epoll instance. A chat.
//!
//! ```text
//! cargo run --release --bin epoll    # in one terminal
//! cargo run --release --bin epoll    # in another one
//! ```
//!
//! Type a line in one of them, and one sees in the other one:
//!
//! ```text
//! epoll-2: good morning
//! ```
//!
//! The end of the input (control-D) ends it.

use std::error::Error;
use std::io::stdin;

use clap::Parser;
use nodeset::{AppOptions, Node, Readiness};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// A chat: publishes each line of standard input and prints those of the others. Waits for both in one epoll instance.
#[derive(Debug, Parser)]
#[command(name = "epoll", version)]
struct Arguments {
    #[command(flatten)]
    nodeset: AppOptions,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    arguments.nodeset.start_logging()?;
    let node = Node::from_options(&arguments.nodeset, "epoll")?;
    let mut publisher = node.publisher::<str>("epoll/chat").create()?;
    let mut subscriber = node.subscriber::<str>("epoll/chat").reliable().create()?;
    let input = stdin();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &input, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    epoll::add(&epoll, &subscriber, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
    println!("{} is there", node.name());
    let (mut typed, mut buffer, mut events) = (Vec::new(), [0; 4096], Vec::with_capacity(2));
    loop {
        // First all messages, then arm, and only then wait.
        while let Some(line) = subscriber.try_receive()? {
            if line.publisher() != &*node.name() {
                println!("{}: {}", line.publisher(), &*line);
            }
        }
        let Readiness::Armed(armed) = subscriber.arm()? else { continue };
        let at_most = armed.at_most().map(Timespec::try_from).transpose()?;
        match epoll::wait(&epoll, spare_capacity(&mut events), at_most.as_ref()) {
            Ok(_) | Err(Errno::INTR) => drop(armed),
            Err(errno) => return Err(errno.into()),
        }
        if events.drain(..).any(|event| event.data.u64() == 0) {
            // Not through `stdin()` itself, whose buffer epoll does not see.
            let len = rustix::io::read(&input, &mut buffer)?;
            typed.extend_from_slice(&buffer[..len]);
            while let Some(end) = typed.iter().position(|&byte| byte == b'\n') {
                publisher.publish(String::from_utf8_lossy(&typed[..end]).as_ref())?;
                typed.drain(..=end);
            }
            if len == 0 {
                return Ok(());
            }
        }
    }
}
