//! How an HSM may fail.

use keychain::PublicKey;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an HSM did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// More work is waiting for the token than its queue takes: ask again in a moment.
    #[error("the queue before the token is full ({capacity} requests); ask again")]
    Busy {
        /// Requests that the queue takes.
        capacity: usize,
    },
    /// The handle is from before a reconnect.
    #[error("the object handle is from an earlier connection to the token")]
    EarlierHandle,
    /// The connection to the token is broken; a new one may work.
    #[error("lost the token in {call}")]
    Lost {
        /// What was being done.
        call: String,
        /// What the module said.
        source: Source,
    },
    /// The module cannot be loaded.
    #[error("cannot load the PKCS#11 module `{path}`; check `hsm.module`")]
    Module {
        /// The path of the module.
        path: String,
        /// What the loader said.
        source: Source,
    },
    /// The device answered something that no honest device answers.
    #[error("the token answered nonsense: {0}")]
    Nonsense(&'static str),
    /// The token does not hold this key.
    #[error("the token holds no key {0}")]
    NoSuchKey(PublicKey),
    /// No token has the label and serial number asked for, or several have.
    #[error("{0}")]
    NoSuchToken(String),
    /// The PIN was refused. It is not presented again: another attempt could lock the token.
    #[error("the token refused the PIN; correct the credential `hsm.pin` and restart, it is not tried again")]
    Pin {
        /// What the module said; absent when it is being reported again.
        source: Option<Source>,
    },
    /// The device understood and declined; trying again would not help.
    #[error("the token declined {call}")]
    Refused {
        /// What was being done.
        call: String,
        /// What the module said.
        source: Source,
    },
    /// The thread that talks to the token has ended.
    #[error("the signer has stopped")]
    Stopped,
    /// The token did not answer in time.
    #[error("the token did not answer in {seconds} s")]
    Timeout {
        /// How long was waited.
        seconds: u64,
    },
}

impl Fault {
    /// Whether a new connection may cure it.
    pub const fn is_curable(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::EarlierHandle)
    }

    /// Whether only an operator can cure it, by changing configuration.
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Module { .. } | Self::NoSuchToken(_) | Self::Pin { .. })
    }
}
