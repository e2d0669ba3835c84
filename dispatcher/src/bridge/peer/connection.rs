//! Which connection is used, when there are several.
//!
//! Either side may dial, so two connections can come about at once, and one side may learn of a connection's end long before
//! the other. Both must come to the same one:
//!
//! 1. A side that was restarted has lost all its connections: the new one stays.
//! 2. A side says in its greeting which connections it knows to be over: one that is over for either side is over.
//! 3. Of two that the same side dialled the later one stays: it dials only without a connection.
//! 4. Of two that either side dialled the one stays that the host with the smaller name dialled.
//!
//! The accepting side decides when the greeting arrives, the dialling side when it is answered. A side that decides against a
//! connection closes it with `Duplicate`, so the two cannot stay apart.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::session::Session;
use super::{Action, ConnectionId, Owed, Peer, Reason, Role};
use crate::bridge::codec::{Hello, VERSION_NEWEST, VERSION_OLDEST};

/// What is known of all connections.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// How often we dialled.
    dialled: u64,
    /// Our attempts up to this one are over.
    over: u64,
    /// The instance that the other side was when we last met.
    their_instance: u64,
    /// Attempts of that instance up to this one are over.
    their_over: u64,
}

impl Peer {
    /// The greeting for a connection that is being dialled; it is sent at once. Dial only while not
    /// [connected](Self::is_connected), and one connection at a time.
    pub fn dial(&mut self) -> Hello {
        // The attempt before this one failed, or it would not be dialled again.
        self.attempts.over = self.attempts.dialled;
        self.attempts.dialled += 1;
        self.hello(self.attempts.dialled)
    }

    pub(super) fn hello(&self, attempt: u64) -> Hello {
        let Attempts { over, their_instance, their_over, .. } = self.attempts;
        Hello {
            oldest: VERSION_OLDEST,
            newest: VERSION_NEWEST,
            host: self.settings.local.clone(),
            to: self.settings.remote.clone(),
            instance: self.settings.instance,
            attempt,
            over,
            their_over,
            their_instance,
            max_channels: self.settings.max_channels,
            max_interests: self.settings.max_interests,
            patience: u32::try_from(self.settings.silence.as_millis()).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn connected(&mut self, now: Instant, connection: ConnectionId, role: Role, hello: Hello) {
        if let Err(reason) = self.check_hello(role, &hello) {
            self.status.last_end = Some(reason.clone());
            self.actions.push_back(Action::Close { connection, goodbye: reason.goodbye(), reason });
            return;
        }
        if let Some(active) = &self.session {
            if !self.replaces(active, role, &hello) {
                let reason = Reason::Duplicate;
                self.actions.push_back(Action::Close { connection, goodbye: reason.goodbye(), reason });
                return;
            }
            self.close(Reason::Duplicate);
        }
        self.establish(now, connection, role, hello);
    }

    fn check_hello(&self, role: Role, hello: &Hello) -> Result<(), Reason> {
        let (local, expected) = (&self.settings.local, &self.settings.remote);
        if hello.host != *expected || hello.to != *local {
            return Err(Reason::WrongHost {
                found: hello.host.clone(),
                to: hello.to.clone(),
                expected: expected.clone(),
                local: local.clone(),
            });
        }
        if role == Role::Dialled && hello.attempt != self.attempts.dialled {
            return Err(Reason::Violation("it answers another greeting than ours".to_owned()));
        }
        Ok(())
    }

    /// The rule of the module.
    fn replaces(&self, active: &Session, role: Role, hello: &Hello) -> bool {
        if hello.instance != active.remote.instance {
            return true;
        }
        if active.role == role {
            return hello.attempt > active.remote.attempt;
        }
        let is_over = match active.role {
            Role::Accepted => active.remote.attempt <= hello.over,
            Role::Dialled => {
                hello.their_instance == self.settings.instance && active.remote.attempt <= hello.their_over
            }
        };
        let dialler_is_smaller = match self.settings.local.cmp(&self.settings.remote) {
            Ordering::Less => role == Role::Dialled,
            _ => role == Role::Accepted,
        };
        is_over || dialler_is_smaller
    }

    fn establish(&mut self, now: Instant, connection: ConnectionId, role: Role, hello: Hello) {
        let restarted = self.attempts.their_instance != hello.instance;
        if restarted {
            self.attempts.their_over = 0;
        }
        let is_first = self.attempts.their_instance == 0;
        self.attempts.their_instance = hello.instance;
        self.theirs.begin(restarted && !is_first);
        let mut session = Session::new(now, connection, role, hello, self.settings.heartbeat);
        session.grace = Some(now + self.settings.mirror_grace);
        session.ack_delay = self.settings.ack_delay;
        if role == Role::Accepted {
            session.owed.push_back(Owed::Hello);
        }
        session.owed.extend(self.interests.keys().map(|&interest| Owed::Want(interest)));
        session.owed.push_back(Owed::Synced);
        self.session = Some(session);
        self.status.connected = true;
        self.status.connections += 1;
        self.actions.push_back(Action::Established { connection, restarted: restarted && !is_first });
    }

    /// Closes the connection that is used, if there is one.
    pub(super) fn close(&mut self, reason: Reason) {
        if let Some(session) = &self.session {
            let connection = session.connection;
            self.actions.push_back(Action::Close { connection, goodbye: reason.goodbye(), reason: reason.clone() });
            self.part(reason);
        }
    }

    /// There is no connection any more: all that belongs to it goes with it.
    pub(super) fn part(&mut self, reason: Reason) {
        let Some(session) = self.session.take() else { return };
        match session.role {
            Role::Dialled => self.attempts.over = session.remote.attempt,
            Role::Accepted => self.attempts.their_over = session.remote.attempt,
        }
        // Whoever comes back meanwhile is told of on the next connection.
        self.returned = None;
        self.status.connected = false;
        self.status.round_trip = None;
        self.status.last_end = Some(reason);
        self.flows.values_mut().for_each(|flow| flow.part());
        for (&log, mirror) in &mut self.mirrors {
            if mirror.part() {
                self.actions.push_back(Action::AbandonLoan { log });
            }
        }
        self.forget_ended();
    }
}

/// How often the other side must hear something.
pub(super) fn interval(heartbeat: Duration, patience: u32) -> Duration {
    heartbeat.min(Duration::from_millis(u64::from(patience)) / 3)
}
