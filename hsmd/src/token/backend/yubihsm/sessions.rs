//! How many sessions were left open on the device.
//!
//! A device has sixteen, and frees one only when it is closed or has been idle for 30 s; the client library
//! closes none. hsmd uses one, and leaves it behind when it reconnects. Reconnecting without measure would
//! lock out everybody, hsmd included, for half a minute: so hsmd opens a limited number in that time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::token::backend::Fault;

/// After how long without a command a device forgets a session.
pub const IDLE_MAX: Duration = Duration::from_secs(30);

/// Sessions that hsmd opens in [`IDLE_MAX`]: a device's sixteen, less what operators and backups need.
const OPENED_MAX: usize = 12;

/// Entries that opening a session leaves in the device's log: that it was created, and authenticated.
pub(super) const LOGGED: u32 = 2;

/// When sessions were opened.
#[derive(Debug, Default)]
pub struct Sessions {
    opened: VecDeque<Instant>,
}

impl Sessions {
    /// Says so if too many may be open for another.
    pub fn admit(&mut self, now: Instant) -> Result<(), Fault> {
        while self.opened.front().is_some_and(|first| now.saturating_duration_since(*first) > IDLE_MAX) {
            self.opened.pop_front();
        }
        if self.opened.len() >= OPENED_MAX {
            return Err(Fault::Lost {
                call: "open session".to_owned(),
                source: format!("{OPENED_MAX} were opened within 30 s; the device frees them one by one")
                    .into(),
            });
        }
        Ok(())
    }

    /// Notes that a session was opened now. An attempt that failed, as while the device is out, opened none.
    pub fn note(&mut self, now: Instant) {
        self.opened.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_device_can_spare() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        for second in 0..12 {
            sessions.admit(start + Duration::from_secs(second)).unwrap();
            sessions.note(start + Duration::from_secs(second));
        }
        for (second, admitted) in [(12, false), (30, false), (31, true), (31, false), (32, true)] {
            let outcome = sessions.admit(start + Duration::from_secs(second));
            assert_eq!(outcome.is_ok(), admitted, "at {second} s");
            if admitted {
                sessions.note(start + Duration::from_secs(second));
            }
        }
    }
}
