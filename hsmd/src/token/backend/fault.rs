//! How an HSM may fail.

use std::{error::Error, fmt, sync::Arc};

use keychain::PublicKey;

use super::KeyId;

/// Why an HSM did not do what it was asked to. A clone shares what the module said.
#[derive(Clone, Debug, thiserror::Error)]
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
        source: Arc<std::io::Error>,
    },
    /// The handle is from before a reconnect.
    #[error("the object handle is from an earlier connection to the token")]
    EarlierHandle,
    /// The device has no room for another key.
    #[error("the token has no room for another key; destroy objects that nothing needs")]
    Full {
        /// What the module said.
        source: Cause,
    },
    /// A call has not returned.
    #[error("a call has not returned; see to the device, then restart hsmd")]
    Hangs,
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
        source: Cause,
    },
    /// The module cannot be loaded.
    #[error("cannot load the PKCS#11 module `{path}`; check `hsm.module`")]
    Module {
        /// The path of the module.
        path: String,
        /// What the loader said.
        source: Cause,
    },
    /// The module itself failed, before any token came into question.
    #[error("the PKCS#11 module failed in {call}")]
    ModuleFailed {
        /// What was being done.
        call: String,
        /// What the module said.
        source: Cause,
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
    /// The two tokens have no wrap key in common.
    #[error(
        "the tokens have no wrap key in common: pair them (`opsctl hsm pair`, or `replace` after a loss)"
    )]
    NoWrapKey,
    /// Keys that can leave the token under a wrap key would be readable with the PIN.
    #[error("keys are not mirrored, since the user's PIN alone would read them on this token: {0}")]
    NotConfined(&'static str),
    /// The key was made so that it never leaves its token.
    #[error("the key was made before the tokens were paired and cannot leave its token; rotate twice")]
    NotExtractable,
    /// The token is being opened.
    #[error("it is being opened")]
    Opening,
    /// The PIN was refused. It is not presented again: another attempt could lock the token.
    #[error(
        "the token refused the PIN: correct the credential `hsm.pin`, or say that it is right (`opsctl hsm pin \
         retry`); until then it is not tried again"
    )]
    Pin {
        /// What the module said; absent when it is being reported again.
        source: Option<Cause>,
    },
    /// The device understood and declined; trying again would not help.
    #[error("the token declined {call}")]
    Refused {
        /// What was being done.
        call: String,
        /// What the module said.
        source: Cause,
    },
    /// The token in a slot does not answer.
    #[error("the token `{token}` does not answer")]
    Silent {
        /// The slot's name.
        token: &'static str,
        /// What it said last, or what was waited for in vain.
        source: Arc<Fault>,
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
        matches!(self, Self::Lost { .. } | Self::ModuleFailed { .. } | Self::EarlierHandle)
    }

    /// Whether the device cannot be spoken to, whatever it is asked.
    pub const fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::EarlierHandle
                | Self::Hangs
                | Self::Lost { .. }
                | Self::Module { .. }
                | Self::ModuleFailed { .. }
                | Self::NoSuchToken(_)
                | Self::Opening
                | Self::Pin { .. }
                | Self::Silent { .. }
                | Self::Stopped
                | Self::Timeout { .. }
        )
    }

    /// Whether the module itself failed, before any token came into question.
    pub fn is_of_the_module(&self) -> bool {
        matches!(self.root(), Self::ModuleFailed { .. })
    }

    /// The fault behind a slot's silence; of any other the fault itself.
    pub fn root(&self) -> &Self {
        match self {
            Self::Silent { source, .. } => source.root(),
            fault => fault,
        }
    }

    /// The fault and what the module said of it, on one line.
    pub fn with_causes(&self) -> String {
        let first = Error::source(self);
        let causes = std::iter::successors(first, |error| (*error).source());
        causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"))
    }
}

/// What a module or the system said.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// An error as a cause.
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        Self(Arc::from(Box::<dyn Error + Send + Sync>::from(text)))
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self(Arc::from(Box::<dyn Error + Send + Sync>::from(text)))
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
