//! The authd daemon.

use std::process::ExitCode;

use authd::command;
use authd::config::Config;
use authd::daemon::Starting;
use edge::clock::Clock;
use systemd::arguments::Arguments;
use systemd::exit::Failure;
use systemd::telemetry::Metrics;
use systemd::{config, exit, shutdown};

fn main() -> ExitCode {
    match Arguments::read_with(
        "authd",
        "Accounts, devices and sessions: the ten operations, and the tokens they issue",
    ) {
        Ok((arguments, None)) => exit::run("authd", move || run(arguments)),
        Ok((arguments, Some(command))) => exit::run("authd", move || command::run(arguments, command)),
        Err(code) => code,
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let path = &arguments.config();
    let config = Config::load(path)?;
    config.policy().map_err(Failure::config)?;
    if let Some(tls) = &config.tls {
        tls.check()
            .map_err(|error| config::Error::value(path, "tls", Failure::config(error).to_string()))
            .map_err(Failure::config)?;
    }
    if arguments.check_config() {
        println!("ok");
        return Ok(());
    }
    let starting = Starting::open(&config, Clock::system())?;
    let watcher = starting.watcher();
    // Both doors are open from the first moment: a start that waits says for what.
    let seen = watcher.clone();
    let metrics = Metrics::install("authd").map_err(Failure::software)?;
    metrics.serve(&config.metrics, move || seen.health()).map_err(Failure::unavailable)?;
    tokio::spawn(watcher.clone().run());
    shutdown::serve(watcher.start(Box::pin(starting.ready())), async |daemon, stop| {
        watcher.ready();
        daemon.run_until(stop).await
    })
    .await
}
