//! `opsctl` from the outside: its exit codes and output, the sample apps, and the system that it runs.
#![cfg(test)]

mod apps;
mod cli;
mod clock;
mod dev;
mod hsm;
mod output;
mod tls;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The program under test.
fn opsctl() -> Command {
    Command::new(env!("CARGO_BIN_EXE_opsctl"))
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Polls until there is a value; fails with `what` at the deadline.
async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    const DEADLINE: Duration = Duration::from_mins(1);
    let began = Instant::now();
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(began.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
