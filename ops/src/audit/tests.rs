use std::fs;
use std::path::{Path, PathBuf};

use keychain::audit::{Head, Kind, Record, checkpoint, segment_name};
use keychain::chain::{self, SignedEvent};
use keychain::{SigningKey, Timestamp};
use serde_json::Value;

use super::Place;
use super::verify::look;
use crate::chain::Proved;
use crate::failure::Exit;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000)
}

fn chain(taint: bool) -> Vec<SignedEvent> {
    let draft = chain::Draft::first(&key(1).public_key(), &key(2).public_key().digest(), at(0));
    let signature = key(1).sign(draft.payload().as_bytes()).unwrap();
    let first = draft.seal(&signature).unwrap();
    let (next, after) = (key(2).public_key(), key(3).public_key().digest());
    let draft = chain::Draft::next(first.event(), &next, &after, at(1), taint);
    let signature = key(2).sign(draft.payload().as_bytes()).unwrap();
    let second = draft.seal(&signature).unwrap();
    vec![first, second]
}

/// A trail of ten lines, in lines; line 7 is a checkpoint up to line 6, by the first generation, signed by `by`.
fn lines(by: u8) -> Vec<String> {
    let first = &chain(false)[0];
    let mut head: Option<Head> = None;
    let mut lines = Vec::new();
    for number in 0..10 {
        let record = if number == 7 {
            let draft = checkpoint(head.as_ref().unwrap(), at(5), &first.id(), &first.id());
            let statement = draft.seal(&key(by).sign(draft.body().as_bytes()).unwrap());
            Record::new(Kind::Checkpoint).raw("statement", &statement)
        } else {
            Record::new(Kind::Refused).number("count", number)
        };
        let (line, next) = record.line(head.as_ref(), at(2));
        lines.push(format!("{line}\n"));
        head = Some(next);
    }
    lines
}

/// A folder with these files, numbered from 1.
fn write(folder: &Path, files: &[String]) -> PathBuf {
    let folder = folder.join("audit");
    fs::create_dir(&folder).unwrap();
    for (place, text) in (1..).zip(files) {
        fs::write(folder.join(segment_name(place)), text).unwrap();
    }
    folder
}

fn place(dir: PathBuf) -> Place {
    Place { dir, partial: false }
}

fn verdict(place: &Place, checkpoint: Option<&Path>, taint: bool) -> Result<Value, Exit> {
    let texts: Vec<_> = chain(taint).iter().map(|event| event.text().to_owned()).collect();
    let chain = Proved::parse(&texts.join("\n"), None).unwrap();
    look(place, checkpoint, &chain)
        .map(|verdict| serde_json::to_value(verdict).unwrap())
        .map_err(|failure| failure.exit())
}

#[test]
fn what_holds_and_what_does_not() {
    let good = lines(1);
    let text = |range: std::ops::Range<usize>| good[range].concat();
    let changed = text(0..10).replace("\"count\":3", "\"count\":4");
    let forged = lines(9).concat();
    let half = good[5][..30].to_owned();
    for (name, files, expected) in [
        ("one file", vec![text(0..10)], Some((9, Some(6), 0))),
        ("three files, one empty", vec![text(0..4), String::new(), text(4..10)], Some((9, Some(6), 0))),
        ("lines stand again", vec![text(0..6), text(3..10)], Some((9, Some(6), 0))),
        (
            "half a line, and the next file goes on",
            vec![text(0..5) + &half, text(5..10)],
            Some((9, Some(6), 1)),
        ),
        ("half a line, twice", vec![text(0..5) + &half, half.clone(), text(3..10)], Some((9, Some(6), 2))),
        ("half a line at the end", vec![text(0..9) + &half], Some((8, Some(6), 1))),
        ("cut behind the checkpoint", vec![text(0..8)], Some((7, Some(6), 0))),
        ("cut before it", vec![text(0..7)], Some((6, None, 0))),
        ("a line changed", vec![changed], None),
        ("a line taken out", vec![text(0..3) + &text(4..10)], None),
        ("lines swapped", vec![text(0..3) + &good[4] + &good[3] + &text(5..10)], None),
        ("a file lost", vec![text(0..3), text(5..10)], None),
        ("half a line, and the next file does not go on", vec![text(0..5) + &half, text(6..10)], None),
        ("a checkpoint by another key", vec![forged], None),
        ("nothing", vec![String::new()], None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let dir = write(folder.path(), &files);
        let verdict = verdict(&place(dir), None, false).ok().map(|verdict| {
            let torn = verdict["torn"].as_array().unwrap().len();
            (verdict["last"].as_u64().unwrap(), verdict["covered"].as_u64(), torn)
        });
        assert_eq!(verdict, expected, "{name}");
    }
}

#[test]
fn a_tainted_generation_vouches_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = write(folder.path(), &[lines(1).concat()]);
    let verdict = verdict(&place(dir), None, true).unwrap();
    assert_eq!((&verdict["covered"], &verdict["checkpointsWorthless"]), (&Value::Null, &Value::from(1)));
}

#[test]
fn files_that_were_moved_away_are_missed() {
    let good = lines(1);
    let folder = tempfile::tempdir().unwrap();
    let dir = write(folder.path(), &[good[0..4].concat(), good[4..10].concat()]);
    fs::remove_file(dir.join(segment_name(1))).unwrap();
    assert_eq!(verdict(&place(dir.clone()), None, false), Err(Exit::No));
    let verdict = verdict(&Place { dir, partial: true }, None, false).unwrap();
    assert_eq!((verdict["first"].as_u64(), verdict["covered"].as_u64()), (Some(4), Some(6)));
}

#[test]
fn a_checkpoint_kept_elsewhere_shows_a_trail_that_was_cut() {
    let good = lines(1);
    for (name, kept, length, exit) in [
        ("the whole trail", &good[7], 10, None),
        ("cut behind the line", &good[7], 7, None),
        ("cut before it", &good[7], 6, Some(Exit::No)),
        ("no checkpoint", &good[6], 10, Some(Exit::Data)),
        ("somebody else's", &lines(9)[7], 10, Some(Exit::No)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let dir = write(folder.path(), &[good[..length].concat()]);
        let file = folder.path().join("checkpoint.json");
        fs::write(&file, kept).unwrap();
        assert_eq!(verdict(&place(dir), Some(&file), false).err(), exit, "{name}");
    }
}
