//! The summary of a store: what stood in it, line by line, and a signature over all of it (`STORE.md`).
//!
//! The key is made for one summary and forgotten; hsmd endorses it, which stands in hsmd's audit trail.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use edge::clock::Clock;
use edge::endorser::Endorser;
use keychain::chain::{Chain, windows};
use keychain::endorsement::{Endorsement, Expected, Purpose, SignRequest};
use keychain::json::Object;
use keychain::{Digest, Refusal, Signature, SigningKey, Timestamp, VerifyingKey};
use systemd::exit::Failure;
use zeroize::Zeroizing;

use super::COULD_NOT;
use crate::config::Config;
use crate::issuer::SERVICE;
use crate::store::{Counts, Stands};

/// The first line; the number is that of the form.
const FIRST: &str = "keelson-store-summary-1";

/// What the signature is over, before the payload. Answers and tokens, which keys of authd sign too, begin
/// with a brace.
const DOMAIN: &str = "keelson store summary\n";

/// How long the key of a summary is endorsed for.
const KEY_LIFETIME: Duration = Duration::from_mins(5);

/// Longest line: an endorsement and what is around it.
const LINE_MAX: u64 = 16 * 1024;

/// Tries of a seed: one in 2^32 is no key.
const SEEDS: usize = 4;

/// A summary that is being written. Its file gets its name when it is signed.
pub(super) struct Draft {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    lines: u64,
    failed: Option<io::Error>,
}

impl Draft {
    /// Begins one at `path`, which nothing may have yet.
    pub(super) fn begin(path: &Path) -> Result<Self, Failure> {
        if path.exists() {
            let because =
                format!("`{}` exists: a summary replaces no other; give another name", path.display());
            return Err(Failure::new(COULD_NOT, because));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&part);
        let file = file.map_err(|error| disk(&part, &error))?;
        let hasher = blake3::Hasher::new();
        let mut draft =
            Self { path: path.to_owned(), part, file: BufWriter::new(file), hasher, lines: 0, failed: None };
        draft.put(FIRST);
        Ok(draft)
    }

    /// Adds a line. If it cannot be written, [`Self::sign`] says so.
    pub(super) fn add(&mut self, stands: &Stands) {
        self.lines += 1;
        self.put(&stands.to_string());
    }

    /// Signs it and gives it its name. Answers its digest.
    pub(super) async fn sign(
        mut self,
        config: &Config,
        chain: &Chain,
        counts: &Counts,
    ) -> Result<String, Failure> {
        let digest = self.hasher.finalize().to_hex().to_string();
        let now = Clock::system().now().to_millis();
        let counts: Vec<_> = counts.0.iter().map(|(table, count)| format!("\"{table}\":{count}")).collect();
        let payload = format!(
            r#"{{"identity":"{}","madeAt":"{now}","digest":"{digest}","lines":{},"counts":{{{}}}}}"#,
            config.identity,
            self.lines,
            counts.join(",")
        );
        let (key, endorsement) = key(config, chain, now).await?;
        let signature =
            key.sign([DOMAIN, &payload].concat().as_bytes()).map_err(|refusal| refused(&refusal))?;
        let last = format!(
            r#"{{"payload":{payload},"signature":"{signature}","endorsement":{}}}"#,
            endorsement.text()
        );
        self.put(&last);
        let Self { path, part, mut file, failed, .. } = self;
        if let Some(error) = failed {
            return Err(disk(&part, &error));
        }
        file.flush()
            .and_then(|()| file.get_ref().sync_all())
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|error| disk(&path, &error))?;
        Ok(digest)
    }

    /// Takes away what was written of it.
    pub(super) fn discard(&self) {
        if let Err(error) = std::fs::remove_file(&self.part) {
            tracing::warn!(path = %self.part.display(), %error, "a part of a summary is left over");
        }
    }

    fn put(&mut self, line: &str) {
        self.hasher.update(line.as_bytes()).update(b"\n");
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.write_all(b"\n"));
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }
}

/// A key for one summary, and hsmd's word for it.
async fn key(config: &Config, chain: &Chain, now: Timestamp) -> Result<(SigningKey, Endorsement), Failure> {
    let key = (0..SEEDS).find_map(|_| {
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(seed.as_mut()).ok()?;
        SigningKey::from_seed(&seed).ok()
    });
    let key = key.ok_or_else(|| Failure::new(COULD_NOT, "the system gives no random numbers"))?;
    let public_key = key.public_key();
    let request = SignRequest { purpose: Purpose::Response, public_key, expiration: now.plus(KEY_LIFETIME) };
    let endorser = Endorser::new(&config.endorse, config.endorse_tls.as_ref()).map_err(Failure::config)?;
    let text = endorser.endorse(&request).await.map_err(|error| Failure::new(COULD_NOT, error))?;
    let endorsement = Endorsement::parse(&text).map_err(|refusal| refused(&refusal))?;
    let expected = Expected { purpose: Purpose::Response, public_key: &public_key, service: Some(SERVICE) };
    endorsement.verify(chain, expected, windows::DEVICE, now).map_err(|refusal| refused(&refusal))?;
    Ok((key, endorsement))
}

/// A summary whose signature holds.
pub(super) struct Summary {
    path: PathBuf,
    lines: u64,
    digest: String,
    made_at: Timestamp,
    trail: i64,
}

impl Summary {
    /// Reads a summary to its end, and verifies it by the chain of the pinned identity.
    pub(super) fn read(path: &Path, chain: &Chain) -> Result<Self, Failure> {
        let wrong = |because: &str| {
            Failure::new(COULD_NOT, format!("`{}` is no summary to go by: {because}", path.display()))
        };
        let mut reader = open(path)?;
        let (mut hasher, mut lines, mut trail) = (blake3::Hasher::new(), 0_u64, -1);
        let mut line = next(&mut reader, path)?.ok_or_else(|| wrong("it is empty"))?;
        if line != FIRST {
            return Err(wrong("it does not begin as one"));
        }
        let last = loop {
            hasher.update(line.as_bytes()).update(b"\n");
            line = next(&mut reader, path)?.ok_or_else(|| wrong("its end is missing"))?;
            if line.starts_with('{') {
                break line;
            }
            lines += 1;
            if let Stands::Trail { number, .. } =
                Stands::parse(&line).map_err(|error| wrong(&error.to_string()))?
            {
                trail = number;
            }
        };
        if next(&mut reader, path)?.is_some() {
            return Err(wrong("something follows its signature"));
        }
        let signed = verify(&last, chain).map_err(|refusal| wrong(refusal.because()))?;
        let digest = hasher.finalize().to_hex().to_string();
        if (&signed.digest, signed.lines) != (&digest, lines) {
            return Err(wrong("its lines are not the ones that were signed"));
        }
        Ok(Self { path: path.to_owned(), lines, digest, made_at: signed.made_at, trail })
    }

    /// The digest over its lines.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// When it was made.
    pub(super) const fn made_at(&self) -> Timestamp {
        self.made_at
    }

    /// The number of the newest line of the audit trail then; -1 if there was none.
    pub(super) const fn trail(&self) -> i64 {
        self.trail
    }

    /// Its lines, so many at a time.
    pub(super) fn lines(
        &self,
        most: usize,
    ) -> Result<impl Iterator<Item = Result<Vec<Stands>, Failure>>, Failure> {
        let mut reader = open(&self.path)?;
        next(&mut reader, &self.path)?;
        let (mut left, path) = (self.lines, self.path.clone());
        Ok(std::iter::from_fn(move || {
            let mut lines = Vec::new();
            while left > 0 && lines.len() < most {
                left -= 1;
                let line = match next(&mut reader, &path) {
                    Ok(line) => line.unwrap_or_default(),
                    Err(failure) => return Some(Err(failure)),
                };
                match Stands::parse(&line) {
                    Ok(stands) => lines.push(stands),
                    Err(error) => return Some(Err(Failure::new(COULD_NOT, error))),
                }
            }
            (!lines.is_empty()).then_some(Ok(lines))
        }))
    }
}

/// What is signed of a summary.
struct Signed {
    digest: String,
    lines: u64,
    made_at: Timestamp,
}

/// Verifies the last line.
fn verify(line: &str, chain: &Chain) -> Result<Signed, Refusal> {
    let malformed = Refusal::new(keychain::Code::InvalidMessage, "its last line is malformed");
    let mut outer = Object::parse(line)?;
    let raw = outer.raw("payload")?;
    let signature = outer.parsed("signature", Signature::parse)?;
    let endorsement = Endorsement::parse(outer.raw("endorsement")?)?;
    outer.finish()?;
    let mut payload = Object::parse(raw)?;
    let identity = payload.parsed("identity", Digest::parse)?;
    let made_at = payload.parsed("madeAt", Timestamp::parse)?;
    let digest = payload.string("digest")?.to_owned();
    let lines = payload.raw("lines")?.parse().map_err(|_| malformed)?;
    if identity != chain.prefix() {
        return Err(Refusal::new(keychain::Code::DeadKey, "it is of another HSM identity's authd"));
    }
    let key = endorsement.subject.public_key;
    let expected = Expected { purpose: Purpose::Response, public_key: &key, service: Some(SERVICE) };
    endorsement.verify_as_of(chain, expected, windows::DEVICE, made_at)?;
    VerifyingKey::new(&key)?.verify([DOMAIN, raw].concat().as_bytes(), &signature)?;
    Ok(Signed { digest, lines, made_at })
}

fn open(path: &Path) -> Result<BufReader<File>, Failure> {
    File::open(path).map(BufReader::new).map_err(|error| disk(path, &error))
}

/// The next line, without its end.
fn next(reader: &mut BufReader<File>, path: &Path) -> Result<Option<String>, Failure> {
    let mut line = String::new();
    let read = reader.take(LINE_MAX).read_line(&mut line).map_err(|error| disk(path, &error))?;
    if read == 0 {
        return Ok(None);
    }
    if line.pop() != Some('\n') {
        return Err(Failure::new(COULD_NOT, format!("`{}` has a line that was cut", path.display())));
    }
    Ok(Some(line))
}

fn disk(path: &Path, error: &io::Error) -> Failure {
    Failure::new(COULD_NOT, format!("`{}`: {error}", path.display()))
}

fn refused(refusal: &Refusal) -> Failure {
    Failure::new(COULD_NOT, format!("the summary cannot be signed: {refusal}"))
}
