//! The sidecar: `edge --config FILE [--check-config]`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Takes signed access requests for the app beside it, verifies them and signs the app's answers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/edge/edge.toml")]
    config: PathBuf,
    /// Only say whether the configuration is good.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    systemd::exit::run(
        "edge",
        || async move { edge::proxy::run(&arguments.config, arguments.check_config).await },
    )
}
