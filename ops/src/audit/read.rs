//! Where a trail is read from, and the walk from line to line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use keychain::Digest;
use keychain::audit::{Entry, Head, Trail};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::deployment::Deployment;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};

/// Which trail.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// A file that `opsctl audit export` or `archive` wrote [default: hsmd is asked]
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// The file begins with a later line than the first: those before are elsewhere
    #[arg(long, requires = "file")]
    pub(super) partial: bool,
}

/// How a trail was walked that holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked {
    /// The newest line.
    pub(super) head: Head,
    /// The newest line that was cut: the walk began behind it.
    pub(super) cut: Option<Head>,
}

/// One page of hsmd's answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page<'a> {
    cut: Option<Cut>,
    next: Option<u64>,
    #[serde(borrow)]
    lines: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cut {
    number: u64,
    digest: String,
}

impl Source {
    /// Walks the trail from its oldest line to its newest; `visit` gets each of them. It errs at the first line that
    /// does not hold.
    pub(super) async fn walk(
        &self,
        deployment: &Deployment,
        visit: impl FnMut(&Entry<'_>) -> Result<(), Failure>,
    ) -> Result<Walked, Failure> {
        match &self.file {
            Some(file) => walk_file(file, self.partial, visit),
            None => walk_hsmd(&deployment.admin()?, None, visit).await,
        }
    }
}

/// Walks the lines of a file.
pub(super) fn walk_file(
    path: &Path,
    partial: bool,
    mut visit: impl FnMut(&Entry<'_>) -> Result<(), Failure>,
) -> Result<Walked, Failure> {
    let context = || format!("cannot read `{}`", path.display());
    let mut file = BufReader::new(File::open(path).or_fail(Exit::Io, context)?);
    let longest = u64::try_from(keychain::limits::AUDIT_LINE_MAX).unwrap_or(u64::MAX);
    let mut trail = Trail::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = file.by_ref().take(longest).read_until(b'\n', &mut line).or_fail(Exit::Io, context)?;
        if length == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).ok().and_then(|line| line.strip_suffix('\n'));
        let text =
            text.or_fail(Exit::No, || format!("{}: a line that is cut short or no text", behind(&trail)))?;
        step(&mut trail, text, partial, &mut visit)?;
    }
    let head = trail.head().or_fail(Exit::No, || format!("`{}` has no line", path.display()))?;
    Ok(Walked { head, cut: None })
}

/// Walks the lines that hsmd has, up to line `last` if it is given.
pub(super) async fn walk_hsmd(
    hsmd: &Door,
    last: Option<u64>,
    mut visit: impl FnMut(&Entry<'_>) -> Result<(), Failure>,
) -> Result<Walked, Failure> {
    let mut trail = Trail::new();
    let mut cut = None;
    let mut from = Some(0);
    while let Some(number) = from {
        let answer = hsmd.get(&format!("/audit?from={number}")).await?.ok(hsmd)?;
        let page: Page<'_> = serde_json::from_str(&answer)
            .or_fail(Exit::Data, || "hsmd's answer is no page of an audit trail")?;
        if number == 0
            && let Some(before) = page.cut
        {
            let digest =
                Digest::parse(&before.digest).or_fail(Exit::Data, || "hsmd's answer has no digest")?;
            cut = Some(Head { number: before.number, digest });
            trail = cut.map_or_else(Trail::new, Trail::after);
        }
        for line in page.lines {
            step(&mut trail, line.get(), false, &mut visit)?;
            if last.is_some() && trail.head().map(|head| head.number) == last {
                return Ok(Walked { head: trail.head().or_fail(Exit::No, || "the trail has no line")?, cut });
            }
        }
        from = page.next.filter(|next| *next > number);
    }
    let head = trail.head().or_fail(Exit::No, || "the trail has no line")?;
    Ok(Walked { head, cut })
}

fn step(
    trail: &mut Trail,
    line: &str,
    partial: bool,
    visit: &mut impl FnMut(&Entry<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let entry = Entry::parse(line).or_fail(Exit::No, || behind(trail))?;
    if partial && trail.head().is_none() {
        trail.begin_with(&entry);
    } else {
        let before = behind(trail);
        trail.step(&entry).or_fail(Exit::No, || before)?;
    }
    visit(&entry)
}

fn behind(trail: &Trail) -> String {
    match trail.head() {
        Some(head) => format!("the trail holds up to line {}; what follows does not", head.number),
        None => "the trail's first line does not hold".to_owned(),
    }
}
