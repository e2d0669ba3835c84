//! The first record of a connection, read before it is known whose it is.

use super::reason::Reason;
use crate::bridge::codec::{Decoded, HEADER_LEN, Hello, Record, VERSION_NEWEST, VERSION_OLDEST, decode};

/// bytes; no greeting of this version is longer, so nobody who has not greeted is read further
const LONGEST: usize = HEADER_LEN + 1024;
/// milliseconds; no sign of life can be expected more often
const SHORTEST_PATIENCE: u32 = 100;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// Not all of a greeting.
    Incomplete,
    /// The other side greets.
    Hello {
        /// It.
        hello: Hello,
        /// bytes that it took
        len: usize,
    },
}

/// Reads a greeting from the first bytes of a connection.
///
/// # Errors
///
/// It cannot become one, the other side says goodbye instead, or there is no version that both speak. Say
/// [`goodbye`](Reason::goodbye) and close.
pub fn greeting(bytes: &[u8]) -> Result<Greeting, Reason> {
    match decode(bytes)? {
        Decoded::Incomplete { needed } if needed > LONGEST => {
            Err(Reason::Violation("its first record is no greeting".to_owned()))
        }
        Decoded::Incomplete { .. } => Ok(Greeting::Incomplete),
        Decoded::Record { record: Record::Hello(hello), len } => {
            check(&hello)?;
            Ok(Greeting::Hello { hello, len })
        }
        Decoded::Record { record: Record::Goodbye { code, text }, .. } => Err(Reason::theirs(code, text)),
        Decoded::Record { .. } => Err(Reason::Violation("its first record is no greeting".to_owned())),
    }
}

fn check(hello: &Hello) -> Result<(), Reason> {
    if hello.oldest > hello.newest {
        return Err(Reason::Violation("its oldest version is newer than its newest".to_owned()));
    }
    if hello.oldest > VERSION_NEWEST || hello.newest < VERSION_OLDEST {
        return Err(Reason::Version { oldest: hello.oldest, newest: hello.newest });
    }
    for name in [&hello.host, &hello.to] {
        nodeset_bus::topic::check_node_name(name).map_err(|error| Reason::Violation(error.to_string()))?;
    }
    if hello.patience < SHORTEST_PATIENCE {
        return Err(Reason::Violation(format!("its patience of {} ms is too short", hello.patience)));
    }
    Ok(())
}
