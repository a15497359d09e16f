//! Readiness, status and watchdog messages to the service manager.
//!
//! Without `NOTIFY_SOCKET` every function here does nothing. No function waits for a manager that does not read: a
//! message that finds its queue full is dropped, and the next message carries the readiness and the newest status that
//! were dropped.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
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

/// Whether there is a service manager that hears this process.
pub(crate) fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Sends lines of their own, with a descriptor for the manager to keep. A manager that does not read is not waited for.
pub(crate) fn with_descriptor(lines: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let datagram = connect(&socket)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor
        && !control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)))
    {
        return Err(io::Error::other("a message has no space for a descriptor"));
    }
    sendmsg(&datagram, &[IoSlice::new(lines.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn send(states: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let mut unsent = UNSENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = unsent.deliver(states, |message| send_datagram(&socket, message)) {
        tracing::warn!(%error, "cannot reach the service manager over NOTIFY_SOCKET");
    }
}

fn send_datagram(socket: &OsStr, message: &str) -> io::Result<()> {
    connect(socket)?.send(message.as_bytes()).map(drop)
}

fn connect(socket: &OsStr) -> io::Result<UnixDatagram> {
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    datagram.connect(socket)?;
    Ok(datagram)
}

/// What the service manager was not told because its queue was full.
static UNSENT: Mutex<Unsent> = Mutex::new(Unsent { ready: false, status: None });

#[derive(Default)]
struct Unsent {
    ready: bool,
    status: Option<String>,
}

impl Unsent {
    /// Sends `states`, with what was not delivered before; keeps what is not delivered now.
    fn deliver(
        &mut self,
        states: &[NotifyState<'_>],
        send: impl FnOnce(&str) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut message = String::new();
        for state in states {
            match state {
                NotifyState::Ready => self.ready = true,
                NotifyState::Status(text) => self.status = Some((*text).to_owned()),
                // Writing to a text cannot fail.
                other => drop(writeln!(message, "{other}")),
            }
        }
        let ready = if self.ready { "READY=1\n" } else { "" };
        let status = self.status.as_ref().map_or_else(String::new, |text| format!("STATUS={text}\n"));
        send(&format!("{ready}{status}{message}"))?;
        *self = Self::default();
        Ok(())
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

    #[test]
    fn what_was_dropped_goes_with_the_next_message() {
        let full = || Err(io::Error::from(io::ErrorKind::WouldBlock));
        let (ping, status) = (NotifyState::Watchdog, NotifyState::Status);
        let mut unsent = Unsent::default();
        for (states, is_full, wanted) in [
            (vec![ping.clone()], false, "WATCHDOG=1\n"),
            (vec![status("one")], true, "STATUS=one\n"),
            (vec![NotifyState::Ready, status("two")], true, "READY=1\nSTATUS=two\n"),
            (vec![ping.clone()], true, "READY=1\nSTATUS=two\nWATCHDOG=1\n"),
            (vec![ping.clone()], false, "READY=1\nSTATUS=two\nWATCHDOG=1\n"),
            (vec![ping], false, "WATCHDOG=1\n"),
        ] {
            let delivered = unsent.deliver(&states, |message| {
                assert_eq!(message, wanted);
                if is_full { full() } else { Ok(()) }
            });
            assert_eq!(delivered.is_err(), is_full);
        }
    }

    /// The queue of a socket that nobody reads is short.
    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify.sock");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let mut sent = (0..100_000).map(|_| send_datagram(path.as_os_str(), "WATCHDOG=1\n"));
        let error = sent.find_map(Result::err).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
