//! The authd daemon.

use std::process::ExitCode;

use authd::config::Config;
use authd::daemon::Daemon;
use systemd::arguments::Arguments;
use systemd::exit::Failure;
use systemd::telemetry::Metrics;
use systemd::{config, exit, notify, shutdown};

fn main() -> ExitCode {
    match Arguments::read(
        "authd",
        "Accounts, devices and sessions: the ten operations, and the tokens they issue",
    ) {
        Ok(arguments) => exit::run("authd", move || run(arguments)),
        Err(code) => code,
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let path = &arguments.config();
    let config: Config = config::load(path).map_err(Failure::config)?;
    config
        .check()
        .map_err(|error| config::Error::value(path, error.key, error.because))
        .map_err(Failure::config)?;
    config.policy().map_err(Failure::config)?;
    if arguments.check_config() {
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
