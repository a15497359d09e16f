//! What each reader of the directory does with each kind of value in an attacker's hands: the table that
//! [`super`] tries, cell by cell, and prints.

use keychain::error::Code;

/// What stands in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Event,
    Head,
    Access,
    Response,
    Spent,
    Revocation,
    Nonce,
    Feed,
    Acknowledgement,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::Event,
        Self::Head,
        Self::Access,
        Self::Response,
        Self::Spent,
        Self::Revocation,
        Self::Nonce,
        Self::Feed,
        Self::Acknowledgement,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Event => "chain event (4)",
            Self::Head => "head (5)",
            Self::Access => "endorsement of an access key (0)",
            Self::Response => "endorsement of a response key (1)",
            Self::Spent => "spent access key (2)",
            Self::Revocation => "raw revocation (3)",
            Self::Nonce => "nonce",
            Self::Feed => "denial feed (6)",
            Self::Acknowledgement => "acknowledgement (7)",
        }
    }
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Edge,
    Authd,
    Keysd,
    Publisher,
    Opsctl,
}

impl Reader {
    pub(super) const ALL: [Self; 5] = [Self::Edge, Self::Authd, Self::Keysd, Self::Publisher, Self::Opsctl];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Authd => "authd",
            Self::Keysd => "keysd",
            Self::Publisher => "hsm-publisher",
            Self::Opsctl => "opsctl",
        }
    }
}

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    Forged,
    Swapped,
    Truncated,
    Replayed,
    Older,
    Oversized,
    OtherChain,
    OtherPurpose,
    OtherService,
}

impl How {
    pub(super) const ALL: [Self; 9] = [
        Self::Forged,
        Self::Swapped,
        Self::Truncated,
        Self::Replayed,
        Self::Older,
        Self::Oversized,
        Self::OtherChain,
        Self::OtherPurpose,
        Self::OtherService,
    ];
}

/// What comes of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// It is passed over, and this counter goes up by one.
    Counted(&'static str, Code),
    /// The same for a counter without a code.
    Noted(&'static str),
    /// It is passed over unread, and counted each time that it is met.
    Unreadable,
    /// It denies, as every entry there does, until it is deleted.
    Denies,
    /// It changes nothing, because of this, and no counter of refusals goes up.
    Nothing(&'static str),
    /// It cannot be made, because of this.
    Never(&'static str),
    /// Who rests on it is refused with this code.
    Refused(Code),
    /// Its owner writes its own again.
    Restored,
    /// `opsctl status` says this of the verifier.
    Shown(&'static str),
}

impl Outcome {
    pub(super) fn words(self) -> String {
        match self {
            Self::Counted(metric, code) => format!("{metric} {}", code.as_str()),
            Self::Noted(metric) => metric.to_owned(),
            Self::Unreadable => super::counters::UNREADABLE.to_owned(),
            Self::Denies => "denies until deleted, counted in edge_decisions_total".to_owned(),
            Self::Nothing(because) => format!("no effect: {because}"),
            Self::Never(because) => format!("not possible: {because}"),
            Self::Refused(code) => format!("its user is refused and counted, {}", code.as_str()),
            Self::Restored => "the owner writes its own again".to_owned(),
            Self::Shown(state) => format!("shown as {state}"),
        }
    }
}

/// One cell: what comes of a value for each thing that may be wrong with it, in the order of [`How::ALL`]; or why the
/// reader never meets one, which [`super::apart`] tries.
pub(super) enum Cell {
    Each([Outcome; 9]),
    Apart(&'static str),
}

const EVENTS: &str = "verifier_events_refused_total";
const HEADS: &str = "verifier_heads_refused_total";
const ENDORSEMENTS: &str = "verifier_endorsements_refused_total";
const FEED: &str = "verifier_denial_feed_refused_total";
const WRITER: &str = "authd_feed_refused_total";

const NO_SERVICE: Outcome = Outcome::Never("it names no service: the HSM alone makes it");
const KNOWN: Outcome = Outcome::Nothing("it is known already, and proves itself under any name");

const ONCE: Outcome = Outcome::Nothing("BA207, counted once, when it is first met after its keys died");

/// The whole table: no cell is empty, because each match has an answer for every reader.
pub(super) const fn cell(kind: Kind, reader: Reader) -> Cell {
    match (kind, reader) {
        (Kind::Acknowledgement, Reader::Opsctl) => acknowledgement(),
        (Kind::Acknowledgement, _) => Cell::Apart("written and never read: it is for operators"),
        (_, Reader::Opsctl) => {
            Cell::Apart("opsctl asks hsmd, and believes of the directory acknowledgements alone")
        }
        (Kind::Event | Kind::Head, _) => chain(kind, reader),
        (Kind::Access | Kind::Response, _) => endorsement(kind, reader),
        (Kind::Feed, _) => feed(reader),
        (Kind::Spent | Kind::Revocation | Kind::Nonce, _) => unsigned(kind, reader),
    }
}

const fn chain(kind: Kind, reader: Reader) -> Cell {
    use Code::{BadSignature, DeadKey, InvalidMessage, WrongPurpose};
    use Outcome::{Counted, Noted, Nothing, Restored, Unreadable};
    if matches!(reader, Reader::Publisher) {
        let service = NO_SERVICE;
        return Cell::Each([
            Restored, Restored, Restored, KNOWN, Restored, Restored, Restored, Restored, service,
        ]);
    }
    if matches!(kind, Kind::Event) {
        return Cell::Each([
            Counted(EVENTS, BadSignature),
            KNOWN,
            Counted(EVENTS, InvalidMessage),
            KNOWN,
            Nothing("a chain never gets shorter"),
            Unreadable,
            Counted(EVENTS, DeadKey),
            Counted(EVENTS, InvalidMessage),
            NO_SERVICE,
        ]);
    }
    Cell::Each([
        Counted(HEADS, BadSignature),
        KNOWN,
        Counted(HEADS, InvalidMessage),
        KNOWN,
        Noted("verifier_heads_older_total"),
        Unreadable,
        Counted(HEADS, DeadKey),
        Counted(HEADS, WrongPurpose),
        NO_SERVICE,
    ])
}

const fn endorsement(kind: Kind, reader: Reader) -> Cell {
    use Code::{BadSignature, DeadKey, InvalidMessage, UnknownKey, WrongPurpose};
    use Outcome::{Counted, Never, Nothing, Refused, Restored, Unreadable};
    match (kind, reader) {
        (Kind::Access, Reader::Edge) => Cell::Each([
            Counted(ENDORSEMENTS, BadSignature),
            Counted(ENDORSEMENTS, WrongPurpose),
            Counted(ENDORSEMENTS, InvalidMessage),
            KNOWN,
            Refused(DeadKey),
            Unreadable,
            Counted(ENDORSEMENTS, DeadKey),
            Counted(ENDORSEMENTS, WrongPurpose),
            Never("hsmd endorses access keys for authd alone: asked through each socket, BA303"),
        ]),
        (Kind::Access, Reader::Authd) => Cell::Each([
            Refused(BadSignature),
            Refused(WrongPurpose),
            Refused(UnknownKey),
            KNOWN,
            Refused(DeadKey),
            Refused(UnknownKey),
            Refused(DeadKey),
            Refused(WrongPurpose),
            Never("hsmd endorses access keys for authd alone, BA303; authd demands its name all the same"),
        ]),
        (Kind::Access, Reader::Keysd) => Cell::Apart("keysd tells response keys and reads no others"),
        (_, Reader::Keysd) => Cell::Each([
            Counted(ENDORSEMENTS, BadSignature),
            Counted(ENDORSEMENTS, WrongPurpose),
            Counted(ENDORSEMENTS, InvalidMessage),
            KNOWN,
            Counted(ENDORSEMENTS, DeadKey),
            Unreadable,
            Counted(ENDORSEMENTS, DeadKey),
            Counted(ENDORSEMENTS, WrongPurpose),
            Nothing("it is told, with its service: a device demands the one that it asked"),
        ]),
        (_, Reader::Edge | Reader::Authd) => Cell::Each([
            Restored, Restored, Restored, KNOWN, Restored, Restored, Restored, Restored, Restored,
        ]),
        (_, Reader::Publisher | Reader::Opsctl) => {
            Cell::Each([Nothing("it is passed over, and what a head revokes is taken out beside it"); 9])
        }
    }
}

/// What nobody signs.
const fn unsigned(kind: Kind, reader: Reader) -> Cell {
    use Outcome::{Denies, Never, Nothing};
    match (kind, reader) {
        (Kind::Spent, Reader::Authd) => {
            Cell::Apart("written for public auth servers; authd's own store decides whether a key is spent")
        }
        (Kind::Spent, _) => Cell::Apart("never read: it is for public auth servers"),
        (Kind::Nonce, Reader::Edge) => {
            Cell::Apart("held in the edge's memory and never in the directory; another's edge has its own")
        }
        (Kind::Nonce, Reader::Authd) => {
            Cell::Apart("challenges and spent keys are in authd's memory and store, never in the directory")
        }
        (Kind::Nonce, _) => Cell::Apart("takes no requests that have one"),
        (_, Reader::Edge) => Cell::Each([
            Denies,
            Denies,
            Nothing("a name that is no digest is none of anybody"),
            Denies,
            Nothing("its absence lifts only itself: the denial feed goes on denying"),
            Denies,
            Never("it names no chain: whoever writes there can deny, and lift nothing else"),
            Never("it names no purpose"),
            Never("it names no service"),
        ]),
        (_, Reader::Authd) => {
            Cell::Apart("written for app servers and never read: authd denies by its store")
        }
        (_, _) => Cell::Apart("never read: it judges keys, not people"),
    }
}

const fn feed(reader: Reader) -> Cell {
    use Code::{BadSignature, DeadKey, InvalidMessage, WrongPurpose};
    use Outcome::{Counted, Noted, Nothing, Unreadable};
    match reader {
        Reader::Edge => Cell::Each([
            Counted(FEED, BadSignature),
            Noted("verifier_denial_feed_older_total"),
            Counted(FEED, InvalidMessage),
            KNOWN,
            ONCE,
            Unreadable,
            Counted(FEED, DeadKey),
            Counted(FEED, InvalidMessage),
            Counted(FEED, WrongPurpose),
        ]),
        Reader::Authd => Cell::Each([
            Counted(WRITER, BadSignature),
            Nothing("authd gave that position itself"),
            Counted(WRITER, InvalidMessage),
            Nothing("authd gave that position itself"),
            ONCE,
            Unreadable,
            Counted(WRITER, DeadKey),
            Counted(WRITER, InvalidMessage),
            Counted(WRITER, WrongPurpose),
        ]),
        Reader::Keysd | Reader::Publisher | Reader::Opsctl => {
            Cell::Apart("never read: it judges keys, not people")
        }
    }
}

const fn acknowledgement() -> Cell {
    use Outcome::Shown;
    Cell::Each([
        Shown("unproven"),
        Shown("unproven"),
        Shown("unproven"),
        Shown("lagging"),
        Shown("dead-key"),
        Shown("unheard"),
        Shown("unproven"),
        Shown("unproven"),
        Shown("unproven"),
    ])
}

/// The table, a line a cell and thing that may be wrong.
pub(super) fn print() {
    for kind in Kind::ALL {
        for reader in Reader::ALL {
            let place = format!("{:<34} x {:<13}", kind.name(), reader.name());
            match cell(kind, reader) {
                Cell::Apart(because) => println!("{place} | -            | {because}"),
                Cell::Each(outcomes) => {
                    for (how, outcome) in How::ALL.into_iter().zip(outcomes) {
                        println!("{place} | {:<12} | {}", format!("{how:?}"), outcome.words());
                    }
                }
            }
        }
    }
}
