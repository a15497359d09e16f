//! What is written without being asked for: who was refused, what the device's own log has come to, and the HSM's
//! word for the trail.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use keychain::audit::{Kind, Record};

use super::{Audit, Error};
use crate::{
    chain::{self, Keeper},
    policy::PolicyFile,
    token::backend::Kept,
};

/// How often refusals and the device's log are told.
const INTERVAL: Duration = Duration::from_mins(1);

/// The longest pause between two checkpoints, if anything was written meanwhile. There is one after each event of
/// the chain besides: whoever holds a tainted key shall not vouch for what came before.
const CHECKPOINT_INTERVAL: Duration = Duration::from_mins(15);

/// From an event to its checkpoint.
const PAUSE: Duration = Duration::from_secs(1);

/// How long operations under way may take when hsmd ends.
const QUIET_MAX: Duration = Duration::from_secs(20);

/// How long everything that is written then may take.
const STOP_MAX: Duration = Duration::from_secs(8);

/// How long the last checkpoint may take of that.
const LAST_MAX: Duration = Duration::from_secs(3);

/// Writes down that hsmd serves from now on: with which policy, and from which generation.
pub async fn start(audit: &Audit, keeper: &Keeper, policy: &PolicyFile) -> Result<(), Error> {
    let record = Record::new(Kind::Start)
        .plain("version", env!("CARGO_PKG_VERSION"))
        .plain("policy", policy.current().digest());
    let record = match keeper.view() {
        Some(view) => {
            let live = view.live().event();
            record
                .plain("identity", live.prefix)
                .plain("generation", live.id)
                .number("sequenceNumber", live.sequence_number)
        }
        None => record,
    };
    audit.owe([record]).await
}

/// Writes what is due, for ever.
pub async fn attend(audit: &Audit, keeper: &Keeper) {
    let mut chain = keeper.watch();
    let mut due = tokio::time::Instant::now();
    loop {
        if tokio::time::Instant::now() >= due {
            // A burst of rotations is vouched for together, and with it the line that tells the outcome of the last.
            tokio::time::sleep(PAUSE).await;
            chain.mark_unchanged();
            due = match vouch(audit, keeper).await {
                Ok(()) => tokio::time::Instant::now() + CHECKPOINT_INTERVAL,
                Err(error) => {
                    tracing::warn!(error = &*error, "no checkpoint of the audit trail");
                    tokio::time::Instant::now() + INTERVAL
                }
            };
        }
        tokio::select! {
            _ = chain.changed() => due = tokio::time::Instant::now(),
            () = tokio::time::sleep(INTERVAL) => {}
        }
        tell(audit, keeper).await;
    }
}

/// Writes down that hsmd ends, with what is still to be told, vouched for if the HSM answers. It takes a few
/// seconds at most.
pub async fn stop(audit: &Audit, keeper: &Keeper) {
    if tokio::time::timeout(QUIET_MAX, audit.quiet()).await.is_err() {
        tracing::error!("hsmd ends in the midst of an operation");
    }
    let last = async {
        tell(audit, keeper).await;
        match tokio::time::timeout(LAST_MAX, vouch(audit, keeper)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = &*error, "no last checkpoint of the audit trail"),
            Err(_) => tracing::warn!("no last checkpoint of the audit trail: the HSM does not answer"),
        }
        audit.commit(Record::new(Kind::Stop)).await
    };
    match tokio::time::timeout(STOP_MAX, last).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the audit trail has no word of this end");
        }
        Err(_) => tracing::warn!("the audit trail has no word of this end: its disk does not answer"),
    }
}

/// Tells who was refused, and what the device's own log has come to.
async fn tell(audit: &Audit, keeper: &Keeper) {
    // Counted on meanwhile: what is owed has a bound.
    if audit.problem().is_some() {
        return;
    }
    let mut records = audit.refusals.take();
    records.extend(keeper.device_log().iter().map(device));
    if records.is_empty() {
        return;
    }
    if let Err(error) = audit.owe(records).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the audit trail is told later");
    }
}

fn device(kept: &Kept) -> Record {
    Record::new(Kind::Device)
        .text("device", &kept.device)
        .number("entries", kept.entries)
        .plain("newest", &kept.newest)
        .number("gaps", kept.gaps)
}

type Why = Arc<dyn std::error::Error + Send + Sync>;

/// Has the live generation vouch for the trail, unless its newest line is a checkpoint.
async fn vouch(audit: &Audit, keeper: &Keeper) -> Result<(), Why> {
    let why = |error: Error| -> Why { Arc::new(error) };
    let Some(head) = audit.sync().await.map_err(why)? else { return Ok(()) };
    if audit.vouched.load(Ordering::Relaxed) == head.number {
        return Ok(());
    }
    let signed = keeper.vouch(&head, keeper.now().to_millis()).await;
    let statement = signed.map_err(|error: chain::Error| -> Why { Arc::new(error) })?;
    let written =
        audit.commit(Record::new(Kind::Checkpoint).raw("statement", &statement)).await.map_err(why)?;
    if let Some(head) = written {
        audit.vouched.store(head.number, Ordering::Relaxed);
    }
    Ok(())
}
