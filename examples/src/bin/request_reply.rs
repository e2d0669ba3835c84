//! Requests and replies: one each, many to one request, none, and what comes of a server that goes.
//!
//! ```text
//! cargo run --release --bin request_reply
//! ```
//!
//! A node that calculates and one that asks it, each on a thread of its own. One sees:
//!
//! ```text
//! 17 / 5 = 3.4
//! nobody divides by 0: the server of `request_reply/divide` at node `calculator` did not answer: its own log may say why
//! primes below 20: 2 3 5 7 11 13 17 19
//! later: nobody is left to divide
//! ```

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use nodeset::{AppOptions, Node, Request, RequestError};

/// Make requests, and answer them. Logs go to standard error.
#[derive(Debug, Parser)]
#[command(name = "request_reply", version)]
struct Arguments {
    /// Ask for the primes below this number
    #[arg(long, value_name = "N", default_value_t = 20)]
    below: u32,

    #[command(flatten)]
    nodeset: AppOptions,
}

/// Far longer than any answer takes: one that fails does not take so long.
const DEADLINE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { below, nodeset } = Arguments::parse();
    nodeset.start_logging()?;
    let calculator = Node::from_options(&nodeset, "calculator")?;
    let divide = calculator.server::<(f64, f64), f64>("request_reply/divide").create()?;
    calculator.handle_requests(divide, |request: Request<'_, (f64, f64), f64>| {
        let (dividend, divisor) = (request.0.to_native(), request.1.to_native());
        // A request that is dropped is not answered, and its client learns that.
        if divisor == 0.0 { Ok(()) } else { request.reply(&(dividend / divisor)) }
    });
    let primes = calculator.server::<u32, u32>("request_reply/primes").create()?;
    calculator.handle_requests(primes, |mut request: Request<'_, u32, u32>| {
        let is_prime = |number: &u32| (2..*number).all(|divisor| number % divisor != 0);
        (2..request.to_native()).filter(is_prime).try_for_each(|prime| request.send(&prime))?;
        request.end()
    });
    let stop = calculator.stop_handle();
    let running = std::thread::spawn(move || calculator.run());

    let node = Node::from_options(&nodeset, "asker")?;
    let divide = |by, deadline| node.request::<(f64, f64), f64>("request_reply/divide", &(17.0, by), deadline);
    println!("17 / 5 = {}", *divide(5.0, DEADLINE)?);
    println!(
        "nobody divides by 0: {}",
        divide(0.0, DEADLINE).map_or_else(|error| error.to_string(), |it| it.to_string())
    );

    let mut client = node.client::<u32, u32>("request_reply/primes").create()?;
    let mut answer = client.ask(&below, DEADLINE)?;
    print!("primes below {below}:");
    while let Some(prime) = answer.receive()? {
        print!(" {}", *prime);
    }
    println!();

    // The calculator leaves, and with it its servers.
    stop.stop();
    running.join().map_err(|_| "the calculator panicked")??;
    loop {
        match divide(5.0, Duration::from_millis(1)) {
            Err(RequestError::NoServer { .. }) => break,
            // The end of its server was not heard of yet.
            Err(RequestError::ServerGone { .. } | RequestError::TimedOut { .. }) => {}
            other => return Err(format!("an answer of nobody: {other:?}").into()),
        }
    }
    println!("later: nobody is left to divide");
    Ok(())
}
