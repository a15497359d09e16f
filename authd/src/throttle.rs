//! How often somebody may ask: an address, a device, an account (`[limits]` of the configuration).
//!
//! An address is counted before a byte of its body is read, if it is known: behind a reverse proxy that is not named in
//! `trusted_proxies` nobody's is. A device and its account are counted only for what is about to be written, which is for requests whose proof holds: nobody uses up what
//! is another's. Exact repeats write nothing and are not counted, so a device whose answer was lost is answered. Who is
//! refused is told when to come again, and is let in then: the refused request spent nothing.
//!
//! Whoever stole a device could use up what its account may do. So what takes power from him is counted by device alone
//! (an unlink, another recovery key, a deletion), and a recovery by account with no other operation.
//!
//! Each table is bounded. One that is full forgets those who ask least, who are counted anew then.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keychain::message::Operation;
use keychain::{Code, Digest, Refusal, Timestamp};
use moka::sync::Cache;
use serde::Deserialize;
use systemd::caller::{Bucket, Rate};

use crate::operation::owner;

/// Most that one table counts: some 16 MiB when it is full.
const COUNTED_MAX: u64 = 65_536;

/// An IPv6 address is counted by its network: who has one address has all of these.
const IPV6_NETWORK: u128 = u128::MAX << 64;

/// `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests of one address, of whatever kind.
    pub address: Rate,
    /// What one device has written.
    pub device: Rate,
    /// What all devices of one account have written.
    pub identity: Rate,
}

impl Default for Limits {
    /// Behind one address there may be an office. A device refreshes four times an hour, and an account has up to a
    /// thousand devices.
    fn default() -> Self {
        Self {
            address: Rate::per_minute(3_000, 3_000),
            device: Rate::per_hour(120, 120),
            identity: Rate::per_hour(6_000, 6_000),
        }
    }
}

/// Who asked how often.
pub struct Throttles {
    addresses: Table<IpAddr>,
    devices: Table<(Digest, Digest)>,
    identities: Table<Digest>,
    recoveries: Table<Digest>,
    owners: Table<(Digest, Digest)>,
}

impl Throttles {
    /// Nobody asked yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            addresses: Table::new("address", limits.address),
            devices: Table::new("device", limits.device),
            identities: Table::new("identity", limits.identity),
            recoveries: Table::new("recovery", limits.device),
            owners: Table::new("owner", limits.device),
        }
    }

    /// Counts a request of an address.
    pub fn count_address(&self, address: IpAddr, now: Timestamp) -> Result<(), Refusal> {
        let network = match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK)),
            address @ IpAddr::V4(_) => address,
        };
        take(&[self.addresses.bucket(network)], now)
    }

    /// Counts what a device is about to have written, now that its proof holds.
    pub fn count(
        &self,
        operation: Operation,
        (identity, device): (Digest, Digest),
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let device = || self.devices.bucket((identity, device));
        match operation {
            // Who creates an account is nobody yet; a challenge is not kept.
            Operation::AccountCreate | Operation::SessionRequest => Ok(()),
            Operation::AccountRecover => take(&[self.recoveries.bucket(identity)], now),
            Operation::AccountDelete | Operation::DeviceUnlink | Operation::RecoveryChange => {
                take(&[device()], now)
            }
            Operation::DeviceLink
            | Operation::DeviceRotate
            | Operation::SessionCreate
            | Operation::SessionRefresh => take(&[device(), self.identities.bucket(identity)], now),
        }
    }

    /// Counts what a device is about to have carried out as its account's owner, now that its proof holds. Apart from its
    /// sessions: who looks at his devices too often can still refresh.
    pub fn count_owner(
        &self,
        operation: owner::Operation,
        (identity, device): (Digest, Digest),
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let device = self.owners.bucket((identity, device));
        match operation {
            owner::Operation::DevicesList | owner::Operation::DevicesName => {
                take(&[device, self.identities.bucket(identity)], now)
            }
            // It takes power from a thief.
            owner::Operation::SessionsEnd | owner::Operation::SessionsEndOthers => take(&[device], now),
        }
    }
}

/// Counts once, however often it is asked to.
pub fn once(
    count: impl Fn((Digest, Digest)) -> Result<(), Refusal>,
) -> impl Fn((Digest, Digest)) -> Result<(), Refusal> {
    let is_counted = AtomicBool::new(false);
    move |asking| if is_counted.swap(true, Ordering::Relaxed) { Ok(()) } else { count(asking) }
}

/// Takes one from each, or from none: then it says how long to wait until there is one in each.
fn take<const COUNT: usize>(
    buckets: &[(&'static str, Arc<Bucket>); COUNT],
    now: Timestamp,
) -> Result<(), Refusal> {
    let now = Duration::from_millis(u64::try_from(now.unix_millis()).unwrap_or_default());
    let waits = buckets.iter().rev().map(|(name, bucket)| (bucket.wait(now), *name));
    let longest = waits.max_by_key(|(wait, _)| *wait);
    let (mut wait, mut limit) = longest.unwrap_or_default();
    if wait.is_zero() {
        for (name, bucket) in buckets {
            // Another request may have come between.
            if let Err(late) = bucket.take(now) {
                (wait, limit) = (late, *name);
            }
        }
    }
    if wait.is_zero() {
        return Ok(());
    }
    metrics::counter!("authd_throttled_total", "limit" => limit).increment(1);
    let seconds = wait.as_millis().div_ceil(1_000);
    Err(Refusal::new(Code::TooMany, "asked for more often than its limit allows")
        .with("limit", limit)
        .with("retryAfter", seconds.to_string()))
}

/// Buckets of one kind.
struct Table<K> {
    name: &'static str,
    rate: Rate,
    buckets: Cache<K, Arc<Bucket>>,
}

impl<K: Hash + Eq + Send + Sync + 'static> Table<K> {
    fn new(name: &'static str, rate: Rate) -> Self {
        // A bucket that is full again is as one that was never asked for.
        let buckets = Cache::builder().max_capacity(COUNTED_MAX).time_to_idle(rate.refill()).build();
        Self { name, rate, buckets }
    }

    fn bucket(&self, key: K) -> (&'static str, Arc<Bucket>) {
        (self.name, self.buckets.get_with(key, || Arc::new(Bucket::new(self.rate))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(1_800_000_000_000 + seconds * 1_000)
    }

    fn throttles(limit: &str) -> Throttles {
        let rate = Rate::try_from(limit.to_owned()).unwrap();
        Throttles::new(&Limits { address: rate, device: rate, identity: rate })
    }

    fn wait(outcome: Result<(), Refusal>) -> Option<String> {
        let refusal = outcome.err()?;
        assert_eq!(refusal.code(), Code::TooMany);
        Some(format!("{} {}", refusal.context("limit").unwrap(), refusal.context("retryAfter").unwrap()))
    }

    #[test]
    fn who_comes_again_when_he_was_told_to_is_let_in() {
        let throttles = throttles("2/min");
        let owner = (Digest::of("identity"), Digest::of("device"));
        let rotate = |seconds| wait(throttles.count(Operation::DeviceRotate, owner, at(seconds)));
        let told = Some("device 30".to_owned());
        let table = [
            (0, None),
            (0, None),
            (0, told.clone()),
            (29, Some("device 1".to_owned())),
            (30, None),
            (30, told),
        ];
        for (seconds, expected) in table {
            assert_eq!(rotate(seconds), expected, "at {seconds}");
        }
        // The clock goes back by a day.
        assert_eq!(rotate(-86_400), Some("device 30".to_owned()));
        assert_eq!(rotate(-86_370), None);
    }

    #[test]
    fn a_thief_does_not_use_up_what_is_taken_from_him_with() {
        let throttles = throttles("3/min");
        let (identity, own, stolen) = (Digest::of("identity"), Digest::of("own"), Digest::of("stolen"));
        for operation in [Operation::DeviceRotate, Operation::SessionCreate, Operation::SessionRefresh] {
            assert_eq!(throttles.count(operation, (identity, stolen), at(0)), Ok(()));
        }
        let count = |operation, device| wait(throttles.count(operation, (identity, device), at(0)));
        assert_eq!(count(Operation::DeviceUnlink, stolen), Some("device 20".to_owned()));
        // What is refused takes nothing.
        assert_eq!(count(Operation::SessionRefresh, own), Some("identity 20".to_owned()));
        for operation in [Operation::DeviceUnlink, Operation::RecoveryChange, Operation::AccountDelete] {
            assert_eq!(count(operation, own), None, "{operation}");
        }
        for _ in 0..3 {
            assert_eq!(count(Operation::AccountRecover, stolen), None);
        }
        assert_eq!(count(Operation::AccountRecover, stolen), Some("recovery 20".to_owned()));
        assert_eq!(count(Operation::AccountCreate, stolen), None);
    }

    #[test]
    fn an_ipv6_address_is_counted_by_its_network() {
        let table = [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ];
        for (one, other, same) in table {
            let throttles = throttles("1/min");
            let count = |address: &str| throttles.count_address(address.parse().unwrap(), at(0));
            assert_eq!(count(one), Ok(()));
            assert_eq!(wait(count(other)), same.then(|| "address 60".to_owned()), "{one} {other}");
        }
    }
}
