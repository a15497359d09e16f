use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use keychain::{
    Timestamp,
    audit::{Entry, Kind, Record, Step, Trail, segment_name},
};

use super::writer::Writer;

fn at() -> Timestamp {
    Timestamp::from_unix_millis(0)
}

fn record(number: u64) -> Record {
    Record::new(Kind::Endorsement).number("x", number)
}

fn open(folder: &Path) -> (Writer, bool) {
    let (writer, torn) = Writer::open(folder).unwrap();
    (writer, torn.is_some())
}

/// Numbers of the lines in all files, in the order of an auditor.
fn read(folder: &Path) -> Vec<u64> {
    let mut trail = Trail::new();
    let mut numbers = Vec::new();
    for ordinal in 1.. {
        let Ok(bytes) = fs::read(folder.join(segment_name(ordinal))) else { break };
        trail.begin_segment();
        trail.walk(&bytes, |entry, step| {
            if step == Step::New {
                numbers.push(entry.head.number);
            }
        });
    }
    numbers
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count() - 1
}

#[test]
fn a_trail_goes_on_over_every_end() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("audit");
    let (mut writer, _) = open(&folder);
    assert_eq!((writer.head(), writer.is_open()), (None, false));
    writer.begin(&[record(0)], at()).unwrap();
    writer.append(&[record(1), record(2)], at()).unwrap();
    assert_eq!(writer.lag(), 2);
    drop(writer);

    // It ended in the midst: what the disk may not have is written again.
    let (mut writer, torn) = open(&folder);
    assert_eq!((writer.head().unwrap().number, writer.lag(), writer.is_open(), torn), (2, 3, false, false));
    writer.begin(&[], at()).unwrap();
    assert_eq!((writer.lag(), files(&folder)), (0, 2));
    writer.append(&[Record::new(Kind::Stop)], at()).unwrap();
    writer.sync().unwrap();
    drop(writer);

    // It ended well: the same file goes on.
    let (mut writer, torn) = open(&folder);
    assert_eq!((writer.lag(), writer.is_open(), torn), (0, true, false));
    writer.append(&[record(4)], at()).unwrap();
    assert_eq!(files(&folder), 2);
    assert_eq!(read(&folder), [0, 1, 2, 3, 4]);
}

#[test]
fn what_a_failure_leaves_is_gone_on_from() {
    let whole = |number: u64| record(number).line(None, at()).0;
    for (name, rest, says_whole) in [
        ("half a line", "{\"number\":3,".to_owned(), "false"),
        ("zeros", "\0\0\0\0".to_owned(), "false"),
        ("a whole line that does not hold", format!("{}\n", whole(7)), "true"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("audit");
        let (mut writer, _) = open(&folder);
        writer.begin(&[record(0), record(1), record(2)], at()).unwrap();
        drop(writer);
        let first = folder.join(segment_name(1));
        let text = fs::read_to_string(&first).unwrap();
        fs::write(&first, format!("{text}{rest}")).unwrap();
        // A later file that holds nothing was begun, too.
        fs::write(folder.join(segment_name(2)), "{\"num").unwrap();

        let (mut writer, torn) = Writer::open(&folder).unwrap();
        let torn = torn.expect(name).record();
        writer.begin(std::slice::from_ref(&torn), at()).unwrap();
        let line = fs::read_to_string(folder.join(segment_name(3))).unwrap();
        let line = Entry::parse(line.lines().last().unwrap()).unwrap().members().to_vec();
        let bytes = (rest.len() + 5).to_string();
        let expected = [("file", "\"audit-00000001.jsonl\""), ("bytes", &bytes), ("whole", says_whole)];
        assert_eq!(line, expected, "{name}");
        assert_eq!(read(&folder), [0, 1, 2, 3], "{name}");
    }
}

#[test]
fn a_file_that_cannot_be_begun_costs_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let (here, away) = (folder.path().join("audit"), folder.path().join("away"));
    let (mut writer, _) = open(&here);
    writer.begin(&[record(0)], at()).unwrap();
    writer.append(&[record(1)], at()).unwrap();
    fs::rename(&here, &away).unwrap();
    for _ in 0..3 {
        writer.begin(&[record(2)], at()).unwrap_err();
        assert_eq!((writer.head().unwrap().number, writer.lag(), writer.is_open()), (1, 1, false));
    }
    writer.append(&[record(2)], at()).unwrap_err();
    fs::rename(&away, &here).unwrap();
    writer.begin(&[record(3)], at()).unwrap();
    assert_eq!(read(&here), [0, 1, 2, 3]);
}

#[test]
fn lines_are_not_written_far_ahead_of_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("audit");
    let (mut writer, _) = open(&folder);
    writer.begin(&[], at()).unwrap();
    for _ in 0..=super::writer::UNSYNCED_MAX {
        writer.append(&[record(0)], at()).unwrap();
    }
    assert_eq!(writer.lag(), 1);
}

#[test]
fn a_folder_is_one_writers_and_closed_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("audit");
    let refused = |path: &Path| match Writer::open(path) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted"),
    };
    let (writer, _) = open(&here);
    assert!(refused(&here).contains("another hsmd writes"));
    drop(writer);
    fs::set_permissions(&here, fs::Permissions::from_mode(0o770)).unwrap();
    assert!(refused(&here).contains("chmod 0700"));
    assert!(refused(&folder.path().join("absent/audit")).contains("the folder above it"));
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(refused(&folder.path().join("file")).contains("no folder"));
}

/// Half a file never has a file's name: it is written over.
#[test]
fn a_file_gets_its_name_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("audit");
    let (mut writer, _) = open(&folder);
    writer.begin(&[record(0), record(1)], at()).unwrap();
    drop(writer);
    let whole = fs::read_to_string(folder.join(segment_name(1))).unwrap();
    fs::write(folder.join("new"), &whole[..whole.len() / 2]).unwrap();
    let (mut writer, torn) = open(&folder);
    assert_eq!((writer.head().unwrap().number, torn), (1, false));
    writer.begin(&[record(2)], at()).unwrap();
    assert!(!folder.join("new").exists());
    assert_eq!(read(&folder), [0, 1, 2]);
}

#[test]
fn a_long_trail_is_many_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("audit");
    let (writer, _) = open(&folder);
    let mut writer = writer.with_files_of(1000);
    writer.begin(&[record(0)], at()).unwrap();
    for number in 1..20 {
        writer.append(&[record(number), record(number)], at()).unwrap();
    }
    assert!((5..15).contains(&files(&folder)), "{}", files(&folder));
    assert!(read(&folder).into_iter().eq(0..39));
}
