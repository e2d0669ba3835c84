//! Streams: one sender, receivers that join and leave meanwhile, items compressed on their way, and an end.
//!
//! ```text
//! cargo run --release --bin stream_node
//! ```
//!
//! A concert is sent to whoever listens. Bob comes late, Ann leaves early. One sees:
//!
//! ```text
//! the hall plays bars 0 to 9 to 1 listener
//! bob comes
//! the hall plays bars 10 to 19 to 2 listeners
//! ann heard bars 0 to 19, and leaves
//! the hall plays bars 20 to 29 to 1 listener
//! bob heard bars 10 to 29
//! hall finished its stream, bob missed 0 bars
//! ```

use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use clap::Parser;
use nodeset::{AppOptions, Lz4, Node, StreamError, StreamReceiver, StreamSender};

/// Send a stream to receivers that come and go. Logs go to standard error.
#[derive(Debug, Parser)]
#[command(name = "stream_node", version)]
struct Arguments {
    /// Bars in each of the three movements
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..1000))]
    bars: u32,

    #[command(flatten)]
    nodeset: AppOptions,
}

/// Longest time that a listener needs to come.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    arguments.nodeset.start_logging()?;
    let bars = arguments.bars;
    // One program here, to be run at once; they may as well be three.
    let [hall, ann, bob] = ["hall", "ann", "bob"].map(|name| Node::from_options(&arguments.nodeset, name));
    let (hall, ann, bob) = (hall?, ann?, bob?);

    let mut ann = ann.stream_receiver("concert").codec(Lz4::default()).create()?;
    let mut concert = hall.stream("concert").codec(Lz4::default()).create()?;
    concert.wait_for_receivers(1, PATIENCE)?;
    play(&mut concert, 0..bars)?;

    println!("bob comes");
    let mut bob = bob.stream_receiver("concert").codec(Lz4::default()).create()?;
    concert.wait_for_receivers(2, PATIENCE)?;
    play(&mut concert, bars..2 * bars)?;

    listen(&mut ann, 0..2 * bars)?;
    println!("ann heard bars 0 to {}, and leaves", 2 * bars - 1);
    drop(ann);
    while concert.receivers().len() > 1 {
        std::thread::yield_now();
    }
    play(&mut concert, 2 * bars..3 * bars)?;
    concert.finish()?;

    listen(&mut bob, bars..3 * bars)?;
    println!("bob heard bars {bars} to {}", 3 * bars - 1);
    match bob.receive() {
        Err(StreamError::Finished { sender, .. }) => {
            println!("{sender} finished its stream, bob missed {} bars", bob.missed());
            Ok(())
        }
        Ok(_) => Err("the concert went on".into()),
        Err(other) => Err(other.into()),
    }
}

fn play(concert: &mut StreamSender<Lz4>, bars: Range<u32>) -> Result<(), Box<dyn Error>> {
    let (first, last) = (bars.start, bars.end - 1);
    for bar in bars {
        concert.push(&sound(bar))?;
    }
    let listeners = concert.receivers().len();
    let plural = if listeners == 1 { "" } else { "s" };
    println!("the hall plays bars {first} to {last} to {listeners} listener{plural}");
    Ok(())
}

fn listen(listener: &mut StreamReceiver<Lz4>, bars: Range<u32>) -> Result<(), Box<dyn Error>> {
    for bar in bars {
        if **listener.receive()? != sound(bar) {
            return Err(format!("bar {bar} sounds wrong").into());
        }
    }
    Ok(())
}

/// A long note.
fn sound(bar: u32) -> Vec<u8> {
    bar.to_le_bytes().repeat(1000)
}
