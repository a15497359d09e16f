//! Death, failure and the loss of either token at every call, one after the other. In the short form the kinds of
//! devices and of failures share the calls between them.

use hsmd::chain::{Advanced, Error};

use super::tokens::{Pair, ROTATE, TAINT};
use crate::{
    faults,
    support::memory::{Device, Plan},
};

/// More calls than the whole script makes; reached only if the plan never ends.
const CALLS_MAX: u64 = 200;

/// Devices of both kinds, and whether a call that fails has its effect.
fn devices() -> impl Iterator<Item = (fn() -> Device, bool)> {
    let kinds: [fn() -> Device; 2] = [Device::default, Device::with_unique_ids];
    kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)])
}

/// The calls that a row of a table fails at: all of them, or in the short form each `share`th, other ones from row to
/// row.
fn calls(row: u64, share: u64) -> impl Iterator<Item = u64> {
    (0..CALLS_MAX).filter(move |at| faults::everything() || (at + row).is_multiple_of(share))
}

/// Start, two rotations, a taint; the answers before something failed.
async fn script(pair: &Pair) -> Result<Vec<Advanced>, Error> {
    let keeper = pair.start().await?;
    let mut done = Vec::new();
    for advance in [ROTATE, TAINT, ROTATE] {
        match keeper.advance(advance).await {
            Ok(advanced) => done.push(advanced),
            Err(_) => break,
        }
    }
    drop(keeper.close().await);
    Ok(done)
}

#[tokio::test]
async fn death_at_every_call_of_either() {
    let mut deaths = 0;
    for (row, (device, after_effect)) in (0..).zip(devices()) {
        // Each call before its effect and after it, on one of the two kinds.
        for at in calls(row + row / 2, 2) {
            let first = device();
            let pair = Pair::of(first.clone(), first.beside());
            first.plan(Plan { at, after_effect, fatal: true });
            let answered = script(&pair).await.unwrap_or_default();
            if !first.heal() {
                break;
            }
            deaths += 1;
            let keeper = pair.start().await.unwrap();
            let view = keeper.settled().unwrap();
            for advanced in &answered {
                assert!(view.find(&advanced.new_generation).is_some(), "an answered rotation stands");
            }
            let events = usize::try_from(view.live().event().sequence_number).unwrap() + 1;
            assert!(events > answered.len(), "{events} {answered:?}");
            // What was on one token only is on both again.
            pair.check(&keeper, events).await;
            keeper.advance(ROTATE).await.unwrap();
            keeper.probe().await.unwrap();
            pair.check(&keeper, events + 1).await;
        }
    }
    println!("mirrors: {deaths} deaths survived");
    assert!(deaths > 50, "{deaths}");
}

#[tokio::test]
async fn one_failure_at_every_call_of_either_is_survived() {
    let mut failures = 0;
    for (row, (device, after_effect)) in (0..).zip(devices()) {
        // Each call before its effect and after it, on one of the two kinds.
        for at in calls(row + row / 2, 2) {
            let first = device();
            let pair = Pair::of(first.clone(), first.beside());
            first.plan(Plan { at, after_effect, fatal: false });
            let answered = script(&pair).await.unwrap();
            if !first.heal() {
                break;
            }
            failures += 1;
            assert_eq!(answered.len(), 3, "call {at}");
            let keeper = pair.start().await.unwrap();
            pair.check(&keeper, 4).await;
        }
    }
    println!("mirrors: {failures} failures survived");
    assert!(failures > 50, "{failures}");
}

/// One of the tokens is lost at one of its calls: everything goes on with the other. It comes back later, or is replaced
/// by an empty one: in the end every key is on both.
#[tokio::test]
async fn the_loss_of_either_at_every_call_loses_nothing() {
    let mut losses = 0;
    for (row, (device, after_effect)) in (0..).zip(devices()) {
        let losses_of = [(true, false), (true, true), (false, false), (false, true)];
        for (column, (lose_first, replaced)) in (0..).zip(losses_of) {
            for at in calls(row + column, 4) {
                let first = device();
                let pair = Pair::of(first.clone(), first.apart());
                let keeper = pair.start().await.unwrap();
                let [(lost, kept), _] =
                    if lose_first { pair.each() } else { pair.each().map(|(a, b)| (b, a)) };
                lost.plan(Plan { at, after_effect, fatal: true });
                for advance in [ROTATE, TAINT, ROTATE] {
                    keeper.advance(advance).await.unwrap();
                    keeper.probe().await.unwrap();
                }
                if !lost.was_lost() {
                    break;
                }
                losses += 1;
                pair.check_chain(&keeper, 4).await;
                Pair::check_keys(&keeper, kept);
                if replaced {
                    lost.empty();
                }
                lost.heal();
                keeper.tokens().ask_silent().await;
                keeper.probe().await.unwrap();
                pair.check(&keeper, 4).await;
            }
        }
    }
    println!("mirrors: {losses} losses survived");
    assert!(losses > 50, "{losses}");
}
