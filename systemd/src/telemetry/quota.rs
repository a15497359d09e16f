//! Lines of the log that a stranger can cause: some, and no more.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::caller::{Bucket, Rate};

/// How many lines of one kind are written. Those beyond it are counted, and the number stands in the next line.
#[derive(Debug)]
pub struct Quota {
    bucket: Bucket,
    began: OnceLock<Instant>,
    left_out: AtomicU64,
}

impl Quota {
    /// So many lines a minute, and as many at once.
    pub const fn per_minute(lines: u32) -> Self {
        let bucket = Bucket::new(Rate::per_minute(lines, lines));
        Self { bucket, began: OnceLock::new(), left_out: AtomicU64::new(0) }
    }

    /// Admits a line that is to be written now, with the number of those left out before it. Returns `None` if this one
    /// is to be left out.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(self.began.get_or_init(Instant::now).elapsed())
    }

    fn admit_at(&self, now: Duration) -> Option<u64> {
        if self.bucket.take(now).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_count() {
        let quota = Quota::per_minute(6);
        let second = Duration::from_secs;
        let written = (0..1_000).filter(|_| quota.admit_at(second(0)).is_some()).count();
        assert_eq!(written, 6);
        assert_eq!(quota.admit_at(second(9)), None);
        assert_eq!(quota.admit_at(second(10)), Some(995));
        assert_eq!(quota.admit_at(second(3_600)), Some(0));
    }
}
