//! Where everything is, as `opsctl dev` writes it and as every other command can read it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::write_private;
use crate::failure::{Exit, Failure, OrFail};

/// A deployment's addresses. URLs are `http://…` without a final slash; sockets are plain paths.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Endpoints {
    /// The chain's prefix, which every verifier pins.
    pub(crate) identity: String,
    /// authd.
    pub(crate) auth: String,
    /// keysd.
    pub(crate) keys: String,
    /// hsmd's plain `POST /sign`, where a laboratory has it.
    pub(crate) hsm: Option<String>,
    /// hsmd's socket for endorsements of purpose `response`.
    pub(crate) endorse: PathBuf,
    /// hsmd's socket for rotation and taint.
    pub(crate) admin: PathBuf,
    /// authd's socket for bans, accounts and devices.
    pub(crate) auth_admin: PathBuf,
    /// The key directory.
    pub(crate) redis: String,
    /// Where services take orders of new keys.
    #[serde(default)]
    pub(crate) rolls: BTreeMap<String, PathBuf>,
    /// The edges, by the name of the app behind each.
    pub(crate) apps: BTreeMap<String, String>,
    /// Where each daemon's metrics are: a URL, or `unix:` and a path.
    pub(crate) metrics: BTreeMap<String, String>,
}

impl Endpoints {
    /// Reads a file that [`Endpoints::write`] wrote.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let context = || format!("cannot read the endpoints file `{}`", path.display());
        let text = std::fs::read_to_string(path).or_fail(Exit::Io, context)?;
        serde_json::from_str(&text).or_fail(Exit::Data, context)
    }

    /// Writes the same to each file, each replaced at once.
    pub(crate) fn write(&self, files: &[PathBuf]) -> Result<(), Failure> {
        let mut text =
            serde_json::to_vec(self).or_fail(Exit::Software, || "cannot write endpoints as JSON")?;
        text.push(b'\n');
        files.iter().try_for_each(|file| write_private(file, &text))
    }
}

/// A table for a person.
impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "identity  {}", self.identity)?;
        writeln!(f, "auth      {}", self.auth)?;
        writeln!(f, "keys      {}", self.keys)?;
        writeln!(f, "hsm       {}", self.hsm.as_deref().unwrap_or("-"))?;
        writeln!(f, "endorse   {}", self.endorse.display())?;
        writeln!(f, "admin     {}", self.admin.display())?;
        writeln!(f, "authd     {}", self.auth_admin.display())?;
        write!(f, "redis     {}", self.redis)?;
        for (name, url) in &self.apps {
            write!(f, "\napp       {url}  ({name})")?;
        }
        for (name, url) in &self.metrics {
            write!(f, "\nmetrics   {url}  ({name})")?;
        }
        Ok(())
    }
}

/// Removes the files, which may be missing.
pub(crate) fn remove(files: &[PathBuf]) -> Result<(), Failure> {
    files.iter().try_for_each(|file| match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(Exit::Io, format!("cannot remove `{}`", file.display())).because(error))
        }
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_members_in_their_order() {
        let endpoints = Endpoints {
            identity: "E1".into(),
            auth: "http://127.0.0.1:1".into(),
            keys: "http://127.0.0.1:2".into(),
            hsm: None,
            endorse: "/d/hsmd/endorse.sock".into(),
            admin: "/d/hsmd/admin.sock".into(),
            auth_admin: "/d/authd/admin.sock".into(),
            redis: "redis://127.0.0.1:3".into(),
            rolls: BTreeMap::from([("authd".into(), "/d/authd/admin.sock".into())]),
            apps: BTreeMap::from([("ruby".into(), "http://127.0.0.1:4".into())]),
            metrics: BTreeMap::from([("hsmd".into(), "unix:/d/hsmd/metrics.sock".into())]),
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("endpoints.json");
        endpoints.write(std::slice::from_ref(&file)).unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            concat!(
                r#"{"identity":"E1","auth":"http://127.0.0.1:1","keys":"http://127.0.0.1:2","hsm":null,"#,
                r#""endorse":"/d/hsmd/endorse.sock","admin":"/d/hsmd/admin.sock","auth_admin":"/d/authd/admin.sock","#,
                r#""redis":"redis://127.0.0.1:3","rolls":{"authd":"/d/authd/admin.sock"},"apps":{"ruby":"http://127.0.0.1:4"},"#,
                r#""metrics":{"hsmd":"unix:/d/hsmd/metrics.sock"}}"#,
                "\n"
            )
        );
        assert_eq!(Endpoints::read(&file).unwrap(), endpoints);
        remove(std::slice::from_ref(&file)).unwrap();
        remove(&[file]).unwrap();
    }
}
