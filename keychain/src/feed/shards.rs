//! A map that is cheap to copy and cheap to change a little: whoever holds a copy keeps what it had.

use std::{collections::BTreeMap, sync::Arc};

use crate::cesr::Digest;

/// Parts of a map. A change copies the one part that it touches: a thousandth of everything.
const SHARDS: usize = 1_024;

/// Values by digest. Clones share what neither has changed since.
#[derive(Clone, Debug)]
pub struct Shards<V> {
    shards: Arc<Vec<Arc<BTreeMap<Digest, V>>>>,
    count: usize,
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Arc::default()).collect();
        Self { shards: Arc::new(shards), count: 0 }
    }
}

impl<V> Shards<V> {
    /// The value of `name`.
    pub fn get(&self, name: &Digest) -> Option<&V> {
        self.shards.get(shard(name))?.get(name)
    }

    /// How many values there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// All values.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }
}

impl<V: Clone> Shards<V> {
    /// Puts `value` in the place of what `name` had; `None` takes it away.
    pub fn set(&mut self, name: &Digest, value: Option<V>) {
        if value.is_none() && self.get(name).is_none() {
            return; // nothing is copied for nothing
        }
        let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(shard(name)) else { return };
        let shard = Arc::make_mut(shard);
        let before = shard.len();
        match value {
            Some(value) => drop(shard.insert(*name, value)),
            None => drop(shard.remove(name)),
        }
        self.count = self.count.saturating_sub(before).saturating_add(shard.len());
    }

    /// Keeps the values for which `keep` answers one, as it answers them.
    pub fn retain(&mut self, keep: impl Fn(&V) -> Option<V>, is_kept_whole: impl Fn(&V) -> bool) {
        let mut count: usize = 0;
        for shard in Arc::make_mut(&mut self.shards) {
            if !shard.values().all(&is_kept_whole) {
                let kept = shard.iter().filter_map(|(name, value)| Some((*name, keep(value)?)));
                *shard = Arc::new(kept.collect());
            }
            count = count.saturating_add(shard.len());
        }
        self.count = count;
    }
}

/// The shard of a name. Digests are spread evenly, unless somebody chose them: then the map is only slower.
fn shard(name: &Digest) -> usize {
    let [first, second, ..] = name.bytes();
    usize::from(u16::from_be_bytes([*first, *second])) % SHARDS
}
