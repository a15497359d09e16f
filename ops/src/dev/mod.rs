//! `opsctl dev`: the entire system in the foreground, on free loopback ports, in one directory.
//!
//! It is for development and tests: one user, one machine, one process tree. What it starts are the
//! shipped binaries with ordinary configuration files, so that what works here works under systemd.
//!
//! Invariants:
//! - The endpoints file exists only while everything that it names is up.
//! - No child outlives this process, not even when it is killed: each has a parent-death signal.
//! - A directory belongs to one `opsctl dev` at a time, and keeps one identity for ever.
//! - Secrets (the token's PIN, the edges' secrets) pass through 0600 files, never through arguments.

mod app;
mod child;
mod endpoints;
mod fleet;
mod layout;
mod notify;
mod port;
mod render;
mod start;
mod token;

use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure, OrFail};
use crate::out;
use crate::talk::Talk;
use fleet::Fleet;
use layout::Layout;

pub(crate) use endpoints::Endpoints;
pub(crate) use token::{Initialise, initialise};

/// Options of `opsctl dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Directory that holds everything: keys, ledger, accounts, logs (made when missing)
    #[arg(long, value_name = "DIR", default_value = ".dev")]
    pub(crate) dir: PathBuf,
    /// Write where everything is to this file, as JSON, once all of it is up
    #[arg(long, value_name = "FILE")]
    pub(crate) endpoints: Option<PathBuf>,
    /// Database for accounts (a PostgreSQL or SQLite URL) instead of a SQLite file in DIR
    #[arg(long, value_name = "URL")]
    pub(crate) database: Option<String>,
    /// Directory of the sample apps [default: tests/apps of the workspace this program was built in]
    #[arg(long, value_name = "DIR")]
    pub(crate) apps: Option<PathBuf>,
}

/// Runs the system until SIGINT or SIGTERM.
pub(crate) async fn run(options: &Options, talk: Talk) -> Result<(), Failure> {
    let began = Instant::now();
    let mut stop = Stop::listen()?;
    let layout = Layout::open(&options.dir)?;
    let endpoints_file = options.endpoints.as_deref().map(file_to_be).transpose()?;
    let mut files = vec![layout.endpoints()];
    files.extend(endpoints_file);
    // A file left by a killed run would send its reader to ports that are not ours.
    endpoints::remove(&files)?;

    let mut fleet = Fleet::new(&layout, talk)?;
    let outcome = tokio::select! {
        started = start::everything(&mut fleet, &layout, options) => started.map(Some),
        () = stop.asked() => Ok(None),
    };
    let served = match outcome {
        Ok(None) => Ok(()),
        Ok(Some(endpoints)) => match endpoints.write(&files) {
            Ok(()) => {
                announce(&endpoints, &layout, began, talk);
                let announced = out::check();
                if announced.is_ok() {
                    stop.asked().await;
                }
                announced
            }
            Err(failure) => Err(failure),
        },
        Err(failure) => Err(failure),
    };
    talk.say("stopping");
    let removed = endpoints::remove(&files);
    fleet.stop().await;
    served.and(removed)
}

fn announce(endpoints: &Endpoints, layout: &Layout, began: Instant, talk: Talk) {
    out::line(endpoints);
    talk.say(format!("logs      {}", layout.logs().display()));
    talk.say(format!("everything is up after {:.1} s; Ctrl-C stops it", began.elapsed().as_secs_f32()));
}

/// The absolute path of a file that can be written later: found out before anything starts.
fn file_to_be(path: &Path) -> Result<PathBuf, Failure> {
    let context = || format!("cannot write the endpoints file `{}`", path.display());
    let path = std::path::absolute(path).or_fail(Exit::Usage, context)?;
    match path.parent() {
        Some(parent) if parent.is_dir() && !path.is_dir() => Ok(path),
        _ => Err(Failure::new(Exit::Usage, format!("{}: its directory does not exist", context()))),
    }
}

/// SIGINT and SIGTERM, both of which mean: stop in order.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).or_fail(Exit::Software, || "cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
