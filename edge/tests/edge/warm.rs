//! A request with a known token is judged from memory alone: counted at the key directory.

use std::time::Duration;

use edge::clock::Clock;
use edge::denials::{self, DenialFeed, Presence};
use edge::gate::Gate;
use edge::health::Dependencies;
use edge::revocations;
use edge::trust::{self, Confirmation, TrustFeed};
use edge::updates::Updates;
use edge::verifier::{Audience, Demand, Settings};
use keychain::directory::Db;
use keychain::endorsement::Purpose;
use keychain::feed::Position;
use keychain::limits;

use crate::support::clock;
use crate::support::feed::Teller;
use crate::support::fixture::{Hsm, Session, key, nonce};
use crate::support::hsm::HsmService;
use crate::support::redis::{Redis, commands};
use crate::support::until;
use crate::support::world::{INNER, ago};

const DEMAND: Demand<'_> = Demand { place: "/foo", permission: Some(("user", "read")) };
const ACCESS: u32 = 100;
const CHECKS: u64 = 1_000;
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn a_known_token_costs_the_directory_no_command() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path()).await;
    let directory = redis.directory();
    let service = HsmService::start(folder.path(), Hsm::new(0, ago(3_600)));
    service.publish(&directory).await;
    let (identity, authd) = (service.hsm.lock().unwrap().prefix(), key(ACCESS));
    let text =
        service.hsm.lock().unwrap().endorse(Purpose::Access, authd.public_key(), clock::now().plus(DAY));
    directory.publish(Db::Access, &authd.public_key(), &text, DAY).await.unwrap();
    let teller = Teller::new(&service.hsm.lock().unwrap(), ACCESS);
    teller.publish_snapshot(&directory, Position { epoch: 1, number: 0 }, &[]).await;

    let updates = Updates::follow(&directory, Dependencies::expect(&[], Clock::system()), HOUR);
    let state = folder.path().join("state");
    let settings = trust::Settings {
        identity,
        clock_skew: limits::CLOCK_SKEW,
        pin: None,
        state: state.clone(),
        head_max_age: Some(trust::HEAD_MAX_AGE),
        keysd: Vec::new(),
    };
    let feed = TrustFeed::start(&directory, &updates, None, &settings).unwrap();
    let settings = denials::Settings { identity, state: state.clone(), presence: Presence::Required };
    let denials = DenialFeed::start(&directory, &updates, feed.clone(), &settings).unwrap();
    let settings =
        Settings { clock_skew: limits::CLOCK_SKEW, audience: Audience::default(), nonce_capacity: 10_000 };
    let demand = Confirmation { max_age: revocations::MAX_AGE, skew: limits::CLOCK_SKEW, has_feed: true };
    let gate = Gate::start(&directory, &updates, feed, denials, demand, settings, &state);
    gate.ready().await;

    let session = Session::open(&authd, 200, ago(1));
    let admit = async |number| {
        let request = session.request(nonce(number), clock::now(), INNER);
        gate.admit(request.as_bytes(), DEMAND).await.unwrap().warm()
    };
    assert!(!admit(0).await, "the token is known only from now on");
    // What is read at the start comes to its end.
    let mut counter = redis.database(0).await;
    let mut before = commands(&mut counter).await;
    until("the directory to be left alone", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = commands(&mut counter).await;
        (std::mem::replace(&mut before, now) == now).then_some(())
    })
    .await;
    for number in 1..=CHECKS {
        assert!(admit(number).await);
    }
    assert_eq!(commands(&mut counter).await, before);
    // The count sees a token whose issuer is not known.
    let stranger = Session::open(&key(101), 201, ago(1)).request(nonce(CHECKS + 1), clock::now(), INNER);
    gate.admit(stranger.as_bytes(), DEMAND).await.unwrap_err();
    assert!(commands(&mut counter).await > before);
}
