//! A ledger that is behind its token: hsmd stays up, signs nothing, destroys nothing, says what to do, and
//! takes back the published chain and nothing else.

use std::{process::Command, time::Duration};

use keychain::{
    SigningKey,
    chain::{Draft, SignedEvent},
    endorsement::Purpose,
};

use crate::support::{
    daemon::{Answer, Daemon, request},
    in_parallel,
    world::{Database, World, now, service_key, sign_request, verify},
};

/// The published form of a chain.
fn published(events: &[SignedEvent]) -> String {
    let texts: Vec<_> = events.iter().map(SignedEvent::text).collect();
    format!("[{}]", texts.join(","))
}

/// The events of a chain copy.
fn read_lines(copy: &std::path::Path) -> Vec<SignedEvent> {
    let text = std::fs::read_to_string(copy).unwrap();
    text.lines().map(|line| SignedEvent::parse(line).unwrap()).collect()
}

/// The code of a refusal, and its reason.
fn refusal(answer: &Answer) -> (String, String) {
    let because = answer.body.split("\"because\":\"").nth(1).and_then(|rest| rest.split('"').next());
    (answer.code().to_owned(), because.unwrap_or_default().to_owned())
}

/// A chain of somebody else's, by keys in software.
fn strangers() -> SignedEvent {
    let [one, two] = [1_u8, 2].map(|seed| SigningKey::from_seed(&[seed; 32]).unwrap());
    let draft = Draft::first(&one.public_key(), &two.public_key().digest(), now());
    let signature = one.sign(draft.payload().as_bytes()).unwrap();
    draft.seal(&signature).unwrap()
}

/// It is alive and whole again: goes on from `chain`, and endorses.
fn lives_on(world: &World, chain: &[SignedEvent], mut hsmd: Daemon) {
    hsmd.ready().unwrap();
    let text = published(chain);
    assert_eq!(request(&world.socket("edge"), "GET", "/chain", "").ok(), text, "byte for byte");
    // A repetition changes nothing.
    assert!(world.recover("", &text).ok().contains("\"imported\":0"));
    world.rotate("{}");
    let longer = world.chain();
    assert!(published(&longer).starts_with(text.trim_end_matches(']')));
    assert_eq!(longer.len(), chain.len() + 1);
    assert_eq!(world.softhsm.objects(), 4);
    let body = sign_request(Purpose::Response, service_key(9), Duration::from_mins(5));
    let endorsed = request(&world.socket("edge"), "POST", "/sign", &body).ok();
    verify(&endorsed, &longer, Purpose::Response, &service_key(9), "edge:demo");
    hsmd.stop();
    world.start().stop();
}

#[test]
fn a_ledger_from_an_old_backup_takes_the_published_chain_and_no_other() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    world.rotate("{}");
    hsmd.stop();
    let old = world.back_up_ledger();
    let mut hsmd = world.start();
    world.rotate("{}");
    world.rotate("{}");
    let chain = world.chain();
    hsmd.stop();
    let further = rotate_in_a_copy(&world);
    world.restore_ledger(Some(&old));
    let hsmd = world.start_behind(None);

    // Up, and of no use but to be recovered.
    let health = request(&world.socket("admin"), "GET", "/health", "");
    assert_eq!(health.status, 503);
    assert!(
        health.body.contains("the ledger is behind its token") && health.body.contains("opsctl hsm recover")
    );
    let body = sign_request(Purpose::Response, service_key(9), Duration::from_mins(5));
    for (socket, method, path, body) in
        [("edge", "POST", "/sign", body.as_str()), ("admin", "POST", "/rotate", "{}")]
    {
        let answer = request(&world.socket(socket), method, path, body);
        assert_eq!((answer.status, answer.code()), (503, "BA603"), "{path}");
    }

    // What the ledger has can be read.
    assert_eq!(request(&world.socket("edge"), "GET", "/chain", "").ok(), published(&chain[..2]));
    let tampered = published(&chain).replace("Z\",\"purpose", "0Z\",\"purpose");
    let (payload, _) = chain[3].text().rsplit_once("0I").unwrap();
    let (_, signature) = chain[2].text().rsplit_once("0I").unwrap();
    let forged = format!("[{},{payload}0I{signature}]", published(&chain[..3]).trim_matches(['[', ']']));
    let mut hole = chain.clone();
    hole.remove(2);
    for (brought, code, because) in [
        (published(&chain[..1]), "BA602", "the chain ends before the ledger does"),
        (published(&chain[..2]), "BA602", "the chain has no event that the ledger lacks"),
        (published(&chain[..3]), "BA602", "the token lacks the key of the chain's last event"),
        (published(&further[..5]), "BA602", "the token lacks the key that the last event commits to"),
        (published(&further), "BA602", "the token has neither key of the chain's last event"),
        (published(&[strangers()]), "BA602", "the chain is another identity's"),
        (published(&hole), "BA209", "the sequence numbers have a hole"),
        (published(&chain[1..]), "BA209", "the chain does not begin with the pinned identity"),
        (tampered, "BA209", "the event's id is not its digest"),
        (forged, "BA201", "the signature does not verify"),
        ("[]".to_owned(), "BA209", "the chain has no event"),
        ("{}".to_owned(), "BA101", ""),
    ] {
        let answer = world.recover("", &brought);
        assert_eq!(refusal(&answer), (code.to_owned(), because.to_owned()), "{}", answer.body);
    }
    let long = " ".repeat(64 * 1024 * 1024 + 1);
    assert_eq!(world.recover("", &long).status, 413);
    assert_eq!(world.recover("?unfinished=perhaps", "[]").code(), "BA101");
    let chain_text = published(&chain);
    assert_eq!(request(&world.socket("other-admin"), "POST", "/recover", &chain_text).code(), "BA303");
    assert_eq!(request(&world.socket("edge"), "POST", "/recover", &chain_text).status, 404);
    assert_eq!(world.softhsm.objects(), 4, "nothing was destroyed");

    assert!(
        world
            .recover("", &chain_text)
            .ok()
            .contains("\"sequenceNumber\":3,\"state\":\"uncompared\",\"imported\":2")
    );
    lives_on(&world, &chain, hsmd);
}

/// The chain as it would have gone on with a copy of token and ledger, by two events: valid, and by keys that
/// the token itself does not hold.
fn rotate_in_a_copy(world: &World) -> Vec<SignedEvent> {
    let copy = World::new(Database::Sqlite);
    std::fs::remove_dir_all(copy.softhsm.tokens()).unwrap();
    let copied = Command::new("cp").arg("-r").args([world.softhsm.tokens(), copy.softhsm.tokens()]).status();
    assert!(copied.unwrap().success());
    copy.restore_ledger(Some(&world.back_up_ledger()));
    let _hsmd = copy.start();
    copy.rotate("{}");
    copy.rotate("{}");
    copy.chain()
}

#[test]
fn a_ledger_lost_whole_is_recovered_on_sqlite() {
    lost_whole(Database::Sqlite);
}

#[test]
fn a_ledger_lost_whole_is_recovered_on_postgres() {
    lost_whole(Database::Postgres);
}

fn lost_whole(database: Database) {
    let world = World::new(database);
    let mut hsmd = world.start();
    world.rotate("{}");
    world.rotate("{}");
    let chain = world.chain();
    hsmd.stop();
    lose(&world, database);
    let hsmd = world.start_behind(None);
    for (brought, because) in [
        (published(&[strangers()]), "the token has neither key of the chain's last event"),
        (published(&chain[..1]), "the token has neither key of the chain's last event"),
    ] {
        assert_eq!(refusal(&world.recover("", &brought)), ("BA602".to_owned(), because.to_owned()));
    }
    assert!(world.recover("", &published(&chain)).ok().contains("\"imported\":3"));
    lives_on(&world, &chain, hsmd);
}

fn lose(world: &World, database: Database) {
    match database {
        Database::Sqlite => world.restore_ledger(None),
        Database::Postgres => {
            use sea_orm::ConnectionTrait as _;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let database = sea_orm::Database::connect(&world.ledger).await.unwrap();
                database
                    .execute_unprepared("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
                    .await
                    .unwrap();
                database.close().await.unwrap();
            });
        }
    }
}

/// The ledger is lost together with a rotation that was under way: whether a later event was signed cannot be
/// known, so the operator has to say; unless the chain copy has that event.
#[test]
fn what_was_unfinished_when_the_ledger_was_lost_is_discarded_only_if_told() {
    let rows = [
        ("rotate/after-key:kill:1", true),
        ("rotate/after-commit:kill:1", false),
        ("rotate/after-commit:kill:1", true),
    ];
    in_parallel(rows, |(death, has_copy)| {
        let world = World::new(Database::Sqlite);
        let mut hsmd = world.spawn_to_fail(death);
        hsmd.ready().unwrap();
        let chain = world.chain();
        drop(crate::support::daemon::try_request(&world.socket("admin"), "POST", "/rotate", b"{}"));
        hsmd.ended();
        world.restore_ledger(None);
        let copy = world.path().join("copy/chain.jsonl");
        if !has_copy {
            std::fs::remove_file(&copy).unwrap();
        }
        let hsmd = world.start_behind(None);
        let (code, because) = refusal(&world.recover("", &published(&chain)));
        assert_eq!(code, "BA602");
        assert!(because.contains("a key made for a later event"), "{death}: {because}");
        assert_eq!(world.softhsm.objects(), 6, "nothing was destroyed");
        let discarded = world.recover("?unfinished=discard", &published(&chain));
        let copied: Vec<_> = if has_copy { read_lines(&copy) } else { Vec::new() };
        if copied.len() == 2 {
            assert_eq!((discarded.status, discarded.code()), (503, "BA603"), "{}", discarded.body);
            assert!(discarded.body.contains("the chain copy goes on to generation 1"), "{}", discarded.body);
            assert_eq!(world.softhsm.objects(), 6, "nothing was destroyed");
            world.recover("", &published(&copied)).ok();
            return lives_on(&world, &copied, hsmd);
        }
        discarded.ok();
        lives_on(&world, &chain, hsmd);
    });
}
