//! How often a row of a policy lets its caller through.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;

/// Most that a rate may count.
const COUNT_MAX: u32 = 1_000_000;

/// So many in each period: `"60/min"`. As many may come at once unless a burst is given, and then one each time that
/// a part of the period has passed: with `"60/min"` sixty, then one a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate {
    count: u32,
    period: Duration,
    /// How many may come at once.
    burst: u32,
}

impl Rate {
    /// So many a minute, at least one, and so many at once.
    pub const fn per_minute(count: u32, burst: u32) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self { count, period: Duration::from_mins(1), burst }
    }

    /// So many an hour, at least one, and so many at once.
    pub const fn per_hour(count: u32, burst: u32) -> Self {
        Self { period: Duration::from_hours(1), ..Self::per_minute(count, burst) }
    }

    /// How long an empty bucket takes until it is full.
    pub fn refill(&self) -> Duration {
        self.pause() * self.burst
    }

    /// When a bucket that is full again at `full` would be so after one more token.
    fn after(&self, full: &mut Duration, now: Duration) -> Duration {
        *full = (*full).clamp(now, now + self.refill());
        *full + self.pause()
    }

    /// How long one token takes.
    fn pause(&self) -> Duration {
        self.period / self.count
    }

    /// The same with another burst.
    pub fn with_burst(self, burst: u32) -> Result<Self, String> {
        if !(1..=COUNT_MAX).contains(&burst) {
            return Err(format!("key `burst`: write 1 to {COUNT_MAX}"));
        }
        Ok(Self { burst, ..self })
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!(
                "key `rate`: `{text}` is no rate; write 1 to {COUNT_MAX}, a slash and s, min or h, as in \"60/min\""
            )
        };
        let (count, period) = text.split_once('/').ok_or_else(wrong)?;
        let period = match period {
            "s" => Duration::from_secs(1),
            "min" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(wrong()),
        };
        let plain = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|count| plain && (1..=COUNT_MAX).contains(count));
        let count = count.ok_or_else(wrong)?;
        Ok(Self { count, period, burst: count })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = match self.period.as_secs() {
            1 => "s",
            60 => "min",
            _ => "h",
        };
        write!(f, "{}/{period}", self.count)
    }
}

/// A token bucket of one rate, filled to the brim at first.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// When, on the caller's clock, the bucket will be full again: one number says how full it is now.
    full: Mutex<Duration>,
}

impl Bucket {
    /// A full one.
    pub const fn new(rate: Rate) -> Self {
        Self { rate, full: Mutex::new(Duration::ZERO) }
    }

    /// Takes one token at `now`, or says how long to wait for one. A clock that went back costs what is in the bucket,
    /// and nothing more.
    pub fn take(&self, now: Duration) -> Result<(), Duration> {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.rate.after(&mut full, now);
        let wait = next.saturating_sub(now + self.rate.refill());
        if wait.is_zero() {
            *full = next;
            return Ok(());
        }
        Err(wait)
    }

    /// How long to wait for a token at `now`; not at all if there is one.
    pub fn wait(&self, now: Duration) -> Duration {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        self.rate.after(&mut full, now).saturating_sub(now + self.rate.refill())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn rates_are_a_count_and_a_period() {
        for text in ["1/s", "60/min", "1000000/h"] {
            assert_eq!(rate(text).to_string(), text);
        }
        for text in
            ["", "60", "/min", "0/s", "-1/s", "+1/s", "1.5/s", "60/m", "60 / min", "1000001/s", "60/min/h"]
        {
            let error = Rate::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains("`rate`") && error.contains("60/min"), "{error}");
        }
    }

    #[test]
    fn a_burst_is_bounded_and_refills_evenly() {
        let bucket = Bucket::new(rate("4/s"));
        let ms = Duration::from_millis;
        let hour = Duration::from_hours(1);
        for (at, outcome) in [
            (0_i64, Ok(())),
            (0, Ok(())),
            (0, Ok(())),
            (0, Ok(())),
            (0, Err(ms(250))),
            (100, Err(ms(150))),
            (250, Ok(())),
            (250, Err(ms(250))),
            (499, Err(ms(1))),
            (500, Ok(())),
            // Idle for as long as it likes: no more than a burst.
            (10_000, Ok(())),
            (10_000, Ok(())),
            (10_000, Ok(())),
            (10_000, Ok(())),
            (10_000, Err(ms(250))),
            // The clock goes back: one pause, not an hour.
            (-5_000, Err(ms(250))),
            (-4_750, Ok(())),
        ] {
            let now = if at < 0 {
                hour.checked_sub(ms(at.unsigned_abs())).unwrap()
            } else {
                hour + ms(at.unsigned_abs())
            };
            assert_eq!(bucket.wait(now), outcome.err().unwrap_or_default(), "{at}");
            assert_eq!(bucket.take(now), outcome, "{at}");
        }
    }
}
