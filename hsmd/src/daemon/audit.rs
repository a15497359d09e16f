//! What is written into the audit trail without being asked for: start and end, who was refused, and what the
//! device's own log has come to.

use std::time::Duration;

use keychain::audit::{Kind, Record};

use crate::{audit::Audit, chain::Keeper, ledger::Error, policy::PolicyFile, token::backend::Kept};

/// How often refusals and the device's log are written down.
const INTERVAL: Duration = Duration::from_mins(1);

/// How long operations under way may take when hsmd ends.
const QUIET_MAX: Duration = Duration::from_secs(20);

/// How long the last lines may take then.
const STOP_MAX: Duration = Duration::from_secs(8);

/// Writes down that hsmd serves from now on: with which policy, and from which generation.
pub async fn start(audit: &Audit, keeper: &Keeper, policy: &PolicyFile) -> Result<(), Error> {
    let record = Record::new(Kind::Start)
        .plain("version", env!("CARGO_PKG_VERSION"))
        .plain("policy", policy.current().digest());
    let record = match keeper.seen() {
        Some(view) => {
            let live = view.live().event();
            record
                .plain("identity", live.prefix)
                .plain("generation", live.id)
                .number("sequenceNumber", live.sequence_number)
        }
        None => record,
    };
    audit.append(vec![record]).await
}

/// Writes what is due, for ever.
pub async fn run(audit: &Audit, keeper: &Keeper) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        write_due(audit, keeper).await;
    }
}

/// Writes down that hsmd ends, with what is still to be written. It takes a few seconds at most.
pub async fn stop(audit: &Audit, keeper: &Keeper) {
    if tokio::time::timeout(QUIET_MAX, audit.quiet()).await.is_err() {
        tracing::error!("hsmd ends in the midst of an operation");
    }
    let last = async {
        write_due(audit, keeper).await;
        audit.append(vec![Record::new(Kind::Stop)]).await
    };
    match tokio::time::timeout(STOP_MAX, last).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the audit trail has no line about this end");
        }
        Err(_) => tracing::warn!("the audit trail has no line about this end: its database does not answer"),
    }
}

/// Writes who was refused, and what the device's own log has come to. What cannot be written is written later.
async fn write_due(audit: &Audit, keeper: &Keeper) {
    let refusals = audit.write_refusals().await;
    let device = write_device_log(audit, keeper).await;
    if let Err(error) = refusals.and(device) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "lines of the audit trail are written later"
        );
    }
}

async fn write_device_log(audit: &Audit, keeper: &Keeper) -> Result<(), Error> {
    audit.demand_writable()?;
    let kept = keeper.device_log();
    if kept.is_empty() {
        return Ok(());
    }
    let written = audit.append(kept.iter().map(device_line).collect()).await;
    if written.is_err() {
        keeper.put_back_device_log(kept);
    }
    written
}

fn device_line(kept: &Kept) -> Record {
    Record::new(Kind::Device)
        .text("device", &kept.device)
        .number("entries", kept.entries)
        .plain("newest", &kept.newest)
        .number("gaps", kept.gaps)
}
