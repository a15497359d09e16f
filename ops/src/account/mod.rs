//! `opsctl ban`, `unban`, `account`, `device` and `role`: what operators order at authd's admin socket.
//!
//! An answer comes after authd's commit, with the position in authd's denial feed that has it. What denies or lifts ends
//! when every edge has acknowledged that position. What is printed says what was done and no more.

mod ask;
mod export;
mod feed;
mod show;

use keychain::Digest;
use systemd::config::Span;

use crate::declaration::reason;
use crate::deployment::Hosts;
use crate::failure::{Exit, Failure};
use crate::talk::Talk;
use crate::verifiers::Wait;
use ask::Site;
pub(crate) use ask::{AuthdSocket, Given};
use ask::{Done, Order};
pub(crate) use export::{Export, export};
pub(crate) use feed::{FeedVerb, feed};
pub(crate) use show::{List, Show, devices, roles, show};

/// What every order takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Ordering {
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON: authd's answer, verbatim
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: Site,
}

/// What every order takes that edges are to hear of.
#[derive(Debug, clap::Args)]
pub(crate) struct Denying {
    #[command(flatten)]
    ordering: Ordering,
    #[command(flatten)]
    hosts: Hosts,
    #[command(flatten)]
    wait: Wait,
}

/// Options of `opsctl ban`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ban {
    /// The identity, which need not have an account yet
    #[arg(value_name = "E…")]
    identity: Digest,
    /// How long, from a minute to ten years [default: until `opsctl unban`]
    #[arg(long = "for", value_name = "TIME", value_parser = span)]
    length: Option<Span>,
    #[command(flatten)]
    denying: Denying,
}

/// Options of orders that name nothing but an identity.
#[derive(Debug, clap::Args)]
pub(crate) struct Plain {
    /// The identity
    #[arg(value_name = "E…")]
    identity: Digest,
    #[command(flatten)]
    denying: Denying,
}

/// Options of `opsctl account delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    plain: Plain,
    /// Do not ask for confirmation (needed without a terminal)
    #[arg(long)]
    yes: bool,
}

/// Options of `opsctl device revoke`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(crate) struct Revoke {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    identity: Digest,
    /// The device
    #[arg(value_name = "DEVICE", group = "which")]
    device: Option<Digest>,
    /// Every active device but this one
    #[arg(long, value_name = "DEVICE", group = "which")]
    all_but: Option<Digest>,
    /// Every active device
    #[arg(long, group = "which")]
    all: bool,
    /// Do not ask for confirmation (needed without a terminal)
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    denying: Denying,
}

/// Options of `opsctl role grant` and `role revoke`.
#[derive(Debug, clap::Args)]
pub(crate) struct Granting {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    identity: Digest,
    /// The role, as `[grantable_roles]` of authd.toml has it
    #[arg(value_name = "ROLE")]
    role: String,
    #[command(flatten)]
    ordering: Ordering,
}

/// `opsctl ban`.
pub(crate) async fn ban(Ban { identity, length, denying }: &Ban, talk: Talk) -> Result<(), Failure> {
    let until = length.map_or_else(|| "until `opsctl unban`".to_owned(), |length| format!("for {length}"));
    talk.say(format!("authd is to refuse {identity} everything {until}, and edges its devices' tokens"));
    let order = Order { seconds: length.map(|length| length.duration().as_secs()), ..Order::default() };
    denying.carry_out("/ban", *identity, order, talk).await
}

/// `opsctl unban`.
pub(crate) async fn unban(Plain { identity, denying }: &Plain, talk: Talk) -> Result<(), Failure> {
    talk.say(format!("the ban of {identity} is to be lifted; what is denied for other causes stays denied"));
    denying.carry_out("/unban", *identity, Order::default(), talk).await
}

/// `opsctl account delete`.
pub(crate) async fn delete(Delete { plain, yes }: &Delete, talk: Talk) -> Result<(), Failure> {
    let Plain { identity, denying } = plain;
    talk.say(format!("the account {identity} is to be deleted; `opsctl account restore` undoes it"));
    denying.confirm(identity, *yes, "a deletion")?;
    denying.carry_out("/account/delete", *identity, Order::default(), talk).await
}

/// `opsctl account restore`.
pub(crate) async fn restore(Plain { identity, denying }: &Plain, talk: Talk) -> Result<(), Failure> {
    talk.say(format!("the account {identity} is to stand again, each device as its owner holds it"));
    denying.carry_out("/account/restore", *identity, Order::default(), talk).await
}

/// `opsctl device revoke`.
pub(crate) async fn revoke(options: &Revoke, talk: Talk) -> Result<(), Failure> {
    let Revoke { identity, device, all_but, denying, .. } = options;
    let which = match (device, all_but) {
        (Some(device), _) => format!("the device {device}"),
        (_, Some(kept)) => format!("every active device but {kept}"),
        _ => "every active device".to_owned(),
    };
    talk.say(format!("{which} of {identity} is to be revoked, for good"));
    denying.confirm(identity, options.yes, "a revocation")?;
    let order = Order { device: *device, all_but: *all_but, ..Order::default() };
    denying.carry_out("/devices/revoke", *identity, order, talk).await
}

/// `opsctl role grant`.
pub(crate) async fn grant(
    Granting { identity, role, ordering }: &Granting,
    talk: Talk,
) -> Result<(), Failure> {
    talk.say(format!("tokens of {identity} that are made from then on are to have the role `{role}`"));
    let order = Order { role: Some(role), ..Order::default() };
    ordering.carry_out("/roles/grant", *identity, order, talk).await.map(drop)
}

/// `opsctl role revoke`.
pub(crate) async fn withdraw(
    Granting { identity, role, ordering }: &Granting,
    talk: Talk,
) -> Result<(), Failure> {
    talk.say(format!(
        "tokens of {identity} that are made from then on are to lack the role `{role}`; those that have"
    ));
    talk.say("it keep it until they end, 15 minutes at most: `opsctl device revoke` does not wait for that");
    let order = Order { role: Some(role), ..Order::default() };
    ordering.carry_out("/roles/revoke", *identity, order, talk).await.map(drop)
}

fn span(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    let year = 365 * 24 * 3_600;
    let fits = (60..=10 * year).contains(&span.duration().as_secs()) && span.duration().subsec_nanos() == 0;
    if fits { Ok(span) } else { Err("want whole seconds, from a minute to ten years, as in 7d".to_owned()) }
}

/// Says what came of an order.
fn tell(done: &Done, talk: Talk) -> Result<(), Failure> {
    if !done.told {
        let stored = if done.changed { "stored at authd" } else { "it was so already at authd" };
        return Err(Failure::new(
            Exit::Partial,
            format!(
                "{stored}, and not yet sent to the directory: authd goes on trying, and edges do not know of it; \
                     the same command again says whether they were sent it"
            ),
        ));
    }
    if !done.changed {
        talk.say("nothing was changed: it was so already, and the directory was sent it");
    } else if done.subjects == 0 {
        talk.say("stored at authd; edges need not be told");
    } else {
        talk.say(format!(
            "stored at authd, and sent to the directory for {} device(s) and identities, from where edges follow",
            done.subjects
        ));
    }
    Ok(())
}
