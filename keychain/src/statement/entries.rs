//! What heads list: denied generations, revoked keys and revoked services (`PROTOCOL.md#denied`,
//! `PROTOCOL.md#revoked`).
//!
//! Lists of several heads of one event are joined, never subtracted: an entry ends by its own time alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::{
    cesr::{Digest, KeyName},
    endorsement::Endorsement,
    error::{Code, Refusal},
    json::{self, Object},
    limits, number,
    time::Timestamp,
};

/// The lists of one head, or of several joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Older generations that are refused at once.
    pub denied: BTreeSet<Digest>,
    /// Keys of services that are refused whatever endorses them, each until its own end.
    pub keys: BTreeMap<KeyName, Timestamp>,
    /// Services whose endorsements up to a number are refused.
    pub services: BTreeMap<String, ServiceRevocation>,
    /// Services that are to replace keys whose endorsements have up to a number. Nothing of theirs is refused.
    pub rolls: BTreeMap<String, ServiceRevocation>,
}

/// How far a service is revoked, or is to roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRevocation {
    /// Endorsements with this number or a lower one, or without a number, are meant.
    pub endorsed_up_to: u64,
    /// When the last of those endorsements has ended.
    pub until: Timestamp,
}

impl Entries {
    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.denied.is_empty() && self.keys.is_empty() && self.services.is_empty() && self.rolls.is_empty()
    }

    /// Takes in all that `other` lists. True if that changed anything.
    pub fn join(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for id in &other.denied {
            changed |= self.denied.insert(*id);
        }
        for (key, until) in &other.keys {
            changed |= self.keys.get(key).is_none_or(|known| known < until);
            let known = self.keys.entry(*key).or_insert(*until);
            *known = (*known).max(*until);
        }
        for (ours, theirs) in [(&mut self.services, &other.services), (&mut self.rolls, &other.rolls)] {
            for (service, mark) in theirs {
                let before = ours.get(service).copied();
                let known = ours.entry(service.clone()).or_insert(*mark);
                known.endorsed_up_to = known.endorsed_up_to.max(mark.endorsed_up_to);
                known.until = known.until.max(mark.until);
                changed |= before != Some(*known);
            }
        }
        changed
    }

    /// What is refused here, has not ended at `at`, and is missing from `other`. Orders to roll refuse nothing: a lost one
    /// is given again. `denial_ended` says of a generation
    /// whether no verifier's window reaches it any more.
    #[must_use]
    pub fn missing_from(&self, other: &Self, at: Timestamp, denial_ended: impl Fn(&Digest) -> bool) -> Self {
        let denied = self.denied.difference(&other.denied).filter(|id| !denial_ended(id)).copied().collect();
        let keys = self.keys.iter().filter(|(key, until)| **until > at && !other.keys.contains_key(*key));
        let weaker = |service: &str, ours: &ServiceRevocation| {
            other.services.get(service).is_none_or(|theirs| theirs.endorsed_up_to < ours.endorsed_up_to)
        };
        let services = self.services.iter().filter(|(name, ours)| ours.until > at && weaker(name, ours));
        Self {
            denied,
            keys: keys.map(|(key, until)| (*key, *until)).collect(),
            services: services.map(|(name, ours)| (name.clone(), *ours)).collect(),
            rolls: BTreeMap::new(),
        }
    }

    /// When the first of the revocations and orders ends; none without any.
    pub(super) fn first_end(&self) -> Option<Timestamp> {
        let marks = self.services.values().chain(self.rolls.values()).map(|mark| mark.until);
        self.keys.values().copied().chain(marks).min()
    }

    /// Leaves out the revocations and orders that have ended at `now`.
    pub fn drop_ended(&mut self, now: Timestamp) {
        self.keys.retain(|_, until| *until > now);
        self.services.retain(|_, revocation| revocation.until > now);
        self.rolls.retain(|_, order| order.until > now);
    }

    /// Whether the service of an endorsement is ordered at `now` to replace the key that it is of.
    pub fn orders_roll(&self, endorsement: &Endorsement, now: Timestamp) -> bool {
        covers(&self.rolls, endorsement, now)
    }

    /// Refuses an endorsement whose key or service is revoked at `now`.
    pub fn demand_not_revoked(&self, endorsement: &Endorsement, now: Timestamp) -> Result<(), Refusal> {
        let revoked = |because| Err(Refusal::new(Code::Revoked, because));
        if self.keys.get(&endorsement.subject.public_key.name()).is_some_and(|until| *until > now) {
            return revoked("the key is revoked");
        }
        if covers(&self.services, endorsement, now) {
            return revoked("the service is revoked up to a later endorsement");
        }
        Ok(())
    }

    /// Refuses lists that would not be read.
    pub(super) fn demand_bounded(&self) -> Result<(), Refusal> {
        let fits = self.denied.len() <= limits::DENIED_MAX
            && self.keys.len() <= limits::REVOKED_KEYS_MAX
            && self.services.len() <= limits::REVOKED_SERVICES_MAX
            && self.rolls.len() <= limits::REVOKED_SERVICES_MAX;
        if fits { Ok(()) } else { Err(Refusal::new(Code::TooLarge, "the statement lists too many")) }
    }

    /// The lists as a JSON object, as a head has them.
    pub fn to_json(&self) -> String {
        format!("{{{}}}", self.to_members())
    }

    /// The members `denied`, `revoked` and, if there are any, `roll`, each sorted by its texts.
    pub(super) fn to_members(&self) -> String {
        let denied = self.denied.iter().map(|id| format!("\"{id}\""));
        let keys = self.keys.iter();
        let keys = keys.map(|(key, until)| format!("{{\"publicKey\":\"{key}\",\"until\":\"{until}\"}}"));
        let revoked: Vec<_> = sorted(keys).into_iter().chain(marks(&self.services)).collect();
        let rolls = marks(&self.rolls).join(",");
        let roll = if rolls.is_empty() { rolls } else { format!(",\"roll\":[{rolls}]") };
        format!("\"denied\":[{}],\"revoked\":[{}]{roll}", sorted(denied).join(","), revoked.join(","))
    }

    /// Takes out the members `denied`, `revoked` and `roll`.
    pub(super) fn take(payload: &mut Object<'_>) -> Result<Self, Refusal> {
        let mut entries = Self::default();
        let denied = payload.raw("denied")?;
        for text in json::plain_strings(denied).map_err(|refusal| refusal.with("member", "denied"))? {
            let id = Digest::parse(text)?;
            demand_once(entries.denied.insert(id))?;
        }
        let revoked = payload.raw("revoked")?;
        let bad = |_| Refusal::new(Code::InvalidMessage, "`revoked` is not an array");
        for raw in serde_json::from_str::<Vec<&RawValue>>(revoked).map_err(bad)? {
            entries.take_revoked(Object::parse(raw.get())?)?;
        }
        if let Some(roll) = payload.take("roll") {
            let bad = |_| Refusal::new(Code::InvalidMessage, "`roll` is not an array");
            for raw in serde_json::from_str::<Vec<&RawValue>>(roll).map_err(bad)? {
                let mut entry = Object::parse(raw.get())?;
                let until = entry.parsed("until", Timestamp::parse)?;
                let service = json::plain_string(entry.raw("service")?)?;
                let mark = take_mark(service, &mut entry, until)?;
                demand_once(entries.rolls.insert(service.to_owned(), mark).is_none())?;
            }
        }
        entries.demand_bounded()?;
        Ok(entries)
    }

    fn take_revoked(&mut self, mut entry: Object<'_>) -> Result<(), Refusal> {
        let until = entry.parsed("until", Timestamp::parse)?;
        match (entry.take("publicKey"), entry.take("service")) {
            (Some(key), None) => {
                let key = KeyName::parse(json::plain_string(key)?)?;
                demand_once(self.keys.insert(key, until).is_none())
            }
            (None, Some(service)) => {
                let service = json::plain_string(service)?;
                let revocation = take_mark(service, &mut entry, until)?;
                demand_once(self.services.insert(service.to_owned(), revocation).is_none())
            }
            _ => Err(Refusal::new(
                Code::InvalidMessage,
                "a revocation names neither a key nor a service, or both",
            )),
        }
    }
}

/// How far endorsements of a service are meant.
fn take_mark(service: &str, entry: &mut Object<'_>, until: Timestamp) -> Result<ServiceRevocation, Refusal> {
    let endorsed_up_to = number::parse(entry.raw("endorsedUpTo")?)?;
    if service.is_empty() || service.len() > limits::SERVICE_MAX {
        return Err(Refusal::new(Code::InvalidMessage, "`service` is empty or too long"));
    }
    Ok(ServiceRevocation { endorsed_up_to, until })
}

/// Whether an endorsement is meant at `now`. One without a number was made before there were any: it counts as the lowest.
fn covers(services: &BTreeMap<String, ServiceRevocation>, endorsement: &Endorsement, now: Timestamp) -> bool {
    let service = endorsement.service.as_deref().and_then(|service| services.get(service));
    service.is_some_and(|mark| mark.until > now && endorsement.number.unwrap_or(0) <= mark.endorsed_up_to)
}

fn marks(services: &BTreeMap<String, ServiceRevocation>) -> Vec<String> {
    sorted(services.iter().map(|(service, ServiceRevocation { endorsed_up_to, until })| {
        let service = json::string(service);
        format!("{{\"service\":{service},\"endorsedUpTo\":{endorsed_up_to},\"until\":\"{until}\"}}")
    }))
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<_> = texts.collect();
    texts.sort_unstable();
    texts
}

fn demand_once(is_new: bool) -> Result<(), Refusal> {
    if is_new { Ok(()) } else { Err(Refusal::new(Code::InvalidMessage, "the statement lists one twice")) }
}
