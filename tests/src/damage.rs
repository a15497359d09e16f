//! What befalls the text of a file in a daemon's state folder.

use std::fs;
use std::path::Path;

use keychain::Digest;

/// What is done to a text.
pub type Damage = fn(&str) -> String;

/// Damages a file, or removes it.
pub fn befall(path: &Path, damage: Option<Damage>) {
    match damage {
        Some(damage) => fs::write(path, damage(&fs::read_to_string(path).unwrap())).unwrap(),
        None => fs::remove_file(path).unwrap(),
    }
}

/// Its end is missing.
pub fn cut(text: &str) -> String {
    text[..text.len() - 2].to_owned()
}

/// One character is another.
pub fn edited(text: &str) -> String {
    text.replacen('"', "'", 1)
}

/// It is longer than it can be.
pub fn endless(_: &str) -> String {
    " ".repeat(20_000_000)
}

/// It is that of another identity.
pub fn foreign(text: &str) -> String {
    instead_of(text, "\"identity\":\"", &Digest::of("another"))
}

/// An event that never was is said to be the highest.
pub fn invented(text: &str) -> String {
    instead_of(text, "\"id\":\"", &Digest::of("no event"))
}

fn instead_of(text: &str, before: &str, other: &Digest) -> String {
    let other = other.to_string();
    let (start, rest) = text.split_once(before).unwrap();
    format!("{start}{before}{other}{}", &rest[other.len()..])
}
