//! The public key directory: `keysd --config FILE [--check-config]`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Tells devices which keys sign answers, and the HSM's key chain.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/keysd/keysd.toml")]
    config: PathBuf,
    /// Only say whether the configuration is good.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    systemd::exit::run("keysd", || async move {
        edge::keysd::run(&arguments.config, arguments.check_config).await
    })
}
