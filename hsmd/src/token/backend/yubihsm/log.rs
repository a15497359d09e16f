//! Entries of the device's own log, and the chain of digests that holds them together.
//!
//! An entry is 32 bytes: sixteen that say what happened, and a digest of those and of the digest before it.
//! Whoever kept the last digest notices an entry that was changed, left out or overwritten.

use aws_lc_rs::digest;
use yubihsm::{Client, client, response::Code};

use crate::token::backend::Fault;

/// Why a device's log cannot be believed.
const BROKEN: Fault = Fault::Nonsense("entries of the device's log whose digests do not hold together");

/// The first half of SHA-256 over an entry and the digest before it.
pub type LinkDigest = [u8; 16];

/// One entry, as the device spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What happened: number, command, its length, authentication key, two target keys, result, tick.
    pub fact: [u8; 16],
    /// The digest of `fact` and of the digest before it.
    pub digest: LinkDigest,
}

/// What the device answered about its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Starts of the device that found no room in the log.
    pub unlogged_boots: u16,
    /// Authentications that found no room in the log.
    pub unlogged_authentications: u16,
    /// The entries, oldest first.
    pub entries: Vec<Entry>,
}

/// Entries that follow what was kept before.
#[derive(Debug, PartialEq, Eq)]
pub struct News<'a> {
    /// The entries that were not kept yet.
    pub entries: &'a [Entry],
    /// Whether entries between the last one kept and these are lost for good.
    pub gap: bool,
}

impl Entry {
    fn new(bytes: &[u8], digest: LinkDigest) -> Self {
        let mut fact = [0; 16];
        for (index, byte) in fact.iter_mut().zip(bytes) {
            *index = *byte;
        }
        Self { fact, digest }
    }

    /// The entry's number, which goes round after 65535.
    pub fn number(&self) -> u16 {
        let [high, low, ..] = self.fact;
        u16::from_be_bytes([high, low])
    }

    /// Whether the entry follows one with that digest.
    pub fn follows(&self, before: &LinkDigest) -> bool {
        let whole = digest::digest(&digest::SHA256, &[self.fact, *before].concat());
        whole.as_ref().starts_with(&self.digest)
    }

    /// The entry in hexadecimal digits: sixteen bytes of fact, sixteen of digest.
    pub fn to_hex(self) -> String {
        let nibbles = self.fact.iter().chain(&self.digest).flat_map(|byte| [byte >> 4, byte & 15]);
        nibbles.filter_map(|nibble| char::from_digit(u32::from(nibble), 16)).collect()
    }

    /// Reads what [`Entry::to_hex`] wrote.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            let start = index.checked_mul(2)?;
            *byte = u8::from_str_radix(text.get(start..start.checked_add(2)?)?, 16).ok()?;
        }
        let (fact, digest) = bytes.split_at(16);
        Some(Self { fact: fact.try_into().ok()?, digest: digest.try_into().ok()? })
    }
}

impl Log {
    /// Reads the log; it stays on the device.
    pub(super) fn read(client: &Client) -> Result<Self, client::Error> {
        let answer = client.get_log_entries()?;
        Ok(Self {
            unlogged_boots: answer.unlogged_boot_events,
            unlogged_authentications: answer.unlogged_auth_events,
            entries: answer
                .entries
                .iter()
                .map(|entry| {
                    let [item, length] = [entry.item, entry.length].map(u16::to_be_bytes);
                    let keys = [entry.session_key, entry.target_key, entry.second_key].map(u16::to_be_bytes);
                    let fact = [
                        &item[..],
                        &[entry.cmd.to_u8()],
                        &length,
                        keys.as_flattened(),
                        &[result(entry.result)],
                        &entry.tick.to_be_bytes(),
                    ];
                    Entry::new(&fact.concat(), entry.digest.0)
                })
                .collect(),
        })
    }

    /// What follows the entry with the digest `kept`; everything if nothing was kept. Refused if the digests
    /// do not hold together.
    pub fn after(&self, kept: Option<&LinkDigest>) -> Result<News<'_>, Fault> {
        let together = |pair: &[Entry]| matches!(pair, [first, second] if second.follows(&first.digest));
        if !self.entries.windows(2).all(together) {
            return Err(BROKEN);
        }
        let Some(kept) = kept else { return Ok(News { entries: &self.entries, gap: false }) };
        let known = self.entries.iter().position(|entry| entry.digest == *kept);
        let first = known.map_or(0, |index| index.saturating_add(1));
        let entries = self.entries.get(first..).unwrap_or_default();
        let gap = known.is_none() && entries.first().is_some_and(|entry| !entry.follows(kept));
        Ok(News { entries, gap })
    }
}

/// The byte of a result: a success is as on the wire; of a failure the device logs its number alone, which the
/// library reads as a distance from [`Code::DeviceOk`].
fn result(code: Code) -> u8 {
    if code.is_success() { code.to_u8() } else { Code::DeviceOk.to_u8().wrapping_sub(code.to_u8()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer that Yubico's documentation of Get Log Entries shows, taken from a device.
    fn recorded() -> Log {
        let rows = [
            (
                "002e",
                "4b",
                "00ea",
                "0001",
                "cf94",
                "997e",
                "cb",
                "00051f6d",
                "415f51f1f035a1b713e730e4464e4033",
            ),
            (
                "002f",
                "4c",
                "004d",
                "0001",
                "aff7",
                "ffff",
                "cc",
                "00055de2",
                "5496a60d478c2b9c801d8d32ca66b554",
            ),
            (
                "0030",
                "00",
                "0000",
                "ffff",
                "0000",
                "0000",
                "00",
                "00000000",
                "14ac7747ba9bbb243cfc70befeb5349b",
            ),
            (
                "0031",
                "03",
                "000a",
                "ffff",
                "0001",
                "ffff",
                "83",
                "0000008b",
                "b20a8f25c025e693a8e869b433294a20",
            ),
            (
                "0032",
                "04",
                "0011",
                "ffff",
                "0001",
                "ffff",
                "84",
                "0000008b",
                "ebfae425c319ac7a0afbb8b92597de7c",
            ),
            (
                "0033",
                "67",
                "0002",
                "0001",
                "ffff",
                "ffff",
                "e7",
                "000002b9",
                "2e395d1b706668737e1d2215813db47e",
            ),
        ];
        let read = |row: &(&str, &str, &str, &str, &str, &str, &str, &str, &str)| {
            let text = [row.0, row.1, row.2, row.3, row.4, row.5, row.6, row.7, row.8].concat();
            Entry::from_hex(&text).unwrap()
        };
        Log { entries: rows.iter().map(read).collect(), ..Log::default() }
    }

    #[test]
    fn a_recorded_log_holds_together() {
        let log = recorded();
        assert_eq!(log.entries[0].number(), 46);
        assert_eq!(log.after(None).unwrap(), News { entries: &log.entries, gap: false });
        for entry in &log.entries {
            assert_eq!(Entry::from_hex(&entry.to_hex()), Some(*entry));
        }
        for bad in ["", "00", &"0".repeat(63), &"0g".repeat(32), &"é".repeat(32)] {
            assert_eq!(Entry::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_was_kept_is_not_told_again_and_what_is_lost_is_noticed() {
        let log = recorded();
        let [first, .., last] = log.entries[..] else { panic!() };
        // Kept, drained, and nothing new; kept, and not yet drained.
        assert_eq!(log.after(Some(&last.digest)).unwrap(), News { entries: &[], gap: false });
        assert_eq!(log.after(Some(&first.digest)).unwrap(), News { entries: &log.entries[1..], gap: false });
        // The device was relieved of what was kept: the next entry follows it.
        let rest = Log { entries: log.entries[1..].to_vec(), ..Log::default() };
        assert_eq!(rest.after(Some(&first.digest)).unwrap(), News { entries: &rest.entries, gap: false });
        // One in between was overwritten, or drained by somebody else.
        let later = Log { entries: log.entries[2..].to_vec(), ..Log::default() };
        assert_eq!(later.after(Some(&first.digest)).unwrap(), News { entries: &later.entries, gap: true });
        assert_eq!(Log::default().after(Some(&first.digest)).unwrap(), News { entries: &[], gap: false });
    }

    #[test]
    fn a_changed_log_is_refused() {
        let log = recorded();
        for index in 1..log.entries.len() {
            for change in 0..32 {
                let mut changed = log.clone();
                match changed.entries[index].fact.get_mut(change) {
                    Some(byte) => *byte ^= 1,
                    None => changed.entries[index].digest[change - 16] ^= 1,
                }
                assert!(matches!(changed.after(None), Err(Fault::Nonsense(_))), "{index} {change}");
            }
        }
        let mut shorter = log;
        shorter.entries.remove(2);
        assert!(shorter.after(None).is_err());
    }
}
