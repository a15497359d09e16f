//! What declarations cost: commands, bytes and CPU time at Redis, CPU time at hsmd.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use crate::World;
use crate::process::cpu_seconds;

/// Reads the counters of a system's Redis and hsmd.
pub(super) struct Meter {
    redis: MultiplexedConnection,
    hsmd: u32,
}

/// Counters at one moment, or their growth in a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// How long it took to come up.
    pub span: Duration,
    /// Commands at Redis by name; the meter's own are left out.
    pub commands: BTreeMap<String, f64>,
    /// Bytes that Redis read.
    pub bytes_in: f64,
    /// Bytes that Redis wrote.
    pub bytes_out: f64,
    /// Seconds of CPU time that Redis used.
    pub redis_cpu: f64,
    /// Seconds of CPU time that hsmd used.
    pub hsmd_cpu: f64,
}

/// Counters as they stand.
pub(super) struct Reading {
    at: Instant,
    counters: Cost,
}

impl Meter {
    pub(super) async fn of(world: &World) -> Self {
        let hsmd = world.children("hsmd");
        let [hsmd] = hsmd.as_slice() else { panic!("one hsmd: {hsmd:?}") };
        Self { redis: world.directory(0).await, hsmd: *hsmd }
    }

    pub(super) async fn read(&mut self) -> Reading {
        let info = redis::cmd("INFO").arg(&["stats", "cpu", "commandstats"]).to_owned();
        let info: String = info.query_async(&mut self.redis).await.unwrap();
        Reading { at: Instant::now(), counters: Cost { hsmd_cpu: cpu_seconds(self.hsmd), ..parse(&info) } }
    }
}

impl Reading {
    /// What has been used since an earlier one.
    pub(super) fn since(&self, earlier: &Self) -> Cost {
        let span = self.at.duration_since(earlier.at);
        Cost { span, ..self.counters.clone() - earlier.counters.clone() }
    }
}

impl Cost {
    /// All commands.
    pub fn all_commands(&self) -> f64 {
        self.commands.values().sum()
    }

    /// The same for a second, or for one of several declarations.
    #[must_use]
    pub fn by(&self, divisor: f64) -> Self {
        self.map(|value| value / divisor)
    }

    /// What goes beyond `rest`, the cost of a second at rest.
    #[must_use]
    pub fn beyond(self, rest: &Self) -> Self {
        let (span, seconds) = (self.span, self.span.as_secs_f64());
        Self { span, ..self - rest.map(|value| value * seconds) }
    }

    fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            span: self.span,
            commands: self.commands.iter().map(|(name, count)| (name.clone(), change(*count))).collect(),
            bytes_in: change(self.bytes_in),
            bytes_out: change(self.bytes_out),
            redis_cpu: change(self.redis_cpu),
            hsmd_cpu: change(self.hsmd_cpu),
        }
    }

    fn with(mut self, other: &Self, join: impl Fn(f64, f64) -> f64) -> Self {
        for (name, count) in &other.commands {
            let known = self.commands.entry(name.clone()).or_default();
            *known = join(*known, *count);
        }
        self.bytes_in = join(self.bytes_in, other.bytes_in);
        self.bytes_out = join(self.bytes_out, other.bytes_out);
        self.redis_cpu = join(self.redis_cpu, other.redis_cpu);
        self.hsmd_cpu = join(self.hsmd_cpu, other.hsmd_cpu);
        self
    }
}

/// The sum of two costs; their spans add up.
impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let span = self.span + other.span;
        Self { span, ..self.with(&other, |one, another| one + another) }
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.with(&other, |one, another| one - another)
    }
}

/// The counters in Redis' answer to INFO.
fn parse(info: &str) -> Cost {
    let mut cost = Cost::default();
    for (name, value) in info.lines().filter_map(|line| line.split_once(':')) {
        let number = || value.trim().parse::<f64>().unwrap();
        match name {
            "total_net_input_bytes" => cost.bytes_in = number(),
            "total_net_output_bytes" => cost.bytes_out = number(),
            "used_cpu_sys" | "used_cpu_user" => cost.redis_cpu += number(),
            "cmdstat_info" => {}
            _ => {
                let calls = value.strip_prefix("calls=").and_then(|rest| rest.split(',').next());
                if let (Some(command), Some(calls)) = (name.strip_prefix("cmdstat_"), calls) {
                    cost.commands.insert(command.to_owned(), calls.parse().unwrap());
                }
            }
        }
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_and_rest_is_taken_off() {
        let info = "# Stats\r\ntotal_net_input_bytes:100\r\ntotal_net_output_bytes:300\r\n# CPU\r\n\
                    used_cpu_sys:1.5\r\nused_cpu_user:0.5\r\nused_cpu_sys_children:9\r\n# Commandstats\r\n\
                    cmdstat_get:calls=7,usec=9,usec_per_call=1.29\r\n\
                    cmdstat_client|tracking:calls=2,usec=1\r\ncmdstat_info:calls=5,usec=9\r\n";
        let cost = Cost { span: Duration::from_secs(2), ..parse(info) };
        assert_eq!((cost.bytes_in, cost.bytes_out, cost.redis_cpu), (100.0, 300.0, 2.0));
        let commands = [("client|tracking".to_owned(), 2.0), ("get".to_owned(), 7.0)];
        assert_eq!(cost.commands, commands.into());
        let rest = Cost { commands: [("ping".to_owned(), 1.0)].into(), bytes_in: 10.0, ..Cost::default() };
        let beyond = cost.beyond(&rest);
        assert_eq!((beyond.all_commands(), beyond.bytes_in, beyond.bytes_out), (7.0, 80.0, 300.0));
        let twice = (beyond.clone() + beyond).by(4.0);
        assert_eq!((twice.span, twice.bytes_in), (Duration::from_secs(4), 40.0));
    }
}
