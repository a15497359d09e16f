//! Routes of the admin socket, with their requests and answers.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use actix_web::web::{self, Data, Payload, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use edge::http;
use keychain::feed::Position;
use keychain::json::{self, Object};
use keychain::{Digest, Refusal, Timestamp};
use serde::Deserialize;

use super::orders::{self, Done, malformed};
use super::policy::Operation;
use super::{Caller, Door, feed};
use crate::operation::order::{Order, Standing, Which};
use crate::record::{BanEnd, BanRecord, Cause};
use crate::store::{ExportPage, ExportPlace, Failure};

/// Longest body: an identity, a device, a reason.
pub(super) const BODY_MAX: usize = 4096;

/// Longest reason, in bytes, as at hsmd.
const REASON_MAX: usize = 500;

/// Shortest and longest ban that ends by itself.
const BAN_MIN: Duration = Duration::from_mins(1);
const BAN_MAX: Duration = Duration::from_hours(24 * 3_650);

/// Longest name of a role.
const ROLE_MAX: usize = 64;

pub(super) fn routes(config: &mut ServiceConfig) {
    for (path, operation) in [
        ("/account/delete", Operation::AccountDelete),
        ("/account/restore", Operation::AccountRestore),
        ("/ban", Operation::Ban),
        ("/devices/revoke", Operation::DeviceRevoke),
        ("/roles/grant", Operation::RoleGrant),
        ("/roles/revoke", Operation::RoleRevoke),
        ("/unban", Operation::Unban),
    ] {
        let handler = move |request, payload, door| order(operation, request, payload, door);
        config.service(http::write(path, handler));
    }
    config.service(http::read("/account/export", export));
    config.service(http::read("/account", account)).service(http::read("/audit", audit));
    config.service(http::write("/roll", roll));
    config.configure(feed::routes);
    config.default_service(web::to(http::no_such_route));
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
    let identity = object.parsed("identity", Digest::parse)?;
    let reason = reason(&mut object)?;
    let order = match operation {
        Operation::AccountDelete => Order::AccountDelete,
        Operation::AccountRestore => Order::AccountRestore,
        Operation::Ban => Order::Ban(end(&mut object, now)?),
        Operation::DeviceRevoke => Order::DeviceRevoke(which(&mut object)?),
        Operation::RoleGrant => Order::RoleGrant(grantable(role(&mut object)?, door)?),
        Operation::RoleRevoke => Order::RoleRevoke(role(&mut object)?),
        Operation::Unban => Order::Unban,
        Operation::AccountExport
        | Operation::AccountShow
        | Operation::Audit
        | Operation::FeedLift
        | Operation::FeedReopen
        | Operation::FeedShow
        | Operation::Reset
        | Operation::Roll => return Err(malformed("not an order about an identity")),
    };
    object.finish()?;
    // The order is carried through even if its caller goes away meanwhile.
    let service = door.service.clone();
    let carried = tokio::spawn(async move {
        orders::carry_out(&service, &authority, (identity, &order, &reason), now).await
    });
    let done = carried
        .await
        .map_err(|_| Refusal::new(keychain::Code::Internal, "the order was not carried through"))?;
    let Done { changed, subjects, heard } = done.map_err(|failure| explain(operation, failure))?;
    let feed =
        heard.feed.map_or_else(String::new, |position| format!(r#","feed":{}"#, spell_position(position)));
    let told = heard.sent;
    Ok(format!(
        r#"{{"identity":"{identity}","changed":{changed},"subjects":{subjects},"told":{told}{feed}}}"#
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    identity: String,
}

async fn account(
    request: HttpRequest,
    query: Result<Query<Wanted>, actix_web::Error>,
    door: Data<Door>,
) -> HttpResponse {
    answer(Operation::AccountShow, try_account(&request, query, &door).await)
}

async fn try_account(
    request: &HttpRequest,
    query: Result<Query<Wanted>, actix_web::Error>,
    door: &Door,
) -> Result<String, Refusal> {
    let user = door.policy.demand_known(caller(request))?;
    door.policy.permit(user, Operation::AccountShow, door.begun.elapsed())?;
    let wanted = query.map_err(|_| malformed("want `identity`"))?;
    let identity = Digest::parse(&wanted.identity)?;
    let standing = door.service.store.standing(&identity).await;
    let standing = standing.map_err(|fault| explain(Operation::AccountShow, fault.into()))?;
    let names = door.service.store.names(&identity).await;
    let names = names.map_err(|fault| explain(Operation::AccountShow, fault.into()))?;
    Ok(spell(&identity, &standing, &names, door.service.now()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedRows {
    identity: String,
    after: Option<String>,
}

async fn export(
    request: HttpRequest,
    query: Result<Query<WantedRows>, actix_web::Error>,
    door: Data<Door>,
) -> HttpResponse {
    answer(Operation::AccountExport, try_export(&request, query, &door).await)
}

async fn try_export(
    request: &HttpRequest,
    query: Result<Query<WantedRows>, actix_web::Error>,
    door: &Door,
) -> Result<String, Refusal> {
    let user = door.policy.demand_known(caller(request))?;
    door.policy.permit(user, Operation::AccountExport, door.begun.elapsed())?;
    let bad = || malformed("want `identity`, and `after`, where the page before ended");
    let wanted = query.map_err(|_| bad())?;
    let identity = Digest::parse(&wanted.identity)?;
    let from =
        wanted.after.as_deref().map_or(Some(ExportPlace::FIRST), ExportPlace::parse).ok_or_else(bad)?;
    let page = door.service.store.export(&identity, from).await;
    let ExportPage { rows, next } = page.map_err(|fault| explain(Operation::AccountExport, fault.into()))?;
    let next =
        next.map_or_else(String::new, |place| format!(r#","next":{}"#, json::string(&place.to_string())));
    Ok(format!(r#"{{"rows":[{}]{next}}}"#, rows.join(",")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    #[serde(default)]
    from: u64,
}

async fn audit(
    request: HttpRequest,
    query: Result<Query<From>, actix_web::Error>,
    door: Data<Door>,
) -> HttpResponse {
    answer(Operation::Audit, try_audit(&request, query, &door).await)
}

async fn try_audit(
    request: &HttpRequest,
    query: Result<Query<From>, actix_web::Error>,
    door: &Door,
) -> Result<String, Refusal> {
    let user = door.policy.demand_known(caller(request))?;
    door.policy.permit(user, Operation::Audit, door.begun.elapsed())?;
    let from = query.map_err(|_| malformed("want `from`, the number of a line"))?.from;
    let page = door.service.store.lines(from).await;
    let page = page.map_err(|fault| explain(Operation::Audit, fault.into()))?;
    let next = page.next.map_or_else(String::new, |next| format!(r#""next":{next},"#));
    Ok(format!(r#"{{{next}"lines":[{}]}}"#, page.lines.join(",")))
}

async fn roll(request: HttpRequest, door: Data<Door>) -> HttpResponse {
    answer(Operation::Roll, try_roll(&request, &door).await)
}

/// New keys of authd's own. The old ones sign until they are in use.
async fn try_roll(request: &HttpRequest, door: &Door) -> Result<String, Refusal> {
    let user = door.policy.demand_known(caller(request))?;
    let authority = door.policy.permit(user, Operation::Roll, door.begun.elapsed())?;
    let rolled = door.service.roll().now().await?;
    tracing::info!(operator = authority.operator(), "new keys are in use, as was ordered");
    Ok(rolled)
}

pub(super) fn spell_position(Position { epoch, number }: Position) -> String {
    format!(r#"{{"epoch":{epoch},"position":{number}}}"#)
}

pub(super) fn caller(request: &HttpRequest) -> Option<u32> {
    request.conn_data::<Caller>().map(|caller| caller.0)
}

pub(super) fn answer(operation: Operation, outcome: Result<String, Refusal>) -> HttpResponse {
    let code = outcome.as_ref().map_or_else(|refusal| refusal.code().as_str(), |_| "ok");
    metrics::counter!("authd_orders_total", "op" => operation.as_str(), "code" => code).increment(1);
    match outcome {
        Ok(body) => http::json(actix_web::http::StatusCode::OK, body),
        Err(refusal) => {
            let because = refusal.because();
            tracing::info!(operation = operation.as_str(), code, because, "an order was refused");
            // The reason is told: a row of the policy lets this caller in.
            http::refuse(&refusal.clone().with("because", because))
        }
    }
}

pub(super) fn explain(operation: Operation, failure: Failure) -> Refusal {
    if let Failure::Store(fault) = &failure {
        let error = fault as &dyn Error;
        tracing::error!(operation = operation.as_str(), error, "the store failed");
    }
    failure.into_refusal()
}

/// The reason: any text, but bounded and on one line.
pub(super) fn reason(object: &mut Object<'_>) -> Result<String, Refusal> {
    let bad = malformed("`reason` is not a text of 1 to 500 bytes without line breaks");
    let reason: String = serde_json::from_str(object.raw("reason")?).map_err(|_| bad.clone())?;
    let fits = !reason.trim().is_empty() && reason.len() <= REASON_MAX && !reason.contains(char::is_control);
    if fits { Ok(reason) } else { Err(bad) }
}

/// When a ban ends: `for`, in seconds from now.
fn end(object: &mut Object<'_>, now: Timestamp) -> Result<BanEnd, Refusal> {
    let Some(raw) = object.take("for") else { return Ok(BanEnd::Never) };
    let bad = malformed("`for` is no number of seconds from a minute to ten years");
    let span = Duration::from_secs(raw.parse().map_err(|_| bad.clone())?);
    if (BAN_MIN..=BAN_MAX).contains(&span) { Ok(BanEnd::At(now.plus(span).to_millis())) } else { Err(bad) }
}

fn which(object: &mut Object<'_>) -> Result<Which, Refusal> {
    let mut device = |name| object.take(name).map(|raw| Digest::parse(json::plain_string(raw)?)).transpose();
    match (device("device")?, device("allBut")?) {
        (Some(one), None) => Ok(Which::One(one)),
        (None, Some(kept)) => Ok(Which::AllBut(kept)),
        (None, None) => Ok(Which::All),
        (Some(_), Some(_)) => Err(malformed("give `device` or `allBut`, not both")),
    }
}

fn role(object: &mut Object<'_>) -> Result<String, Refusal> {
    let role = object.string("role")?;
    let plain = role.bytes().all(|byte| byte.is_ascii_graphic());
    let fits = plain && (1..=ROLE_MAX).contains(&role.len());
    if fits { Ok(role.to_owned()) } else { Err(malformed("`role` is no name of a role")) }
}

fn grantable(role: String, door: &Door) -> Result<String, Refusal> {
    if door.service.roles.is_grantable(&role) {
        return Ok(role);
    }
    Err(malformed("authd.toml has no such role in [grantable_roles]"))
}

/// What the rows say of an identity, as JSON.
fn spell(identity: &Digest, standing: &Standing, names: &BTreeMap<String, String>, now: Timestamp) -> String {
    let mut body = format!(r#"{{"identity":"{identity}""#);
    // Writing to a text cannot fail.
    if let Some(account) = &standing.account {
        let signed = account.verify_order().is_ok();
        let (state, since) = (account.state.as_str(), account.version.created_at);
        let _written = write!(
            body,
            r#","account":{{"state":"{state}","since":"{since}",{}}}"#,
            by(&account.cause, signed)
        );
    }
    if let Some(ban) = standing.ban.as_ref().filter(|ban| ban.is_in_force(now)) {
        let _written = write!(body, r#","ban":{{{}}}"#, spell_ban(ban));
    }
    let devices = standing.devices.iter().map(|device| {
        let signed = device.verify_order().is_ok();
        let (name, state, since) =
            (device.device.to_string(), device.state.as_str(), device.version.created_at);
        let called = names.get(&name);
        let called = called.map_or_else(String::new, |called| format!(r#""name":{},"#, json::string(called)));
        let by = by(&device.cause, signed);
        format!(r#"{{"device":"{name}",{called}"state":"{state}","since":"{since}",{by}}}"#)
    });
    let roles = standing.roles.as_ref().map_or_else(|| "[]".to_owned(), crate::record::RoleRecord::text);
    let devices: Vec<_> = devices.collect();
    let _written = write!(body, r#","devices":[{}],"roles":{roles}}}"#, devices.join(","));
    body
}

fn spell_ban(ban: &BanRecord) -> String {
    let until = ban.until.map_or_else(String::new, |until| format!(r#""until":"{until}","#));
    let cause = Cause::Operator(ban.order.clone());
    let signed = ban.verify_order().is_ok();
    format!(r#"{until}"since":"{}",{}"#, ban.version.created_at, by(&cause, signed))
}

/// Who caused a record, and whether an operator's record is the one that was signed.
fn by(cause: &Cause, signed: bool) -> String {
    match cause {
        Cause::Device(request) => format!(r#""by":"device","path":"{}""#, request.operation.path()),
        Cause::Operator(order) => format!(
            r#""by":"operator","action":"{}","operator":{},"reason":{},"signer":"{}","signed":{signed}"#,
            order.action.as_str(),
            json::string(&order.operator),
            json::string(&order.reason),
            order.signer
        ),
    }
}
