//! The binary: `hsmd --config FILE [--check-config]`.

use std::process::ExitCode;

use hsmd::{
    clock::System,
    daemon::{self, Loaded, config::Config, process},
};
use systemd::{
    arguments::Arguments,
    exit::{self, Failure},
    shutdown,
    telemetry::Metrics,
};

fn main() -> ExitCode {
    match Arguments::read("hsmd", "Owns the key chain and signs endorsements") {
        Ok(arguments) => exit::run("hsmd", || run(arguments)),
        Err(code) => code,
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    process::harden().map_err(Failure::io)?;
    let config = Config::load(&arguments.config())?;
    let policy = config.policy(Box::new(System::start()))?;
    if arguments.check_config() {
        config.check_files().map_err(Failure::config)?;
        say_ok();
        return Ok(());
    }
    let loaded = Loaded::load(config, policy)?;
    // Heard from now on: systemd may change its mind as soon as it has started hsmd.
    let stop = tokio::spawn(shutdown::signal());
    daemon::run(loaded, Metrics::install("hsmd")?, stop).await
}

#[expect(clippy::print_stdout, reason = "the answer of --check-config")]
fn say_ok() {
    println!("ok");
}
