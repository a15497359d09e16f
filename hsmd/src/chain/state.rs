//! The states of the chain. Each has a name, a cause and a cure, and says what still works in it.
//!
//! `RECOVERY.md` has a section for each, under its name.

use std::fmt;

/// How ledger and tokens stand to each other, as the newest reconciliation found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// The ledger or the tokens are not read yet.
    #[default]
    Opening,
    /// Both keys that the newest event names are at hand.
    Ready,
    /// The outcome of a step is not known, or something failed in between; it is being reconciled.
    Interrupted(String),
    /// The tokens hold another chain's keys.
    ForeignToken {
        /// The newest event's number.
        newest: u64,
    },
    /// Neither key that the newest event names exists any more.
    KeysLost {
        /// The newest event's number.
        newest: u64,
    },
    /// A token, the chain copy or the published chain knows of events that the ledger lacks.
    LedgerBehind {
        /// The newest event's number.
        newest: u64,
        /// What knows more, and how it shows.
        evidence: String,
    },
    /// The ledger contradicts itself.
    LedgerCorrupt(String),
    /// The ledger has no event, and a token has keys.
    LedgerEmpty,
    /// The ledger lacks events that this process has seen in it, or its file is another.
    LedgerExchanged(String),
    /// The database does not do what it is asked to.
    LedgerFailing(String),
    /// The ledger was restored from before something that was published.
    LedgerRestored(String),
    /// The signing key exists no more; the next one does.
    LiveKeyLost {
        /// The newest event's number.
        newest: u64,
    },
    /// The signing key is not there, the next one is, and nothing shows yet that the ledger is the newest.
    LiveKeyMissing {
        /// The newest event's number.
        newest: u64,
        /// The token that does not answer, if there is one.
        silent: Option<String>,
    },
    /// The signing key is on a token that does not answer; the next one is at hand.
    LiveKeySilent(String),
    /// The next key exists no more; the signing key does.
    NextKeyLost {
        /// The newest event's number.
        newest: u64,
    },
    /// The next key is on a token that does not answer; the signing key is at hand.
    NextKeySilent(String),
    /// A token refused its PIN.
    PinRefused(String),
    /// Another holder of this chain's keys has signed.
    Rival(String),
    /// Another hsmd has the lease of the ledger.
    Standby {
        /// Which.
        holder: String,
    },
    /// No token answers that has a key of the newest event.
    TokenSilent(String),
    /// Keys and ledger agree, and what is published is compared first.
    Uncompared,
}

/// What can still be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Powers {
    /// Endorsements and heads.
    pub signs: bool,
    /// Rotations.
    pub rotates: bool,
    /// Taints of the newest generation.
    pub taints: bool,
}

impl State {
    /// The name of every state, in metrics, answers and the page.
    pub const LABELS: [&str; 21] = [
        "opening",
        "ready",
        "interrupted",
        "foreign-token",
        "keys-lost",
        "ledger-behind",
        "ledger-corrupt",
        "ledger-empty",
        "ledger-exchanged",
        "ledger-failing",
        "ledger-restored",
        "live-key-lost",
        "live-key-missing",
        "live-key-silent",
        "next-key-lost",
        "next-key-silent",
        "pin-refused",
        "rival",
        "standby",
        "token-silent",
        "uncompared",
    ];

    /// The name.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Ready => "ready",
            Self::Interrupted(_) => "interrupted",
            Self::ForeignToken { .. } => "foreign-token",
            Self::KeysLost { .. } => "keys-lost",
            Self::LedgerBehind { .. } => "ledger-behind",
            Self::LedgerCorrupt(_) => "ledger-corrupt",
            Self::LedgerEmpty => "ledger-empty",
            Self::LedgerExchanged(_) => "ledger-exchanged",
            Self::LedgerFailing(_) => "ledger-failing",
            Self::LedgerRestored(_) => "ledger-restored",
            Self::LiveKeyLost { .. } => "live-key-lost",
            Self::LiveKeyMissing { .. } => "live-key-missing",
            Self::LiveKeySilent(_) => "live-key-silent",
            Self::NextKeyLost { .. } => "next-key-lost",
            Self::NextKeySilent(_) => "next-key-silent",
            Self::PinRefused(_) => "pin-refused",
            Self::Rival(_) => "rival",
            Self::Standby { .. } => "standby",
            Self::TokenSilent(_) => "token-silent",
            Self::Uncompared => "uncompared",
        }
    }

    /// What can still be done. The next key alone makes the next event; the live key alone endorses.
    pub const fn powers(&self) -> Powers {
        let (signs, rotates, taints) = match self {
            Self::Ready => (true, true, true),
            Self::LiveKeyLost { .. } | Self::LiveKeySilent(_) => (false, true, true),
            Self::NextKeyLost { .. } | Self::NextKeySilent(_) => (true, false, false),
            // A rotation would add to the contest; a taint ends the generation that both holders have.
            Self::Rival(_) => (true, false, true),
            // Anything dated and signed now could contradict what was published; a taint contradicts nothing.
            Self::LedgerRestored(_) | Self::Uncompared => (false, false, true),
            _ => (false, false, false),
        };
        Powers { signs, rotates, taints }
    }

    /// The cause in a few words, for every caller.
    pub const fn summary(&self) -> &'static str {
        match self {
            Self::Opening => "the ledger or the token is not read yet",
            Self::Ready => "ready",
            Self::Interrupted(_) => "token and ledger are being reconciled",
            Self::ForeignToken { .. } => "the token has another chain's keys",
            Self::KeysLost { .. } => "both keys are lost",
            Self::LedgerBehind { .. } => "the ledger is behind its token",
            Self::LedgerCorrupt(_) => "the ledger contradicts itself",
            Self::LedgerEmpty => "the ledger is empty, and the token has keys of a chain",
            Self::LedgerExchanged(_) => "the ledger was exchanged for another",
            Self::LedgerFailing(_) => "the ledger does not answer",
            Self::LedgerRestored(_) => "the ledger was restored from an old backup",
            Self::LiveKeyLost { .. } => "the signing key is lost",
            Self::LiveKeyMissing { .. } => "the signing key is not there",
            Self::LiveKeySilent(_) => "the signing key's token does not answer",
            Self::NextKeyLost { .. } => "the next key is lost",
            Self::NextKeySilent(_) => "the next key's token does not answer",
            Self::PinRefused(_) => "the token refused the PIN",
            Self::Rival(_) => "another holder of this chain's keys has signed",
            Self::Standby { .. } => "another hsmd has the ledger",
            Self::TokenSilent(_) => "the token of the HSM does not answer",
            Self::Uncompared => "what is published is not compared with the ledger yet",
        }
    }

    /// The cause, with what it is known by.
    pub fn cause(&self) -> String {
        let summary = self.summary();
        match self {
            Self::Interrupted(detail)
            | Self::LedgerCorrupt(detail)
            | Self::LedgerExchanged(detail)
            | Self::LedgerFailing(detail)
            | Self::LedgerRestored(detail)
            | Self::LiveKeySilent(detail)
            | Self::NextKeySilent(detail)
            | Self::PinRefused(detail)
            | Self::Rival(detail)
            | Self::TokenSilent(detail) => format!("{summary}: {detail}"),
            Self::LedgerBehind { newest, evidence } => {
                format!("{summary}: the ledger ends with generation {newest}, but {evidence}")
            }
            Self::ForeignToken { newest } => {
                format!("{summary}: it holds neither the signing key nor the next one of generation {newest}")
            }
            Self::KeysLost { newest } => {
                format!(
                    "{summary}: the tokens hold neither the signing key nor the next one of generation {newest}"
                )
            }
            Self::LiveKeyLost { newest } => {
                format!("{summary}: the tokens hold the next key of generation {newest} and not its own")
            }
            Self::LiveKeyMissing { newest, silent: None } => format!(
                "{summary}: the tokens hold the next key of generation {newest} and not its own; either it is lost or \
                 the ledger lacks the newest event"
            ),
            Self::LiveKeyMissing { newest, silent: Some(silent) } => format!(
                "{summary}: the signing key of generation {newest} is on a token that has not answered since hsmd \
                 started ({silent}), or the ledger lacks the newest event"
            ),
            Self::NextKeyLost { newest } => {
                format!(
                    "{summary}: the tokens hold the signing key of generation {newest} and not the next one"
                )
            }
            Self::Standby { holder } => {
                format!("{summary}: `{holder}` signs; this one takes over when it ends")
            }
            Self::Opening | Self::Ready | Self::LedgerEmpty | Self::Uncompared => summary.to_owned(),
        }
    }

    /// The commands, or that there are none. `RECOVERY.md` has the whole of it.
    pub const fn cure(&self) -> &'static str {
        match self {
            Self::Opening | Self::Interrupted(_) => "wait; hsmd tries again every two seconds",
            Self::Ready => "",
            Self::ForeignToken { .. } => "bring back this chain's token, or the ledger of this token",
            Self::KeysLost { .. } => {
                "bring back the token or its backup; without it the chain has ended: begin a new one"
            }
            Self::LedgerBehind { .. } | Self::LedgerEmpty => {
                "import the published chain (`opsctl hsm recover --chain FILE`) or bring back the newest ledger"
            }
            Self::LedgerCorrupt(_) => {
                "bring back the newest backup of the ledger, then import the published chain (`opsctl hsm recover \
                 --chain FILE`)"
            }
            Self::LedgerExchanged(_) => {
                "bring back the newest ledger and restart hsmd, or import the published chain (`opsctl hsm recover \
                 --chain FILE`)"
            }
            Self::LedgerFailing(_) => "see to the database and its disk; hsmd tries again every two seconds",
            Self::LedgerRestored(_) => "see the difference and take it over (`opsctl hsm recover`)",
            Self::LiveKeyLost { .. } => "go on with the next key (`opsctl rotate`)",
            Self::LiveKeyMissing { .. } => {
                "bring the newest published chain (`opsctl hsm recover --chain FILE`); if it has no event that the \
                 ledger lacks, say so (`--live-key-lost`)"
            }
            Self::LiveKeySilent(_) => "bring the token back, or go on with the next key (`opsctl rotate`)",
            Self::NextKeyLost { .. } => {
                "bring back the token or its backup; without it no rotation and no taint is possible any more: \
                 endorsements go on, give the fleet a new chain meanwhile"
            }
            Self::NextKeySilent(_) => "bring the token back; endorsements go on, rotations and taints wait",
            Self::PinRefused(_) => "correct the credential, or say that it is right (`opsctl hsm pin retry`)",
            Self::Rival(_) => {
                "stop the copy of this host or token, then taint (`opsctl taint`), or if it was only a snapshot say that \
                 it is stopped (`opsctl hsm recover --copy-stopped`) and rotate twice"
            }
            Self::Standby { .. } => "none is needed",
            Self::TokenSilent(_) => {
                "see that the token is there and works; hsmd tries again every two seconds"
            }
            Self::Uncompared => {
                "see that hsm-publisher runs; without its report hsmd goes on in half a minute"
            }
        }
    }

    /// Whether the reconciliation only waits for something to come back, without a person's decision.
    pub const fn passes_by_itself(&self) -> bool {
        matches!(
            self,
            Self::Opening
                | Self::Interrupted(_)
                | Self::LedgerFailing(_)
                | Self::TokenSilent(_)
                | Self::Uncompared
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cure() {
            "" => f.write_str(&self.cause()),
            cure => write!(f, "{}; {cure}", self.cause()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One of each.
    pub(in crate::chain) fn all() -> Vec<State> {
        std::iter::successors(Some(State::Opening), after).collect()
    }

    /// The state that is listed after another: a new one does not compile before it has its turn.
    fn after(state: &State) -> Option<State> {
        let text = || "because".to_owned();
        Some(match state {
            State::Opening => State::Ready,
            State::Ready => State::Interrupted(text()),
            State::Interrupted(_) => State::ForeignToken { newest: 7 },
            State::ForeignToken { .. } => State::KeysLost { newest: 7 },
            State::KeysLost { .. } => State::LedgerBehind { newest: 7, evidence: text() },
            State::LedgerBehind { .. } => State::LedgerCorrupt(text()),
            State::LedgerCorrupt(_) => State::LedgerEmpty,
            State::LedgerEmpty => State::LedgerExchanged(text()),
            State::LedgerExchanged(_) => State::LedgerFailing(text()),
            State::LedgerFailing(_) => State::LedgerRestored(text()),
            State::LedgerRestored(_) => State::LiveKeyLost { newest: 7 },
            State::LiveKeyLost { .. } => State::LiveKeyMissing { newest: 7, silent: None },
            State::LiveKeyMissing { .. } => State::LiveKeySilent(text()),
            State::LiveKeySilent(_) => State::NextKeyLost { newest: 7 },
            State::NextKeyLost { .. } => State::NextKeySilent(text()),
            State::NextKeySilent(_) => State::PinRefused(text()),
            State::PinRefused(_) => State::Rival(text()),
            State::Rival(_) => State::Standby { holder: text() },
            State::Standby { .. } => State::TokenSilent(text()),
            State::TokenSilent(_) => State::Uncompared,
            State::Uncompared => return None,
        })
    }

    #[test]
    fn each_state_has_a_name_a_cause_a_cure_and_a_section() {
        let page = include_str!("../../RECOVERY.md");
        let states = all();
        let labels: Vec<_> = states.iter().map(State::label).collect();
        assert_eq!(labels, State::LABELS);
        for state in states.iter().filter(|state| !matches!(state, State::Ready)) {
            let label = state.label();
            assert!(page.contains(&format!("\n### {label}\n")), "RECOVERY.md has no section `### {label}`");
            assert!(!state.cause().is_empty() && !state.cure().is_empty(), "{label}");
        }
    }

    #[test]
    fn each_state_says_what_still_works() {
        for state in all() {
            let Powers { signs, rotates, taints } = state.powers();
            let wanted = match state.label() {
                "ready" => (true, true, true),
                "live-key-lost" | "live-key-silent" => (false, true, true),
                "next-key-lost" | "next-key-silent" => (true, false, false),
                "rival" => (true, false, true),
                "ledger-restored" | "uncompared" => (false, false, true),
                _ => (false, false, false),
            };
            assert_eq!((signs, rotates, taints), wanted, "{state}");
        }
    }
}
