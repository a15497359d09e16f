//! Numbers of endorsements, and which of them are void before they have left.

use std::collections::{BTreeMap, BTreeSet};

use keychain::{PublicKey, audit::Record, limits};

use super::{Error, RevokedService, Stated};

/// Numbers that are reserved at once: one transaction for so many endorsements.
pub(super) const BLOCK: u64 = 1000;

/// How far a restored ledger leaps: more endorsements than any copy of it can have given out meanwhile.
pub(super) const LEAP: u64 = 1 << 32;

/// Highest number: JSON readers know none beyond.
pub(super) const NUMBER_MAX: u64 = (1 << 53) - 1;

/// The line of an endorsement, and what decides whether it may be written.
#[derive(Clone, Debug)]
pub struct EndorsementLine {
    /// The line.
    pub record: Record,
    /// The service that the endorsement names.
    pub service: String,
    /// The key that it endorses.
    pub public_key: PublicKey,
    /// Its number.
    pub number: u64,
}

/// What an endorsement took before it was signed.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) service: String,
    pub(super) public_key: PublicKey,
    pub(super) number: u64,
}

/// Numbers that this process may give out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    next: u64,
    /// The highest that may have been given out, as the ledger has it.
    pub(super) mark: u64,
}

impl Numbers {
    /// The next number; nothing once the block is used up.
    pub(super) fn take(&mut self) -> Option<u64> {
        let number = self.next;
        (number <= self.mark && number > 0).then(|| {
            self.next = number.saturating_add(1);
            number
        })
    }

    /// The ledger's mark is now `mark`, and none of the numbers up to it is given out here any more.
    pub(super) fn void_up_to(&mut self, mark: u64) {
        *self = Self { next: mark.saturating_add(1), mark };
    }

    /// Numbers from `first` to `mark` were reserved.
    pub(super) fn reserve(&mut self, first: u64, mark: u64) {
        *self = Self { next: first, mark };
    }
}

/// What voids endorsements that are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Revocations {
    keys: BTreeSet<PublicKey>,
    services: BTreeMap<String, RevokedService>,
}

impl Revocations {
    pub(super) fn of(stated: &Stated) -> Self {
        Self {
            keys: stated.revoked.iter().map(|entry| entry.subject).collect(),
            services: stated.services.iter().map(|row| (row.service.clone(), row.clone())).collect(),
        }
    }

    /// Refuses an endorsement that was void before it left.
    pub(super) fn demand_valid(&self, taken: &Taken) -> Result<(), Error> {
        let service = self.services.get(&taken.service);
        let void = service.is_some_and(|row| row.closed || taken.number <= row.endorsed_up_to);
        if void || self.keys.contains(&taken.public_key) { Err(Error::Revoked) } else { Ok(()) }
    }
}

/// Refuses lines that are longer than a line may be.
pub(super) fn demand_short(lines: &[Record]) -> Result<(), Error> {
    let long = lines.iter().any(|record| record.line_length_max() >= limits::AUDIT_LINE_MAX);
    if long { Err(Error::Long) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use keychain::{SigningKey, Timestamp};

    use super::*;
    use crate::ledger::Entry;

    #[test]
    fn a_number_is_given_out_once_and_never_after_it_was_voided() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.take(), None, "nothing is reserved");
        numbers.reserve(1, 3);
        assert_eq!([numbers.take(), numbers.take()], [Some(1), Some(2)]);
        numbers.void_up_to(3);
        assert_eq!((numbers.take(), numbers.mark), (None, 3));
        numbers.reserve(4, 5);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(4), Some(5), None]);
    }

    #[test]
    fn what_was_revoked_before_it_left_is_void() {
        let at = Timestamp::from_unix_millis(0);
        let [key, other] = [1, 2].map(|seed| SigningKey::from_seed(&[seed; 32]).unwrap().public_key());
        let row = |closed| RevokedService {
            service: "edge:a".to_owned(),
            endorsed_up_to: 10,
            since: at,
            end: at,
            closed,
        };
        let revoked = vec![Entry { subject: other, since: at, end: at }];
        for (closed, service, key, number, valid) in [
            (true, "edge:a", key, 11, false),
            (false, "edge:a", key, 11, true),
            (false, "edge:a", key, 10, false),
            (true, "edge:b", key, 1, true),
            (false, "edge:b", other, 1, false),
        ] {
            let stated =
                Stated { revoked: revoked.clone(), services: vec![row(closed)], ..Stated::default() };
            let taken = Taken { service: service.to_owned(), public_key: key, number };
            let outcome = Revocations::of(&stated).demand_valid(&taken);
            assert_eq!(outcome.is_ok(), valid, "{closed} {service} {number}");
        }
    }
}
