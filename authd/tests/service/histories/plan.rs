//! What the clients of a history do: all of it follows from one number. When they do it, and so how their requests
//! meet, does not.

use std::time::Duration;

use proptest::bool::weighted;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Devices of a history, by number. The first ones found its accounts.
pub(super) const SLOTS: usize = 4;

/// What happens in one history.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// How many accounts there are.
    pub(super) accounts: usize,
    /// Done by one client before the others begin.
    pub(super) opening: Vec<Deed>,
    /// Done by each of the clients, which share what they know of keys.
    pub(super) clients: Vec<Vec<Step>>,
}

/// One thing that a client does.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) deed: Deed,
    pub(super) road: Road,
    /// Whether it asks the second authd, where there are two.
    pub(super) second: bool,
    pub(super) pause: Duration,
}

/// How a request fares.
#[derive(Clone, Copy, Debug)]
pub(super) enum Road {
    /// Its answer is read.
    Whole,
    /// The connection is cut so long after the request was sent.
    Cut { after: Duration, then: Then },
}

/// What a client does that got no answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// It asks again, as a device does.
    Again,
    /// It goes on as if it had been answered.
    Believe,
    /// It goes on as if it had not asked.
    Forget,
}

/// A device of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who {
    pub(super) slot: usize,
    pub(super) account: usize,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    /// Some earlier request once more, counted back from the newest; or only refreshes are counted.
    Again {
        back: usize,
        refresh: bool,
    },
    Change(Who),
    Create(usize),
    Delete(Who),
    Link {
        by: Who,
        new: usize,
    },
    /// A session, with a challenge of its own or with some earlier one.
    Open {
        who: Who,
        earlier: Option<usize>,
    },
    Order {
        account: usize,
        order: Kind,
    },
    /// By a device that is new, or by one that may be known.
    Recover {
        who: Who,
        fresh: bool,
    },
    /// With the newest session, or with the one before it.
    Refresh {
        who: Who,
        stale: bool,
    },
    /// From the newest keys, or from those before.
    Rotate {
        who: Who,
        stale: bool,
    },
    Unlink {
        by: Who,
        slot: usize,
    },
}

/// What an operator orders.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Ban,
    Delete,
    Grant,
    Restore,
    Revoke(usize),
    RevokeAllBut(usize),
    Unban,
    Withdraw,
}

/// The plan that follows from a number.
pub(super) fn of(seed: u64) -> Plan {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (1..=2_usize).prop_flat_map(plan).new_tree(&mut runner).unwrap().current()
}

fn plan(accounts: usize) -> impl Strategy<Value = Plan> {
    let clients = vec(vec(step(accounts), 2..=4), 3..=6);
    (opening(accounts), clients).prop_map(move |(opening, clients)| Plan { accounts, opening, clients })
}

/// Most often there are accounts, further devices and sessions to begin with.
fn opening(accounts: usize) -> impl Strategy<Value = Vec<Deed>> {
    let founders = vec(weighted(0.95), accounts);
    (founders, weighted(0.6), vec(weighted(0.8), SLOTS)).prop_map(move |(founders, link, sessions)| {
        let known = |place: &usize| founders.get(*place).copied().unwrap_or(link && *place == 2);
        let home = |slot: usize| Who { slot, account: slot % accounts };
        let mut deeds: Vec<_> = (0..accounts).filter(known).map(Deed::Create).collect();
        if link {
            deeds.push(Deed::Link { by: home(0), new: 2 });
        }
        let with_session = (0..SLOTS).filter(known).filter(|slot| sessions[*slot]);
        deeds.extend(with_session.map(|slot| Deed::Open { who: home(slot), earlier: None }));
        deeds
    })
}

fn step(accounts: usize) -> impl Strategy<Value = Step> {
    let pause = prop_oneof![2 => Just(0_u64), 1 => 0..4_u64].prop_map(Duration::from_millis);
    (deed(accounts), road(), any::<bool>(), pause).prop_map(|(deed, road, second, pause)| Step {
        deed,
        road,
        second,
        pause,
    })
}

fn road() -> impl Strategy<Value = Road> {
    let then = prop_oneof![4 => Just(Then::Again), 1 => Just(Then::Believe), 1 => Just(Then::Forget)];
    // Some are cut before authd has read them, most while it works, some after it has answered.
    let after = prop_oneof![0..500_u64, 0..8_000_u64, 0..40_000_u64].prop_map(Duration::from_micros);
    prop_oneof![
        5 => Just(Road::Whole),
        1 => (after, then).prop_map(|(after, then)| Road::Cut { after, then }),
    ]
}

fn deed(accounts: usize) -> impl Strategy<Value = Deed> {
    prop_oneof![
        9 => of_device(accounts),
        9 => of_session(accounts),
        5 => of_account(accounts),
        4 => (0..6_usize, weighted(0.4)).prop_map(|(back, refresh)| Deed::Again { back, refresh }),
        3 => (0..accounts, kind()).prop_map(|(account, order)| Deed::Order { account, order }),
    ]
}

fn of_device(accounts: usize) -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (who(accounts), weighted(0.15)).prop_map(|(who, stale)| Deed::Rotate { who, stale }),
        4 => (who(accounts), 0..SLOTS).prop_map(|(by, new)| Deed::Link { by, new }),
        3 => (who(accounts), 0..SLOTS).prop_map(|(by, slot)| Deed::Unlink { by, slot }),
        2 => who(accounts).prop_map(Deed::Change),
    ]
}

fn of_session(accounts: usize) -> impl Strategy<Value = Deed> {
    let earlier = prop_oneof![4 => Just(None), 1 => (0..3_usize).prop_map(Some)];
    prop_oneof![
        2 => (who(accounts), earlier).prop_map(|(who, earlier)| Deed::Open { who, earlier }),
        4 => (who(accounts), weighted(0.2)).prop_map(|(who, stale)| Deed::Refresh { who, stale }),
    ]
}

fn of_account(accounts: usize) -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => (0..accounts).prop_map(Deed::Create),
        3 => (who(accounts), weighted(0.7)).prop_map(|(who, fresh)| Deed::Recover { who, fresh }),
        1 => who(accounts).prop_map(Deed::Delete),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        1 => Just(Kind::Ban),
        2 => Just(Kind::Unban),
        1 => Just(Kind::Delete),
        2 => Just(Kind::Restore),
        1 => (0..SLOTS).prop_map(Kind::Revoke),
        1 => (0..SLOTS).prop_map(Kind::RevokeAllBut),
        2 => Just(Kind::Grant),
        1 => Just(Kind::Withdraw),
    ]
}

/// Most often a device of the account that it begins with. Some devices are asked for more: requests are to meet.
fn who(accounts: usize) -> impl Strategy<Value = Who> {
    let slot = prop_oneof![3 => Just(0_usize), 1 => Just(1), 2 => Just(2), 1 => 3..SLOTS];
    (slot, weighted(0.12))
        .prop_map(move |(slot, abroad)| Who { slot, account: (slot + usize::from(abroad)) % accounts })
}
