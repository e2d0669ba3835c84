//! eventfd and epoll, back and forth: the shortest way to wake a process that sleeps.
//!
//! Before each round trip the first process is busy for [`PAUSE`], so that the other one sleeps for certain when it is
//! woken; NodeSet's wake-ups are measured at the same pace.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::worker::{Finish, Role, WorkError};
use super::{Budget, Clock, Recorder, Report, monotonic_ns};

/// How long the first process is busy between two round trips.
pub const PAUSE: Duration = Duration::from_micros(100);
/// Round trips at the start of a run that are not counted.
const WARM_UP: u64 = 10;
/// What an eventfd is rung with for a round trip.
const RING: u64 = 1;
/// What it is rung with when the run is over.
const STOP: u64 = 2;

/// An eventfd for one of the two to wait on.
pub fn bell() -> std::io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Passes the time before a round trip.
pub fn pause(clock: Clock) {
    let until = clock.ticks() + clock.ticks_in(PAUSE);
    while clock.ticks() < until {
        std::hint::spin_loop();
    }
}

/// One end: its own bell in an epoll instance, and the other's.
pub struct Bells {
    own: OwnedFd,
    other: OwnedFd,
    epoll: OwnedFd,
}

impl Bells {
    /// Waits on `own`, rings `other`.
    pub fn new(own: OwnedFd, other: OwnedFd) -> std::io::Result<Bells> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &own, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(Bells { own, other, epoll })
    }

    fn ring(&self, value: u64) -> std::io::Result<()> {
        rustix::io::write(&self.other, &value.to_ne_bytes())?;
        Ok(())
    }

    fn wait(&self) -> std::io::Result<u64> {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 1];
        loop {
            match epoll::wait(&self.epoll, &mut events[..], None) {
                Ok(1..) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut value = [0; 8];
        rustix::io::read(&self.own, &mut value)?;
        Ok(u64::from_ne_bytes(value))
    }
}

/// Rings first and takes the time.
pub struct WakePing {
    bells: Bells,
    clock: Clock,
}

impl WakePing {
    /// With these bells.
    pub fn new(bells: Bells) -> WakePing {
        WakePing { bells, clock: Clock::calibrate() }
    }

    fn round_trip(&self) -> std::io::Result<u64> {
        pause(self.clock);
        let sent = self.clock.ticks();
        self.bells.ring(RING)?;
        self.bells.wait()?;
        Ok(self.clock.ticks() - sent)
    }
}

impl Role for WakePing {
    fn run(&mut self, budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let mut recorder = Recorder::new(self.clock);
        for _ in 0..WARM_UP {
            self.round_trip()?;
        }
        let started_ns = monotonic_ns();
        while !budget.is_spent(recorder.count(), started_ns) {
            recorder.round_trip(self.round_trip()?);
        }
        let ended_ns = monotonic_ns();
        self.bells.ring(STOP)?;
        let messages = recorder.count();
        Ok(Report { started_ns, ended_ns, messages, latency: recorder.one_way(), ..Report::default() })
    }
}

/// Rings back whenever it is woken.
pub struct WakeEcho {
    bells: Bells,
}

impl WakeEcho {
    /// With these bells.
    pub fn new(bells: Bells) -> WakeEcho {
        WakeEcho { bells }
    }
}

impl Role for WakeEcho {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut messages = 0;
        while self.bells.wait()? != STOP {
            self.bells.ring(RING)?;
            messages += 1;
        }
        Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, ..Report::default() })
    }
}
