//! On which token a key is made, what is believed of a token that is silent, and what is refused.

use hsmd::{
    chain::{Error, Unfinished},
    token::backend::Fault,
};

use super::tokens::{Pair, ROTATE, TAINT, brought};
use crate::support::memory::Device;

#[tokio::test]
async fn live_and_next_take_turns_on_the_tokens() {
    for first in [Device::default(), Device::with_unique_ids()] {
        let pair = Pair::of(first.clone(), first.apart());
        let mut keeper = pair.start().await.unwrap();
        let mut on_first = Vec::new();
        for events in 1..8 {
            pair.check(&keeper, events).await;
            let live = keeper.view().unwrap().live().event().public_key;
            on_first.push(pair.first.keys() == [live]);
            if events == 4 {
                keeper.close().await.unwrap();
                keeper = pair.start().await.unwrap();
            }
            keeper.advance(if events % 3 == 0 { TAINT } else { ROTATE }).await.unwrap();
        }
        assert_eq!(on_first, [true, false, true, false, true, false, true]);
    }
}

#[tokio::test]
async fn a_chain_begins_with_both_tokens_or_not_at_all() {
    let pair = Pair::new();
    for lost in [&pair.first, &pair.second] {
        lost.lose();
        let error = pair.start().await.err().unwrap();
        assert!(matches!(error, Error::FirstNeedsBoth(Fault::Silent { .. })), "{error:?}");
        lost.heal();
        assert_eq!([pair.first.objects(), pair.second.objects()], [0, 0]);
    }
    let keeper = pair.start().await.unwrap();
    pair.check(&keeper, 1).await;
}

#[tokio::test]
async fn a_second_token_joins_with_the_next_rotation() {
    let pair = Pair::new();
    let keeper = pair.start_alone().await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    keeper.close().await.unwrap();
    let keeper = pair.start().await.unwrap();
    pair.check_together(&keeper, &pair.first, 2).await;
    keeper.advance(ROTATE).await.unwrap();
    pair.check(&keeper, 3).await;
    // And one can be given up again, once the next key is on the other.
    keeper.advance(ROTATE).await.unwrap();
    pair.check(&keeper, 4).await;
}

#[tokio::test]
async fn the_loss_of_the_live_keys_token_leaves_a_rotation() {
    for advance in [ROTATE, TAINT] {
        let pair = Pair::new();
        let keeper = pair.start().await.unwrap();
        keeper.advance(ROTATE).await.unwrap();
        let identity = keeper.view().unwrap().prefix();
        let (lost, kept) = pair.devices(&keeper);
        lost.lose();
        let error = keeper.probe().await.unwrap_err();
        assert!(matches!(error, Error::Hsm(_)), "{error:?}");
        keeper.advance(advance).await.unwrap();
        keeper.probe().await.unwrap();
        assert_eq!(keeper.view().unwrap().prefix(), identity);
        pair.check_together(&keeper, kept, 3).await;
        // Further rotations go on with the one.
        keeper.advance(ROTATE).await.unwrap();
        pair.check_together(&keeper, kept, 4).await;
        assert_eq!(lost.objects(), 2, "the key that was left when it was lost");
        // It comes back: what is left on it is destroyed, and the next rotation puts a key there.
        lost.heal();
        keeper.tokens().look().await;
        keeper.probe().await.unwrap();
        assert_eq!(lost.objects(), 0);
        keeper.advance(ROTATE).await.unwrap();
        pair.check(&keeper, 5).await;
    }
}

#[tokio::test]
async fn the_loss_of_the_next_keys_token_leaves_the_endorsements() {
    let pair = Pair::new();
    let keeper = pair.start().await.unwrap();
    let (_, lost) = pair.devices(&keeper);
    lost.lose();
    for restarted in [false, true] {
        if restarted {
            keeper.close().await.unwrap();
        }
        let keeper = if restarted { pair.start().await.unwrap() } else { keeper.clone() };
        keeper.probe().await.unwrap();
        for advance in [ROTATE, TAINT] {
            let error = keeper.advance(advance).await.unwrap_err();
            let told = keychain::Refusal::from(&error);
            assert_eq!(told.context("token"), Some("second"), "{error:?}");
            keeper.probe().await.unwrap();
        }
        assert_eq!(pair.first.objects(), 2, "nothing was left of it");
        assert!(keeper.view().unwrap().next().is_none(), "not believed absent, nor known");
    }
    lost.heal();
    let keeper = pair.start().await.unwrap();
    pair.check(&keeper, 1).await;
    keeper.advance(ROTATE).await.unwrap();
    pair.check(&keeper, 2).await;
}

#[tokio::test]
async fn the_next_keys_token_is_used_again_once_it_answers() {
    let pair = Pair::new();
    pair.start().await.unwrap().close().await.unwrap();
    pair.second.lose();
    let keeper = pair.start().await.unwrap();
    assert!(matches!(keeper.advance(ROTATE).await, Err(Error::NextSilent(_))));
    pair.second.heal();
    assert!(matches!(keeper.advance(ROTATE).await, Err(Error::NextSilent(_))), "nobody has looked yet");
    keeper.tokens().look().await;
    keeper.advance(ROTATE).await.unwrap();
    pair.check(&keeper, 2).await;
}

/// After a restart with the live key's token silent the ledger alone says that the generation is the newest. It
/// may be restored from a backup: then the next key is in truth the live one, and an event by it forks the chain.
#[tokio::test]
async fn a_ledger_that_no_live_key_vouches_for_makes_no_event() {
    let pair = Pair::new();
    let keeper = pair.start().await.unwrap();
    let old_chain = brought(&keeper);
    keeper.close().await.unwrap();
    let old = pair.folder.path().join("old.db");
    std::fs::copy(pair.ledger_file(), &old).unwrap();
    let keeper = pair.start().await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    let chain = brought(&keeper);
    keeper.close().await.unwrap();
    std::fs::copy(&old, pair.ledger_file()).unwrap();
    // The live key is on the second now; the ledger says that it is the next.
    pair.first.lose();
    let keeper = pair.start().await.unwrap();
    assert!(keeper.probe().await.is_err());
    for advance in [ROTATE, TAINT] {
        let error = keeper.advance(advance).await.unwrap_err();
        assert!(
            matches!(&error, Error::Unproven(_)) && error.to_string().contains("opsctl hsm recover"),
            "{error}"
        );
    }
    let error = keeper.recover(old_chain, Unfinished::Refuse).await.map(drop);
    assert!(error.is_ok() && matches!(keeper.advance(ROTATE).await, Err(Error::Unproven(_))));
    // The newest chain is brought: the live key is found, and endorses.
    keeper.recover(chain, Unfinished::Refuse).await.unwrap();
    keeper.probe().await.unwrap();
    assert!(matches!(keeper.advance(ROTATE).await, Err(Error::NextSilent(_))));
    pair.first.heal();
    keeper.tokens().look().await;
    keeper.advance(ROTATE).await.unwrap();
    pair.check(&keeper, 3).await;
}

#[tokio::test]
async fn a_published_chain_vouches_for_the_ledger_in_the_live_keys_stead() {
    let pair = Pair::new();
    let keeper = pair.start().await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    let (lost, kept) = pair.devices(&keeper);
    keeper.close().await.unwrap();
    lost.lose();
    for ledger_lost in [false, true] {
        let keeper = pair.start().await;
        if ledger_lost {
            assert!(matches!(keeper, Err(Error::Behind(_))));
            continue;
        }
        let keeper = keeper.unwrap();
        keeper.recover(brought(&keeper), Unfinished::Discard).await.unwrap();
        keeper.advance(ROTATE).await.unwrap();
        keeper.probe().await.unwrap();
        pair.check_together(&keeper, kept, 3).await;
        keeper.close().await.unwrap();
        std::fs::remove_file(pair.ledger_file()).unwrap();
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
        assert_eq!([pair.first.objects(), pair.second.objects()], [5, 5]);
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
    pair.second.steal(&next);
    assert!(matches!(pair.start().await, Err(Error::Behind(_))));
    pair.first.lose();
    // The one that answers has neither.
    let error = pair.start().await.err().unwrap();
    assert!(matches!(error, Error::Hsm(Fault::Silent { token: "first", .. })), "{error:?}");
    pair.second.lose();
    assert!(matches!(pair.start().await, Err(Error::Hsm(_))));
}
