//! The denial feed, in a directory that does what it likes.

use std::time::{Duration, Instant};

use keychain::acknowledgement::Applied;
use keychain::feed::{Cause, Entry, Place, Position, Standing};
use keychain::statement::Entries;
use keychain::{Digest, Timestamp};
use redis::AsyncCommands as _;

use crate::acknowledgements::acknowledged;
use crate::directory::is;
use crate::support::feed::{Teller, banned};
use crate::support::fixture::{Hsm, Session};
use crate::support::until;
use crate::support::world::{World, ago};

/// Waits until the session is answered with that status.
async fn answers(world: &World, session: &Session, status: u16) {
    let what = format!("the answer {status}");
    until(&what, async || (world.ask(session).await.status == status).then_some(())).await;
}

/// The world, a session, and where the feed stands.
async fn start() -> (World, Session, Position) {
    let world = World::start().await;
    let session = world.session(200);
    let position = world.begin_epoch(100, &[]).await;
    answers(&world, &session, 200).await;
    (world, session, position)
}

/// Ends the edge, and lets it begin again.
async fn restart(world: &mut World) {
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.restart();
}

/// Waits until so many entries of database 3 are known.
async fn entries_heard(world: &World, count: usize) {
    let line = format!("edge_cache_entries{{kind=\"revocation\"}} {count}\n");
    until(&line, async || world.metrics().await.contains(&line).then_some(())).await;
}

/// Waits until the edge acknowledges that it applies so much of the feed.
async fn applies(world: &World, applied: Applied) {
    until("the position to be acknowledged", async || {
        let read = acknowledged(&world.directory, &world.hsm, "main").await;
        (read.feed() == Some(applied)).then_some(())
    })
    .await;
}

/// Waits until the edge has read what there is of the feed, and says that it waits for more, because of that.
async fn waits_for_the_feed(world: &World, session: &Session, because: &str) {
    let said = is(world, "directory denial feed", "lost").await;
    assert!(said.contains(because), "{said}");
    let answer = world.ask(session).await;
    assert_eq!(answer.code(), "BA603");
    assert!(answer.body.contains("directory denial feed"), "{}", answer.body);
    assert!(!world.edge.said("READY=1"), "{}", world.edge.log());
}

/// Publishes what an emptied directory lacks, but for the feed.
async fn publish_all_but_the_feed(world: &World, issuer: &str) {
    world.hsm.publish(&world.directory).await;
    let life = Duration::from_hours(24);
    let key = &world.authd.public_key();
    world.directory.publish(keychain::directory::Db::Access, key, issuer, life).await.unwrap();
}

async fn issuer(world: &World) -> String {
    let key = &world.authd.public_key();
    world.directory.endorsement(keychain::directory::Db::Access, key).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_of_the_feed_outlives_flush_deletion_and_restart() {
    let (mut world, session, position) = start().await;
    let issuer = issuer(&world).await;
    let who = session.claims.identity;
    world.teller().publish_batch(&world.directory, position.next(), &[banned(who, true)]).await;
    answers(&world, &session, 403).await;

    let written = format!("\"position\":{}", position.next().number);
    until("the ban to be on disk", async || world.kept_denials().contains(&written).then_some(())).await;
    // An entry in database 3 adds nothing, and its deletion takes nothing away.
    world.directory.revoke(&who, None).await.unwrap();
    entries_heard(&world, 1).await;
    world.directory.lift(&who).await.unwrap();
    entries_heard(&world, 0).await;
    world.redis.flush().await;
    world.directory.revoke(&Digest::of("a later change, heard after the loss"), None).await.unwrap();
    entries_heard(&world, 1).await;
    assert_eq!(world.ask(&session).await.code(), "BA304");

    // A directory without any feed: what was kept on disk denies, and is enough to be ready.
    publish_all_but_the_feed(&world, &issuer).await;
    restart(&mut world).await;
    world.edge.ready().await;
    assert_eq!(world.ask(&session).await.code(), "BA304");
    world.teller().publish_batch(&world.directory, position.next().next(), &[banned(who, false)]).await;
    answers(&world, &session, 200).await;
}

/// An end of sessions denies the token, and none that is issued later; a restart forgets neither.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_is_refused_and_a_later_one_is_admitted() {
    let (mut world, session, position) = start().await;
    let claims = &session.claims;
    let ended = |issued_up_to: Timestamp| {
        let place = Place { subject: claims.device, account: claims.identity, cause: Cause::Sessions };
        let until = issued_up_to.plus(Duration::from_mins(16));
        Entry { place, standing: Standing::Ended { issued_up_to, until } }
    };
    let earlier = ended(claims.issued_at.minus(Duration::from_millis(1)));
    world.teller().publish_batch(&world.directory, position.next(), &[earlier]).await;
    applies(&world, Applied { position: position.next(), went_back: false }).await;
    answers(&world, &session, 200).await;
    let now = ended(claims.issued_at);
    world.teller().publish_batch(&world.directory, position.next().next(), &[now]).await;
    answers(&world, &session, 401).await;
    assert_eq!(world.ask(&session).await.code(), "BA401");
    applies(&world, Applied { position: position.next().next(), went_back: false }).await;
    restart(&mut world).await;
    world.edge.ready().await;
    assert_eq!(world.ask(&session).await.code(), "BA401");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_hostile_directory_shows_lifts_nothing() {
    let (world, session, position) = start().await;
    let who = session.claims.identity;
    let teller = world.teller();
    let first = position.next();
    let lift = [banned(who, false)];
    teller.publish_batch(&world.directory, first, &[banned(who, true)]).await;
    answers(&world, &session, 403).await;

    let name = keychain::feed::name(&world.hsm.hsm.lock().unwrap().prefix()).to_string();
    let mut redis = world.redis.database(6).await;
    let next = first.next();
    let whole = teller.batch(next, &lift);
    let stranger = Teller::new(&Hsm::new(700, ago(3_600)), 100);
    let far = Position { epoch: next.epoch + 3_600_000, number: 1 };
    let texts = [
        ("forged", whole.replacen("\"lifted\":true", "\"lifted\": true", 1)),
        ("truncated", whole[..whole.len() - 1].to_owned()),
        ("foreign", stranger.batch(next, &lift)),
        ("replayed", teller.batch(first, &lift)),
        ("older", teller.batch(Position { epoch: position.epoch - 1, number: 9 }, &lift)),
        ("of the future", teller.batch(far, &lift)),
        ("a gap", teller.batch(next.next(), &lift)),
        (
            "of an epoch without a snapshot",
            teller.batch(Position { epoch: position.epoch + 1, number: 1 }, &lift),
        ),
        ("oversized", " ".repeat(300_000) + &whole),
        ("another type", "1".to_owned()),
    ];
    for (kind, text) in texts {
        for name in [name.clone(), format!("batch:{}:{}", next.epoch, next.number)] {
            redis.set::<_, _, ()>(name, &text).await.unwrap();
        }
        // A denial of somebody else says that the text was read.
        redis.del::<_, ()>(&name).await.unwrap();
        let marker = Digest::of(kind);
        redis.set::<_, _, ()>(&name, &text).await.unwrap();
        world.directory.revoke(&marker, None).await.unwrap();
        let deadline = Instant::now() + Duration::from_millis(300);
        while Instant::now() < deadline {
            assert_eq!(world.ask(&session).await.code(), "BA304", "{kind}");
        }
    }
    // An older snapshot, and one whose chunks are missing or another's.
    let older = Position { epoch: position.epoch, number: 0 };
    teller.publish_snapshot(&world.directory, older, &[]).await;
    let later = Position { epoch: position.epoch + 1, number: 0 };
    teller.publish_snapshot(&world.directory, later, &[banned(Digest::of("other"), true)]).await;
    let refused = "verifier_denial_feed_refused_total";
    until("refusals to be counted", async || world.metrics().await.contains(refused).then_some(())).await;
    answers(&world, &session, 200).await; // the later epoch's snapshot is authd's word, and omits the ban
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_admits_nobody_before_it_knows_what_it_knew() {
    let (mut world, session, position) = start().await;
    let issuer = issuer(&world).await;
    let who = session.claims.identity;
    let teller = world.teller();
    teller.publish_batch(&world.directory, position.next(), &[banned(who, true)]).await;
    answers(&world, &session, 403).await;
    let written = format!("\"position\":{}", position.next().number);
    until("the ban to be on disk", async || world.kept_denials().contains(&written).then_some(())).await;

    // The state is lost, the position is not; the directory shows the feed as it was before the ban.
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.damage_denials();
    world.redis.flush().await;
    publish_all_but_the_feed(&world, &issuer).await;
    teller.publish_snapshot(&world.directory, position, &[]).await;
    world.restart();
    waits_for_the_feed(&world, &session, "less of it than was known before the restart").await;
    teller.publish_batch(&world.directory, position.next(), &[banned(who, true)]).await;
    world.edge.ready().await;
    assert_eq!(world.ask(&session).await.code(), "BA304");

    // A new edge waits for any snapshot at all.
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.forget_state();
    world.redis.flush().await;
    publish_all_but_the_feed(&world, &issuer).await;
    world.restart();
    waits_for_the_feed(&world, &session, "there is none in the directory yet").await;
    teller.publish_snapshot(&world.directory, position.next(), &[banned(who, true)]).await;
    world.edge.ready().await;
    assert_eq!(world.ask(&session).await.code(), "BA304");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_ahead_of_a_gap_counts_at_once_and_a_lift_does_not() {
    let (world, session, position) = start().await;
    let teller = world.teller();
    let (first, second) = (position.next(), position.next().next());
    let third = second.next();
    let who = session.claims.identity;
    teller.publish_batch(&world.directory, third, &[banned(who, true)]).await;
    answers(&world, &session, 403).await;
    teller.publish_batch(&world.directory, first, &[]).await;
    // The missing one comes, and the feed goes on through what lay ahead.
    teller.publish_batch(&world.directory, second, &[]).await;
    let fourth = third.next();
    teller.publish_batch(&world.directory, fourth, &[banned(who, false)]).await;
    answers(&world, &session, 200).await;
}

/// A batch was deleted from the directory: an edge that lacks it is not ready before authd has said all again.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_edge_admits_nobody_while_a_part_of_the_feed_is_missing() {
    let (mut world, session, position) = start().await;
    let teller = world.teller();
    let (first, second) = (position.next(), position.next().next());
    let who = session.claims.identity;
    teller.publish_batch(&world.directory, first, &[banned(who, true)]).await;
    teller.publish_batch(&world.directory, second, &[]).await;
    answers(&world, &session, 403).await;
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.forget_state();
    let mut feed = world.redis.database(6).await;
    let batch = format!("batch:{}:{}", first.epoch, first.number);
    assert_eq!(feed.del::<_, usize>(batch).await.unwrap(), 1);
    world.restart();
    until("the edge to say what is missing", async || {
        world.edge.log().contains("parts of the denial feed").then_some(())
    })
    .await;
    assert!(!world.edge.said("READY=1"), "{}", world.edge.log());
    teller.publish_snapshot(&world.directory, second, &[banned(who, true)]).await;
    world.edge.ready().await;
    assert_eq!(world.ask(&session).await.code(), "BA304");
}

/// authd's database was put back: what it denies from then on counts, what it lifts does not, and it says so. A later epoch
/// ends that.
#[tokio::test(flavor = "multi_thread")]
async fn an_authd_that_went_back_lifts_nothing_before_a_later_epoch() {
    let (mut world, session, position) = start().await;
    let mut teller = world.teller();
    let (first, second) = (position.next(), position.next().next());
    let who = session.claims.identity;
    let other = world.session(300);
    teller.publish_batch(&world.directory, first, &[banned(who, true)]).await;
    answers(&world, &session, 403).await;
    teller.publish_batch(&world.directory, second, &[]).await;
    applies(&world, Applied { position: second, went_back: false }).await;

    // Later than the clock skew, from an earlier position.
    teller.ahead = Duration::from_secs(6);
    teller.publish_snapshot(&world.directory, position, &[]).await;
    applies(&world, Applied { position: second, went_back: true }).await;
    assert!(world.metrics().await.contains("verifier_denial_feed_went_back 1\n"));
    assert!(world.edge.log().contains("opsctl feed reopen"), "{}", world.edge.log());
    teller
        .publish_batch(&world.directory, first, &[banned(who, false), banned(other.claims.identity, true)])
        .await;
    answers(&world, &other, 403).await;
    assert_eq!(world.ask(&session).await.code(), "BA304");
    // Not by going on until it is ahead again, either.
    let third = second.next();
    teller
        .publish_batch(&world.directory, third, &[banned(who, false), banned(other.claims.identity, false)])
        .await;
    teller.publish_snapshot(&world.directory, third.next(), &[banned(Digest::of("read"), true)]).await;
    let marker = world.session(400);
    teller
        .publish_batch(&world.directory, third.next().next(), &[banned(marker.claims.identity, true)])
        .await;
    answers(&world, &marker, 403).await;
    assert_eq!(world.ask(&session).await.code(), "BA304");
    assert_eq!(world.ask(&other).await.code(), "BA304");

    // Nor does a restart forget it, though the directory shows nothing but what lies ahead by now.
    let written = "\"wentBack\":true";
    until("it to be on disk", async || world.kept_denials().contains(written).then_some(())).await;
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    let fourth = third.next().next().next();
    teller.publish_batch(&world.directory, fourth, &[banned(who, false)]).await;
    world.restart();
    world.edge.ready().await;
    applies(&world, Applied { position: second, went_back: true }).await;
    assert_eq!(world.ask(&session).await.code(), "BA304");

    let reopened = Position { epoch: position.epoch + 1, number: 0 };
    teller.publish_snapshot(&world.directory, reopened, &[]).await;
    answers(&world, &session, 200).await;
    applies(&world, Applied { position: reopened, went_back: false }).await;
}

/// A position is acknowledged once it is on disk, so that a kill a moment later does not take it back; the refusal does
/// not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_ban_is_acknowledged_once_it_is_on_disk_and_refused_before() {
    let (world, session, position) = start().await;
    let told = |position| Applied { position, went_back: false };
    applies(&world, told(position)).await;
    let pipe = world.hang_the_disk_under("denials-position.new");
    let next = position.next();
    world.teller().publish_batch(&world.directory, next, &[banned(session.claims.identity, true)]).await;
    answers(&world, &session, 403).await;
    // The newest head is acknowledged meanwhile, with the position of before.
    for _ in 0..2 {
        world.hsm.state(&world.directory, &Entries::default()).await;
        let read = acknowledged(&world.directory, &world.hsm, "main").await;
        assert_eq!(read.feed(), Some(told(position)));
    }
    let written = format!("\"position\":{}", next.number);
    assert!(!world.kept_denials().contains(&written));
    pipe.release();
    applies(&world, told(next)).await;
    assert!(world.kept_denials().contains(&written));
}

/// A hundred thousand bans are read in seconds, and a new ban does not wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_ban_does_not_wait_for_a_hundred_thousand() {
    let (world, session, position) = start().await;
    let teller = world.teller();
    let names = (0..100_000).map(|number: u32| Digest::of(number.to_string()));
    let mut entries: Vec<_> = names.map(|who| banned(who, true)).collect();
    entries.push(banned(world.session(300).claims.identity, true));
    let started = Instant::now();
    let later = Position { epoch: position.epoch + 1, number: 0 };
    teller.publish_snapshot(&world.directory, later, &entries).await;
    teller.publish_batch(&world.directory, later.next(), &[banned(session.claims.identity, true)]).await;
    answers(&world, &session, 403).await;
    println!("a new ban took {:?}, the writing of the snapshot included", started.elapsed());
    answers(&world, &world.session(300), 403).await;
    println!("all took {:?}", started.elapsed());
    until("all to be counted", async || {
        world.metrics().await.contains("edge_cache_entries{kind=\"denial\"} 100002").then_some(())
    })
    .await;
}
