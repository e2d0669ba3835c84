//! What a peer is told once.

use std::time::Duration;

/// Names, limits and times of a peer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this host.
    pub local: String,
    /// Name of the other one.
    pub remote: String,
    /// Random; another one each time this dispatcher starts.
    pub instance: u64,
    /// Publications of the other side at a time.
    pub max_channels: u32,
    /// Interests of the other side at a time.
    pub max_interests: u32,
    /// Logs that ended and whose end the other side has not heard yet.
    pub max_ended: usize,
    /// bytes of one publication that may be sent before it is another one's turn
    pub turn: u32,
    /// bytes that a reliable link keeps for the other side before it is demoted
    pub retention_bytes: u64,
    /// How long a reliable link keeps a message for the other side before it is demoted.
    pub retention_time: Duration,
    /// A lossy link whose messages wait longer goes on with the newest.
    pub lossy_patience: Duration,
    /// How often the round trip is measured, which is also the sign of life.
    pub heartbeat: Duration,
    /// A connection on which nothing is heard for so long is given up.
    pub silence: Duration,
    /// How long an acknowledgement may wait for others.
    pub ack_delay: Duration,
    /// bytes that are acknowledged at once
    pub ack_bytes: u64,
    /// When the other side is told again of a publication that it refused.
    pub refused_again: Duration,
    /// How long what the other side wanted counts after it was restarted: its nodes come back one by one.
    pub return_grace: Duration,
    /// How long a mirror waits, connected, for its publication to be announced again.
    pub mirror_grace: Duration,
}

impl Settings {
    /// The defaults, for a pair of hosts.
    pub fn new(local: impl Into<String>, remote: impl Into<String>, instance: u64) -> Settings {
        Settings {
            local: local.into(),
            remote: remote.into(),
            instance,
            max_channels: 16 * 1024,
            max_interests: 16 * 1024,
            max_ended: 1024,
            turn: 64 * 1024,
            retention_bytes: 64 << 20,
            retention_time: Duration::from_secs(5),
            lossy_patience: Duration::from_millis(100),
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(4),
            ack_delay: Duration::from_millis(5),
            ack_bytes: 256 * 1024,
            refused_again: Duration::from_secs(5),
            return_grace: Duration::from_secs(10),
            mirror_grace: Duration::from_secs(10),
        }
    }
}
