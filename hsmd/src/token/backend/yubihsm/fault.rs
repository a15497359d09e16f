//! What the device and the way to it say, sorted into what a new connection may cure and what not.

use yubihsm::{
    client::{Error, ErrorKind},
    device,
};

use crate::token::backend::{self, Fault};

/// The kinds of failure that callers distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// There is no such object.
    Absent,
    /// The device knows no such authentication key, or the password is not its own.
    Credentials,
    /// The authentication key lacks a capability.
    Forbidden,
    /// The device's log is full, and it is set to sign nothing then.
    LogFull,
    /// The session, the connector or the device is gone.
    Lost,
    /// The device understood and declined.
    Refused,
    /// An object has the id already.
    Taken,
}

/// Why a call failed.
pub(super) fn cause(error: &Error) -> Cause {
    use device::ErrorKind as Device;
    match error.device_error() {
        Some(Device::ObjectNotFound) => Cause::Absent,
        Some(Device::ObjectExists) => Cause::Taken,
        Some(Device::InsufficientPermissions) => Cause::Forbidden,
        Some(Device::LogFull) => Cause::LogFull,
        Some(
            Device::InvalidSession
            | Device::AuthenticationFailed
            | Device::SessionsFull
            | Device::SessionFailed
            | Device::CommandUnexecuted
            | Device::GenericError,
        ) => Cause::Lost,
        Some(_) => Cause::Refused,
        None if *error.kind() == ErrorKind::AuthenticationError => Cause::Credentials,
        None => Cause::Lost,
    }
}

/// Turns a failure of `call` into a fault.
pub(super) fn fault(call: &str, error: Error) -> Fault {
    let call = call.to_owned();
    match cause(&error) {
        Cause::Credentials => Fault::Pin { source: Some(backend::Cause::new(error)) },
        Cause::Lost => Fault::Lost { call, source: backend::Cause::new(error) },
        // What was under the id is gone: the caller looks it up again.
        Cause::Absent => Fault::EarlierHandle,
        Cause::Forbidden => Fault::Refused {
            call: format!("{call}: the authentication key lacks the capability (hsmd/YUBIHSM.md lists them)"),
            source: backend::Cause::new(error),
        },
        Cause::LogFull | Cause::Refused | Cause::Taken => {
            Fault::Refused { call, source: backend::Cause::new(error) }
        }
    }
}

/// A fault that says "another key" where there can be no other, put right.
pub(super) fn or_nonsense(fault: Fault, nonsense: &'static str) -> Fault {
    if matches!(fault, Fault::EarlierHandle) { Fault::Nonsense(nonsense) } else { fault }
}
