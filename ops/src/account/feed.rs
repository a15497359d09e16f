//! `opsctl feed`: where authd's denial feed stands, what it denies that no record says, and an operator's word about it.

use clap::Subcommand;
use keychain::Digest;
use keychain::feed::Position;
use serde::{Deserialize, Serialize};

use super::Denying;
use super::ask::{Given, Site};
use crate::clock;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};
use crate::generation::to_json;
use crate::out;
use crate::talk::Talk;
use crate::verifiers;

/// How many held denials are named before a person is asked.
const NAMED_MAX: usize = 20;

#[derive(Debug, Subcommand)]
pub(crate) enum FeedVerb {
    /// Print where the feed stands, and each denial that no record of authd's database says; exit code 1 while authd waits
    /// for `opsctl feed reopen`
    Show(Show),
    /// Lift denials that no record says: the database lacks them rightly
    Lift(Lift),
    /// Begin a new epoch with what authd's database says and holds, because edges know a later feed than it has
    Reopen(Reopen),
}

/// Options of `opsctl feed show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Only those of this account
    #[arg(long, value_name = "E…")]
    account: Option<Digest>,
    /// As JSON: authd's answers, verbatim, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: Site,
}

/// Options of `opsctl feed lift`.
#[derive(Debug, clap::Args)]
pub(crate) struct Lift {
    /// Only those of this account [default: all]
    #[arg(long, value_name = "E…")]
    account: Option<Digest>,
    /// Do not ask for confirmation (needed without a terminal)
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    denying: Denying,
}

/// Options of `opsctl feed reopen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Reopen {
    /// Do not ask for confirmation (needed without a terminal)
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    denying: Denying,
}

/// authd's answer to `GET /feed`: where the feed stands, and a page of what it holds.
#[derive(Deserialize)]
struct Page {
    identity: Digest,
    feed: Given,
    behind: bool,
    unreadable: u64,
    held: u64,
    denials: Vec<Held>,
}

#[derive(Deserialize)]
struct Held {
    row: i64,
    subject: String,
    account: String,
    cause: String,
    until: Option<String>,
    since: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LiftRequest<'a> {
    reason: &'a str,
    up_to: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
}

#[derive(Serialize)]
struct ReopenRequest<'a> {
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Given>,
}

/// authd's answer to an order.
#[derive(Deserialize)]
struct Done {
    lifted: Option<u64>,
    feed: Option<Given>,
}

/// `opsctl feed show`, `lift` and `reopen`.
pub(crate) async fn feed(verb: &FeedVerb, talk: Talk) -> Result<(), Failure> {
    match verb {
        FeedVerb::Show(options) => show(options).await,
        FeedVerb::Lift(options) => lift(options, talk).await,
        FeedVerb::Reopen(options) => reopen(options, talk).await,
    }
}

async fn show(options: &Show) -> Result<(), Failure> {
    let authd = options.site.door()?;
    let mut after = 0;
    loop {
        let (answer, page) = read(&authd, options.account, after).await?;
        if options.json {
            out::line(answer.trim_end());
        } else {
            if after == 0 {
                describe(&page).iter().for_each(out::line);
            }
            page.denials.iter().for_each(|held| out::line(format_args!("denied      {}", name(held))));
        }
        out::check()?;
        match page.denials.last() {
            Some(last) => after = last.row,
            None if page.behind => {
                return Err(Failure::new(Exit::No, "authd writes no feed before `opsctl feed reopen`"));
            }
            None => return Ok(()),
        }
    }
}

async fn lift(options: &Lift, talk: Talk) -> Result<(), Failure> {
    let Lift { account, yes, denying } = options;
    let authd = denying.ordering.site.door()?;
    let (_answer, first) = read(&authd, *account, 0).await?;
    for line in describe(&first) {
        talk.say(line);
    }
    if first.denials.is_empty() {
        talk.say("no denial is held: nothing was done");
        return Ok(());
    }
    talk.say(format!(
        "these {} are to be lifted; what a record of authd says besides stays denied:",
        first.held
    ));
    let (mut up_to, mut named, mut page) = (0, 0, first);
    let identity = page.identity;
    while let Some(last) = page.denials.last() {
        up_to = last.row;
        for held in page.denials.iter().take(NAMED_MAX.saturating_sub(named)) {
            talk.say(format!("  {}", name(held)));
            named += 1;
        }
        (_, page) = read(&authd, *account, up_to).await?;
    }
    if page.held > NAMED_MAX as u64 {
        talk.say(format!("  and others: `opsctl feed show` names all {}", page.held));
    }
    let reason = &denying.ordering.reason;
    denying.confirm(&account.unwrap_or(identity), *yes, "lifting")?;
    // No more than was shown: what is taken over meanwhile waits for another word.
    let request = LiftRequest { reason, up_to, account: account.map(|account| account.to_string()) };
    let Some(done) = order(denying, &authd, "/feed/lift", to_json(&request)?, talk).await? else {
        return Ok(());
    };
    talk.say(format!("lifted: {}", done.lifted.unwrap_or_default()));
    denying.applied(done.feed, talk).await
}

async fn reopen(options: &Reopen, talk: Talk) -> Result<(), Failure> {
    let Reopen { yes, denying } = options;
    let authd = denying.ordering.site.door()?;
    let (_answer, page) = read(&authd, None, 0).await?;
    for line in describe(&page) {
        talk.say(line);
    }
    talk.say("a new epoch is to begin with what authd's records say and what is held; every edge takes it in the place");
    talk.say("of all that it knows: a denial that neither has is lifted");
    let after = ahead(denying, page.feed.into(), talk).await;
    denying.confirm(&page.identity, *yes, "a new epoch")?;
    let request = ReopenRequest { reason: &denying.ordering.reason, after: after.map(Given::from) };
    let Some(done) = order(denying, &authd, "/feed/reopen", to_json(&request)?, talk).await? else {
        return Ok(());
    };
    denying.applied(done.feed, talk).await
}

/// Names the edges that have applied a later feed than authd's database has, and answers the latest position.
async fn ahead(denying: &Denying, given: Position, talk: Talk) -> Option<Position> {
    let rows = match verifiers::survey_feed(&denying.deployment(), given).await {
        Ok(rows) => rows,
        Err(failure) => {
            talk.say(format!("it is not known what edges have applied: {failure}"));
            return None;
        }
    };
    let now = u64::try_from(clock::now().unix_millis()).unwrap_or_default();
    let mut latest = None;
    for row in &rows {
        // What does not verify, or names a time to come, is nobody's word.
        let applied = row.applied().filter(|_| row.is_proven()).map(|applied| applied.position);
        let Some(position) = applied.filter(|position| *position > given && position.epoch <= now) else {
            continue;
        };
        let Position { epoch, number } = position;
        talk.say(format!(
            "  {} has applied {epoch}:{number}: what it was told after {}:{} is not in authd's database",
            verifiers::name(row),
            given.epoch,
            given.number
        ));
        latest = latest.max(Some(position));
    }
    latest
}

async fn order(
    denying: &Denying,
    authd: &Door,
    path: &str,
    body: String,
    talk: Talk,
) -> Result<Option<Done>, Failure> {
    if denying.ordering.dry_run {
        talk.say("dry run: nothing was done");
        return Ok(None);
    }
    let answer = authd.post(path, body).await?.ok(authd)?;
    if denying.ordering.json {
        out::line(answer.trim_end());
    }
    serde_json::from_str(&answer).map(Some).or_fail(Exit::Data, || "authd's answer says not what was done")
}

async fn read(authd: &Door, account: Option<Digest>, after: i64) -> Result<(String, Page), Failure> {
    let account = account.map_or_else(String::new, |account| format!("&account={account}"));
    let answer = authd.get(&format!("/feed?after={after}{account}")).await?.ok(authd)?;
    let page = serde_json::from_str(&answer).or_fail(Exit::Data, || "authd's answer is of no denial feed")?;
    Ok((answer, page))
}

fn describe(Page { feed, behind, unreadable, held, .. }: &Page) -> Vec<String> {
    let Position { epoch, number } = Position::from(*feed);
    let mut lines = vec![format!("feed        {epoch}:{number}")];
    if *behind {
        lines.push(
            "behind      a later feed is published, and cannot be read whole: `opsctl feed reopen`"
                .to_owned(),
        );
    }
    if *unreadable > 0 {
        lines.push(format!("unreadable  {unreadable} rows, passed over: authd's log names them"));
    }
    lines.push(format!("held        {held} denials that no record of authd's database says"));
    lines
}

fn name(Held { subject, account, cause, until, since, .. }: &Held) -> String {
    let until = until.as_deref().unwrap_or("it is lifted");
    format!("{subject}  account {account}, {cause}, until {until}, held since {since}")
}
