//! `chain.jsonl`, each event's text in the order of the chain; and `head.json` beside it, which a restored ledger
//! is held against. Both may be on another disk than the ledger. A failure here loses nothing that the ledger has.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use keychain::{Digest, audit::Head, chain::SignedEvent};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use super::{Cluster, Error};

/// What is kept beside the chain copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The event whose head was the newest one.
    pub event: Option<Digest>,
    /// That head's number.
    pub head_number: u64,
    /// The highest endorsement number that may have been given out.
    pub endorsement_mark: u64,
    /// The newest line of the audit trail then.
    pub audit: Option<Head>,
    /// That head, signed.
    pub head: Option<String>,
    /// The PostgreSQL cluster that the ledger was in last; the one before stays if there is none.
    pub cluster: Option<Cluster>,
}

/// What the chain copy had when it was held against the ledger, before it was completed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// How many of the ledger's events, from the first on.
    pub same: usize,
    /// The lines after them: nothing unless it has events that the ledger lacks, or others.
    pub rest: Vec<String>,
}

/// The two files.
#[derive(Clone)]
pub(super) struct ChainCopy {
    path: PathBuf,
    /// One writes at a time.
    kept: Arc<Mutex<()>>,
}

impl ChainCopy {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, kept: Arc::default() }
    }

    /// Appends events, durably.
    pub(super) async fn append(&self, events: &[SignedEvent]) -> Result<(), Error> {
        let text = lines_of(events.iter().map(SignedEvent::text));
        self.blocking(move |path| append(path, &text)).await
    }

    /// Appends what the copy lacks of the ledger's `events`, each as text; a copy that has others is left alone.
    pub(super) async fn complete(&self, events: Vec<String>) -> Result<Copied, Error> {
        self.blocking(move |path| complete(path, &events)).await
    }

    /// Keeps the newest head with its numbers; a mark that is higher stays.
    pub(super) async fn keep(&self, mut kept: Kept) -> Result<(), Error> {
        let _one_at_a_time = self.kept.lock().await;
        let before = self.kept().await.unwrap_or_default();
        kept.endorsement_mark = kept.endorsement_mark.max(before.endorsement_mark);
        kept.cluster = kept.cluster.or(before.cluster);
        let text = Written::of(&kept).and_then(|written| serde_json::to_string(&written).ok());
        let text = text.ok_or_else(|| self.unusable("the head is no JSON".to_owned()))?;
        self.blocking(move |path| replace(&head_path(path), &text)).await
    }

    /// Keeps that endorsement numbers up to `mark` may be given out.
    pub(super) async fn keep_mark(&self, mark: u64) -> Result<(), Error> {
        let kept = self.kept().await.unwrap_or_default();
        self.keep(Kept { endorsement_mark: mark, ..kept }).await
    }

    /// Keeps in which cluster the ledger is.
    pub(super) async fn keep_cluster(&self, cluster: Cluster) -> Result<(), Error> {
        let kept = self.kept().await.unwrap_or_default();
        self.keep(Kept { cluster: Some(cluster), ..kept }).await
    }

    /// What is kept; nothing if nothing was, or it cannot be read.
    pub(super) async fn kept(&self) -> Option<Kept> {
        let text = self.blocking(|path| fs::read_to_string(head_path(path))).await.ok()?;
        serde_json::from_str::<Written<'_>>(&text).ok()?.read()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || work(&path)).await;
        done.map_err(io::Error::other).flatten().map_err(|error| self.unusable(error.to_string()))
    }

    fn unusable(&self, because: String) -> Error {
        Error::Copy { path: self.path.display().to_string(), because }
    }
}

/// `head.json` as it stands.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written<'a> {
    event: Option<String>,
    head_number: u64,
    endorsement_mark: u64,
    audit: Option<WrittenLine>,
    #[serde(borrow)]
    head: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLine {
    number: u64,
    digest: String,
}

impl<'a> Written<'a> {
    fn of(kept: &'a Kept) -> Option<Self> {
        let head = match &kept.head {
            Some(head) => Some(serde_json::from_str(head).ok()?),
            None => None,
        };
        Some(Self {
            event: kept.event.map(|event| event.to_string()),
            head_number: kept.head_number,
            endorsement_mark: kept.endorsement_mark,
            audit: kept
                .audit
                .map(|line| WrittenLine { number: line.number, digest: line.digest.to_string() }),
            head,
            cluster: kept.cluster.as_ref().map(Cluster::to_string),
        })
    }

    fn read(self) -> Option<Kept> {
        let event = self.event.map(|event| Digest::parse(&event)).transpose().ok()?;
        let audit = self
            .audit
            .map(|line| Digest::parse(&line.digest).map(|digest| Head { number: line.number, digest }));
        Some(Kept {
            event,
            head_number: self.head_number,
            endorsement_mark: self.endorsement_mark,
            audit: audit.transpose().ok()?,
            head: self.head.map(|head| head.get().to_owned()),
            cluster: self.cluster.as_deref().and_then(Cluster::parse),
        })
    }
}

fn head_path(path: &Path) -> PathBuf {
    path.with_file_name("head.json")
}

/// Texts, each on a line.
fn lines_of<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.flat_map(|text| [text, "\n"]).collect()
}

/// The lines of a text that were written to their end.
fn whole_lines(text: &str) -> &str {
    text.rfind('\n').and_then(|end| text.get(..=end)).unwrap_or_default()
}

fn read(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    let is_new = !path.try_exists()?;
    if is_new {
        make_folder(path)?;
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    if is_new { sync_folder(path) } else { Ok(()) }
}

fn complete(path: &Path, events: &[String]) -> io::Result<Copied> {
    let text = read(path)?;
    let whole = whole_lines(&text);
    if whole.len() < text.len() {
        // What a power cut or a full disk left of a line.
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(u64::try_from(whole.len()).unwrap_or(0))?;
        file.sync_data()?;
    }
    let same = whole.lines().zip(events).take_while(|(line, event)| line == event).count();
    let rest: Vec<_> = whole.lines().skip(same).map(str::to_owned).collect();
    let lacking = lines_of(events.iter().skip(same).map(String::as_str));
    if rest.is_empty() && !lacking.is_empty() {
        append(path, &lacking)?;
    }
    Ok(Copied { same, rest })
}

/// Replaces a file by one that is whole and durable before it has the name.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    make_folder(path)?;
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&new, path)?;
    sync_folder(path)
}

fn make_folder(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("{{\"event\":{number}}}")).collect()
    }

    #[test]
    fn a_copy_is_completed_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy/chain.jsonl");
        let whole = texts(3).join("\n") + "\n";
        let five = texts(5).join("\n") + "\n";
        for (name, before, (same, rest), after) in [
            ("absent", None, (0, 0), whole.clone()),
            ("complete", Some(whole.clone()), (3, 0), whole.clone()),
            ("behind", Some("{\"event\":0}\n".to_owned()), (1, 0), whole.clone()),
            ("torn", Some("{\"event\":0}\n{\"eve".to_owned()), (1, 0), whole.clone()),
            ("ahead", Some(five.clone()), (3, 2), five),
            ("other", Some("{\"event\":7}\n".to_owned()), (0, 1), "{\"event\":7}\n".to_owned()),
        ] {
            fs::remove_file(&path).ok();
            if let Some(before) = before {
                append(&path, &before).unwrap();
            }
            let copied = complete(&path, &texts(3)).unwrap();
            assert_eq!((copied.same, copied.rest.len()), (same, rest), "{name}");
            assert_eq!(fs::read_to_string(&path).unwrap(), after, "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let copy = ChainCopy::new(folder.path().join("copy/chain.jsonl"));
        assert_eq!(copy.kept().await, None);
        let digest = Digest::of("x");
        let kept = Kept {
            event: Some(digest),
            head_number: 7,
            endorsement_mark: 1000,
            audit: Some(Head { number: 3, digest }),
            head: Some("{\"a\":[1, 2]}".to_owned()),
            cluster: Cluster::parse("7/1"),
        };
        copy.keep(kept.clone()).await.unwrap();
        assert_eq!(copy.kept().await, Some(kept.clone()));
        copy.keep(Kept { cluster: None, ..kept.clone() }).await.unwrap();
        assert_eq!(copy.kept().await, Some(kept.clone()), "a cluster stays");
        copy.keep(Kept { endorsement_mark: 10, ..kept.clone() }).await.unwrap();
        assert_eq!(copy.kept().await, Some(kept.clone()), "a mark never sinks");
        copy.keep_mark(2000).await.unwrap();
        assert_eq!(copy.kept().await, Some(Kept { endorsement_mark: 2000, ..kept }));
    }
}
