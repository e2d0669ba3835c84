//! `nodeset pub`.

use std::error::Error;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodeset::Node;

use crate::args::PubArgs;

pub(crate) fn run(args: &PubArgs) -> Result<(), Box<dyn Error>> {
    args.nodeset.start_logging()?;
    let node = Node::from_options(&args.nodeset, "pub")?;
    let mut publisher = node.publisher::<str>(&args.topic).create()?;
    if publisher.subscribers() < args.subscribers {
        eprintln!("waiting for {} of `{}`", subscribers(args.subscribers), args.topic);
        publisher.wait_for_subscribers(args.subscribers, args.wait).map_err(|error| {
            format!("{error}: start one (`nodeset echo {}`), or publish anyway with --subscribers 0", args.topic)
        })?;
    }
    let interval = Duration::from_secs_f64(1.0 / args.rate);
    let mut due = Instant::now();
    let mut sent = 0;
    loop {
        publisher.publish(&args.text)?;
        sent += 1;
        if sent == args.count {
            return Ok(());
        }
        due += interval;
        sleep(due.saturating_duration_since(Instant::now()));
    }
}

fn subscribers(count: usize) -> String {
    if count == 1 { "a subscriber".to_owned() } else { format!("{count} subscribers") }
}
