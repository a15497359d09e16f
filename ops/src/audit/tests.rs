use std::fs;

use keychain::audit::{Head, Kind, Record};
use keychain::chain::{self, SignedEvent};
use keychain::{Digest, SigningKey, Timestamp};
use serde_json::Value;

use super::read::walk_file;
use super::verify::Auditor;
use crate::failure::Exit;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000)
}

fn chain() -> Vec<SignedEvent> {
    let draft = chain::Draft::first(&key(1).public_key(), &key(2).public_key().digest(), at(0));
    let signature = key(1).sign(draft.payload().as_bytes()).unwrap();
    let first = draft.seal(&signature).unwrap();
    let (next, after) = (key(2).public_key(), key(3).public_key().digest());
    let draft = chain::Draft::next(first.event(), &next, &after, at(1), false);
    let signature = key(2).sign(draft.payload().as_bytes()).unwrap();
    let second = draft.seal(&signature).unwrap();
    vec![first, second]
}

fn outcome(operation: &str, details: &str) -> Record {
    let record = Record::new(Kind::Outcome).plain("operation", operation).plain("outcome", "ok");
    record.raw("details", details)
}

/// The line about the first event.
fn begun() -> Record {
    Record::new(Kind::Chain).plain("generation", chain()[0].id())
}

/// Lines, each with its line feed, and where the last is.
fn lines(records: Vec<Record>) -> (Vec<String>, Head) {
    let mut head = None;
    let line = |record: Record| {
        let (line, next) = record.line(head.as_ref(), at(2));
        head = Some(next);
        format!("{line}\n")
    };
    let lines = records.into_iter().map(line).collect();
    (lines, head.unwrap())
}

/// A trail of ten lines; line 0 is about the first event, line 5 about the second.
fn good() -> Vec<String> {
    let about = outcome("rotate", &format!("{{\"generation\":\"{}\"}}", chain()[1].id()));
    let other = |number| Record::new(Kind::Refused).number("count", number);
    let records = (0..10).map(|number| match number {
        0 => begun(),
        5 => about.clone(),
        _ => other(number),
    });
    lines(records.collect()).0
}

fn verdict(text: &str, partial: bool) -> Result<Value, Exit> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    fs::write(&file, text).unwrap();
    let chain = chain();
    let mut auditor = Auditor::new(&chain, None).unwrap();
    let walked = walk_file(&file, partial, |entry| {
        auditor.visit(entry);
        Ok(())
    });
    walked
        .and_then(|walked| auditor.finish(walked, partial))
        .map(|verdict| serde_json::to_value(verdict).unwrap())
        .map_err(|failure| failure.exit())
}

#[test]
fn what_holds_and_what_does_not() {
    let good = good();
    let text = |range: std::ops::Range<usize>| good[range].concat();
    let changed = text(0..10).replace("\"count\":3", "\"count\":4");
    for (name, text, partial, last) in [
        ("all", text(0..10), false, Ok(9)),
        ("its end cut off", text(0..7), false, Ok(6)),
        ("half a line at the end", text(0..9) + &good[9][..30], false, Err(Exit::No)),
        ("a line changed", changed, false, Err(Exit::No)),
        ("a line taken out", text(0..3) + &text(4..10), false, Err(Exit::No)),
        ("lines swapped", text(0..3) + &good[4] + &good[3] + &text(5..10), false, Err(Exit::No)),
        ("the line about an event cut off", text(0..5), false, Err(Exit::No)),
        ("its beginning elsewhere", text(6..10), true, Ok(9)),
        ("its beginning lost", text(6..10), false, Err(Exit::No)),
        ("nothing", String::new(), false, Err(Exit::No)),
    ] {
        let verdict = verdict(&text, partial).map(|verdict| verdict["last"].as_u64().unwrap());
        assert_eq!(verdict, last, "{name}");
    }
}

#[test]
fn an_event_that_was_imported_or_found_at_a_start_has_its_line() {
    let start = Record::new(Kind::Start).plain("generation", chain()[1].id());
    let refused = Record::new(Kind::Outcome)
        .plain("operation", "rotate")
        .plain("outcome", "BA603")
        .raw("details", &format!("{{\"generation\":\"{}\"}}", chain()[1].id()));
    for (name, record, holds) in [
        ("start", start, true),
        ("recover", outcome("recover", "{\"sequenceNumber\":\"1\"}"), true),
        ("recover of fewer", outcome("recover", "{\"sequenceNumber\":\"0\"}"), false),
        ("another event", outcome("rotate", &format!("{{\"generation\":\"{}\"}}", Digest::of("x"))), false),
        ("refused", refused, false),
    ] {
        let verdict = verdict(&lines(vec![begun(), record]).0.concat(), false);
        assert_eq!(verdict.is_ok(), holds, "{name}");
    }
}

#[test]
fn the_first_event_has_its_line() {
    let second = Record::new(Kind::Start).plain("generation", chain()[1].id());
    for (name, records, holds) in [
        ("both", vec![begun(), second.clone()], true),
        ("the second alone", vec![second], false),
        ("the first alone", vec![begun()], false),
        ("recovered", vec![outcome("recover", "{\"sequenceNumber\":\"1\"}")], true),
    ] {
        assert_eq!(verdict(&lines(records).0.concat(), false).is_ok(), holds, "{name}");
    }
}

#[test]
fn a_head_shows_a_trail_that_was_cut() {
    use keychain::statement::{Entries, Head as Stated, LastLine, NewHead};
    let (chain, good) = (chain(), good());
    let digest = keychain::audit::Entry::parse(good[7].trim_end()).unwrap().head.digest;
    let head = |by: u8, digest| {
        let new = NewHead {
            event: chain[1].event(),
            number: 1,
            issued_at: at(5),
            expiration: at(50),
            entries: &Entries::default(),
            audit: Some(LastLine { number: 7, digest }),
        };
        let draft = new.draft().unwrap();
        Stated::parse(&draft.seal(&key(by).sign(draft.body().as_bytes()).unwrap())).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    for (name, head, length, covered) in [
        ("the whole trail", head(2, digest), 10, Ok(Some(7))),
        ("cut behind the line", head(2, digest), 8, Ok(Some(7))),
        ("cut before it", head(2, digest), 7, Err(Exit::No)),
        ("another line", head(2, Digest::of("x")), 10, Err(Exit::No)),
        ("somebody else's head", head(9, digest), 10, Err(Exit::No)),
    ] {
        fs::write(&file, good[..length].concat()).unwrap();
        let verdict = Auditor::new(&chain, Some(&head)).and_then(|mut auditor| {
            let walked = walk_file(&file, false, |entry| {
                auditor.visit(entry);
                Ok(())
            })?;
            auditor.finish(walked, false)
        });
        let verdict = verdict.map(|verdict| serde_json::to_value(verdict).unwrap()["covered"].as_u64());
        assert_eq!(verdict.map_err(|failure| failure.exit()), covered, "{name}");
    }
}
