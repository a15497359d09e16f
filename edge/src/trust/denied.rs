//! Who is denied, as a part of what is trusted.

use std::time::Duration;

use keychain::feed::{self, Standing, State};
use keychain::token::Claims;
use keychain::{Code, Digest, Refusal, Timestamp};

use super::entries::{Entries, Entry};

/// How much earlier the feed's denial may end than an entry that repeats it: the way from one to the other.
const MIRROR_SLACK: Duration = Duration::from_secs(10);

/// A time, in milliseconds of Unix, at which only what has no end denies: in the year 5138.
const FAR: i64 = 100_000_000_000_000;

/// Whom the denial feed denies, and whom entries of database 3 deny. A clone is cheap and does not change.
#[derive(Debug, Clone, Default)]
pub struct Denied {
    /// What the feed said. Only the feed lifts it.
    pub feed: State,
    /// What database 3 holds.
    pub entries: Entries,
    /// How recent both must be; none where nobody is admitted by them.
    pub demand: Option<Confirmation>,
}

/// How recently revocations must have been confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// How long ago at most.
    pub max_age: Duration,
    /// How far clocks may differ.
    pub skew: Duration,
    /// Whether there is a denial feed: its newest message is signed, so that a directory that withholds one gains nothing.
    pub has_feed: bool,
}

/// How long ago revocations were confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Currency {
    /// Less than half of what is allowed.
    Confirmed(Duration),
    /// Half of it or more.
    Late(Duration),
    /// All of it or more; or never, by this clock.
    Unknown(Option<Duration>),
}

impl Denied {
    /// Refuses the claims of a denied device or identity.
    pub fn check(&self, claims: &Claims, now: Timestamp) -> Result<(), Refusal> {
        let denied = |who: &Digest| self.feed.denials().denies(who, now) || self.entries.denies(who, now);
        if denied(&claims.device) {
            return Err(Refusal::new(Code::Revoked, "the device is revoked or banned"));
        }
        if denied(&claims.identity) {
            return Err(Refusal::new(Code::Revoked, "the identity is banned"));
        }
        // The device is as good as before: a client that is told so refreshes, is refused, and signs in anew.
        if self.feed.denials().ends(claims, now) {
            return Err(Refusal::new(Code::ExpiredToken, "the token's session was ended by its owner"));
        }
        Ok(())
    }

    /// Refuses if it cannot be known at `now` who was revoked lately. Asked after [`Self::check`], so that whoever is
    /// denied for certain is told so.
    pub fn demand_confirmed(&self, now: Timestamp) -> Result<(), Refusal> {
        match self.currency(now) {
            None | Some(Currency::Confirmed(_) | Currency::Late(_)) => Ok(()),
            Some(Currency::Unknown(_)) => {
                Err(Refusal::new(Code::StaleRevocations, "revocations were not confirmed for too long"))
            }
        }
    }

    /// How long ago revocations were confirmed at `now`; nothing if that is not asked for.
    pub fn currency(&self, now: Timestamp) -> Option<Currency> {
        let Confirmation { max_age, skew, .. } = self.demand?;
        // What was confirmed in the future was confirmed by a clock that has been set back since.
        let confirmed = self.confirmed().filter(|confirmed| *confirmed <= now.plus(skew));
        Some(match confirmed.map(|confirmed| now.since(confirmed)) {
            None => Currency::Unknown(None),
            Some(age) if age >= max_age => Currency::Unknown(Some(age)),
            Some(age) if age >= max_age / 2 => Currency::Late(age),
            Some(age) => Currency::Confirmed(age),
        })
    }

    /// The last moment at which all that could be known of revocations was known.
    pub fn confirmed(&self) -> Option<Timestamp> {
        let entries = self.entries.confirmed()?;
        match self.demand {
            Some(Confirmation { has_feed: true, .. }) => Some(self.feed.issued_at()?.min(entries)),
            _ => Some(entries),
        }
    }

    /// Takes in an entry of database 3 that stands until `end`.
    pub fn hold(&mut self, who: &Digest, end: Option<Timestamp>) {
        let about = end.map(|end| end.minus(MIRROR_SLACK));
        let before = self.entries.get(who).filter(|before| before.repeats_feed && before.lasts(about));
        let repeats_feed = before.is_some() || repeats(&self.feed, who, end);
        self.entries.set(who, Some(Entry { end, repeats_feed, is_there: true }));
    }

    /// Takes in that database 3 has no entry of `who` any more. `is_deleted` says that somebody deleted it.
    pub fn miss(&mut self, who: &Digest, is_deleted: bool, now: Timestamp) {
        let left = self.entries.get(who).and_then(|entry| entry.missing(is_deleted, now));
        self.entries.set(who, left);
    }

    /// Puts in force what the feed says now; `said` is what it said last.
    pub fn hear(&mut self, feed: State, said: &[feed::Entry]) {
        self.feed = feed;
        for feed::Entry { place, standing } in said {
            let who = &place.subject;
            let Some(entry) = self.entries.get(who) else { continue };
            let left = match standing {
                // authd's word lifts what was lost.
                Standing::Lifted if !entry.is_there => None,
                Standing::Lifted => Some(entry),
                Standing::Denied(_) | Standing::Ended { .. } => Some(compared(&self.feed, who, entry)),
            };
            self.entries.set(who, left);
        }
    }

    /// Sees anew which entries repeat the feed, and drops what has ended.
    pub fn review(&mut self, now: Timestamp) {
        let feed = self.feed.clone();
        self.entries.revise(|who, entry| {
            Some(compared(&feed, who, entry)).filter(|entry| entry.is_there || entry.denies(now))
        });
    }
}

fn compared(feed: &State, who: &Digest, entry: Entry) -> Entry {
    Entry { repeats_feed: entry.repeats_feed || repeats(feed, who, entry.end), ..entry }
}

/// Whether the feed denies as long as an entry that stands until `end`.
fn repeats(feed: &State, who: &Digest, end: Option<Timestamp>) -> bool {
    let last = end.map_or(Timestamp::from_unix_millis(FAR), |end| end.minus(MIRROR_SLACK));
    feed.denials().denies(who, last)
}

#[cfg(test)]
mod tests {
    use keychain::feed::{Cause, Denials, Place, Position};

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_millis(second * 1_000)
    }

    fn said(who: Digest, standing: Standing) -> feed::Entry {
        feed::Entry { place: Place { subject: who, account: who, cause: Cause::Ban }, standing }
    }

    fn feed(entries: &[feed::Entry], issued_at: Timestamp) -> State {
        let mut denials = Denials::default();
        for entry in entries {
            denials.set(entry);
        }
        State::new(Position { epoch: 1, number: 1 }, issued_at, denials)
    }

    #[test]
    fn revocations_that_were_not_confirmed_for_too_long_are_not_known() {
        let minutes = |minutes: i64| at(minutes * 60);
        let tick = Duration::from_millis(1);
        let (max_age, skew) = (10 * MINUTE, Duration::from_secs(5));
        let (with, without) = (
            Some(Confirmation { max_age, skew, has_feed: true }),
            Some(Confirmation { max_age, skew, has_feed: false }),
        );
        let (at_100, at_200) = (Some(minutes(100)), Some(minutes(200)));
        for (demand, entries, said, now, expected) in [
            (without, at_100, None, minutes(100), Some(Currency::Confirmed(Duration::ZERO))),
            (
                without,
                at_100,
                None,
                minutes(105).minus(tick),
                Some(Currency::Confirmed((5 * MINUTE).saturating_sub(tick))),
            ),
            (without, at_100, None, minutes(105), Some(Currency::Late(5 * MINUTE))),
            (
                without,
                at_100,
                None,
                minutes(110).minus(tick),
                Some(Currency::Late((10 * MINUTE).saturating_sub(tick))),
            ),
            (without, at_100, None, minutes(110), Some(Currency::Unknown(Some(10 * MINUTE)))),
            (without, None, None, minutes(100), Some(Currency::Unknown(None))),
            (without, at_200, None, minutes(100), Some(Currency::Unknown(None))),
            (without, at_100, None, minutes(100).minus(skew), Some(Currency::Confirmed(Duration::ZERO))),
            (with, at_100, at_200, minutes(110), Some(Currency::Unknown(Some(10 * MINUTE)))),
            (with, at_200, at_100, minutes(110), Some(Currency::Unknown(Some(10 * MINUTE)))),
            (with, at_200, at_200, minutes(200), Some(Currency::Confirmed(Duration::ZERO))),
            (with, at_100, None, minutes(100), Some(Currency::Unknown(None))),
            (None, None, None, minutes(900), None),
        ] {
            let mut denied = Denied { demand, ..Denied::default() };
            denied.feed = said.map(|said| feed(&[], said)).unwrap_or_default();
            if let Some(entries) = entries {
                denied.entries.confirm(entries);
            }
            assert_eq!(denied.currency(now), expected, "{demand:?} {entries:?} {said:?} {now}");
            let code = denied.demand_confirmed(now).map_err(|refusal| refusal.code());
            let is_unknown = matches!(expected, Some(Currency::Unknown(_)));
            assert_eq!(code, if is_unknown { Err(Code::StaleRevocations) } else { Ok(()) });
        }
    }

    /// Entry by entry: until when it stands, what the feed says, what befalls it; until when it denies after that.
    #[test]
    fn what_is_lost_holds_to_its_end_unless_the_feed_decides() {
        let who = Digest::of("who");
        let soon = Some(at(1_000));
        let (ban, lift) = (said(who, Standing::Denied(None)), said(who, Standing::Lifted));
        let brief = said(who, Standing::Denied(soon));
        let none: &[feed::Entry] = &[];
        for (end, before, after, is_deleted, holds_until) in [
            (None, none, none, true, Some(at(0))),
            (None, none, none, false, None),
            (soon, none, none, true, Some(at(0))),
            (soon, none, none, false, soon),
            // The feed denies as long: what it says afterwards counts.
            (None, &[ban][..], &[lift][..], false, Some(at(0))),
            (soon, &[brief][..], &[lift][..], false, Some(at(0))),
            (soon, &[ban][..], &[lift][..], false, Some(at(0))),
            // It denies for less: somebody else denied for ever.
            (None, &[brief][..], none, false, None),
            // It lifts what was lost.
            (None, none, &[lift][..], false, Some(at(0))),
        ] {
            let mut denied = Denied { feed: feed(before, at(0)), ..Denied::default() };
            denied.hold(&who, end);
            let lifts_later = before.is_empty() && !after.is_empty();
            if !after.is_empty() && !lifts_later {
                denied.hear(feed(&[], at(0)), after);
            }
            denied.miss(&who, is_deleted, at(0));
            if lifts_later {
                assert!(denied.entries.denies(&who, at(0)));
                denied.hear(feed(&[], at(0)), after);
            }
            let case = format!("{end:?} {before:?} {after:?} {is_deleted}");
            for (now, denies) in [
                (at(0), holds_until.is_none_or(|until| until > at(0))),
                (at(999), holds_until.is_none_or(|until| until > at(999))),
                (at(1_000), holds_until.is_none()),
                (at(100_000_000), holds_until.is_none()),
            ] {
                assert_eq!(denied.entries.denies(&who, now), denies, "{case} at {now}");
            }
            denied.review(at(2_000));
            assert_eq!(denied.entries.count(), usize::from(holds_until.is_none()), "{case}");
        }
    }

    /// The entry may be read before the feed that denies the same, and written again after the feed lifted it.
    #[test]
    fn an_entry_is_known_to_repeat_the_feed_whichever_comes_first() {
        let who = Digest::of("who");
        let ban = said(who, Standing::Denied(None));
        let hears: [fn(&mut Denied, State, feed::Entry); 2] = [
            |denied, state, said| denied.hear(state, &[said]),
            |denied, state, _| {
                denied.hear(state, &[]);
                denied.review(at(0));
            },
        ];
        for hear in hears {
            let mut denied = Denied::default();
            denied.hold(&who, None);
            hear(&mut denied, feed(&[ban], at(0)), ban);
            denied.hear(feed(&[], at(0)), &[said(who, Standing::Lifted)]);
            assert!(denied.entries.denies(&who, at(0)), "its entry is still there");
            denied.hold(&who, Some(at(9)));
            denied.miss(&who, false, at(0));
            assert!(!denied.entries.denies(&who, at(0)));
        }
    }
}
