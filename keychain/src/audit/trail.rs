//! The chain of lines, walked from its beginning to its end.

use super::{Entry, Head};
use crate::error::{Code, Refusal};

/// Walks a trail line by line (`PROTOCOL.md#audit-chain`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Trail {
    head: Option<Head>,
}

/// How far a text was walked.
#[derive(Clone, Debug)]
pub struct Walked {
    /// Lines that hold.
    pub lines: usize,
    /// Bytes behind the last line that holds.
    pub rest: usize,
    /// Why the line behind it does not hold; `None` if no whole line is left.
    pub because: Option<Refusal>,
}

impl Trail {
    /// A trail to be walked from its very first line.
    pub const fn new() -> Self {
        Self { head: None }
    }

    /// A trail whose lines up to `head` are not here: the line that names it as the one before must follow.
    pub const fn after(head: Head) -> Self {
        Self { head: Some(head) }
    }

    /// The newest line that was walked.
    pub const fn head(&self) -> Option<Head> {
        self.head
    }

    /// Takes a line for the first of what is here, whatever stood before it.
    pub const fn begin_with(&mut self, entry: &Entry<'_>) {
        self.head = Some(entry.head);
    }

    /// Takes the next line, if it holds.
    pub fn step(&mut self, entry: &Entry<'_>) -> Result<(), Refusal> {
        let (number, previous) = Head::next(self.head.as_ref());
        if entry.head.number != number {
            return Err(broken("the numbers have a hole", entry));
        }
        if entry.previous != previous {
            return Err(broken("`previous` is not the digest of the line before", entry));
        }
        self.head = Some(entry.head);
        Ok(())
    }

    /// Walks lines, up to the first that does not hold or is not whole; `visit` gets each that does.
    pub fn walk(&mut self, text: &str, mut visit: impl FnMut(&Entry<'_>)) -> Walked {
        let mut walked = Walked { lines: 0, rest: text.len(), because: None };
        for line in text.split_inclusive('\n') {
            let Some(whole) = line.strip_suffix('\n') else { break };
            let stepped = Entry::parse(whole).and_then(|entry| {
                self.step(&entry)?;
                visit(&entry);
                Ok(())
            });
            if let Err(refusal) = stepped {
                walked.because = Some(refusal);
                break;
            }
            walked.lines = walked.lines.saturating_add(1);
            walked.rest = walked.rest.saturating_sub(line.len());
        }
        walked
    }
}

fn broken(because: &'static str, entry: &Entry<'_>) -> Refusal {
    Refusal::new(Code::BadChain, because).with("number", entry.head.number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{Kind, Record},
        time::Timestamp,
    };

    fn lines(count: u64) -> Vec<String> {
        let mut head = None;
        let line = |number| {
            let record = Record::new(Kind::Endorsement).number("x", number);
            let (line, next) = record.line(head.as_ref(), Timestamp::from_unix_millis(0));
            head = Some(next);
            format!("{line}\n")
        };
        (0..count).map(line).collect()
    }

    #[test]
    fn every_change_shows() {
        let good = lines(6);
        let changed = good.concat().replace("\"x\":2", "\"x\":9");
        let hole = Some("the numbers have a hole");
        let digest = Some("`previous` is not the digest of the line before");
        for (name, text, held, because) in [
            ("all", good.concat(), 6, None),
            ("nothing", String::new(), 0, None),
            ("half a line", good[..3].concat() + &good[3][..20], 3, None),
            ("changed", changed, 3, digest),
            ("swapped", [&good[1], &good[0]].map(String::as_str).concat(), 0, hole),
            ("taken out", good[..2].concat() + &good[3], 2, hole),
            ("a line twice", good[..3].concat() + &good[2], 3, hole),
            ("without its beginning", good[1..].concat(), 0, hole),
            ("no line", good[..2].concat() + "\0\n", 2, Some("not one JSON object on one line")),
        ] {
            let mut visited = 0;
            let walked = Trail::new().walk(&text, |_| visited += 1);
            let rest = text.len() - good[..held].concat().len().min(text.len());
            assert_eq!((walked.lines, visited), (held, held), "{name}");
            if name != "changed" {
                assert_eq!(walked.rest, rest, "{name}");
            }
            assert_eq!(walked.because.map(|refusal| refusal.because()), because, "{name}");
        }
    }

    #[test]
    fn a_trail_may_begin_later() {
        let lines = lines(5);
        let third = Entry::parse(lines[2].trim_end()).unwrap();
        let mut begun = Trail::new();
        begun.begin_with(&third);
        for mut trail in [begun, Trail::after(third.head)] {
            assert_eq!(trail.walk(&lines[3..].concat(), |_| {}).lines, 2);
            assert_eq!(trail.head().unwrap().number, 4);
        }
        assert_eq!(Trail::after(third.head).walk(&lines[4], |_| {}).lines, 0);
    }
}
