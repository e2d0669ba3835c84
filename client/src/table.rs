//! The dispatcher's table, for people and tools.

use std::time::{Duration, Instant};

use nodeset_bus::protocol::endpoint::Endpoint;
use nodeset_bus::protocol::{Listing, ToNode};

use crate::error::ConnectError;
use crate::session::ask_for_table;
use crate::wait::after;

/// Asks the dispatcher for its table: nodes, publications, subscriptions. Needs no node.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{AppOptions, Listing, Node};
///
/// let options = AppOptions { instance: "doc-list".to_owned(), ..AppOptions::default() };
/// let node = Node::from_options(&options, "camera")?;
/// let table = nodeset::list(&options.endpoint()?, Duration::from_secs(10))?;
/// let nodes = table.iter().filter_map(|row| match row {
///     Listing::Node { state, .. } => Some(state.name.as_str()),
///     _ => None,
/// });
/// assert!(nodes.eq(["camera"]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// See [`ConnectError`]; [`ConnectError::Nobody`] when no dispatcher runs.
pub fn list(endpoint: &Endpoint, timeout: Duration) -> Result<Vec<Listing>, ConnectError> {
    let mut rows = Vec::new();
    ask_for_table(endpoint, after(Instant::now(), timeout), timeout, |message| match message {
        ToNode::Listing(row) => {
            rows.push(row);
            true
        }
        ToNode::ListingEnd => false,
        _ => true,
    })?;
    Ok(rows)
}
