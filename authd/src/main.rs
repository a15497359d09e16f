//! The authd daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use authd::config::Config;
use authd::daemon::Daemon;
use clap::Parser;
use systemd::exit::Failure;
use systemd::telemetry::Metrics;
use systemd::{config, exit, notify, shutdown};

/// Accounts, devices and sessions: the ten operations, and the tokens they issue.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration, say "ok" or what is wrong with it, and end.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    exit::run("authd", move || run(arguments))
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let path = &arguments.config;
    let config: Config = config::load(path).map_err(Failure::config)?;
    config
        .check()
        .map_err(|error| config::Error::value(path, error.key, error.because))
        .map_err(Failure::config)?;
    if arguments.check_config {
        println!("ok");
        return Ok(());
    }
    let metrics = Metrics::install("authd").map_err(Failure::software)?;
    let daemon = tokio::select! {
        daemon = Daemon::start(&config) => daemon?,
        () = shutdown::signal() => return Ok(()),
    };
    metrics.serve(&config.metrics, daemon.health()).map_err(Failure::unavailable)?;
    notify::ready("serving");
    daemon.run_until(shutdown::signal()).await
}
