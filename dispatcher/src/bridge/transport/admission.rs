//! What connections may cost before it is known who they are: number, time and bytes. Decides, and touches nothing.
//!
//! When there are too many, the oldest one of the address that has most of them makes room: whoever floods from one place
//! displaces itself, and a host that knows its key is through in a few milliseconds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What strangers may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strangers {
    /// Connections at a time.
    pub most: usize,
    /// Time of each, from when it was accepted.
    pub patience: Duration,
    /// bytes; of each, on the wire
    pub bytes: u64,
}

impl Default for Strangers {
    fn default() -> Strangers {
        Strangers { most: 64, patience: Duration::from_secs(5), bytes: 128 << 10 }
    }
}

/// Who is not known yet; `Id` names a connection.
#[derive(Debug)]
pub struct Admission<Id> {
    limits: Strangers,
    waiting: BTreeMap<Id, Stranger>,
}

#[derive(Debug, Clone, Copy)]
struct Stranger {
    from: IpAddr,
    until: Instant,
}

impl<Id: Ord + Copy> Admission<Id> {
    /// Nobody is there.
    pub fn new(limits: Strangers) -> Admission<Id> {
        Admission { limits, waiting: BTreeMap::new() }
    }

    /// A connection was accepted. Returns the one that has to make room, if there are too many.
    pub fn came(&mut self, now: Instant, id: Id, from: IpAddr) -> Option<Id> {
        self.waiting.insert(id, Stranger { from, until: now + self.limits.patience });
        (self.waiting.len() > self.limits.most).then(|| self.displaced()).flatten()
    }

    fn displaced(&mut self) -> Option<Id> {
        let mut crowds = BTreeMap::<IpAddr, usize>::new();
        for stranger in self.waiting.values() {
            *crowds.entry(stranger.from).or_default() += 1;
        }
        let (&from, _) = crowds.iter().max_by_key(|(_, count)| **count)?;
        let crowd = self.waiting.iter().filter(|(_, stranger)| stranger.from == from);
        let (&id, _) = crowd.min_by_key(|(id, stranger)| (stranger.until, **id))?;
        self.waiting.remove(&id);
        Some(id)
    }

    /// It is known who that is, or it is gone.
    pub fn settled(&mut self, id: Id) {
        self.waiting.remove(&id);
    }

    /// Whether a connection that has received so many bytes may go on.
    pub fn may_go_on(&self, id: Id, received: u64) -> bool {
        received <= self.limits.bytes || !self.waiting.contains_key(&id)
    }

    /// One whose time is over, at `now`; call it until `None`.
    pub fn expired(&mut self, now: Instant) -> Option<Id> {
        let (&id, _) = self.waiting.iter().find(|(_, stranger)| stranger.until <= now)?;
        self.waiting.remove(&id);
        Some(id)
    }

    /// When to call [`expired`](Self::expired).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.values().map(|stranger| stranger.until).min()
    }

    /// How many are not known yet.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether all are known.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Strangers = Strangers { most: 3, patience: Duration::from_secs(5), bytes: 100 };

    fn from(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_crowd_makes_room_and_not_the_others() {
        let (mut admission, now) = (Admission::new(LIMITS), Instant::now());
        assert_eq!(admission.came(now, 1, from(9)), None);
        assert_eq!(admission.came(now, 2, from(1)), None);
        assert_eq!(admission.came(now, 3, from(1)), None);
        assert_eq!(admission.came(now, 4, from(1)), Some(2));
        assert_eq!(admission.came(now, 5, from(1)), Some(3));
        assert_eq!(admission.len(), 3);
        admission.settled(4);
        assert_eq!(admission.came(now, 6, from(2)), None);
    }

    #[test]
    fn time_is_limited_until_somebody_is_known() {
        let (mut admission, now) = (Admission::new(LIMITS), Instant::now());
        admission.came(now, 1, from(1));
        admission.came(now + Duration::from_secs(1), 2, from(1));
        admission.settled(1);
        assert_eq!(admission.poll_timeout(), Some(now + Duration::from_secs(6)));
        assert_eq!(admission.expired(now + Duration::from_millis(5_999)), None);
        assert_eq!(admission.expired(now + Duration::from_secs(6)), Some(2));
        assert_eq!(admission.expired(now + Duration::from_secs(60)), None);
        assert_eq!(admission.poll_timeout(), None);
    }

    #[test]
    fn bytes_are_limited_until_somebody_is_known() {
        let (mut admission, now) = (Admission::new(LIMITS), Instant::now());
        admission.came(now, 1, from(1));
        assert!(admission.may_go_on(1, 100) && !admission.may_go_on(1, 101));
        admission.settled(1);
        assert!(admission.may_go_on(1, 1 << 40));
    }
}
