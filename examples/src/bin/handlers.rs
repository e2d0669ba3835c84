//! Handlers: functions that are called with each message, and one that is called again and again, all on one thread.
//!
//! ```text
//! cargo run --release --bin handlers
//! ```
//!
//! A thermometer that is broken now and then. The handler that fails is reported, and goes on. One sees:
//!
//! ```text
//! 20 degrees
//! 21 degrees
//! handlers/celsius failed: -300 degrees are too few
//! 22 degrees
//! ```

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use nodeset::{AppOptions, Node, NodeEvent, Sample};

/// Publish and print temperatures, by handlers that one thread runs. Logs go to standard error.
#[derive(Debug, Parser)]
#[command(name = "handlers", version)]
struct Arguments {
    /// End after so many temperatures
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    #[command(flatten)]
    nodeset: AppOptions,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    arguments.nodeset.start_logging()?;
    let node = Node::from_options(&arguments.nodeset, "handlers")?;
    let (mut left, stop) = (arguments.count, node.stop_handle());
    node.on("handlers/celsius", move |celsius: Sample<'_, i32>| {
        left -= 1;
        if left == 0 {
            stop.stop();
        }
        if *celsius < -273 {
            return Err(format!("{} degrees are too few", *celsius));
        }
        println!("{} degrees", *celsius);
        Ok(())
    })?;
    node.on_event(|event| {
        if let NodeEvent::HandlerFailed { topic: Some(topic), failure, .. } = event {
            println!("{topic} failed: {failure}");
        }
    });
    let mut thermometer = node.publisher::<i32>("handlers/celsius").create()?;
    let mut readings = [20, 21, -300, 22].into_iter().cycle();
    node.every(Duration::from_millis(100), move || {
        readings.next().map_or(Ok(()), |celsius| thermometer.publish(&celsius).map(drop))
    });
    node.run()?;
    Ok(())
}
