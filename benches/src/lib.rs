//! Nothing by itself: the benchmarks are under `benches/`.
//!
//! ```text
//! cargo bench --bench performance1                  # all groups
//! cargo bench --bench performance1 -- throughput    # one of them
//! cargo bench --bench performance1 -- --test        # each once, quickly
//! cargo bench --bench patterns                      # a new topic among 100 000 patterns, beside a scan of them
//! cargo bench --bench stream                        # the stream ring beside crate rtrb, with the ratios
//! cargo bench --bench wakeup                        # each way to wait beside a raw wake-up, with the ratio
//! ```
