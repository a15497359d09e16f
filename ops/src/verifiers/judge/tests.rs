//! Who counts and who lags, over the states in which the directory can be.

use keychain::SigningKey;
use keychain::acknowledgement::{Applied, Budget, BudgetEnd, NewAcknowledgement};
use keychain::chain::{self, Settings};
use keychain::endorsement::{self, Endorsement, SignRequest};
use keychain::statement::{Entries, Head, NewHead};

use super::*;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000)
}

/// A chain of generations 1, 2, …, the last by a taint where that is asked for.
fn chain(generations: u8, taint: bool) -> Chain {
    let next = |number: u8| key(number + 1).public_key().digest();
    let seal = |draft: chain::Draft, number: u8| {
        let signature = key(number).sign(draft.payload().as_bytes()).unwrap();
        draft.seal(&signature).unwrap()
    };
    let mut events = vec![seal(chain::Draft::first(&key(1).public_key(), &next(1), at(0)), 1)];
    for number in 2..=generations {
        let (public_key, previous) = (key(number).public_key(), events.last().unwrap().event().clone());
        let created = at(i64::from(number));
        let is_tainting = taint && number == generations;
        let draft = chain::Draft::next(&previous, &public_key, &next(number), created, is_tainting);
        events.push(seal(draft, number));
    }
    let mut chain = Chain::new(events[0].id(), Settings::default());
    chain.merge(events, at(100));
    chain
}

/// The same with a head heard.
fn stating(mut chain: Chain, number: u64, entries: &Entries) -> Chain {
    let event = chain.head().unwrap().event().clone();
    let signer = key(u8::try_from(event.sequence_number + 1).unwrap());
    let (issued_at, expiration) = (at(100), at(10_000));
    let head = NewHead { event: &event, number, issued_at, expiration, entries, audit: None };
    let draft = head.draft().unwrap();
    let head = Head::parse(&draft.seal(&signer.sign(draft.body().as_bytes()).unwrap())).unwrap();
    let proven = head.verify(&chain.clone(), windows::AUTHD, at(100)).map(|_| ());
    proven.unwrap();
    let judged = chain.clone();
    chain.hear(&head.verify(&judged, windows::AUTHD, at(100)).unwrap(), at(100));
    chain
}

fn endorse(chain: &Chain, service: &str, purpose: Purpose, owner: u8, number: u64) -> Endorsement {
    let event = chain.head().unwrap().event();
    let signer = key(u8::try_from(event.sequence_number + 1).unwrap());
    let request = SignRequest { purpose, public_key: key(owner).public_key(), expiration: at(5_000) };
    let draft = endorsement::Draft::numbered(&request, service, number, &chain.prefix(), &event.id);
    Endorsement::parse(&draft.seal(&signer.sign(draft.body().as_bytes()).unwrap())).unwrap()
}

fn acknowledge(chain: &Chain, service: &str, instance: &str, endorsements: &[&Endorsement]) -> String {
    acknowledge_feed(chain, (service, instance), None, endorsements)
}

fn acknowledge_feed(
    chain: &Chain,
    (service, instance): (&str, &str),
    feed: Option<Applied>,
    endorsements: &[&Endorsement],
) -> String {
    let instance = Instance::parse(instance).unwrap();
    let new = NewAcknowledgement {
        service,
        instance: &instance,
        head: chain.newest_head().unwrap(),
        feed,
        issued_at: at(100),
        budget: Budget { until: at(500), ended_by: BudgetEnd::ResponseKey },
        version: "1",
        endorsements,
    };
    new.sign(&key(50)).unwrap()
}

fn expected(service: &str, purposes: &[Purpose]) -> Expected {
    Expected {
        service: service.to_owned(),
        instance: Instance::only(),
        purposes: purposes.iter().copied().collect(),
        closed: false,
    }
}

fn goal(chain: &Chain) -> Goal {
    let mut goal = Goal::next_head();
    goal.note(chain.newest_head().unwrap());
    goal
}

fn word(row: &Row) -> &'static str {
    match row.verdict {
        Verdict::Acknowledged => "acknowledged",
        Verdict::Closed => "closed",
        Verdict::DeadKey(_) => "dead key",
        Verdict::Lagging(_) => "lagging",
        Verdict::Unheard => "unheard",
        Verdict::Unproven(_) => "unproven",
    }
}

#[test]
fn who_counts_and_who_lags() {
    let shop = expected("edge:shop", &[Purpose::Response]);
    let before = stating(chain(1, false), 1, &Entries::default());
    let own = endorse(&before, "edge:shop", Purpose::Response, 50, 7);
    let of_before = acknowledge(&before, "edge:shop", "main", &[&own]);
    let other = endorse(&before, "edge:other", Purpose::Response, 50, 7);

    let later = stating(before.clone(), 2, &Entries::default());
    let of_later = acknowledge(&later, "edge:shop", "main", &[&own]);

    let mut revoked = Entries::default();
    revoked.keys.insert(key(50).public_key().name(), at(1_000));
    let revoking = stating(before.clone(), 2, &revoked);
    let of_revoked = acknowledge(&revoking, "edge:shop", "main", &[&own]);

    let rotated = stating(chain(2, false), 1, &Entries::default());
    let of_rotated_old_key = acknowledge(&rotated, "edge:shop", "main", &[&own]);
    let tainted = stating(chain(2, true), 1, &Entries::default());
    let of_tainted_old_key = acknowledge(&tainted, "edge:shop", "main", &[&own]);
    let new = endorse(&tainted, "edge:shop", Purpose::Response, 50, 8);
    let of_tainted = acknowledge(&tainted, "edge:shop", "main", &[&new]);

    // Another body with the same number: nobody had it.
    let forked = stating(before.clone(), 2, &revoked);
    for (case, text, chain, verdict) in [
        ("the head", Some(of_later.clone()), &later, "acknowledged"),
        ("nothing", None, &later, "unheard"),
        ("junk", Some("junk".to_owned()), &later, "unproven"),
        ("a replay of the head before", Some(of_before.clone()), &later, "lagging"),
        ("another body of the same number", Some(of_later.clone()), &forked, "dead key"),
        ("a key that the head revokes", Some(of_revoked), &revoking, "dead key"),
        ("an older generation after a rotation", Some(of_rotated_old_key), &rotated, "acknowledged"),
        ("an older generation after a taint", Some(of_tainted_old_key), &tainted, "dead key"),
        ("a replay from before the taint", Some(of_before.clone()), &tainted, "dead key"),
        ("the new generation after a taint", Some(of_tainted), &tainted, "acknowledged"),
        ("another service's", Some(acknowledge(&later, "edge:other", "main", &[&other])), &later, "unproven"),
        (
            "in the name of this one",
            Some(acknowledge(&later, "edge:shop", "main", &[&other])),
            &later,
            "unproven",
        ),
        ("another instance's", Some(acknowledge(&later, "edge:shop", "b", &[&own])), &later, "unproven"),
    ] {
        let row = judge(&shop, text.as_deref(), &goal(chain), chain, at(110));
        assert_eq!(word(&row), verdict, "{case}: {:?}", row.verdict);
        assert_eq!(row.silent_for, None, "{case}");
    }
}

#[test]
fn a_service_with_two_kinds_of_keys_names_both() {
    let chain = stating(chain(1, false), 1, &Entries::default());
    let authd = expected("authd", &[Purpose::Access, Purpose::Response]);
    let response = endorse(&chain, "authd", Purpose::Response, 50, 7);
    let access = endorse(&chain, "authd", Purpose::Access, 51, 8);
    for (endorsements, above, verdict) in [
        (vec![&response], 0, "dead key"),
        (vec![&response, &access], 0, "acknowledged"),
        (vec![&response, &access], 6, "acknowledged"),
        (vec![&response, &access], 7, "dead key"),
        (vec![&response, &access], 8, "dead key"),
    ] {
        let text = acknowledge(&chain, "authd", "main", &endorsements);
        let mut goal = Goal::above(vec![("authd".to_owned(), above)]);
        goal.note(chain.newest_head().unwrap());
        assert_eq!(word(&judge(&authd, Some(&text), &goal, &chain, at(110))), verdict, "{above}");
    }
}

/// Silence is told beside the verdict: what was acknowledged stays so, and who is silent may be running.
#[test]
fn silence_is_no_verdict() {
    let chain = stating(chain(1, false), 1, &Entries::default());
    let shop = expected("edge:shop", &[Purpose::Response]);
    let own = endorse(&chain, "edge:shop", Purpose::Response, 50, 7);
    let text = acknowledge(&chain, "edge:shop", "main", &[&own]);
    for (now, silent) in [(90, None), (129, None), (130, Some(30)), (400, Some(300))] {
        let row = judge(&shop, Some(&text), &goal(&chain), &chain, at(now));
        assert_eq!((word(&row), row.silent_for), ("acknowledged", silent.map(Duration::from_secs)), "{now}");
    }
}

#[test]
fn a_revoked_service_is_not_waited_for() {
    let chain = stating(chain(1, false), 1, &Entries::default());
    let closed = Expected { closed: true, ..expected("edge:shop", &[Purpose::Response]) };
    let row = judge(&closed, None, &goal(&chain), &chain, at(110));
    assert!(row.verdict.is_settled() && word(&row) == "closed");
}

/// A ban counts at an edge once that has applied the feed up to the ban's position, whatever head it acknowledges.
#[test]
fn a_position_of_the_feed_counts_for_edges_alone() {
    let applied = |epoch, number| Applied { position: Position { epoch, number }, went_back: false };
    let went_back = |epoch, number| Applied { went_back: true, ..applied(epoch, number) };
    let shop = expected("edge:shop", &[Purpose::Response]);
    let before = stating(chain(1, false), 1, &Entries::default());
    let own = endorse(&before, "edge:shop", Purpose::Response, 50, 7);
    let mut goal = Goal::feed(Position { epoch: 100, number: 7 });
    goal.note_written(Position { epoch: 101, number: 3 });
    let mut revoked = Entries::default();
    revoked.keys.insert(key(50).public_key().name(), at(1_000));
    let later = stating(before.clone(), 2, &Entries::default());
    let revoking = stating(before.clone(), 2, &revoked);
    for (feed, chain, verdict) in [
        (Some(applied(100, 7)), &before, "acknowledged"),
        (Some(applied(100, 8)), &later, "acknowledged"),
        (Some(applied(101, 0)), &before, "acknowledged"),
        (Some(applied(101, 3)), &before, "acknowledged"),
        (Some(applied(101, 4)), &before, "lagging"),
        (Some(applied(102, 0)), &before, "lagging"),
        (Some(applied(100, 6)), &before, "lagging"),
        (Some(applied(99, 900)), &before, "lagging"),
        (None, &before, "lagging"),
        (Some(went_back(100, 9)), &before, "lagging"),
        (Some(went_back(99, 9)), &before, "lagging"),
        (Some(applied(100, 7)), &revoking, "dead key"),
    ] {
        let text = acknowledge_feed(&before, ("edge:shop", "main"), feed, &[&own]);
        assert_eq!(word(&judge(&shop, Some(&text), &goal, chain, at(110))), verdict, "{feed:?}");
    }
    assert!(goal.concerns(&shop) && !goal.concerns(&expected("authd", &[])));
    assert!(
        !goal.concerns(&expected("keysd:dev", &[])) && Goal::next_head().concerns(&expected("authd", &[]))
    );
}
