//! Clients that carry out one operation over and over, and what came of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tests::craft::{Device, key, message};
use tests::http::Http;
use tests::process::cpu_seconds;
use tokio::task::JoinSet;

use crate::setting::{Setting, Side};

/// Accounts prepared to be recovered in a round.
const RECOVERED: usize = 640;

/// Devices linked to an account: fewer than it may have.
const LINKED_MAX: usize = 900;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `/account/create`.
    Create,
    /// `/session/request`, then `/session/create`.
    Session,
    /// `/session/refresh`.
    Refresh,
    /// `/device/rotate`.
    Rotate,
    /// `/device/link`.
    Link,
    /// `/account/recover`, of an account of one device.
    Recover,
}

/// What a number of clients did in a span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Operations a second.
    by_second: f64,
    /// The middle one of all durations.
    p50: Duration,
    /// The duration that one operation in a hundred exceeded.
    p99: Duration,
    /// CPU seconds of the server for a thousand operations; the database's are not in it.
    cpu: f64,
}

impl Operation {
    pub(crate) const ALL: [Self; 6] =
        [Self::Create, Self::Session, Self::Refresh, Self::Rotate, Self::Link, Self::Recover];

    const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Session => "session",
            Self::Refresh => "refresh",
            Self::Rotate => "rotate",
            Self::Link => "link",
            Self::Recover => "recover",
        }
    }

    /// The devices that a client works with: one that has what it needs; of accounts to be recovered as many as it may get
    /// to, for each is recovered once.
    async fn prepare(self, auth: &Http, connections: usize) -> Vec<Device> {
        let count = if self == Self::Recover { RECOVERED.div_ceil(connections) } else { 1 };
        let mut devices = Vec::with_capacity(count);
        for _ in 0..count {
            let mut device = Device::create(auth).await;
            if self == Self::Refresh {
                device.open_session(auth).await;
            }
            devices.push(device);
        }
        devices
    }

    /// Carries it out once.
    async fn once(self, device: &mut Device, auth: &Http) {
        match self {
            Self::Create => *device = Device::create(auth).await,
            Self::Session => drop(device.open_session(auth).await),
            Self::Refresh => drop(device.try_refresh(auth).await.response()),
            Self::Rotate => drop(device.rotate(auth).await.response()),
            Self::Link => drop(device.link(auth).await),
            Self::Recover => {
                let (new, recovery) = (device.another(), key());
                let body = message(&new.recover_request(&recovery), &new.keys.current);
                auth.post("/account/recover", body).await.response();
            }
        }
    }

    /// How often a device may do it.
    const fn most(self) -> usize {
        match self {
            Self::Recover => 1,
            Self::Link => LINKED_MAX,
            _ => usize::MAX,
        }
    }
}

/// So many clients do one thing, for so long.
pub(crate) async fn measure(
    setting: &Setting,
    side: Side,
    operation: Operation,
    connections: usize,
    span: Duration,
) -> Rate {
    let (address, process) = setting.server(side);
    let ended = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let auth = Http::to(address);
        clients.spawn(async move { (operation.prepare(&auth, connections).await, auth) });
    }
    let clients = clients.join_all().await;
    let (began, used) = (Instant::now(), cpu_seconds(process));
    let mut tasks = JoinSet::new();
    for (devices, auth) in clients {
        let ended = Arc::clone(&ended);
        tasks.spawn(async move {
            let mut durations = Vec::new();
            for mut device in devices {
                for _ in 0..operation.most() {
                    if ended.load(Ordering::Relaxed) {
                        return (durations, Instant::now());
                    }
                    let start = Instant::now();
                    operation.once(&mut device, &auth).await;
                    durations.push(start.elapsed());
                }
            }
            (durations, Instant::now())
        });
    }
    // Clients that have nothing left to do end the round for all.
    let mut done = Vec::new();
    if let Ok(Some(first)) = tokio::time::timeout(span, tasks.join_next()).await {
        done.push(first.unwrap());
    }
    ended.store(true, Ordering::Relaxed);
    done.extend(tasks.join_all().await);
    let cpu = cpu_seconds(process) - used;
    let last = done.iter().map(|(_, end)| *end).max().unwrap();
    let took = last - began;
    let mut durations: Vec<_> = done.into_iter().flat_map(|(durations, _)| durations).collect();
    durations.sort_unstable();
    let count = f64::from(u32::try_from(durations.len()).unwrap());
    let nth = |share: usize| *durations.get(durations.len() * share / 100).unwrap();
    Rate { by_second: count / took.as_secs_f64(), p50: nth(50), p99: nth(99), cpu: cpu * 1_000.0 / count }
}

impl Rate {
    /// The head of a table of [`Self::line`].
    pub(crate) const HEADER: &str = "| | connections | a second | p50, ms | p99, ms | CPU s by 1,000 | control: a second | \
                                     p50, ms | p99, ms | CPU s by 1,000 | share of control |\n\
                                     | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |";

    /// The one of more operations a second.
    pub(crate) fn better_of(self, other: Option<Self>) -> Self {
        other.filter(|other| other.by_second > self.by_second).unwrap_or(self)
    }

    /// A line of the table.
    pub(crate) fn line(&self, operation: Operation, connections: usize, control: &Self) -> String {
        let share = 100.0 * self.by_second / control.by_second;
        format!("| {} | {connections} {self} {control} | {share:.0} % |", operation.name())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |span: Duration| span.as_secs_f64() * 1_000.0;
        let (p50, p99) = (milliseconds(self.p50), milliseconds(self.p99));
        write!(f, "| {:.0} | {p50:.1} | {p99:.1} | {:.2}", self.by_second, self.cpu)
    }
}
