//! Two tokens, and a ledger or a token that is not the one it should be: nothing is destroyed or signed that could
//! fork the chain, or be another's.

use hsmd::{
    chain::{Brought, Error, State, Unfinished},
    token::backend::KeyIds,
};
use sea_orm::{ConnectionTrait as _, Database};

use super::tokens::{Pair, ROTATE, TAINT, brought, published};
use crate::support::memory::Device;

/// Changes the ledger behind the back of the process that has it open.
async fn change(pair: &Pair, statement: &str) {
    let url = format!("sqlite://{}", pair.ledger_file().display());
    let database = Database::connect(&url).await.unwrap();
    database.execute_unprepared(statement).await.unwrap();
    database.close().await.unwrap();
}

#[tokio::test]
async fn another_chains_token_in_the_second_place_is_left_alone() {
    for first in [Device::default(), Device::with_unique_ids()] {
        let pair = Pair::of(first.clone(), first.apart());
        let keeper = pair.start_alone().await.unwrap();
        for _ in 0..5 {
            keeper.advance(ROTATE).await.unwrap();
        }
        keeper.close().await.unwrap();
        // Another chain's live and next keys, of the same generations as ours or of earlier ones.
        let ids = KeyIds::default();
        for generation in [2, 3, 5, 6, 7] {
            pair.second.add_key(ids.of(generation), false);
        }
        change(&pair, "UPDATE state SET key_intent = 7").await;
        let theirs = pair.second.keys();
        let keeper = pair.start().await.unwrap();
        for events in 7..10 {
            keeper.advance(ROTATE).await.unwrap();
            keeper.probe().await.unwrap();
            pair.check_chain(&keeper, events).await;
            Pair::check_keys(&keeper, &pair.first);
            assert_eq!(pair.second.keys(), theirs);
        }
    }
}

/// A first start that was interrupted destroys what it had made, and not what is on a token that was put in since.
#[tokio::test]
async fn a_first_start_destroys_no_other_chains_keys() {
    let pair = Pair::new();
    pair.start().await.unwrap().close().await.unwrap();
    change(&pair, "DELETE FROM events").await;
    pair.second.add_key(KeyIds::default().of(8), false);
    assert!(matches!(pair.start().await, Err(Error::State(State::LedgerEmpty))));
    assert_eq!([pair.first.objects(), pair.second.objects()], [4, 6]);
}

#[tokio::test]
async fn a_ledger_that_goes_backwards_is_noticed() {
    let pair = Pair::new();
    let keeper = pair.start().await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    let chain = brought(&keeper);
    // As when PostgreSQL goes on with a replica that lacks the newest event; and just then the token is silent
    // whose key the event before names.
    change(&pair, "DELETE FROM events WHERE sequence_number = 2").await;
    for lost in [&pair.first, &pair.second] {
        lost.lose();
        keeper.tokens().ask_silent().await;
        for advance in [ROTATE, TAINT] {
            assert!(keeper.probe().await.is_err());
            let error = keeper.advance(advance).await.unwrap_err();
            assert!(matches!(error, Error::State(State::LedgerExchanged(_))), "{error:?}");
        }
        lost.heal();
        keeper.tokens().ask_silent().await;
    }
    keeper.recover(chain, Unfinished::Refuse).await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    pair.check(&keeper, 4).await;
}

/// Either token alone tells that a ledger was restored from before a rotation.
#[tokio::test]
async fn a_restored_ledger_is_noticed_by_either_token() {
    let pair = Pair::new();
    let keeper = pair.start().await.unwrap();
    let old_chain = brought(&keeper);
    keeper.close().await.unwrap();
    let old = pair.folder.path().join("old.db");
    std::fs::copy(pair.ledger_file(), &old).unwrap();
    let keeper = pair.start().await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    let chain = published(&keeper);
    keeper.close().await.unwrap();
    let kept = [pair.first.keys(), pair.second.keys()];
    for (lost, _) in pair.each() {
        std::fs::copy(&old, pair.ledger_file()).unwrap();
        lost.lose();
        let keeper = pair.start_behind().await;
        for advance in [ROTATE, TAINT] {
            assert!(matches!(keeper.advance(advance).await, Err(Error::State(State::LedgerBehind { .. }))));
        }
        assert_eq!([pair.first.keys(), pair.second.keys()], kept);
        // The newest chain cures it, with the one token.
        let newest = Brought::parse(chain.as_bytes()).unwrap();
        keeper.recover(newest, Unfinished::Refuse).await.unwrap();
        keeper.probe().await.unwrap();
        keeper.close().await.unwrap();
        lost.heal();
    }
    std::fs::copy(&old, pair.ledger_file()).unwrap();
    let keeper = pair.start_behind().await;
    assert!(keeper.recover(old_chain, Unfinished::Refuse).await.is_err());
    keeper.recover(Brought::parse(chain.as_bytes()).unwrap(), Unfinished::Refuse).await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    pair.check(&keeper, 3).await;
}
