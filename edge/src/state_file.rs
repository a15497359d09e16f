//! One file of texts in a daemon's state directory that is only ever replaced as a whole: what a start without the directory and
//! without hsmd goes by.
//!
//! What it holds proves itself, or adds a denial: whoever can write it can make nobody believe anything. So a file that
//! is missing, cut or unreadable costs a wait for those who know, and no start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::trust::memory::replace;

/// Pause between two writes, and before another attempt: many changes in a row are one.
const PAUSE: Duration = Duration::from_secs(1);

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
    pause: Duration,
}

impl StateFile {
    /// The file called `name` in `folder`, of at most `most` bytes.
    pub(crate) fn new(folder: &Path, name: &'static str, most: u64) -> Self {
        Self { path: folder.join(name), name, most, pause: PAUSE }
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
    pub(crate) async fn keep_up(self, mut wanted: watch::Receiver<Content>) {
        let mut failing = false;
        while wanted.changed().await.is_ok() {
            let Some(content) = wanted.borrow_and_update().clone() else { continue };
            let path = self.path.clone();
            let written = tokio::task::spawn_blocking(move || replace(&path, content.as_bytes())).await;
            let outcome = written.map_err(io::Error::other).and_then(|done| done);
            if let Err(error) = &outcome {
                wanted.mark_changed();
                if !failing {
                    let (path, error) = (self.path.display(), error as &dyn std::error::Error);
                    tracing::error!(%path, error, "cannot keep what a start in an outage would go by; trying again");
                }
            }
            failing = outcome.is_err();
            metrics::gauge!("verifier_memory_behind", "file" => self.name).set(if failing {
                1.0
            } else {
                0.0
            });
            tokio::time::sleep(self.pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_is_kept_and_a_disk_that_fails_is_tried_again() {
        let pause = Duration::from_millis(5);
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let file = StateFile { pause, ..StateFile::new(&state, "x", 16) };
        assert!(file.read().is_empty());
        let (sender, wanted) = watch::channel(None);
        let writer = tokio::spawn(file.clone().keep_up(wanted));
        sender.send_replace(content(["first"]));
        tokio::time::sleep(pause * 3).await;
        assert!(file.read().is_empty(), "there is no folder yet");
        fs::create_dir(&state).unwrap();
        sender.send_replace(content(["two\nlines"]));
        while file.read().is_empty() {
            tokio::time::sleep(pause).await;
        }
        assert_eq!(file.read(), ["two\nlines"]);
        writer.abort();
        for damaged in ["", "[\"a\"", "{}", "[\"longer than it can be\"]"] {
            fs::write(state.join("x"), damaged).unwrap();
            assert!(file.read().is_empty(), "{damaged}");
        }
    }
}
