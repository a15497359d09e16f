//! One file of texts in a daemon's state directory that is only ever replaced as a whole: what a start without the directory and
//! without hsmd goes by.
//!
//! What it holds proves itself, or adds a denial: whoever can write it can make nobody believe anything. So a file that
//! is missing, cut or unreadable costs a wait for those who know, and no start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::trust::memory::replace;

/// The shortest and the longest pause between two writes: many changes in a row are one, and a long file is written less
/// often. The longest before another attempt.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How many times as long as a write takes nothing is written.
const REST: u32 = 4;

/// What a file is to hold; nothing until something is known.
pub(crate) type Content = Option<Arc<str>>;

/// The content that holds `texts`.
pub(crate) fn content<'a>(texts: impl IntoIterator<Item = &'a str>) -> Content {
    let texts: Vec<&str> = texts.into_iter().collect();
    // Texts are always JSON.
    serde_json::to_string(&texts).ok().map(Into::into)
}

/// A file, and how long it can be at most.
#[derive(Debug, Clone)]
pub(crate) struct StateFile {
    path: PathBuf,
    name: &'static str,
    most: u64,
}

impl StateFile {
    /// The file called `name` in `folder`, of at most `most` bytes.
    pub(crate) fn new(folder: &Path, name: &'static str, most: u64) -> Self {
        Self { path: folder.join(name), name, most }
    }

    /// The texts that it holds; none, with a warning, if it cannot be read.
    pub(crate) fn read(&self) -> Vec<String> {
        let read = || match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(found) if found.len() > self.most => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "longer than it can be"))
            }
            Ok(_) => Ok(serde_json::from_slice(&fs::read(&self.path)?)?),
        };
        read().unwrap_or_else(|error| {
            let (path, error) = (self.path.display(), &error as &dyn std::error::Error);
            tracing::warn!(%path, error, "what was kept for a start in an outage cannot be read; going on without it");
            Vec::new()
        })
    }

    /// Makes durable what is wanted, the newest at a time, for ever. A disk that fails or hangs delays nothing but this.
    ///
    /// Once it is dropped, the content wanted then is on disk: a service that is stopped goes on with all that it knew. A
    /// stop waits for the disk.
    pub(crate) async fn keep_up(self, wanted: watch::Receiver<Content>) {
        let mut writer = Writer { disk: Arc::new(Mutex::new(Disk::of(&self))), wanted, is_failing: false };
        while writer.wanted.changed().await.is_ok() {
            let pause = writer.write().await;
            let is_failing = writer.is_failing;
            metrics::gauge!("verifier_memory_behind", "file" => self.name)
                .set(f64::from(u8::from(is_failing)));
            tokio::time::sleep(pause).await;
        }
    }
}

/// Writes the newest content.
struct Writer {
    /// One write at a time.
    disk: Arc<Mutex<Disk>>,
    wanted: watch::Receiver<Content>,
    is_failing: bool,
}

impl Writer {
    /// Writes the newest. How long nothing is to be written then.
    async fn write(&mut self) -> Duration {
        self.wanted.mark_unchanged();
        let (disk, wanted, begun) = (Arc::clone(&self.disk), self.wanted.clone(), Instant::now());
        let written = tokio::task::spawn_blocking(move || hold_newest(&disk, &wanted)).await;
        let outcome = written.map_err(io::Error::other).and_then(|done| done);
        let was_failing = std::mem::replace(&mut self.is_failing, outcome.is_err());
        let Err(error) = outcome else { return begun.elapsed().saturating_mul(REST).clamp(PAUSE.0, PAUSE.1) };
        self.wanted.mark_changed();
        if !was_failing {
            let disk = lock(&self.disk);
            let (path, error) = (disk.path.display(), &error as &dyn std::error::Error);
            tracing::error!(%path, error, "cannot keep what a start in an outage would go by; trying again");
        }
        PAUSE.1
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = hold_newest(&self.disk, &self.wanted) {
            let disk = lock(&self.disk);
            let (path, error) = (disk.path.display(), &error as &dyn std::error::Error);
            tracing::error!(%path, error, "what was learnt last is not kept for a start in an outage");
        }
    }
}

/// The content that is on disk.
struct Disk {
    path: PathBuf,
    holds: Content,
}

impl Disk {
    fn of(file: &StateFile) -> Self {
        Self { path: file.path.clone(), holds: None }
    }

    /// Makes `newest` durable, if there is any and it is not there.
    fn hold(&mut self, newest: Content) -> io::Result<()> {
        if let Some(text) = newest.as_ref().filter(|_| self.holds != newest) {
            replace(&self.path, text.as_bytes())?;
            self.holds = newest;
        }
        Ok(())
    }
}

/// The content is looked at under the lock: a write that was begun earlier and comes later takes nothing back.
fn hold_newest(disk: &Mutex<Disk>, wanted: &watch::Receiver<Content>) -> io::Result<()> {
    let mut disk = lock(disk);
    let newest = wanted.borrow().clone();
    disk.hold(newest)
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(file: &StateFile) -> (watch::Sender<Content>, Writer) {
        let (sender, wanted) = watch::channel(None);
        (sender, Writer { disk: Arc::new(Mutex::new(Disk::of(file))), wanted, is_failing: false })
    }

    #[tokio::test]
    async fn the_newest_is_kept_and_a_disk_that_fails_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let file = StateFile::new(&state, "x", 16);
        assert!(file.read().is_empty());
        let (sender, mut writer) = writer(&file);
        sender.send_replace(content(["first"]));
        assert_eq!(writer.write().await, PAUSE.1);
        assert!(writer.is_failing && file.read().is_empty(), "there is no folder yet");
        fs::create_dir(&state).unwrap();
        sender.send_replace(content(["two\nlines"]));
        assert!(writer.wanted.has_changed().unwrap());
        assert!(writer.write().await >= PAUSE.0);
        assert!(!writer.is_failing);
        assert_eq!(file.read(), ["two\nlines"]);
        for damaged in ["", "[\"a\"", "{}", "[\"longer than it can be\"]"] {
            fs::write(state.join("x"), damaged).unwrap();
            assert!(file.read().is_empty(), "{damaged}");
        }
    }

    /// What a service learns in its last moment, it goes on with.
    #[tokio::test]
    async fn a_stop_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path(), "x", 64);
        let (sender, mut writer) = writer(&file);
        sender.send_replace(content(["first"]));
        writer.write().await;
        sender.send_replace(content(["second"]));
        drop(sender);
        drop(writer);
        assert_eq!(file.read(), ["second"]);
    }

    /// A write that was begun before a stop, and that comes after it.
    #[tokio::test]
    async fn a_write_that_comes_late_takes_nothing_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path(), "x", 64);
        let (sender, mut writer) = writer(&file);
        let disk = Arc::clone(&writer.disk);
        sender.send_replace(content(["first"]));
        let held = lock(&disk);
        let late = tokio::task::spawn_blocking({
            let (disk, wanted) = (Arc::clone(&writer.disk), writer.wanted.clone());
            move || hold_newest(&disk, &wanted)
        });
        sender.send_replace(content(["second"]));
        drop(held);
        late.await.unwrap().unwrap();
        writer.write().await;
        drop(writer);
        assert_eq!(file.read(), ["second"]);
    }
}
