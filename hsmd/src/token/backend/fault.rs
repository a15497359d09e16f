//! How an HSM may fail.

use keychain::PublicKey;

use super::KeyId;

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
    /// The device's log cannot be kept, and must be before the device forgets it.
    #[error("cannot keep the device's log in `{path}`; see that the disk has room and the file is hsmd's")]
    DeviceLog {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The handle is from before a reconnect.
    #[error("the object handle is from an earlier connection to the token")]
    EarlierHandle,
    /// The device has no room for another key.
    #[error("the token has no room for another key; destroy objects that nothing needs")]
    Full {
        /// What the module said.
        source: Source,
    },
    /// The id is another object's, on a device where an id names one object only.
    #[error(
        "the token has an object under id {0} already; if it is not hsmd's, give hsmd `hsm.key_ids` of its own"
    )]
    IdTaken(KeyId),
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
    /// One of two tokens does not answer; the other goes on.
    #[error("the token `{token}` does not answer: {because}")]
    Silent {
        /// Which of the two.
        token: &'static str,
        /// What it said last, or what was waited for in vain.
        because: String,
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

    /// Whether the device cannot be spoken to, whatever it is asked.
    pub const fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::EarlierHandle
                | Self::Lost { .. }
                | Self::Module { .. }
                | Self::NoSuchToken(_)
                | Self::Pin { .. }
                | Self::Silent { .. }
                | Self::Stopped
                | Self::Timeout { .. }
        )
    }

    /// The fault and what the module said of it, on one line.
    pub fn told(&self) -> String {
        let first = std::error::Error::source(self);
        let causes = std::iter::successors(first, |error| error.source());
        causes.fold(self.to_string(), |told, cause| format!("{told}: {cause}"))
    }

    /// Whether the module itself failed, before any token came into question.
    pub fn is_of_the_module(&self) -> bool {
        matches!(self, Self::Lost { call, .. } if call.ends_with("::Initialize") || call.ends_with("::GetSlotList"))
    }

    /// The same fault for another who waited for the same call; what the module said as text.
    #[must_use]
    pub fn again(&self) -> Self {
        let text = |source: &Source| -> Source { source.to_string().into() };
        match self {
            Self::Busy { capacity } => Self::Busy { capacity: *capacity },
            Self::DeviceLog { path, source } => {
                let source = std::io::Error::new(source.kind(), source.to_string());
                Self::DeviceLog { path: path.clone(), source }
            }
            Self::EarlierHandle => Self::EarlierHandle,
            Self::Full { source } => Self::Full { source: text(source) },
            Self::IdTaken(id) => Self::IdTaken(*id),
            Self::Lost { call, source } => Self::Lost { call: call.clone(), source: text(source) },
            Self::Module { path, source } => Self::Module { path: path.clone(), source: text(source) },
            Self::Nonsense(what) => Self::Nonsense(what),
            Self::NoSuchKey(key) => Self::NoSuchKey(*key),
            Self::NoSuchToken(what) => Self::NoSuchToken(what.clone()),
            Self::Pin { source } => Self::Pin { source: source.as_ref().map(text) },
            Self::Refused { call, source } => Self::Refused { call: call.clone(), source: text(source) },
            Self::Silent { token, because } => Self::Silent { token, because: because.clone() },
            Self::Stopped => Self::Stopped,
            Self::Timeout { seconds } => Self::Timeout { seconds: *seconds },
        }
    }

    /// Whether only an operator can cure it, by changing configuration.
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Module { .. } | Self::NoSuchToken(_) | Self::Pin { .. })
    }
}
