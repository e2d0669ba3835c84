//! What the benchmarks under `benches/` share.
//!
//! ```text
//! cargo bench --bench performance1                  # all groups
//! cargo bench --bench performance1 -- throughput    # one of them
//! cargo bench --bench performance1 -- --test        # each once, quickly
//! cargo bench --bench bridge                        # the whole way between two hosts beside a raw socket
//! cargo bench --bench bridge_connection             # one connection of the bridge beside a raw one
//! cargo bench --bench delivery                      # direct publishers beside plain ones
//! cargo bench --bench patterns                      # a new topic among 100 000 patterns; messages by pattern beside plain ones
//! cargo bench --bench request                       # a request and its reply beside two messages
//! cargo bench --bench stream                        # the stream ring beside crate rtrb, with the ratios
//! cargo bench --bench wakeup                        # each way to wait beside a raw wake-up, with the ratio
//! ```

use std::error::Error;
use std::time::Duration;

use criterion::Criterion;
use nodeset_examples::measure::{Budget, Worker};

/// How long starting, linking or a run may take beyond what criterion asks for.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Turns of which a ratio is the median.
pub const TURNS: usize = 15;
/// How long one side takes in a turn.
pub const TURN: Duration = Duration::from_millis(200);

/// What the programs end with.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Whether everything is to run once, quickly (`--test`).
#[must_use]
pub fn is_quick() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// [`TURNS`], or one if all is to be quick.
#[must_use]
pub fn turns() -> usize {
    if is_quick() { 1 } else { TURNS }
}

/// The value in the middle.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Criterion for what two processes do with each other, set by the program's arguments.
#[must_use]
pub fn criterion_of_pairs() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// A function of `group` under criterion: as long as the median, in nanoseconds, that `run` says of each run.
///
/// # Errors
///
/// The last error of `run`.
pub fn bench_medians(
    criterion: &mut Criterion,
    group: &str,
    name: &str,
    mut run: impl FnMut(Budget) -> Outcome<f64>,
) -> Outcome {
    let mut group = criterion.benchmark_group(group);
    let mut outcome = Ok(());
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|messages| match run(Budget::Messages(messages)) {
            Ok(p50_ns) => Duration::from_nanos((p50_ns * messages as f64) as u64),
            Err(error) => {
                outcome = Err(error);
                // Criterion cannot be stopped; the caller ends the program.
                Duration::from_nanos(messages)
            }
        });
    });
    group.finish();
    outcome
}

/// What [`alternate`] saw, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Compared {
    /// Of what is measured.
    pub figure: f64,
    /// Of what it is compared with.
    pub limit: f64,
    /// The median of the turns' ratios, which is not that of the two above.
    pub ratio: f64,
}

/// Lets `limit` and `figure` take turns, since the machine changes from one moment to the next, and says the medians.
///
/// # Errors
///
/// The first error of either.
pub fn alternate(
    mut figure: impl FnMut(Budget) -> Outcome<f64>,
    mut limit: impl FnMut(Budget) -> Outcome<f64>,
) -> Outcome<Compared> {
    let (mut ratios, mut figures, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..turns() {
        let before = limit(Budget::Time(TURN / 2))?;
        let measured = figure(Budget::Time(TURN))?;
        let around = (before + limit(Budget::Time(TURN / 2))?) / 2.0;
        ratios.push(measured / around);
        figures.push(measured);
        limits.push(around);
    }
    Ok(Compared { figure: median(figures), limit: median(limits), ratio: median(ratios) })
}

/// Two processes, of which the first one asks and measures.
pub struct Pair {
    asks: Worker,
    answers: Worker,
}

impl Pair {
    /// The pair, as soon as both are ready.
    ///
    /// # Errors
    ///
    /// If one of them fails, or takes longer than [`DEADLINE`].
    pub fn new(mut asks: Worker, mut answers: Worker) -> Outcome<Pair> {
        Worker::await_all_ready(&mut [&mut asks, &mut answers], DEADLINE)?;
        Ok(Pair { asks, answers })
    }

    /// The median of one way, in nanoseconds.
    ///
    /// # Errors
    ///
    /// If one of them fails, or takes longer than [`DEADLINE`].
    pub fn run(&mut self, budget: Budget) -> Outcome<f64> {
        self.answers.run(budget)?;
        self.asks.run(budget)?;
        let reports = Worker::reports(&mut [&mut self.asks, &mut self.answers], DEADLINE)?;
        Ok(reports[0].latency.ok_or("no round trip was made")?.p50_ns)
    }
}
