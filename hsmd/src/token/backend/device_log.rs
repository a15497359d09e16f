//! What a device's own log has come to, for those who keep the audit trail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What was kept of devices' logs since this was last asked. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct DeviceLog(Arc<Mutex<BTreeMap<String, Kept>>>);

/// Entries of one device's log that were kept: whoever has these digests notices if the file that they were
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
    pub(super) fn add(&self, kept: Kept) {
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
    }
}
