//! What a device's own log has come to, for those who keep the audit trail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What was kept of devices' logs since this was last asked. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct DeviceLog(Arc<Mutex<BTreeMap<String, Kept>>>);

/// Entries of one device's log that were kept: an auditor with these digests notices if the file that they were
/// kept in is changed afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The device's serial number; empty if it is not known.
    pub device: String,
    /// How many entries.
    pub entries: u64,
    /// The newest of them, as the device spells it, in hexadecimal digits: it chains all before.
    pub newest: String,
    /// How often entries were lost before they could be kept.
    pub gaps: u64,
}

impl DeviceLog {
    /// Adds what was kept. Several batches of one device become one: the newest entry chains the others.
    pub(in crate::token) fn add(&self, kept: Kept) {
        let mut devices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match devices.get_mut(&kept.device) {
            Some(before) => {
                before.entries = before.entries.saturating_add(kept.entries);
                before.gaps = before.gaps.saturating_add(kept.gaps);
                before.newest = kept.newest;
            }
            None => drop(devices.insert(kept.device.clone(), kept)),
        }
    }

    /// Puts back what could not be written: the newest entry stays the one that was added since, if there is one.
    pub fn put_back(&self, earlier: Kept) {
        let mut devices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match devices.get_mut(&earlier.device) {
            Some(since) => {
                since.entries = since.entries.saturating_add(earlier.entries);
                since.gaps = since.gaps.saturating_add(earlier.gaps);
            }
            None => drop(devices.insert(earlier.device.clone(), earlier)),
        }
    }

    /// Takes what was added.
    pub fn take(&self) -> Vec<Kept> {
        let devices = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        devices.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_one_device_become_one() {
        let log = DeviceLog::default();
        let kept = |device: &str, entries, newest: &str, gaps| Kept {
            device: device.to_owned(),
            entries,
            newest: newest.to_owned(),
            gaps,
        };
        log.add(kept("1", 30, "aa", 0));
        log.add(kept("2", 7, "bb", 0));
        log.add(kept("1", 31, "cc", 1));
        assert_eq!(log.clone().take(), [kept("1", 61, "cc", 1), kept("2", 7, "bb", 0)]);
        assert!(log.take().is_empty());
        log.add(kept("1", 2, "dd", 0));
        log.put_back(kept("1", 61, "cc", 1));
        log.put_back(kept("2", 7, "bb", 0));
        assert_eq!(log.take(), [kept("1", 63, "dd", 1), kept("2", 7, "bb", 0)]);
    }
}
