//! Which token was first seen in a slot: another one in its place is named until an operator has taken it over.
//!
//! Keys prove themselves by their signatures, so that another token endangers no chain that verifies. But an operator swaps a
//! token without a reason, and the reason is to be an operator's: the token's serial number is noted in a file beside
//! that of the refused PIN, and compared whenever the token is opened. The officers' acts (`opsctl hsm pair`,
//! `replace`) remove the note, as does `opsctl hsm token accept`: whatever token is in the slot then is noted anew.

use std::{io, path::PathBuf};

use super::{Slot, backend::NoteFile};

/// The note of one slot.
#[derive(Clone, Debug)]
pub struct KnownToken {
    slot: Slot,
    file: NoteFile,
}

impl KnownToken {
    /// The note of a slot in the file at `path`.
    pub const fn at(slot: Slot, path: PathBuf) -> Self {
        Self { slot, file: NoteFile::at(path) }
    }

    /// The slot.
    pub const fn slot(&self) -> Slot {
        self.slot
    }

    /// Compares the token that is in the slot now with the one that was first seen there, and notes the first. A warning
    /// with its cure if it is another, or if that cannot be known.
    pub fn compare(&self, identity: &str) -> Comparison {
        match self.file.read() {
            Ok(Some(known)) if known == identity.as_bytes() => Comparison::Same,
            Ok(Some(known)) => Comparison::Other(format!(
                "the token `{}` is another than before: `{identity}` is in its slot, and `{}` was; if it was replaced on \
                 purpose, pair the tokens anew (`opsctl hsm replace`) or say so (`opsctl hsm token accept`), else find \
                 out who has the one that was there (RECOVERY.md, \"Another token in a slot\")",
                self.slot.as_str(),
                known.escape_ascii(),
            )),
            Ok(None) => match self.file.write(identity.as_bytes()) {
                Ok(()) => Comparison::First,
                Err(error) => self.unknown("note", &error),
            },
            Err(error) => self.unknown("read", &error),
        }
    }

    /// Takes over whatever token is in the slot when it is next compared.
    pub fn forget(&self) -> io::Result<()> {
        self.file.remove()
    }

    /// The note's file.
    pub const fn file(&self) -> &NoteFile {
        &self.file
    }

    fn unknown(&self, failed: &str, error: &io::Error) -> Comparison {
        Comparison::Unknown(format!(
            "cannot {failed} which token was first in the slot `{}`, so that an exchange would not be noticed: `{}`: \
             {error}; see that the disk has room and the file is hsmd's",
            self.slot.as_str(),
            self.file.path().display(),
        ))
    }
}

/// How the token in a slot compares with the one that was first there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It is the first, and is noted.
    First,
    /// It is the same.
    Same,
    /// It is another; the warning.
    Other(String),
    /// It is not known which was first; the warning.
    Unknown(String),
}

impl Comparison {
    /// What an operator has to see to.
    pub fn warning(&self) -> Option<&str> {
        match self {
            Self::First | Self::Same => None,
            Self::Other(warning) | Self::Unknown(warning) => Some(warning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_token_is_named_until_it_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownToken::at(Slot::Second, folder.path().join("second-token"));
        assert_eq!(known.compare("YubiHSM 0000000001"), Comparison::First);
        assert_eq!(known.compare("YubiHSM 0000000001"), Comparison::Same);
        for _ in 0..2 {
            let other = known.compare("YubiHSM 0000000002");
            let warning = other.warning().unwrap_or_default();
            for part in ["`second`", "0000000001", "0000000002", "opsctl hsm token accept"] {
                assert!(matches!(other, Comparison::Other(_)) && warning.contains(part), "{warning}");
            }
        }
        assert_eq!(known.compare("YubiHSM 0000000001"), Comparison::Same, "the first is back");
        known.forget().unwrap();
        known.forget().unwrap();
        assert_eq!(known.compare("YubiHSM 0000000002"), Comparison::First);
        assert_eq!(known.compare("YubiHSM 0000000002").warning(), None);
    }

    #[test]
    fn a_note_that_cannot_be_kept_is_no_good_news() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownToken::at(Slot::First, folder.path().join("no-folder/token"));
        let unwritten = known.compare("a token");
        assert!(matches!(&unwritten, Comparison::Unknown(warning) if warning.contains("cannot note")));
        let known = KnownToken::at(Slot::First, folder.path().to_owned());
        let unread = known.compare("a token");
        assert!(matches!(&unread, Comparison::Unknown(warning) if warning.contains("cannot read")));
    }
}
