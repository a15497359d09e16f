//! `opsctl audit show`.

use std::collections::VecDeque;

use keychain::Timestamp;
use keychain::audit::{Entry, Kind};

use super::Source;
use crate::deployment::Deployment;
use crate::failure::Failure;
use crate::out;
use crate::talk::Talk;

/// Options of `opsctl audit show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    source: Source,
    /// Only lines of this kind (endorsement, intent, outcome, refused, …); may be repeated
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Vec<Kind>,
    /// Only lines from this time on, as 2026-01-02T03:04:05Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only the last so many of these
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// The lines as they stand in the trail
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    deployment: Deployment,
}

/// `opsctl audit show`: prints lines, oldest first. That each is chained to the one before is checked on the way;
/// what covers them is not.
pub(crate) async fn show(options: &Show, talk: Talk) -> Result<(), Failure> {
    let most = options.last.and_then(|last| usize::try_from(last).ok());
    let mut lines = VecDeque::new();
    let visit = |entry: &Entry<'_>| {
        let wanted = (options.kind.is_empty() || options.kind.contains(&entry.kind))
            && options.since.is_none_or(|since| entry.at >= since);
        if !wanted {
            return Ok(());
        }
        let line = if options.json { entry.text().to_owned() } else { readable(entry) };
        if most.is_none() {
            out::line(&line);
            return out::check();
        }
        lines.push_back(line);
        if Some(lines.len()) > most {
            lines.pop_front();
        }
        Ok(())
    };
    let walked = options.source.walk(&options.deployment, visit).await;
    for line in lines {
        out::line(&line);
    }
    let walked = walked?;
    talk.say(format!("the trail holds, from line to line, up to line {}", walked.head.number));
    Ok(())
}

/// A line for people: members as they are written, so that no text can pass for another member.
fn readable(entry: &Entry<'_>) -> String {
    let members = entry.members().iter().map(|(name, raw)| format!(" {name}={raw}"));
    let members: String = members.collect();
    format!("{:>8}  {}  {:<11}{members}", entry.head.number, entry.at, entry.kind.as_str())
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::parse(text).map_err(|_| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("there is no such kind of line; want one of {}", known.join(", "))
    })
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|_| "want a time such as 2026-01-02T03:04:05Z".to_owned())
}
