//! Death, failure and the loss of either token at every call, one after the other.

use hsmd::chain::{Advanced, Error};

use super::tokens::{Pair, ROTATE, TAINT};
use crate::support::memory::{Device, Plan};

/// More calls than the whole script makes; reached only if the plan never ends.
const CALLS_MAX: u64 = 100;

/// Devices of both kinds, and whether a call that fails has its effect.
fn devices() -> impl Iterator<Item = (fn() -> Device, bool)> {
    let kinds: [fn() -> Device; 2] = [Device::default, Device::with_unique_ids];
    kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)])
}

/// Start, two rotations, a taint; what was answered before something failed.
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
    for (device, after_effect) in devices() {
        let mut deaths = 0;
        for at in 0..CALLS_MAX {
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
            keeper.advance(ROTATE).await.unwrap();
            keeper.probe().await.unwrap();
            pair.check_chain(&keeper, events + 1).await;
            // What fell back to one token is apart again two rotations later.
            keeper.advance(ROTATE).await.unwrap();
            pair.check(&keeper, events + 2).await;
        }
        assert!((15..CALLS_MAX).contains(&deaths), "{deaths}");
    }
}

#[tokio::test]
async fn one_failure_at_every_call_of_either_is_survived() {
    for (device, after_effect) in devices() {
        let mut failures = 0;
        for at in 0..CALLS_MAX {
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
        assert!((15..CALLS_MAX).contains(&failures), "{failures}");
    }
}

/// One of the tokens is lost at one of its calls and comes back later: meanwhile either endorsements or a rotation
/// go on, and in the end nothing is left over anywhere.
#[tokio::test]
async fn the_loss_of_either_at_every_call_leaves_a_way() {
    for (device, after_effect) in devices() {
        for lose_first in [true, false] {
            let mut losses = 0;
            for at in 0..CALLS_MAX {
                let first = device();
                let pair = Pair::of(first.clone(), first.apart());
                let keeper = pair.start().await.unwrap();
                let lost = if lose_first { &pair.first } else { &pair.second };
                lost.plan(Plan { at, after_effect, fatal: true });
                let mut answered = Vec::new();
                for advance in [ROTATE, TAINT, ROTATE] {
                    answered.extend(keeper.advance(advance).await.ok());
                }
                if keeper.probe().await.is_err() {
                    answered.push(keeper.advance(ROTATE).await.unwrap());
                    keeper.probe().await.unwrap();
                }
                if !lost.heal() {
                    break;
                }
                losses += 1;
                keeper.tokens().look().await;
                keeper.probe().await.unwrap();
                let view = keeper.settled().unwrap();
                for advanced in &answered {
                    assert!(view.find(&advanced.new_generation).is_some(), "an answered rotation stands");
                }
                let events = usize::try_from(view.live().event().sequence_number).unwrap() + 1;
                keeper.advance(ROTATE).await.unwrap();
                keeper.advance(ROTATE).await.unwrap();
                pair.check(&keeper, events + 2).await;
            }
            assert!((3..CALLS_MAX).contains(&losses), "{losses}");
        }
    }
}
