//! Readiness, status and watchdog messages to the service manager.
//!
//! Without `NOTIFY_SOCKET` every function here does nothing. A message that cannot be delivered is
//! logged and forgotten: a daemon does not stop serving because nobody listens to its status.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// Says that the daemon can serve now, and in one line how it is.
pub fn ready(text: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(text))]);
}

/// Says in one line how the daemon is, as `systemctl status` shows it.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&one_line(text))]);
}

/// Asks for so much more time to become ready, from now on: a daemon that waits for a person is not to be
/// ended by `TimeoutStartSec=`. To be repeated before it has passed.
pub fn extend(time: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]);
}

/// Says that the daemon is on its way out.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// How often [`ping`] is wanted, if the unit sets `WatchdogSec=`: half of it, so that one late
/// ping does not kill the daemon.
///
/// Until a daemon asks this, [`crate::exit::run`] pings for it, which says no more than that its
/// runtime still runs tasks. Who asks takes the duty over.
pub fn watchdog() -> Option<Duration> {
    TAKEN_OVER.store(true, Ordering::Relaxed);
    interval()
}

/// Says that the daemon's work goes on. To be called from the loop whose standstill ought to
/// restart the daemon, and from nowhere else.
pub fn ping() {
    send(&[NotifyState::Watchdog]);
}

/// Whether the daemon pings from its own loop.
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Pings until the daemon does so itself.
pub(crate) async fn ping_by_default() {
    let Some(interval) = interval() else { return };
    let mut interval = tokio::time::interval(interval);
    loop {
        interval.tick().await;
        if TAKEN_OVER.load(Ordering::Relaxed) {
            return;
        }
        ping();
    }
}

fn interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|deadline| deadline / 2).filter(|interval| !interval.is_zero())
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot reach the service manager over NOTIFY_SOCKET");
    }
}

/// A message is a list of lines: a newline inside a status would start another assignment.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_cannot_carry_another_assignment() {
        assert_eq!(one_line("token gone\nREADY=1\r\0"), "token gone READY=1  ");
    }
}
