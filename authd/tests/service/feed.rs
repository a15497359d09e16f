//! The denial feed: what authd signs, in which order, and what it makes of a lost, foreign or restored state.

use std::time::Duration;

use keychain::chain::Chain;
use keychain::directory::Directory;
use keychain::feed::{Cause, Content, Entry, Loading, Message, Place, Position, Standing, State, Taken};
use keychain::{Digest, Timestamp};
use tests::craft::{Device, message, now};
use tests::until;

use crate::macs;
use crate::stage::{Stage, gated};

crate::on_both!(
    a_denial_and_its_lift_are_told_by_place,
    an_emptied_directory_has_the_whole_feed_again,
    a_batch_that_was_deleted_is_in_a_new_snapshot,
    a_kill_between_position_and_directory_loses_nothing,
    one_authd_writes_and_another_goes_on_after_it,
    a_row_that_cannot_be_read_stops_no_other,
    the_newest_declaration_goes_before_a_backlog,
    a_foreign_position_begins_a_new_epoch,
    a_restored_database_un_bans_nobody,
    what_a_restored_database_lacks_is_held_until_an_operator_lifts_it,
    a_store_that_is_behind_writes_nothing_before_an_operators_word,
    a_reset_deletes_the_accounts_and_un_bans_nobody,
    a_new_ban_waits_for_none_of_a_hundred_thousand,
);

const PATIENCE: Duration = Duration::from_secs(20);

/// Reads the feed as an edge does, from nothing.
async fn read(stage: &Stage) -> Option<State> {
    let trust = stage.service().trust.state();
    let (directory, chain) = (&stage.directory, trust.chain());
    let message = Message::parse(&directory.snapshot().await.unwrap()?).unwrap();
    let loading = Loading::begin(message.verify(chain, now()).ok()?)?;
    let texts = directory.chunks(loading.chunks()).await.unwrap();
    let texts: Option<Vec<String>> = texts.into_iter().collect();
    let mut state = loading.finish(&texts?).unwrap();
    while take_next(directory, chain, &mut state).await {}
    Some(state)
}

async fn take_next(directory: &Directory, chain: &Chain, state: &mut State) -> bool {
    let texts = directory.batches(state.position().unwrap().next(), 16).await.unwrap();
    for text in &texts {
        let message = Message::parse(text).unwrap();
        assert_eq!(state.take(message.verify(chain, now()).unwrap()), Taken::Next);
    }
    !texts.is_empty()
}

/// Waits until a new reader finds `wanted`.
pub(crate) async fn reads(stage: &Stage, what: &str, wanted: impl Fn(&State) -> bool) -> State {
    until(what, PATIENCE, || async { read(stage).await.filter(|state| wanted(state)) }).await
}

fn denies(state: &State, who: &Digest) -> bool {
    state.denials().denies(who, now())
}

async fn a_denial_and_its_lift_are_told_by_place(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    assert!(stage.set_banned(&device.identity, true).await);
    let banned = reads(&stage, "the ban", |state| denies(state, &device.identity)).await;
    assert!(denies(&banned, &device.device));
    assert!(stage.set_banned(&device.identity, false).await);
    reads(&stage, "its lift", |state| !denies(state, &device.identity) && !denies(state, &device.device))
        .await;

    let (delete, _, _) = gated(&device, Device::rotate_request);
    stage.auth.post("/account/delete", delete).await.response();
    assert!(stage.set_banned(&device.identity, true).await);
    reads(&stage, "both", |state| state.denials().entries().count() == 3).await;
    assert!(stage.set_banned(&device.identity, false).await);
    let left = reads(&stage, "the lift", |state| !denies(state, &device.identity)).await;
    let left: Vec<Place> = left.denials().entries().map(|entry| entry.place).collect();
    let place = Place { subject: device.device, account: device.identity, cause: Cause::Deletion };
    assert_eq!(left, [place], "the deletion's denial was lifted with the ban's");
}

async fn an_emptied_directory_has_the_whole_feed_again(stage: Stage) {
    let (one, other) = stage.couple().await;
    assert!(stage.set_banned(&one.identity, true).await);
    let before = reads(&stage, "the ban", |state| denies(state, &one.identity)).await;
    stage.redis(0, &["FLUSHALL"]).await;
    let after = reads(&stage, "the feed again", |state| denies(state, &other.device)).await;
    assert!(after.position() >= before.position(), "the feed went back");
    stage.redis(6, &["DEL", "snapshot"]).await;
    stage.redis(0, &["FLUSHDB"]).await; // what makes it look
    reads(&stage, "the snapshot again", |state| denies(state, &other.device)).await;
}

async fn a_batch_that_was_deleted_is_in_a_new_snapshot(stage: Stage) {
    let (one, _) = stage.couple().await;
    reads(&stage, "a first snapshot", |_| true).await;
    assert!(stage.set_banned(&one.identity, true).await);
    let state = reads(&stage, "the ban", |state| denies(state, &one.identity)).await;
    let Position { epoch, number } = state.position().unwrap();
    for number in 0..=number {
        stage.redis(6, &["DEL", &format!("batch:{epoch}:{number}")]).await;
    }
    stage.redis(0, &["FLUSHDB"]).await; // what makes it look
    reads(&stage, "the ban again", |state| denies(state, &one.identity)).await;
}

async fn a_kill_between_position_and_directory_loses_nothing(mut stage: Stage) {
    let device = Device::create(&stage.auth).await;
    reads(&stage, "a first snapshot", |_| true).await;
    // The directory reads, but takes no writes.
    stage.redis(0, &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let (delete, _, _) = gated(&device, Device::rotate_request);
    stage.auth.post("/account/delete", delete).await.response();
    let store = stage.open_store().await;
    until("the position to be given", PATIENCE, || async {
        let (_, entries) = store.feed_state(now()).await.unwrap();
        (!entries.is_empty()).then_some(())
    })
    .await;
    assert!(!denies(&read(&stage).await.unwrap(), &device.device));
    stage.dismiss().await;
    stage.redis(0, &["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    stage.restart().await;
    reads(&stage, "the denial", |state| denies(state, &device.device)).await;
}

async fn one_authd_writes_and_another_goes_on_after_it(mut stage: Stage) {
    if stage.database.starts_with("sqlite") {
        return; // a file belongs to one authd
    }
    let device = Device::create(&stage.auth).await;
    let first = reads(&stage, "a first snapshot", |_| true).await;
    let (_other, auth) = stage.another("other").await;
    let unlinked = Device::create(&auth).await;
    let (delete, _, _) = gated(&unlinked, Device::rotate_request);
    auth.post("/account/delete", delete).await.response();
    let second = reads(&stage, "the other's denial", |state| denies(state, &unlinked.device)).await;
    assert_eq!(second.position().unwrap().epoch, first.position().unwrap().epoch);
    let chain = stage.service().trust.state().chain().clone();
    stage.dismiss().await;
    let (delete, _, _) = gated(&device, Device::rotate_request);
    auth.post("/account/delete", delete).await.response();
    until("the other authd to write the feed", PATIENCE, || async {
        let mut state = second.clone();
        while take_next(&stage.directory, &chain, &mut state).await {}
        denies(&state, &device.device).then_some(())
    })
    .await;
}

async fn a_row_that_cannot_be_read_stops_no_other(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    for (subject, cause) in [("nonsense", "ban"), (device.device.to_string().as_str(), "whim")] {
        let account = Digest::of("account");
        stage
            .execute(&format!(
                "INSERT INTO outbox (subject, account, cause, lifted, expires_at) \
                 VALUES ('{subject}', '{account}', '{cause}', false, NULL)"
            ))
            .await;
    }
    assert!(stage.set_banned(&device.identity, true).await);
    reads(&stage, "the ban", |state| denies(state, &device.identity)).await;
    until("the ban in DB 3", PATIENCE, || async {
        stage.names(3).await.contains(&device.identity.to_string()).then_some(())
    })
    .await;
    assert_eq!(stage.service().store.count_unreadable().await.unwrap(), 2);
    stage.execute("UPDATE outbox SET cause = 'ban' WHERE cause = 'whim'").await;
    stage.give_macs("outbox").await;
    let page = include_str!("../../../ops/RUNBOOK.md");
    let tell = page.split("```sql\n").nth(1).and_then(|rest| rest.split("\n```").next()).unwrap();
    stage.execute(&tell.replace("id = 1", "id = 2")).await;
    let account = Digest::of("account");
    reads(&stage, "the repaired row", |state| {
        state.denials().entries().any(|entry| entry.place.account == account)
    })
    .await;
    assert_eq!(stage.service().store.count_unreadable().await.unwrap(), 1);
}

async fn the_newest_declaration_goes_before_a_backlog(mut stage: Stage) {
    let device = Device::create(&stage.auth).await;
    reads(&stage, "a first snapshot", |_| true).await;
    stage.dismiss().await;
    let store = stage.open_store().await;
    for subject in ["first", "second", "third"] {
        let (subject, account) = (Digest::of(subject), device.identity);
        stage
            .execute(&format!(
                "INSERT INTO outbox (subject, account, cause, lifted, expires_at) \
                 VALUES ('{subject}', '{account}', 'ban', false, NULL)"
            ))
            .await;
    }
    stage.give_macs("outbox").await;
    let lease = store.take_lease("test", now()).await.unwrap().unwrap();
    assert_eq!(store.take_lease("another", now()).await.unwrap(), None);
    let mut told = Vec::new();
    while let Some(batch) = store.next_batch(lease, 1, false, now()).await.unwrap().unwrap() {
        told.extend(batch.entries.iter().map(|entry| entry.place.subject));
    }
    assert_eq!(told, ["third", "second", "first"].map(Digest::of));

    // A holder that wakes up after its time gives no position.
    let later = now().plus(Duration::from_mins(1));
    let newer = store.take_lease("another", later).await.unwrap().unwrap();
    let before = store.feed_position().await.unwrap();
    assert!(store.next_batch(lease, 1, true, now()).await.unwrap().is_err());
    assert!(!store.open_epoch(lease, None, now()).await.unwrap());
    assert_eq!(store.feed_position().await.unwrap(), before);
    let empty = store.next_batch(newer, 1, true, now()).await.unwrap().unwrap().unwrap();
    assert_eq!((empty.position, empty.entries), (before.next(), Vec::<Entry>::new()));
    let far = Position { epoch: before.epoch + 7_000_000_000, number: 5 };
    assert!(store.open_epoch(newer, Some(far), now()).await.unwrap());
    let opened = store.feed_position().await.unwrap();
    assert_eq!(opened, Position { epoch: far.epoch + 1, number: 0 });
}

/// Somebody who holds both keys of authd lifts a ban and denies another: a new epoch undoes both.
async fn a_foreign_position_begins_a_new_epoch(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    assert!(stage.set_banned(&device.identity, true).await);
    let before = reads(&stage, "the ban", |state| denies(state, &device.identity)).await;
    let service = stage.service();
    let (access, response) = (service.access.current(), service.response.current());
    let signers = keychain::feed::Signers {
        access: (access.signing_key(), access.endorsement()),
        response: (response.signing_key(), response.endorsement()),
    };
    let place = Place { subject: device.identity, account: device.identity, cause: Cause::Ban };
    let content = Content::Batch(vec![Entry { place, standing: Standing::Lifted }]);
    let position = Position { number: before.position().unwrap().number + 5, ..before.position().unwrap() };
    let identity = service.trust.state().chain().prefix();
    let issued_at: Timestamp = now();
    let draft = keychain::feed::Draft { identity, position, issued_at, content: &content };
    let forged = draft.seal(signers).unwrap();
    stage.directory.publish_batch(&identity, position, &forged).await.unwrap();
    let after = reads(&stage, "a new epoch", |state| {
        state.position().unwrap().epoch > position.epoch && denies(state, &device.identity)
    })
    .await;
    assert!(after.position() > Some(position));
}

/// The store is put back to before a ban: what was published goes on, until an operator says otherwise.
async fn a_restored_database_un_bans_nobody(mut stage: Stage) {
    let device = Device::create(&stage.auth).await;
    reads(&stage, "a first snapshot", |_| true).await;
    assert!(stage.set_banned(&device.identity, true).await);
    let before = reads(&stage, "the ban", |state| denies(state, &device.identity)).await;
    stage.dismiss().await;
    for table in ["ban_records", "outbox"] {
        stage.execute(&format!("DELETE FROM {table}")).await;
    }
    stage.execute("UPDATE feeds SET position = 0").await;
    stage.give_macs("feeds").await;
    stage.restart().await;
    let epoch = before.position().unwrap().epoch;
    let later = |state: &State| state.position().unwrap().epoch > epoch;
    let after = reads(&stage, "a later epoch", later).await;
    assert!(denies(&after, &device.identity) && denies(&after, &device.device));
    until("the ban in DB 3", PATIENCE, || async {
        stage.names(3).await.contains(&device.identity.to_string()).then_some(())
    })
    .await;
    assert!(!stage.set_banned(&device.identity, false).await, "the store knows of no ban");
    assert!(denies(&read(&stage).await.unwrap(), &device.identity));
    assert!(
        stage.set_banned(&device.identity, true).await && stage.set_banned(&device.identity, false).await
    );
    reads(&stage, "the lift", |state| !denies(state, &device.identity)).await;
}

/// Puts the store back to before every ban; the directory keeps what was published.
async fn put_back(stage: &Stage) {
    for table in ["ban_records", "outbox"] {
        stage.execute(&format!("DELETE FROM {table}")).await;
    }
    stage.execute("UPDATE feeds SET position = 0").await;
    stage.give_macs("feeds").await;
}

async fn shown(stage: &Stage) -> serde_json::Value {
    let answer = stage.admin().get("/feed").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

async fn word(stage: &Stage, path: &str, body: String) -> serde_json::Value {
    let answer = stage.admin().post(path, body).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

async fn what_a_restored_database_lacks_is_held_until_an_operator_lifts_it(mut stage: Stage) {
    let (device, other) = (Device::create(&stage.auth).await, Device::create(&stage.auth).await);
    for who in [&device, &other] {
        assert!(stage.set_banned(&who.identity, true).await);
    }
    reads(&stage, "the bans", |state| denies(state, &other.identity)).await;
    assert_eq!(shown(&stage).await["held"], 0, "what a record says is not held");
    stage.dismiss().await;
    put_back(&stage).await;
    stage.restart().await;
    let held = until("the denials to be held", PATIENCE, || async {
        let page = shown(&stage).await;
        (page["held"] == 4).then_some(page)
    })
    .await;
    let rows = held["denials"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["cause"] == "ban" && row["since"].is_string()), "{held}");
    let last = rows.last().unwrap()["row"].as_i64().unwrap();

    // One account's, then no more than was shown.
    let account = device.identity;
    let body = format!(r#"{{"reason":"a test","upTo":{last},"account":"{account}"}}"#);
    let lifted = word(&stage, "/feed/lift", body).await;
    assert!(lifted["lifted"] == 2 && lifted["feed"]["position"].is_u64(), "{lifted}");
    let after = reads(&stage, "the lift", |state| !denies(state, &device.device)).await;
    assert!(denies(&after, &other.identity) && denies(&after, &other.device));
    let none = word(&stage, "/feed/lift", r#"{"reason":"a test","upTo":0}"#.to_owned()).await;
    assert_eq!(none["lifted"], 0);
    // What a record says besides goes on denying.
    assert!(stage.set_banned(&other.identity, true).await);
    let rest = word(&stage, "/feed/lift", format!(r#"{{"reason":"a test","upTo":{last}}}"#)).await;
    assert_eq!(rest["lifted"], 2);
    assert!(denies(&read(&stage).await.unwrap(), &other.identity), "the new ban was lifted");
    let trail = stage.admin().get("/audit").await.body;
    assert!(trail.contains(r#""operation":"feed-lift""#) && trail.contains(r#""lifted":"2""#), "{trail}");
}

/// The store was put back, and a part of what was published is gone: nothing shows what it lacks.
async fn a_store_that_is_behind_writes_nothing_before_an_operators_word(mut stage: Stage) {
    let device = Device::create(&stage.auth).await;
    assert!(stage.set_banned(&device.identity, true).await);
    let before = reads(&stage, "the ban", |state| denies(state, &device.identity)).await;
    stage.dismiss().await;
    put_back(&stage).await;
    stage.redis(6, &["DEL", "snapshot"]).await;
    stage.restart().await;
    until("authd to say so", PATIENCE, || async { (shown(&stage).await["behind"] == true).then_some(()) })
        .await;
    // Neither a declaration nor a new key begins an epoch.
    let (other, given) = (Device::create(&stage.auth).await, shown(&stage).await["feed"].clone());
    let body = format!(r#"{{"identity":"{}","reason":"a test"}}"#, other.identity);
    let banned = word(&stage, "/ban", body).await;
    assert!(banned["told"] == true && banned["feed"].is_null(), "{banned}");
    assert_eq!(shown(&stage).await["feed"], given);
    let refused = stage
        .admin()
        .post("/feed/reopen", r#"{"reason":"x","after":{"epoch":9999999999999,"position":1}}"#.to_owned())
        .await;
    assert_eq!(refused.status, 400, "an epoch of the future: {}", refused.body);

    let position = before.position().unwrap();
    let after = format!(r#""after":{{"epoch":{},"position":{}}}"#, position.epoch, position.number);
    let opened = word(&stage, "/feed/reopen", format!(r#"{{"reason":"a test",{after}}}"#)).await;
    assert!(opened["feed"]["epoch"].as_u64().unwrap() > position.epoch, "{opened}");
    let after = reads(&stage, "the new epoch", |state| state.position() > before.position()).await;
    assert!(denies(&after, &other.identity) && !denies(&after, &device.identity));
    assert_eq!(shown(&stage).await["behind"], false);
}

async fn a_reset_deletes_the_accounts_and_un_bans_nobody(stage: Stage) {
    let (mut device, banned) = (Device::create(&stage.auth).await, Device::create(&stage.auth).await);
    device.open_session(&stage.auth).await;
    assert!(stage.set_banned(&banned.identity, true).await);
    let before = reads(&stage, "the ban", |state| denies(state, &banned.device)).await;
    let done = word(&stage, "/reset", r#"{"reason":"a test"}"#.to_owned()).await;
    assert!(done["accounts"] == 2 && done["feed"]["position"].is_u64(), "{done}");
    let (rotate, _, _) = gated(&device, Device::rotate_request);
    assert_eq!(stage.auth.post("/device/rotate", rotate).await.status, 401);
    let keys = device.session().keys.ahead();
    let refresh = message(&device.session().refresh_request(&keys), &keys.current);
    assert_eq!(stage.auth.post("/session/refresh", refresh).await.status, 401);
    let account = stage.admin().get(&format!("/account?identity={}", device.identity)).await.body;
    assert!(!account.contains("\"account\":{"), "{account}");

    // The denial is in force, and held; again nothing is left to do.
    let page = shown(&stage).await;
    assert_eq!(page["held"], 2, "{page}");
    let after = read(&stage).await.unwrap();
    assert!(denies(&after, &banned.identity) && denies(&after, &banned.device));
    assert_eq!(after.position().unwrap().epoch, before.position().unwrap().epoch);
    assert_eq!(word(&stage, "/reset", r#"{"reason":"a test"}"#.to_owned()).await["accounts"], 0);
    let trail = stage.admin().get("/audit").await.body;
    assert!(trail.contains(r#""accounts":"2""#) && trail.contains(r#""accounts":"0""#), "{trail}");
    // Somebody new registers.
    let mut anew = Device::create(&stage.auth).await;
    anew.open_session(&stage.auth).await;
}

/// The directory is emptied while it has a hundred thousand bans: they come back in seconds, a new one goes before.
async fn a_new_ban_waits_for_none_of_a_hundred_thousand(stage: Stage) {
    const BANS: usize = 100_000;
    if !stage.database.starts_with("sqlite") {
        return; // one store of the two is enough of so many
    }
    let device = Device::create(&stage.auth).await;
    let account = Digest::of("account");
    let subjects: Vec<Digest> = (0..BANS).map(|number| Digest::of(number.to_string())).collect();
    let numbered: Vec<(i64, &Digest)> = (1..).zip(&subjects).collect();
    for page in numbered.chunks(500) {
        let row = |(id, subject): &(i64, &Digest)| {
            let mac = macs::of_ban(*id, subject, &account);
            format!("({id}, '{subject}', '{account}', 'ban', false, '{mac}')")
        };
        let rows: Vec<String> = page.iter().map(row).collect();
        let columns = "id, subject, account, cause, lifted, mac";
        stage.execute(&format!("INSERT INTO outbox ({columns}) VALUES {}", rows.join(","))).await;
    }
    let patience = Duration::from_mins(3);
    let all = |state: &State| state.denials().count() >= BANS;
    until("the feed to have all", patience, || async { read(&stage).await.filter(all) }).await;
    let count = || async {
        let redis::Value::Int(count) = stage.redis(3, &["DBSIZE"]).await else { panic!("no size") };
        usize::try_from(count).unwrap()
    };
    until("DB 3 to have all", patience, || async { (count().await >= BANS).then_some(()) }).await;

    stage.redis(0, &["FLUSHALL"]).await;
    let started = std::time::Instant::now();
    let store = &stage.service().store;
    let before = store.feed_position().await.unwrap();
    let (delete, _, _) = gated(&device, Device::rotate_request);
    stage.auth.post("/account/delete", delete).await.response();
    let told = until("the new denial", PATIENCE, || async {
        let texts = stage.directory.batches(before.next(), 1).await.unwrap();
        texts.first().map(|text| Message::parse(text).unwrap())
    })
    .await;
    println!("the new denial was told after {:?}", started.elapsed());
    let Content::Batch(entries) = told.content() else { panic!("no batch") };
    assert_eq!(entries.len(), 1, "it waited with others");
    until("the feed to have all again", patience, || async { read(&stage).await.filter(all) }).await;
    println!("the feed had all again after {:?}", started.elapsed());
    let name = device.device.to_string();
    until("the new one in DB 3", PATIENCE, || async {
        (stage.redis(3, &["EXISTS", &name]).await == redis::Value::Int(1)).then_some(())
    })
    .await;
    until("DB 3 to have all again", patience, || async { (count().await > BANS).then_some(()) }).await;
    println!("DB 3 had all again after {:?}", started.elapsed());
}
