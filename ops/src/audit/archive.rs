//! `opsctl audit export` and `opsctl audit archive`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keychain::audit::{Entry, Head};

use super::read::{walk_file, walk_hsmd};
use crate::deployment::Deployment;
use crate::failure::{Exit, Failure, OrFail};
use crate::out;
use crate::talk::Talk;

/// Options of `opsctl audit export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Begin with this line
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    from: u64,
    /// Write into this new file [default: standard output]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    deployment: Deployment,
}

/// Options of `opsctl audit archive`.
#[derive(Debug, clap::Args)]
pub(crate) struct Archive {
    /// The last line to archive; a head must cover it
    #[arg(long, value_name = "NUMBER")]
    up_to: u64,
    /// Write into this new file
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    deployment: Deployment,
}

/// `opsctl audit export`: the lines as JSON, one a line.
pub(crate) async fn export(options: &Export, talk: Talk) -> Result<(), Failure> {
    let hsmd = options.deployment.admin()?;
    let mut file = options.file.as_deref().map(Begun::create).transpose()?;
    let write = |entry: &Entry<'_>| {
        if entry.head.number < options.from {
            return Ok(());
        }
        let Some(file) = &mut file else {
            out::line(entry.text());
            return out::check();
        };
        writeln!(file.writer, "{}", entry.text()).or_fail(Exit::Io, || "cannot write the lines")
    };
    let walked = walk_hsmd(&hsmd, None, write).await?;
    if let Some(file) = file {
        file.keep().or_fail(Exit::Io, || "cannot write the lines")?;
    }
    talk.say(format!("exported up to line {}", walked.head.number));
    Ok(())
}

/// `opsctl audit archive`: writes the lines into a file, verifies the file, and has hsmd cut them.
pub(crate) async fn archive(options: &Archive, talk: Talk) -> Result<(), Failure> {
    let hsmd = options.deployment.admin()?;
    let mut file = Begun::create(&options.file)?;
    let write = |entry: &Entry<'_>| {
        writeln!(file.writer, "{}", entry.text()).or_fail(Exit::Io, || "cannot write the archive")
    };
    let walked = walk_hsmd(&hsmd, Some(options.up_to), write).await?;
    if walked.head.number != options.up_to {
        let what = format!("the trail has no line {}: its newest is {}", options.up_to, walked.head.number);
        return Err(Failure::new(Exit::Data, what));
    }
    file.keep().or_fail(Exit::Io, || "cannot write the archive")?;
    let again = reread(&options.file, walked.cut)?;
    if again != walked.head {
        return Err(Failure::new(Exit::Io, "the archive does not hold what was written to it"));
    }
    let body = format!("{{\"upTo\":\"{}\",\"digest\":\"{}\"}}", again.number, again.digest);
    hsmd.post("/audit/cut", body).await?.ok(&hsmd)?;
    talk.say(format!(
        "lines up to {} are in `{}` and no longer in the ledger, which keeps the digest of the last: {}",
        again.number,
        options.file.display(),
        again.digest
    ));
    Ok(())
}

/// The last line of a file that holds.
fn reread(file: &Path, cut: Option<Head>) -> Result<Head, Failure> {
    walk_file(file, cut.is_some(), |_| Ok(())).map(|walked| walked.head)
}

/// A new file that is removed again unless all of it could be written.
struct Begun<'a> {
    writer: BufWriter<File>,
    path: &'a Path,
    kept: bool,
}

impl<'a> Begun<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let file = file.or_fail(Exit::Io, || format!("cannot make `{}`", path.display()))?;
        Ok(Self { writer: BufWriter::new(file), path, kept: false })
    }

    fn keep(mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is in the way of the next attempt, which says so.
            let _removed: io::Result<()> = std::fs::remove_file(self.path);
        }
    }
}
