//! Messages in a Tokio program: several tasks of one node await messages, beside timers and whatever else Tokio awaits.
//!
//! ```text
//! cargo run --release --bin async_tokio
//! ```
//!
//! One task publishes a number ten times a second and prints what another one answers: its square. One sees:
//!
//! ```text
//! 1 squared is 1
//! 2 squared is 4
//! 3 squared is 9
//! ```

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use nodeset::{AppOptions, Message, Node};
use rkyv::{Archive, Deserialize, Serialize};

/// Publish numbers, answer with their squares, print them: two tasks of one node in a Tokio runtime.
#[derive(Debug, Parser)]
#[command(name = "async_tokio", version)]
struct Arguments {
    /// End after so many numbers
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: u32,

    #[command(flatten)]
    nodeset: AppOptions,
}

#[derive(Archive, Serialize, Deserialize, Message)]
struct Squared {
    number: u32,
    square: u64,
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome {
    let arguments = Arguments::parse();
    arguments.nodeset.start_logging()?;
    let node = Node::from_options(&arguments.nodeset, "async_tokio")?;
    let mut squares = node.subscriber::<Squared>("async/squares").reliable().create()?;
    let mut squaring = tokio::spawn(square(node.clone()));
    let mut publisher = node.publisher::<u32>("async/numbers").create()?;
    publisher.wait_for_subscribers(1, Duration::from_secs(5))?;
    let (mut ticks, mut sent, mut printed) = (tokio::time::interval(Duration::from_millis(100)), 0, 0);
    while printed < arguments.count {
        // Whichever comes first; the others are dropped, and take no message with them.
        tokio::select! {
            _ = ticks.tick(), if sent < arguments.count => {
                sent += 1;
                publisher.publish(&sent)?;
            }
            squared = squares.receive_async() => {
                let squared = squared?;
                println!("{} squared is {}", squared.number, squared.square);
                printed += 1;
            }
            failed = &mut squaring => failed??,
        }
    }
    Ok(())
}

async fn square(node: Node) -> Outcome {
    let mut squares = node.publisher::<Squared>("async/squares").create()?;
    let mut numbers = node.subscriber::<u32>("async/numbers").reliable().create()?;
    loop {
        let number = numbers.receive_async().await?.to_native();
        squares.publish(&Squared { number, square: u64::from(number).pow(2) })?;
    }
}
