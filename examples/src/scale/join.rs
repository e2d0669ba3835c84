//! All nodes come at once, one message goes over each topic, all leave.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cost::Cost;
use super::crew::Order;
use super::fleet::{Fleet, ScaleError, must_be};
use super::milliseconds;
use crate::measure::monotonic_ns;

/// How long the processes may take to give back what they had.
const DEADLINE: Duration = Duration::from_secs(60);

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Join {
    /// What this is a line of.
    pub measured: &'static str,
    /// Who publishes what to whom.
    pub plan: String,
    /// Links that were made.
    pub links: u64,
    /// From the start until all links were made.
    pub linked_ms: f64,
    /// From then until one message on each topic was received by each of its subscribers.
    pub messages_ms: f64,
    /// From the order to leave until nothing was left.
    pub left_ms: f64,
    /// Messages that were received.
    pub messages: u64,
    /// What a node adds to its process.
    pub a_node: Cost,
    /// What a node adds to the dispatcher.
    pub a_node_at_dispatcher: Cost,
    /// What the dispatcher holds in all.
    pub dispatcher: Cost,
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "join: {}, {} links", self.plan, self.links)?;
        writeln!(f, "  all linked after {:.0} ms", self.linked_ms)?;
        writeln!(f, "  {} messages, one a link, received after {:.0} ms more", self.messages, self.messages_ms)?;
        writeln!(f, "  everything given back after {:.0} ms", self.left_ms)?;
        writeln!(f, "  a node adds to its process:    {}", Line(&self.a_node))?;
        writeln!(f, "  a node adds to the dispatcher: {}", Line(&self.a_node_at_dispatcher))?;
        write!(f, "  the dispatcher has in all:     {}", Line(&self.dispatcher))
    }
}

/// A cost in one line.
struct Line<'a>(&'a Cost);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { descriptors, mappings, proportional_bytes, private_bytes, .. } = self.0;
        let kib = |bytes: u64| bytes.div_ceil(1024);
        write!(
            f,
            "{descriptors} descriptors, {mappings} mappings, {} KiB of memory ({} KiB private)",
            kib(*proportional_bytes),
            kib(*private_bytes)
        )
    }
}

/// Measures with a fleet of which no node is there yet, and none is there afterwards.
///
/// # Errors
///
/// When a count is not what it must be, or something is left behind.
pub fn measure(fleet: &mut Fleet) -> Result<Join, ScaleError> {
    let plan = *fleet.plan();
    let before = Costs::of(fleet)?;
    let started_ns = monotonic_ns();
    fleet.ask(&Order::Join)?;
    let links = fleet.count(&Order::Link)?;
    let linked_ns = monotonic_ns();
    must_be("links", links, plan.links() as u64)?;
    must_be("topics published on", fleet.count(&Order::Publish)?, plan.topics as u64)?;
    let messages = fleet.count(&Order::Receive)?;
    let received_ns = monotonic_ns();
    must_be("messages received", messages, plan.links() as u64)?;
    let with = Costs::of(fleet)?;
    let leaving_ns = monotonic_ns();
    leave(fleet, &before)?;
    Ok(Join {
        measured: "join",
        plan: plan.to_string(),
        links,
        linked_ms: milliseconds(linked_ns - started_ns),
        messages_ms: milliseconds(received_ns - linked_ns),
        left_ms: milliseconds(monotonic_ns() - leaving_ns),
        messages,
        a_node: with.of_all_crews().since(&before.of_all_crews()).divided_by(plan.nodes),
        a_node_at_dispatcher: with.dispatcher.since(&before.dispatcher).divided_by(plan.nodes),
        dispatcher: with.dispatcher,
    })
}

/// What all processes hold at one time.
pub struct Costs {
    crews: Vec<Cost>,
    dispatcher: Cost,
}

impl Costs {
    /// Now.
    ///
    /// # Errors
    ///
    /// When `/proc` does not say.
    pub fn of(fleet: &Fleet) -> Result<Costs, ScaleError> {
        Ok(Costs { crews: fleet.cost_of_crews()?, dispatcher: fleet.cost_of_dispatcher()? })
    }

    fn of_all_crews(&self) -> Cost {
        self.crews.iter().fold(Cost::default(), |all, crew| all.plus(crew))
    }

    fn are_back_at(&self, before: &Costs) -> bool {
        self.dispatcher.is_back_at(&before.dispatcher)
            && self.crews.iter().zip(&before.crews).all(|(now, before)| now.is_back_at(before))
    }
}

/// All nodes leave; waits until the processes and the dispatcher hold what they held before.
///
/// # Errors
///
/// When something is left behind.
pub fn leave(fleet: &mut Fleet, before: &Costs) -> Result<(), ScaleError> {
    fleet.ask(&Order::Leave)?;
    let until = Instant::now() + DEADLINE;
    loop {
        let (now, table) = (Costs::of(fleet)?, fleet.table()?);
        if now.are_back_at(before) && table.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        if Instant::now() > until {
            let rows = table.map_or(0, |table| table.len());
            let found = format!(
                "{rows} rows in the table; dispatcher {:?}, before {:?}; processes {:?}, before {:?}",
                now.dispatcher,
                before.dispatcher,
                now.of_all_crews(),
                before.of_all_crews()
            );
            return Err(ScaleError::Late { what: "something is left behind", seconds: DEADLINE.as_secs(), found });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
