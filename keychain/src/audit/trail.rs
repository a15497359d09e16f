//! The chain of lines, walked from segment to segment.

use std::collections::VecDeque;

use super::{Entry, Head};
use crate::{
    cesr::Digest,
    error::{Code, Refusal},
    limits,
};

/// Walks a trail line by line (`PROTOCOL.md#audit-chain`).
///
/// Tell it where each segment begins: there, and only there, lines may stand again that stood at the end of
/// the segment before.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    head: Option<Head>,
    /// Digests of the newest lines, the newest last.
    recent: VecDeque<Digest>,
    place: Place,
}

/// What a line that holds is to the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next line.
    New,
    /// A line that was walked already, standing again in a later segment.
    Repeated,
}

/// How far a segment was walked.
#[derive(Clone, Debug)]
pub struct Walked {
    /// Bytes from its start that hold.
    pub held: usize,
    /// Lines that hold.
    pub whole: usize,
    /// Why the line behind them does not; none if no whole line is left.
    pub because: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    /// Before the first line of all.
    #[default]
    Beginning,
    /// Before the first line of a segment.
    Seam,
    /// Among lines that repeat; the number that the next must have.
    Repeating(u64),
    /// Behind the newest line.
    End,
}

impl Trail {
    /// A trail to be walked from its very first line.
    pub fn new() -> Self {
        Self::default()
    }

    /// A trail whose lines up to `head` are not here: whatever names it as the line before may follow.
    pub fn after(head: Head) -> Self {
        Self { head: Some(head), recent: VecDeque::from([head.digest]), place: Place::Seam }
    }

    /// Takes a line for the first of what is here, whichever it is.
    pub fn starting_with(entry: &Entry<'_>) -> Self {
        let mut trail = Self { place: Place::End, ..Self::default() };
        trail.push(entry.head);
        trail
    }

    /// The newest line.
    pub const fn head(&self) -> Option<Head> {
        self.head
    }

    /// The digest of line `number`, if it is one of the newest.
    pub fn digest_of(&self, number: u64) -> Option<Digest> {
        let back = usize::try_from(self.head?.number.checked_sub(number)?).ok()?;
        let place = self.recent.len().checked_sub(back.checked_add(1)?)?;
        self.recent.get(place).copied()
    }

    /// A new segment begins.
    pub fn begin_segment(&mut self) {
        if self.head.is_some() {
            self.place = Place::Seam;
        }
    }

    /// Takes the next line, if it holds.
    pub fn step(&mut self, entry: &Entry<'_>) -> Result<Step, Refusal> {
        if matches!(self.place, Place::Seam) && self.repeats(entry)? {
            self.place = Place::Repeating(entry.head.number);
        }
        if let Place::Repeating(number) = self.place
            && let Some(known) = self.digest_of(number)
        {
            if entry.head.number != number || entry.head.digest != known {
                return Err(broken("the line is not the one that stood here before", entry));
            }
            self.place = Place::Repeating(number.saturating_add(1));
            return Ok(Step::Repeated);
        }
        let (number, previous) = Head::next(self.head.as_ref());
        if entry.head.number != number {
            return Err(broken("the numbers have a hole", entry));
        }
        if entry.previous != previous {
            return Err(broken("`previous` is not the digest of the line before", entry));
        }
        self.place = Place::End;
        self.push(entry.head);
        Ok(Step::New)
    }

    /// Walks what a segment holds, up to the first line that does not hold or is not whole; `visit` is told of
    /// each line that does. [`Self::begin_segment`] comes first.
    ///
    /// What is left over counts for nothing if the next segment goes on from the newest line
    /// (`PROTOCOL.md#audit-segments`); that is the caller's to find out.
    pub fn walk(&mut self, segment: &[u8], mut visit: impl FnMut(&Entry<'_>, Step)) -> Walked {
        let mut walked = Walked { held: 0, whole: 0, because: None };
        let mut rest = segment;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (rest.get(..end).unwrap_or_default(), rest.get(end.saturating_add(1)..));
            let entry = std::str::from_utf8(line)
                .map_err(|_| Refusal::new(Code::InvalidMessage, "a line that is no text"))
                .and_then(Entry::parse);
            let stepped = entry.and_then(|entry| self.step(&entry).map(|step| visit(&entry, step)));
            if let Err(refusal) = stepped {
                walked.because = Some(refusal);
                break;
            }
            walked.whole = walked.whole.saturating_add(1);
            rest = after.unwrap_or_default();
        }
        walked.held = segment.len().saturating_sub(rest.len());
        walked
    }

    /// Whether the first line of a segment stood in the segment before.
    fn repeats(&self, entry: &Entry<'_>) -> Result<bool, Refusal> {
        let newest = self.head.map_or(0, |head| head.number);
        if entry.head.number > newest {
            return Ok(false);
        }
        match self.digest_of(entry.head.number) {
            Some(_) => Ok(true),
            None => Err(broken("the segment goes further back than one may", entry)),
        }
    }

    fn push(&mut self, head: Head) {
        self.head = Some(head);
        self.recent.push_back(head.digest);
        if self.recent.len() > limits::AUDIT_REPEATED_MAX {
            self.recent.pop_front();
        }
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

    fn lines(count: usize) -> Vec<String> {
        let mut head = None;
        (0..count)
            .map(|number| {
                let record = Record::new(Kind::Endorsement).number("x", number as u64);
                let (line, next) = record.line(head.as_ref(), Timestamp::from_unix_millis(0));
                head = Some(next);
                line
            })
            .collect()
    }

    /// Walks segments of lines; the numbers taken as new, or the first reason against.
    fn walk(segments: &[&[String]]) -> Result<Vec<u64>, &'static str> {
        let mut trail = Trail::new();
        let mut taken = Vec::new();
        for segment in segments {
            trail.begin_segment();
            for line in *segment {
                let entry = Entry::parse(line).unwrap();
                match trail.step(&entry) {
                    Ok(Step::New) => taken.push(entry.head.number),
                    Ok(Step::Repeated) => {}
                    Err(refusal) => return Err(refusal.because()),
                }
            }
        }
        Ok(taken)
    }

    #[test]
    fn every_change_shows() {
        let good = lines(6);
        let mut changed = good.clone();
        changed[2] = changed[2].replace("\"x\":2", "\"x\":9");
        let mut swapped = good.clone();
        swapped.swap(2, 3);
        let mut other = lines(5);
        other[4] = other[4].replace("\"x\":4", "\"x\":9");
        let hole = "the numbers have a hole";
        let digest = "`previous` is not the digest of the line before";
        let repeated = "the line is not the one that stood here before";
        let all = Ok(vec![0, 1, 2, 3, 4, 5]);
        for (name, segments, expected) in [
            ("one segment", vec![&good[..]], all.clone()),
            ("two segments", vec![&good[..3], &good[3..]], all.clone()),
            ("an empty one between", vec![&good[..3], &[], &good[3..]], all.clone()),
            ("lines stand again", vec![&good[..5], &good[3..]], all.clone()),
            ("all lines stand again", vec![&good[..5], &good[..]], all.clone()),
            ("and again", vec![&good[..5], &good[3..5], &good[2..]], all),
            ("changed", vec![&changed[..]], Err(digest)),
            ("swapped", vec![&swapped[..]], Err(hole)),
            ("taken out", vec![&good[..2], &good[3..]], Err(hole)),
            ("without its beginning", vec![&good[1..]], Err(hole)),
            ("repeated within a segment", vec![&good[..2], &good[2..4], &changed[2..3]], Err(repeated)),
            ("another story", vec![&good[..5], &other[3..]], Err(repeated)),
            ("a hole among repetitions", vec![&good[..5], &good[2..3], &good[4..]], Ok(all_of(6))),
        ] {
            assert_eq!(walk(&segments), expected, "{name}");
        }
        let twice = [&good[..2], &good[..1]].concat();
        assert_eq!(walk(&[&twice]), Err(hole));
        let skips = [&good[3..4], &good[5..]].concat();
        assert_eq!(walk(&[&good[..5], &skips]), Err(repeated));
    }

    fn all_of(count: u64) -> Vec<u64> {
        (0..count).collect()
    }

    #[test]
    fn a_segment_is_walked_up_to_what_does_not_hold() {
        let lines: Vec<_> = lines(4).into_iter().map(|line| format!("{line}\n")).collect();
        let good = lines.concat();
        let three = lines[..3].concat();
        let cut = &lines[3][..20];
        let wrong = Some("the numbers have a hole");
        for (name, text, held, because) in [
            ("all", good.clone().into_bytes(), 4, None),
            ("nothing", Vec::new(), 0, None),
            ("half a line", [three.as_bytes(), cut.as_bytes()].concat(), 3, None),
            ("a line twice", [three.as_bytes(), lines[2].as_bytes()].concat(), 3, wrong),
            ("a hole", [lines[0].as_bytes(), lines[2].as_bytes()].concat(), 1, wrong),
            ("no text", [three.as_bytes(), b"\xff\n"].concat(), 3, Some("a line that is no text")),
            ("zeros", [three.as_bytes(), b"\0\n"].concat(), 3, Some("not one JSON object on one line")),
        ] {
            let mut trail = Trail::new();
            trail.begin_segment();
            let mut visited = 0;
            let walked = trail.walk(&text, |_, _| visited += 1);
            let length: usize = lines[..held].iter().map(String::len).sum();
            assert_eq!((walked.held, walked.whole, visited), (length, held, held), "{name}");
            assert_eq!(walked.because.map(|refusal| refusal.because()), because, "{name}");
        }
    }

    #[test]
    fn a_trail_may_begin_later_if_told_so() {
        let lines = lines(5);
        let third = Entry::parse(&lines[2]).unwrap();
        for mut trail in [Trail::starting_with(&third), Trail::after(third.head)] {
            assert_eq!(trail.head(), Some(third.head));
            assert_eq!(trail.digest_of(2), Some(third.head.digest));
            assert_eq!(trail.digest_of(1), None);
            assert_eq!(trail.step(&Entry::parse(&lines[3]).unwrap()), Ok(Step::New));
            trail.begin_segment();
            let refusal = trail.step(&Entry::parse(&lines[1]).unwrap()).unwrap_err();
            assert_eq!(refusal.because(), "the segment goes further back than one may");
        }
    }
}
