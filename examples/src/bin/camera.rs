//! Images of 6 MB, thirty a second: written once, straight into shared memory, and read there.
//!
//! ```text
//! cargo run --release --bin camera
//! ```
//!
//! One node writes each image in place (`loan_uninit`), another one looks at every pixel of it in place. Nothing is copied, and
//! the log stays as small as the images that are on their way. One sees:
//!
//! ```text
//! image 1: 2000 x 1000 pixels, brightness 1
//! image 2: 2000 x 1000 pixels, brightness 2
//! image 3: 2000 x 1000 pixels, brightness 3
//! ```

use std::error::Error;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use nodeset::{AppOptions, Node};

const WIDTH: usize = 2000;
const HEIGHT: usize = 1000;
/// bytes; red, green, blue
const LEN: usize = WIDTH * HEIGHT * 3;
const PERIOD: Duration = Duration::from_nanos(1_000_000_000 / 30);

/// Publish images of 6 MB thirty times a second, and read them in place. Logs go to standard error.
#[derive(Debug, Parser)]
#[command(name = "camera", version)]
struct Arguments {
    /// End after so many images
    #[arg(long, value_name = "N", default_value_t = 90)]
    frames: u32,

    #[command(flatten)]
    nodeset: AppOptions,
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let Arguments { frames, nodeset } = Arguments::parse();
    nodeset.start_logging()?;
    let viewer = Node::from_options(&nodeset, "viewer")?;
    let mut images = viewer.subscriber::<[u8]>("camera/image").reliable().create()?;
    let camera = std::thread::spawn(move || record(&Node::from_options(&nodeset, "camera")?, frames));
    for number in 1..=frames {
        // The camera says why, if it ends early.
        let Some(image) = images.receive_timeout(Duration::from_secs(30))? else { break };
        let brightness = image.iter().map(|&byte| u64::from(byte)).sum::<u64>() / LEN as u64;
        println!("image {number}: {WIDTH} x {} pixels, brightness {brightness}", image.len() / WIDTH / 3);
    }
    camera.join().expect("the camera does not panic")
}

fn record(node: &Node, frames: u32) -> Outcome {
    let mut publisher = node.publisher::<[u8]>("camera/image").create()?;
    let started = Instant::now();
    for number in 1..=frames {
        let mut image = publisher.loan_uninit(LEN)?;
        image.fill(number as u8);
        image.send();
        sleep((started + PERIOD * number).saturating_duration_since(Instant::now()));
    }
    Ok(())
}
