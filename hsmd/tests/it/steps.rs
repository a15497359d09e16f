//! Death and failure at every call of the HSM, before and after its effect, one after the other: whatever
//! was begun is finished or undone by the next start, and the chain is valid, alive and un-forked.
//!
//! Dying after the signature of an event and before its commit is the call after which the process dies;
//! dying after the commit is the call that destroys the key that was left.

use std::{path::Path, sync::Arc, time::Duration};

use hsmd::{
    chain::{Advance, Advanced, Brought, Error, Keeper, State, Unfinished},
    clock::{System, TrustedClock},
    ledger,
    token::backend::KeyIds,
    token::signer::Signer,
};
use keychain::chain::verify_whole;

use crate::support::{
    self,
    memory::{Device, Plan},
    world::now,
};

const ROTATE: Advance = Advance { from: None, taint: false };
const TAINT: Advance = Advance { from: None, taint: true };

/// More calls than the whole script makes; reached only if the plan never ends.
const CALLS_MAX: u64 = 100;

pub struct Fixture {
    folder: tempfile::TempDir,
    pub device: Device,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(Device::default())
    }

    pub fn with(device: Device) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), device }
    }

    pub fn ledger_file(&self) -> std::path::PathBuf {
        self.folder.path().join("ledger.db")
    }

    pub async fn start(&self) -> Result<Arc<Keeper>, Error> {
        self.start_on(&self.device, &self.ledger_file()).await
    }

    /// A keeper that has not read anything yet.
    pub async fn unstarted(&self) -> Keeper {
        let (signer, _) = Signer::start(Box::new(self.device.connect())).unwrap();
        let ledger = support::ledger::open(&self.ledger_file()).await.unwrap();
        Keeper::new(ledger, signer, TrustedClock::new(Box::new(System::start())), KeyIds::default())
    }

    async fn start_on(&self, device: &Device, ledger: &Path) -> Result<Arc<Keeper>, Error> {
        let clock = TrustedClock::new(Box::new(System::start()));
        start(device, ledger, clock, KeyIds::default()).await
    }

    /// With a clock and key ids of the test's own.
    pub async fn start_as(&self, clock: TrustedClock, key_ids: KeyIds) -> Result<Arc<Keeper>, Error> {
        start(&self.device, &self.ledger_file(), clock, key_ids).await
    }

    /// Every rule of the chain, and the keys on the token: live and next, nothing else.
    pub async fn check(&self, keeper: &Keeper, events: usize) {
        let view = keeper.settled().unwrap();
        let ledger = support::ledger::read(&self.ledger_file()).await;
        let chain = ledger.contents(&[]).await.unwrap().events;
        verify_whole(&chain, &view.prefix(), now(), Duration::ZERO).unwrap();
        assert_eq!(chain.len(), events);
        assert_eq!(chain.last().unwrap().id(), view.live().id());
        let mut keys = self.device.keys();
        keys.sort_unstable();
        let mut wanted = [view.live().event().public_key, view.next().unwrap()];
        wanted.sort_unstable();
        assert_eq!(keys, wanted);
        assert_eq!(self.device.objects(), 4);
        assert_eq!(view.live().event().rotation_hash, view.next().unwrap().digest());
    }
}

async fn start(
    device: &Device,
    ledger: &Path,
    clock: TrustedClock,
    key_ids: KeyIds,
) -> Result<Arc<Keeper>, Error> {
    let (signer, _) = Signer::start(Box::new(device.connect())).unwrap();
    let ledger = support::ledger::open(ledger).await?;
    Ok(Arc::new(Keeper::start(ledger, signer, clock, key_ids).await?))
}

/// Devices of both kinds, and whether a call that fails has its effect.
fn devices() -> impl Iterator<Item = (fn() -> Device, bool)> {
    let kinds: [fn() -> Device; 2] = [Device::default, Device::with_unique_ids];
    kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)])
}

/// First start, rotation, taint; what was answered before something failed.
async fn script(fixture: &Fixture) -> Result<Vec<Advanced>, Error> {
    let keeper = fixture.start().await?;
    let mut done = Vec::new();
    for advance in [ROTATE, TAINT] {
        match keeper.advance(advance).await {
            Ok(advanced) => done.push(advanced),
            Err(_) => break,
        }
    }
    drop(keeper.close().await);
    Ok(done)
}

#[tokio::test]
async fn death_at_every_call() {
    for (device, after_effect) in devices() {
        let mut deaths = 0;
        for at in 0..CALLS_MAX {
            let fixture = Fixture::with(device());
            fixture.device.plan(Plan { at, after_effect, fatal: true });
            let answered = script(&fixture).await.unwrap_or_default();
            if !fixture.device.heal() {
                break;
            }
            deaths += 1;
            let keeper = fixture.start().await.unwrap();
            let view = keeper.settled().unwrap();
            for advanced in &answered {
                assert!(view.find(&advanced.new_generation).is_some(), "an answered rotation stands");
            }
            let events = usize::try_from(view.live().event().sequence_number).unwrap() + 1;
            assert!(events > answered.len(), "{events} {answered:?}");
            fixture.check(&keeper, events).await;
            keeper.advance(ROTATE).await.unwrap();
            keeper.probe().await.unwrap();
            fixture.check(&keeper, events + 1).await;
        }
        assert!((10..CALLS_MAX).contains(&deaths), "{deaths}");
    }
}

#[tokio::test]
async fn one_failure_at_every_call_is_survived() {
    for (device, after_effect) in devices() {
        let mut failures = 0;
        for at in 0..CALLS_MAX {
            let fixture = Fixture::with(device());
            fixture.device.plan(Plan { at, after_effect, fatal: false });
            let answered = script(&fixture).await.unwrap();
            if !fixture.device.heal() {
                break;
            }
            failures += 1;
            assert_eq!(answered.len(), 2, "call {at}");
            assert_eq!(answered[0].new_generation, answered[1].left);
            let keeper = fixture.start().await.unwrap();
            fixture.check(&keeper, 3).await;
        }
        assert!((10..CALLS_MAX).contains(&failures), "{failures}");
    }
}

/// A failure during a rotation leaves no key behind even without a restart.
#[tokio::test]
async fn what_a_failure_made_twice_is_cleared_away_at_once() {
    for device in [Device::default, Device::with_unique_ids] {
        clears_away(device).await;
    }
}

async fn clears_away(device: fn() -> Device) {
    for at in 0..CALLS_MAX {
        let fixture = Fixture::with(device());
        let keeper = fixture.start().await.unwrap();
        fixture.device.plan(Plan { at, after_effect: true, fatal: false });
        keeper.advance(ROTATE).await.unwrap();
        if !fixture.device.heal() {
            assert!(at >= 3, "a rotation generates, signs and destroys");
            return;
        }
        fixture.check(&keeper, 2).await;
    }
    panic!("a rotation never ended");
}

/// A rotation that fails for good changes nothing, and the next one works.
#[tokio::test]
async fn a_failed_rotation_leaves_the_generation_in_use() {
    let fixture = Fixture::new();
    let keeper = fixture.start().await.unwrap();
    fixture.device.plan(Plan { at: 0, after_effect: false, fatal: true });
    let error = keeper.advance(ROTATE).await.unwrap_err();
    assert!(matches!(error, Error::Hsm(_)), "{error}");
    assert!(keeper.probe().await.is_err());
    assert!(keeper.view().is_none(), "nothing is trusted until it is looked at");
    fixture.device.heal();
    keeper.probe().await.unwrap();
    fixture.check(&keeper, 1).await;
    keeper.advance(TAINT).await.unwrap();
    fixture.check(&keeper, 2).await;
}

#[tokio::test]
async fn halves_of_keys_are_cleared_away_where_a_step_explains_them() {
    let ids = KeyIds::default();
    for (id, explained) in
        [(ids.of(0), true), (ids.of(1), true), (ids.of(2), true), (ids.of(3), true), (ids.of(4), false)]
    {
        let fixture = Fixture::new();
        let keeper = fixture.start().await.unwrap();
        keeper.advance(ROTATE).await.unwrap();
        // A rotation that dies making the key after the next leaves its intent.
        fixture.device.plan(Plan { at: 0, after_effect: false, fatal: true });
        keeper.advance(ROTATE).await.unwrap_err();
        fixture.device.heal();
        fixture.device.add_half(id);
        keeper.close().await.unwrap();
        let started = fixture.start().await;
        assert_eq!(started.is_ok(), explained, "{id}");
        match started {
            Ok(keeper) => fixture.check(&keeper, 2).await,
            Err(error) => {
                assert!(matches!(error, Error::State(State::LedgerBehind { .. })), "{error}");
                assert_eq!(fixture.device.objects(), 5, "nothing was destroyed");
            }
        }
    }
}

/// A ledger brought back from before the newest rotation, with the key that was left still there: nothing
/// on the token may be touched, although both keys that the ledger names are on it.
#[tokio::test]
async fn a_ledger_older_than_its_token_destroys_nothing() {
    let fixture = Fixture::new();
    let keeper = fixture.start().await.unwrap();
    keeper.close().await.unwrap();
    let old = fixture.folder.path().join("old.db");
    std::fs::copy(fixture.ledger_file(), &old).unwrap();
    let keeper = fixture.start().await.unwrap();
    // Dies after the commit, before the key that was left is destroyed.
    fixture.device.plan(Plan { at: 2, after_effect: false, fatal: true });
    keeper.advance(ROTATE).await.unwrap();
    fixture.device.heal();
    assert_eq!(fixture.device.objects(), 6);
    keeper.close().await.unwrap();
    let error = fixture.start_on(&fixture.device, &old).await.err().unwrap();
    assert!(error.to_string().contains("older than its token"), "{error}");
    assert_eq!(fixture.device.objects(), 6);
    let keeper = fixture.start().await.unwrap();
    fixture.check(&keeper, 2).await;
}

/// Several keepers on one ledger and one token, as several hsmd would be: one writes, and another takes over when it
/// ends. Nothing that a standby does reaches ledger or token.
#[tokio::test]
async fn of_several_keepers_one_writes_until_it_ends() {
    let fixture = Arc::new(Fixture::new());
    let mut keepers = vec![fixture.start().await.unwrap()];
    for _ in 1..3 {
        let (signer, _) = Signer::start(Box::new(fixture.device.connect())).unwrap();
        let ledger = support::ledger::read(&fixture.ledger_file()).await;
        let clock = TrustedClock::new(Box::new(System::start()));
        let standby = Keeper::new(ledger, signer, clock, KeyIds::default());
        standby.check().await.unwrap();
        assert_eq!(standby.chain_state().label(), "standby");
        keepers.push(Arc::new(standby));
    }
    let mut events = 1;
    while let Some(writer) = keepers.first().cloned() {
        for _ in 0..5 {
            for standby in &keepers[1..] {
                let error = standby.advance(ROTATE).await.unwrap_err();
                let standby = matches!(error, Error::State(State::Standby { .. }));
                assert!(standby, "{error:?}");
            }
            writer.advance(ROTATE).await.unwrap();
            events += 1;
            for standby in &keepers[1..] {
                standby.check().await.unwrap();
                let newest = standby.seen().unwrap().live().id();
                assert_eq!(newest, writer.view().unwrap().live().id(), "it serves the chain");
            }
        }
        fixture.check(&writer, events).await;
        writer.close().await.unwrap();
        keepers.remove(0);
        if let Some(next) = keepers.first() {
            let mut condition = next.ledger().condition();
            condition.wait_for(|condition| *condition == ledger::Condition::Writing).await.unwrap();
            next.probe().await.unwrap();
        }
    }
}

/// A key that vanishes from the token while hsmd runs is no passing fault: the state names it, and the next key, which
/// is all that an event needs, goes on.
#[tokio::test]
async fn a_live_key_that_vanishes_is_left_by_a_rotation_or_a_taint() {
    for advance in [ROTATE, TAINT] {
        let fixture = Fixture::new();
        let keeper = fixture.start().await.unwrap();
        fixture.device.steal(&keeper.view().unwrap().live().event().public_key);
        let error = keeper.probe().await.unwrap_err();
        assert!(matches!(error, Error::Hsm(_)), "{error}");
        let error = keeper.probe().await.unwrap_err();
        assert!(matches!(error, Error::State(State::LiveKeyLost { newest: 0 })), "{error}");
        assert!(keeper.view().is_none() && keeper.seen().is_some());
        keeper.advance(advance).await.unwrap();
        keeper.probe().await.unwrap();
        fixture.check(&keeper, 2).await;
    }
}

/// The same noticed by a start: the ledger may be older than it looks, so that an operator has to say that it is not.
#[tokio::test]
async fn a_live_key_that_is_missing_at_start_is_an_operators_to_judge() {
    let fixture = Fixture::new();
    let keeper = fixture.start().await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    let chain = keeper.view().unwrap().published_from(0);
    fixture.device.steal(&keeper.view().unwrap().live().event().public_key);
    drop(keeper.close().await);
    let keeper = Arc::new(fixture.unstarted().await);
    keeper.check().await.unwrap();
    assert_eq!(keeper.chain_state(), State::LiveKeyMissing { newest: 1, silent: None });
    for advance in [ROTATE, TAINT] {
        let error = keeper.advance(advance).await.unwrap_err();
        assert!(matches!(error, Error::State(State::LiveKeyMissing { .. })), "{error}");
    }
    let brought = || Brought::parse(chain.as_bytes()).unwrap();
    let error = keeper.recover(brought(), Unfinished::Refuse).await.unwrap_err();
    assert!(matches!(error, Error::Unrecoverable(_)), "{error}");
    let recovered = keeper.recover(brought(), Unfinished::LiveKeyLost).await.unwrap();
    assert_eq!((recovered.state, recovered.imported), ("live-key-lost", 0));
    keeper.advance(TAINT).await.unwrap();
    keeper.probe().await.unwrap();
    fixture.check(&keeper, 3).await;
}

/// A ledger restored from before an event, which meant to make the key that the event commits to: the token holds that
/// key and the live one. To go on would fork the chain, and nothing may be destroyed.
#[tokio::test]
async fn a_restored_ledger_that_meant_to_make_the_key_forks_nothing() {
    let fixture = Fixture::new();
    let keeper = fixture.start().await.unwrap();
    // An attempt in vain leaves its intent.
    fixture.device.plan(Plan { at: 0, after_effect: false, fatal: true });
    keeper.advance(ROTATE).await.unwrap_err();
    fixture.device.heal();
    keeper.close().await.unwrap();
    let old = fixture.folder.path().join("old.db");
    std::fs::copy(fixture.ledger_file(), &old).unwrap();
    let keeper = fixture.start().await.unwrap();
    keeper.advance(ROTATE).await.unwrap();
    let chain = keeper.view().unwrap().published_from(0);
    drop(keeper.close().await);
    let keys = fixture.device.keys();
    std::fs::copy(&old, fixture.ledger_file()).unwrap();
    let keeper = Arc::new(fixture.unstarted().await);
    keeper.check().await.unwrap();
    assert_eq!(keeper.chain_state().label(), "ledger-behind");
    assert!(keeper.advance(ROTATE).await.is_err() && keeper.advance(TAINT).await.is_err());
    assert_eq!(fixture.device.keys(), keys, "nothing was destroyed");
    keeper.recover(Brought::parse(chain.as_bytes()).unwrap(), Unfinished::Refuse).await.unwrap();
    fixture.check(&keeper, 2).await;
}

/// The next key alone cannot be replaced: the newest event commits to it. Endorsements go on.
#[tokio::test]
async fn a_next_key_that_is_lost_ends_the_chain_and_not_the_endorsements() {
    let fixture = Fixture::new();
    let keeper = fixture.start().await.unwrap();
    fixture.device.steal(&keeper.view().unwrap().next().unwrap());
    // Noticed by an attempt.
    keeper.advance(ROTATE).await.unwrap_err();
    check_next_key_lost(&keeper, &fixture).await;
    keeper.close().await.unwrap();
    check_next_key_lost(&Arc::new(fixture.unstarted().await), &fixture).await;
}

async fn check_next_key_lost(keeper: &Arc<Keeper>, fixture: &Fixture) {
    keeper.probe().await.unwrap();
    assert_eq!(keeper.chain_state(), State::NextKeyLost { newest: 0 });
    for advance in [ROTATE, TAINT] {
        let error = keeper.advance(advance).await.unwrap_err();
        assert!(matches!(error, Error::State(State::NextKeyLost { .. })), "{error}");
    }
    assert_eq!(fixture.device.objects(), 2, "nothing is made");
}

/// A chain that was tampered with in the ledger is found at start.
#[tokio::test]
async fn a_tampered_ledger_is_refused() {
    use sea_orm::{ConnectionTrait as _, Database};
    for change in [
        "UPDATE events SET sequence_number = 7 WHERE sequence_number = 1",
        "UPDATE events SET prefix = 'E' WHERE sequence_number = 1",
        "UPDATE events SET published = replace(published, 'Z\"', '0Z\"')",
        "DELETE FROM events WHERE sequence_number = 1",
        "DELETE FROM events WHERE sequence_number = 0",
    ] {
        let fixture = Fixture::new();
        let keeper = fixture.start().await.unwrap();
        keeper.advance(ROTATE).await.unwrap();
        keeper.advance(ROTATE).await.unwrap();
        keeper.close().await.unwrap();
        let url = format!("sqlite://{}", fixture.ledger_file().display());
        let database = Database::connect(&url).await.unwrap();
        database.execute_unprepared(change).await.unwrap();
        database.close().await.unwrap();
        let error = fixture.start().await.err().expect(change);
        let found = matches!(
            error,
            Error::State(State::LedgerCorrupt(_)) | Error::Ledger(ledger::Error::Contradiction { .. })
        );
        assert!(found, "{change}: {error:?}");
        assert_eq!(fixture.device.objects(), 4);
    }
}
