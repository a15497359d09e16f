//! What a head lists, decided from what the ledger holds.

use std::{collections::BTreeMap, time::Duration};

use keychain::{
    Code, Digest, Refusal, Timestamp,
    chain::windows,
    limits,
    statement::{Entries, Head, ServiceRevocation},
};

use crate::{
    chain::View,
    ledger::{RevokedService, RolledService, Stated},
};

/// What a head that is made at `now` lists: all that has not ended.
pub(super) fn entries(stated: &Stated, now: Timestamp, skew: Duration) -> Entries {
    // No reader takes an end beyond this. One that lies there was declared by a clock that was ahead, and each
    // later head states it anew.
    let last = now.plus(limits::ACCESS_KEY_LIFETIME).plus(skew);
    let denied = stated.denied.iter().filter(|entry| entry.end > now);
    let keys = stated.revoked.iter().filter(|entry| entry.end > now);
    let services = stated.services.iter().filter(|entry| entry.end > now);
    let service = |entry: &RevokedService| {
        let (endorsed_up_to, until) = (entry.endorsed_up_to, entry.end.min(last));
        (entry.service.clone(), ServiceRevocation { endorsed_up_to, until })
    };
    let rolls = stated.rolls.iter().filter(|entry| entry.end > now);
    let roll = |entry: &RolledService| {
        let (endorsed_up_to, until) = (entry.endorsed_up_to, entry.end.min(last));
        (entry.service.clone(), ServiceRevocation { endorsed_up_to, until })
    };
    Entries {
        denied: denied.map(|entry| entry.subject).collect(),
        keys: keys.map(|entry| (entry.subject.name(), entry.end.min(last))).collect(),
        services: services.map(service).collect(),
        rolls: rolls.map(roll).collect(),
    }
}

/// Whether two lists refuse and order the same; ends may differ, which lie beyond any endorsement at most.
pub(super) fn is_same(ours: &Entries, theirs: &Entries) -> bool {
    let marks = |entries: &Entries| {
        let marks = |services: &BTreeMap<String, ServiceRevocation>| {
            services.iter().map(|(name, it)| (name.clone(), it.endorsed_up_to)).collect::<Vec<_>>()
        };
        (marks(&entries.services), marks(&entries.rolls))
    };
    ours.denied == theirs.denied && ours.keys.keys().eq(theirs.keys.keys()) && marks(ours) == marks(theirs)
}

/// All that the ledger states as refused, ended or not.
pub(super) fn all(stated: &Stated) -> Entries {
    Entries {
        denied: stated.denied.iter().map(|entry| entry.subject).collect(),
        keys: stated.revoked.iter().map(|entry| (entry.subject.name(), entry.end)).collect(),
        services: stated
            .services
            .iter()
            .map(|entry| {
                let (endorsed_up_to, until) = (entry.endorsed_up_to, entry.end);
                (entry.service.clone(), ServiceRevocation { endorsed_up_to, until })
            })
            .collect(),
        rolls: BTreeMap::new(),
    }
}

/// When no verifier's window reaches a generation any more; `None` for one that is not in the chain. The newest has
/// no end.
pub(super) fn denial_end(view: &View, id: &Digest, skew: Duration) -> Option<Timestamp> {
    let next = view.after(view.find(id)?)?;
    Some(next.event().created_at.plus(windows::AUTHD).plus(skew))
}

/// Refuses to show a head that lacks what an earlier one of its event listed and what has not ended: the ledger
/// lost it.
pub(super) fn demand_nothing_lost(
    earlier: Option<&Head>,
    later: &Head,
    stated: &Stated,
) -> Result<(), Refusal> {
    let Some(earlier) = earlier.filter(|earlier| earlier.event_id() == later.event_id()) else {
        return Ok(());
    };
    let at = later.issued_at();
    let denial_ended = |id: &_| stated.denied.iter().any(|entry| entry.subject == *id && entry.end <= at);
    if earlier.entries().missing_from(later.entries(), at, denial_ended).is_empty() {
        return Ok(());
    }
    Err(Refusal::new(Code::Internal, "the ledger has lost a denial or revocation that a head has stated"))
}

#[cfg(test)]
mod tests {
    use keychain::{PublicKey, SigningKey};

    use super::*;
    use crate::ledger::Entry;

    const SKEW: Duration = Duration::from_secs(5);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    fn entry<T>(subject: T, end: i64) -> Entry<T> {
        Entry { subject, since: at(0), end: at(end) }
    }

    fn service(name: &str, endorsed_up_to: u64, end: i64) -> RevokedService {
        let (service, since, end) = (name.to_owned(), at(0), at(end));
        RevokedService { service, endorsed_up_to, since, end, closed: true }
    }

    fn key(number: u8) -> PublicKey {
        SigningKey::from_seed(&[number; 32]).unwrap().public_key()
    }

    #[test]
    fn what_has_ended_is_left_out_and_no_end_lies_beyond_any_endorsement() {
        let [a, b] = [Digest::of("a"), Digest::of("b")];
        let day = 24 * 3600;
        let stated = Stated {
            denied: vec![entry(a, 10), entry(b, 20)],
            revoked: vec![entry(key(1), 10), entry(key(2), 400 * day)],
            services: vec![service("edge:a", 7, 10), service("edge:b", 8, 400 * day)],
            rolls: vec![RolledService { service: "edge:c".to_owned(), endorsed_up_to: 9, end: at(10) }],
        };
        for (now, denied, keys) in [
            (9, vec![a, b], vec![(key(1), at(10)), (key(2), at(9 + day + 5))]),
            (10, vec![b], vec![(key(2), at(10 + day + 5))]),
            (20, vec![], vec![(key(2), at(20 + day + 5))]),
            (400 * day - 1, vec![], vec![(key(2), at(400 * day))]),
            (400 * day, vec![], vec![]),
        ] {
            let listed = entries(&stated, at(now), SKEW);
            assert_eq!(listed.rolls.len(), usize::from(now < 10), "{now}");
            assert_eq!(listed.denied, denied.into_iter().collect(), "{now}");
            let named = keys.iter().map(|(key, until)| (key.name(), *until)).collect();
            assert_eq!(listed.keys, named, "{now}");
            let services: Vec<_> = listed.services.values().map(|it| (it.endorsed_up_to, it.until)).collect();
            let expected: Vec<_> =
                keys.iter().map(|(of, until)| (if *of == key(1) { 7 } else { 8 }, *until)).collect();
            assert_eq!(services, expected, "{now}");
        }
    }
}
