//! Orders about the denial feed and the whole store: what no record says, a new epoch, a reset.

use std::sync::atomic::Ordering;

use actix_web::web::{Data, Payload, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use edge::http;
use keychain::feed::Position;
use keychain::json::Object;
use keychain::{Digest, Refusal, Timestamp};
use serde::Deserialize;

use super::Door;
use super::http::{BODY_MAX, answer, caller, explain, reason, spell_position};
use super::orders::{HEARD_WITHIN, LOOK_AGAIN, lines, malformed};
use super::policy::{Authority, Operation};
use crate::service::Service;
use crate::store::{Failure, Held, WhichHeld};

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(http::read("/feed", show)).service(http::read("/feed/position", position));
    for (path, operation) in [
        ("/feed/lift", Operation::FeedLift),
        ("/feed/reopen", Operation::FeedReopen),
        ("/reset", Operation::Reset),
    ] {
        let handler = move |request, payload, door| order(operation, request, payload, door);
        config.service(http::write(path, handler));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    account: Option<String>,
    #[serde(default)]
    after: i64,
}

async fn show(
    request: HttpRequest,
    query: Result<Query<Wanted>, actix_web::Error>,
    door: Data<Door>,
) -> HttpResponse {
    answer(Operation::FeedShow, try_show(&request, query, &door).await)
}

async fn try_show(
    request: &HttpRequest,
    query: Result<Query<Wanted>, actix_web::Error>,
    door: &Door,
) -> Result<String, Refusal> {
    let user = door.policy.demand_known(caller(request))?;
    door.policy.permit(user, Operation::FeedShow, door.begun.elapsed())?;
    let wanted = query.map_err(|_| malformed("want `account`, and `after`, the number of a row"))?;
    let account = wanted.account.as_deref().map(Digest::parse).transpose()?;
    let service = &door.service;
    let read = async {
        let position = service.store.feed_position().await?;
        let (held, count) = service.store.held(account, wanted.after, service.now()).await?;
        let unreadable = service.store.count_unreadable().await?;
        Ok((position, held, count, unreadable))
    };
    let (position, held, count, unreadable) =
        read.await.map_err(|failure: Failure| explain(Operation::FeedShow, failure))?;
    let identity = service.trust.state().chain().prefix();
    let (feed, behind) = (spell_position(position), service.feed_behind.load(Ordering::Relaxed));
    let held: Vec<_> = held.iter().map(spell).collect();
    Ok(format!(
        r#"{{"identity":"{identity}","feed":{feed},"behind":{behind},"unreadable":{unreadable},"held":{count},"denials":[{}]}}"#,
        held.join(",")
    ))
}

/// Where the feed stands, for whoever may order anything: an order is done once every edge is there, and none beyond.
async fn position(request: HttpRequest, door: Data<Door>) -> HttpResponse {
    answer(Operation::FeedShow, try_position(&request, &door).await)
}

async fn try_position(request: &HttpRequest, door: &Door) -> Result<String, Refusal> {
    door.policy.demand_known(caller(request))?;
    let position = door.service.store.feed_position().await;
    let position = position.map_err(|fault| explain(Operation::FeedShow, fault.into()))?;
    Ok(spell_position(position))
}

fn spell(held: &Held) -> String {
    let until = held.until.map_or_else(String::new, |until| format!(r#","until":"{until}""#));
    let (id, place, since) = (held.id, held.place, held.since);
    let (subject, account, cause) = (place.subject, place.account, place.cause.as_str());
    format!(
        r#"{{"row":{id},"subject":"{subject}","account":"{account}","cause":"{cause}"{until},"since":"{since}"}}"#
    )
}

/// An order that can be read.
enum Order {
    Lift(WhichHeld),
    Reopen(Option<Position>),
    Reset,
}

async fn order(
    operation: Operation,
    request: HttpRequest,
    payload: Payload,
    door: Data<Door>,
) -> HttpResponse {
    answer(operation, try_order(operation, &request, payload, &door).await)
}

async fn try_order(
    operation: Operation,
    request: &HttpRequest,
    payload: Payload,
    door: &Door,
) -> Result<String, Refusal> {
    let user = door.policy.demand_known(caller(request))?;
    let body = http::body(request, payload, BODY_MAX).await?;
    let authority = door.policy.permit(user, operation, door.begun.elapsed())?;
    let now = door.service.now();
    let mut object = Object::parse_bytes(&body)?;
    let reason = reason(&mut object)?;
    let order = match operation {
        Operation::FeedLift => Order::Lift(which(&mut object)?),
        Operation::FeedReopen => {
            Order::Reopen(after(&mut object, now.plus(door.service.trust.state().chain().skew()))?)
        }
        _ => Order::Reset,
    };
    object.finish()?;
    // The order is carried through even if its caller goes away meanwhile.
    let service = door.service.clone();
    let carried = tokio::spawn(async move { carry_out(&service, &authority, (&order, &reason), now).await });
    let done = carried
        .await
        .map_err(|_| Refusal::new(keychain::Code::Internal, "the order was not carried through"))?;
    done.map_err(|failure| explain(operation, failure))
}

async fn carry_out(
    service: &Service,
    authority: &Authority,
    (order, reason): (&Order, &str),
    now: Timestamp,
) -> Result<String, Failure> {
    let store = &service.store;
    let changed = match order {
        Order::Lift(which) => {
            let account =
                which.account.map_or_else(String::new, |account| format!(r#","account":"{account}""#));
            let asked = format!(r#"{{"upTo":"{}"{account}}}"#, which.up_to);
            let lines = |lifted| lines(authority, reason, (&asked, &format!(r#"{{"lifted":"{lifted}"}}"#)));
            let lifted = store.lift_held(*which, lines, now).await?;
            format!(r#""lifted":{lifted}"#)
        }
        Order::Reopen(after) => {
            let asked = after.map_or_else(
                || "{}".to_owned(),
                |Position { epoch, number }| format!(r#"{{"after":"{epoch}:{number}"}}"#),
            );
            let opened = store.reopen(*after, &lines(authority, reason, (&asked, "{}")), now).await?;
            format!(r#""opened":{}"#, opened.epoch)
        }
        Order::Reset => {
            let lines = |count: &str| lines(authority, reason, ("{}", count));
            let accounts = store.reset(lines, now).await?;
            format!(r#""accounts":{accounts}"#)
        }
    };
    service.tell_denials();
    let feed = heard(service).await?;
    let feed = feed.map_or_else(String::new, |position| format!(r#","feed":{}"#, spell_position(position)));
    Ok(format!("{{{changed}{feed}}}"))
}

/// Waits until the feed has told all that is to be told now, for so long.
async fn heard(service: &Service) -> Result<Option<Position>, Failure> {
    let newest = service.store.newest_row().await?;
    let wait = async {
        loop {
            if let Some(position) = service.store.fed_through(newest, service.now()).await? {
                return Ok(Some(position));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(HEARD_WITHIN, wait).await.unwrap_or(Ok(None))
}

fn which(object: &mut Object<'_>) -> Result<WhichHeld, Refusal> {
    let bad = malformed("`upTo` is not the number of a row that `GET /feed` showed");
    let up_to = object.raw("upTo")?.parse().map_err(|_| bad)?;
    let account =
        object.take("account").map(|raw| Digest::parse(keychain::json::plain_string(raw)?)).transpose()?;
    Ok(WhichHeld { account, up_to })
}

/// A position that somebody has applied. One of the future would begin an epoch that every edge refuses.
fn after(object: &mut Object<'_>, latest: Timestamp) -> Result<Option<Position>, Refusal> {
    let Some(raw) = object.take("after") else { return Ok(None) };
    let bad = || malformed("`after` is no position of the past");
    let mut position = Object::parse(raw)?;
    let mut member = |name| position.raw(name)?.parse::<u64>().map_err(|_| bad());
    let after = Position { epoch: member("epoch")?, number: member("position")? };
    position.finish()?;
    let is_past = i64::try_from(after.epoch).is_ok_and(|epoch| epoch <= latest.unix_millis());
    if is_past { Ok(Some(after)) } else { Err(bad()) }
}
