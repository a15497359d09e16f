//! Every key on both tokens: what goes on without one of them, and how a key comes to be on both again.

use hsmd::{
    chain::{Error, State},
    token::backend::Fault,
};

use super::tokens::{Pair, ROTATE, TAINT};
use crate::support::memory::Device;

#[tokio::test]
async fn every_key_is_on_both_tokens() {
    for first in [Device::default(), Device::with_unique_ids()] {
        let pair = Pair::of(first.clone(), first.apart());
        let mut keeper = pair.start().await.unwrap();
        for events in 1..8 {
            pair.check(&keeper, events).await;
            if events == 4 {
                keeper.close().await.unwrap();
                keeper = pair.start().await.unwrap();
            }
            keeper.advance(if events % 3 == 0 { TAINT } else { ROTATE }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_chain_begins_with_both_tokens_or_not_at_all() {
    let pair = Pair::new();
    for lost in [&pair.first, &pair.second] {
        lost.lose();
        let error = pair.start().await.err().unwrap();
        assert!(matches!(error, Error::State(State::TokenSilent(_))), "{error:?}");
        lost.heal();
        assert_eq!([pair.first.objects(), pair.second.objects()], [0, 0]);
    }
    let keeper = pair.start().await.unwrap();
    pair.check(&keeper, 1).await;
}

/// Keys made with one token configured stay on it: the second takes effect with the next two rotations.
#[tokio::test]
async fn a_second_token_takes_effect_with_two_rotations() {
    let pair = Pair::new();
    pair.first.pair(None);
    pair.second.pair(None);
    let keeper = pair.start_alone().await.unwrap();
    keeper.close().await.unwrap();
    let unmirrored = |keeper: &hsmd::chain::Keeper| keeper.token_states()[0].unmirrored.clone();
    // Not paired yet: it says so, and everything goes on.
    let keeper = pair.start().await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    assert!(unmirrored(&keeper).unwrap().contains("opsctl hsm pair"));
    assert_eq!([pair.first.objects(), pair.second.objects()], [4, 0]);
    pair.first.pair(Some(b"the wrap key"));
    pair.second.pair(Some(b"the wrap key"));
    keeper.advance(ROTATE).await.unwrap();
    assert_eq!([pair.first.objects(), pair.second.objects()], [4, 2]);
    keeper.advance(ROTATE).await.unwrap();
    pair.check(&keeper, 4).await;
    assert_eq!(unmirrored(&keeper), None);
}

#[tokio::test]
async fn the_loss_of_either_token_loses_nothing() {
    for advance in [ROTATE, TAINT] {
        for lose_first in [true, false] {
            for restarted in [false, true] {
                let pair = Pair::new();
                let keeper = pair.start().await.unwrap();
                keeper.advance(ROTATE).await.unwrap();
                let [(lost, kept), _] =
                    if lose_first { pair.each() } else { pair.each().map(|(a, b)| (b, a)) };
                lost.lose();
                let keeper = if restarted {
                    keeper.close().await.unwrap();
                    pair.start().await.unwrap()
                } else {
                    keeper
                };
                keeper.probe().await.unwrap();
                for events in 3..6 {
                    keeper.advance(advance).await.unwrap();
                    keeper.probe().await.unwrap();
                    pair.check_chain(&keeper, events).await;
                    Pair::check_keys(&keeper, kept);
                }
                assert_eq!(lost.objects(), 4, "the keys that it had when it was lost");
                // It comes back: what is left on it is destroyed, and it is a mirror again without a rotation.
                lost.heal();
                keeper.tokens().ask_silent().await;
                keeper.probe().await.unwrap();
                pair.check(&keeper, 5).await;
            }
        }
    }
}

#[tokio::test]
async fn a_rotation_waits_for_both_tokens_if_they_are_required() {
    let pair = Pair::new();
    let keeper = pair.start_requiring_both().await.unwrap();
    for (lost, kept) in pair.each() {
        lost.lose();
        keeper.probe().await.unwrap();
        let error = keeper.advance(ROTATE).await.unwrap_err();
        // Known to be silent already, or found out by the copy that fails.
        assert!(matches!(&error, Error::Hsm(Fault::Silent { .. } | Fault::Refused { .. })), "{error:?}");
        assert_eq!(kept.objects(), 4, "nothing was left of it");
        keeper.probe().await.unwrap();
        // A taint does not wait.
        keeper.advance(TAINT).await.unwrap();
        lost.heal();
        keeper.tokens().ask_silent().await;
        keeper.probe().await.unwrap();
    }
    keeper.advance(ROTATE).await.unwrap();
    pair.check(&keeper, 4).await;
}

/// A key that is on one token only because the other was silent: health names the one that must not be lost.
#[tokio::test]
async fn the_token_that_alone_holds_a_key_is_named() {
    let pair = Pair::new();
    let keeper = pair.start().await.unwrap();
    pair.second.lose();
    keeper.advance(ROTATE).await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    let states = keeper.token_states();
    assert!(states[0].live && states[0].next && !states[1].live && !states[1].next, "{states:?}");
    // That one is lost, too, and the other comes back: its keys are of generations that were left.
    pair.first.lose();
    pair.second.heal();
    keeper.tokens().ask_silent().await;
    assert!(keeper.probe().await.is_err());
    assert_eq!(pair.second.objects(), 4, "nothing is destroyed while a token is silent");
    pair.first.heal();
    keeper.tokens().ask_silent().await;
    keeper.probe().await.unwrap();
    pair.check(&keeper, 3).await;
}

#[tokio::test]
async fn a_key_that_one_token_has_lost_is_carried_to_it_again() {
    let pair = Pair::new();
    let mut keeper = pair.start().await.unwrap();
    for (robbed, _) in pair.each() {
        let view = keeper.view().unwrap();
        for key in [view.live().event().public_key, view.next().unwrap()] {
            robbed.steal(&key);
        }
        keeper.probe().await.unwrap();
        keeper.close().await.unwrap();
        keeper = pair.start().await.unwrap();
        pair.check(&keeper, 1).await;
    }
}

#[tokio::test]
async fn nothing_is_destroyed_while_a_token_is_silent() {
    let pair = Pair::new();
    let keeper = pair.start().await.unwrap();
    keeper.close().await.unwrap();
    let ids = hsmd::token::backend::KeyIds::default();
    for device in [&pair.first, &pair.second] {
        device.add_key(ids.of(0), false);
        device.add_half(ids.of(1));
    }
    for lost in [&pair.first, &pair.second] {
        lost.lose();
        let keeper = pair.start().await.unwrap();
        assert_eq!([pair.first.objects(), pair.second.objects()], [7, 7]);
        keeper.close().await.unwrap();
        lost.heal();
    }
    let keeper = pair.start().await.unwrap();
    pair.check(&keeper, 1).await;
}

#[tokio::test]
async fn a_key_that_is_on_neither_token_is_missed_only_if_both_answer() {
    let pair = Pair::new();
    let keeper = pair.start().await.unwrap();
    let next = keeper.view().unwrap().next().unwrap();
    keeper.close().await.unwrap();
    pair.first.steal(&next);
    pair.second.steal(&next);
    // Endorsements go on, and there is no next generation.
    let keeper = pair.start().await.unwrap();
    assert_eq!(keeper.chain_state(), State::NextKeyLost { newest: 0 });
    keeper.close().await.unwrap();
    pair.first.lose();
    // A silent token may have it: the next generation waits.
    let keeper = pair.start().await.unwrap();
    keeper.probe().await.unwrap();
    let error = keeper.advance(ROTATE).await.unwrap_err();
    assert!(matches!(error, Error::State(State::NextKeySilent(_))), "{error:?}");
    keeper.close().await.unwrap();
    pair.second.lose();
    assert!(matches!(pair.start().await, Err(Error::Hsm(_))));
}
