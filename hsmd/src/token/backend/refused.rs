//! A refused PIN is presented once: across reconnects, restarts, and each start that a socket sets off.
//!
//! A token counts wrong PINs and locks itself; then the chain ends. So the refusal is noted in a file, and the same
//! credential is refused for the same token before the next login, until it changes or an operator says so (`opsctl hsm
//! pin retry`, which removes the file). A login is noted before it begins, too: an end in the midst of it counts as a
//! refusal if the token says that a PIN was refused lately.
//!
//! The file holds no PIN but a digest that is slow to search (Argon2id), since a refused PIN may be another token's.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::NoteFile;

/// Memory that a digest takes, in KiB, and passes over it: a quarter of a second, once per refusal.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 2;

/// What is remembered of one slot's logins.
#[derive(Clone, Debug)]
pub struct RefusedPin {
    file: NoteFile,
    /// Whether the file was seen to say that the PIN is refused; shared by clones.
    is_noted: Arc<AtomicBool>,
}

/// The file: a login that has not ended, or one that was refused.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// The token, so that another in the slot is not mistaken for it.
    token: String,
    refused: Option<Refused>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    salt: String,
    digest: String,
}

impl RefusedPin {
    /// The memory in the file at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { file: NoteFile::at(path), is_noted: Arc::default() }
    }

    /// Whether a PIN may be presented to a token. `refused_lately` is what the token says of itself.
    ///
    /// A file that cannot be read refuses nothing: a broken disk must not keep a taint from being signed.
    pub fn admits(&self, token: &str, pin: &[u8], refused_lately: bool) -> bool {
        let note = match self.read() {
            Ok(note) => note,
            Err(error) => {
                let path = self.path().display();
                tracing::warn!(%error, %path, "cannot read whether the PIN was refused; it is presented");
                return true;
            }
        };
        let admits = match note.filter(|note| note.token == token) {
            None => true,
            Some(Note { refused: None, .. }) => !refused_lately,
            Some(Note { refused: Some(refused), .. }) => !refused.is(pin),
        };
        self.is_noted.store(!admits, Ordering::Relaxed);
        admits
    }

    /// Whether the PIN was noted as refused, and the file is gone: an operator says that it is right. A refusal that
    /// could not be noted has no such word.
    pub fn is_withdrawn(&self) -> bool {
        self.is_noted.load(Ordering::Relaxed) && self.path().try_exists().is_ok_and(|exists| !exists)
    }

    /// Notes that a login begins.
    pub fn begin(&self, token: &str) {
        let _written = self.write(&Note { token: token.to_owned(), refused: None });
    }

    /// Notes that the token has refused the PIN.
    pub fn refuse(&self, token: &str, pin: &[u8]) {
        let mut salt = [0; 16];
        let digest = rand::fill(&mut salt).ok().and_then(|()| digest(pin, &salt));
        let Some(digest) = digest else {
            tracing::error!("a refused PIN cannot be noted: no randomness, or no memory for its digest");
            return;
        };
        let refused = Refused { salt: STANDARD.encode(salt), digest: STANDARD.encode(digest) };
        let is_noted = self.write(&Note { token: token.to_owned(), refused: Some(refused) });
        self.is_noted.store(is_noted, Ordering::Relaxed);
    }

    /// Notes that a login has ended well, or for another reason than its PIN.
    pub fn forget(&self) -> io::Result<()> {
        self.file.remove()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn read(&self) -> io::Result<Option<Note>> {
        // An empty file is a write that was cut short before the login.
        self.file.read()?.map(|text| Ok(serde_json::from_slice(&text)?)).transpose()
    }

    /// On disk when it returns true. A failure is no reason not to log in: then the memory is this process's.
    fn write(&self, note: &Note) -> bool {
        let written =
            serde_json::to_vec(note).map_err(io::Error::from).and_then(|text| self.file.write(&text));
        if let Err(error) = &written {
            let path = self.path().display();
            tracing::warn!(%error, %path, "cannot note a login; a refused PIN would be presented again at each start");
        }
        written.is_ok()
    }
}

impl Refused {
    fn is(&self, pin: &[u8]) -> bool {
        let salt = STANDARD.decode(&self.salt).ok();
        let digest = salt.and_then(|salt| digest(pin, &salt));
        digest.is_some_and(|digest| STANDARD.encode(digest) == self.digest)
    }
}

fn digest(pin: &[u8], salt: &[u8]) -> Option<[u8; 32]> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(32)).ok()?;
    let mut digest = [0; 32];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(pin, salt, &mut digest).ok().map(|()| digest)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_refused_pin_is_refused_until_it_changes_or_the_token_does() {
        let folder = tempfile::tempdir().unwrap();
        let memory = RefusedPin::at(folder.path().join("refused-pin"));
        assert!(memory.admits("a token", b"wrong", true), "nothing was noted");
        memory.begin("a token");
        assert!(memory.admits("a token", b"right", false), "an end in the midst of a login");
        assert!(!memory.admits("a token", b"right", true), "and the token says that it was refused");
        assert!(!memory.is_withdrawn());
        memory.refuse("a token", b"wrong");
        assert!(!memory.is_withdrawn());
        let noted = fs::read_to_string(memory.path()).unwrap();
        assert!(!noted.contains("wrong"));
        for (token, pin, admits) in
            [("a token", "wrong", false), ("a token", "right", true), ("another token", "wrong", true)]
        {
            assert_eq!(memory.admits(token, pin.as_bytes(), false), admits, "{token} {pin}");
        }
        assert!(!memory.admits("a token", b"wrong", false));
        memory.forget().unwrap();
        memory.forget().unwrap();
        assert!(memory.is_withdrawn(), "an operator's word");
        assert!(memory.admits("a token", b"wrong", false));
        assert!(!memory.is_withdrawn());
        let nowhere = RefusedPin::at(folder.path().join("no-folder/refused-pin"));
        nowhere.refuse("a token", b"wrong");
        assert!(!nowhere.is_withdrawn(), "what was not noted is not taken back");
        // A file that is none: health is another's matter, the chain goes on.
        fs::write(memory.path(), "{").unwrap();
        assert!(memory.admits("a token", b"wrong", false));
    }
}
