//! States: whoever reads one sees the newest value, also when it comes late or looks seldom.
//!
//! ```text
//! cargo run --release --bin state
//! ```
//!
//! A pump sets its flow a thousand times; nobody who reads it minds. Then its spare takes over. One sees:
//!
//! ```text
//! early: nothing was set so far
//! early: 1000 litres an hour, set by pump
//! late: 1000 litres an hour, set by pump
//! the pump is gone, early keeps: 1000 litres an hour, set by pump
//! the spare takes over: 10 litres an hour, set by spare
//! ```

use std::error::Error;

use clap::Parser;
use nodeset::{AppOptions, Node, OwnedSample};

/// Set a value again and again, and read it now and then. Logs go to standard error.
#[derive(Debug, Parser)]
#[command(name = "state", version)]
struct Arguments {
    /// How often it is set
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    #[command(flatten)]
    nodeset: AppOptions,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    arguments.nodeset.start_logging()?;
    // One program here, to be run at once; they may as well be four.
    let [screen, pump, spare] = ["screen", "pump", "spare"].map(|name| Node::from_options(&arguments.nodeset, name));
    let (screen, pump, spare) = (screen?, pump?, spare?);

    let mut early = screen.state::<u32>("cellar/flow").reader()?;
    println!("early: {}", shown(early.get()?));

    let mut flow = pump.state::<u32>("cellar/flow").writer()?;
    for litres in 1..=arguments.count {
        flow.set(&litres)?;
    }
    println!("early: {}", shown(early.get()?));
    let mut late = screen.state::<u32>("cellar/flow").reader()?;
    println!("late: {}", shown(late.get()?));

    drop(flow);
    println!("the pump is gone, early keeps: {}", shown(early.get()?));

    let mut flow = spare.state::<u32>("cellar/flow").writer()?;
    flow.set(&10)?;
    println!("the spare takes over: {}", shown(Some(late.changed()?)));
    Ok(())
}

fn shown(flow: Option<&OwnedSample<u32>>) -> String {
    match flow {
        Some(flow) => format!("{} litres an hour, set by {}", **flow, flow.publisher()),
        None => "nothing was set so far".to_owned(),
    }
}
