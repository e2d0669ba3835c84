//! Whose turn it is: lanes by their weights, evenly mixed.
//!
//! Smooth weighted round robin, worked out once for a whole round whenever the lanes change, so that a message costs one look
//! at a list. Of weights 3 and 1 a round is `a a b a`, not `a a a b`.

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Indices of lanes.
    round: Vec<u32>,
    /// The next turn in it.
    at: usize,
}

impl Schedule {
    /// For lanes of these weights, each at least 1 (or 0: it gets no turn).
    pub(super) fn new(weights: &[u16]) -> Schedule {
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, b.into())).max(1);
        let weights: Vec<i64> = weights.iter().map(|&weight| i64::from(weight) / divisor).collect();
        let total: i64 = weights.iter().sum();
        let mut credit = vec![0; weights.len()];
        let mut round = Vec::with_capacity(total as usize);
        for _ in 0..total {
            credit.iter_mut().zip(&weights).for_each(|(credit, weight)| *credit += weight);
            // The first of those with most credit.
            let Some(next) = (0..credit.len()).rev().max_by_key(|&lane| credit[lane]) else { break };
            credit[next] -= total;
            round.push(next as u32);
        }
        Schedule { round, at: 0 }
    }

    /// How many turns a round has.
    pub(super) fn len(&self) -> usize {
        self.round.len()
    }

    /// Whose turn it is.
    #[inline(always)]
    pub(super) fn turn(&self) -> Option<usize> {
        self.round.get(self.at).map(|&lane| lane as usize)
    }

    /// It is the next one's turn.
    #[inline(always)]
    pub(super) fn advance(&mut self) {
        self.at += 1;
        if self.at >= self.round.len() {
            self.at = 0;
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(weights: &[u16]) -> Vec<u32> {
        Schedule::new(weights).round
    }

    #[test]
    fn turns_are_mixed_not_bundled() {
        assert_eq!(round(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(round(&[3, 1]), [0, 0, 1, 0]);
        assert_eq!(round(&[20, 20]), [0, 1], "the shortest round there is");
        assert!(round(&[]).is_empty() && round(&[0]).is_empty());
    }

    #[test]
    fn rounds_follow_each_other() {
        let mut schedule = Schedule::new(&[2, 1]);
        for turn in [0, 1, 0, 0, 1, 0] {
            assert_eq!(schedule.turn(), Some(turn));
            schedule.advance();
        }
        let mut nobodys = Schedule::new(&[]);
        nobodys.advance();
        assert_eq!(nobodys.turn(), None);
    }

    proptest! {
        #[test]
        fn every_lane_gets_its_share_and_never_falls_far_behind(weights in prop::collection::vec(1u16..=100, 1..20)) {
            let round = round(&weights);
            let total: u32 = weights.iter().map(|&weight| u32::from(weight)).sum();
            let mut had = vec![0u32; weights.len()];
            for (turn, &lane) in round.iter().enumerate() {
                had[lane as usize] += 1;
                for (&had, &weight) in had.iter().zip(&weights) {
                    let due = (turn + 1) as f64 * f64::from(weight) / f64::from(total);
                    prop_assert!((f64::from(had) - due).abs() < weights.len() as f64, "{had} of {due}");
                }
            }
            for (&had, &weight) in had.iter().zip(&weights) {
                prop_assert_eq!(u64::from(had) * u64::from(total), u64::from(weight) * round.len() as u64);
            }
        }
    }
}
