//! The sidecar: `edge --config FILE [--check-config]`.

use std::process::ExitCode;

use systemd::arguments::Arguments;
use systemd::exit;

fn main() -> ExitCode {
    match Arguments::read(
        "edge",
        "Takes signed access requests for the app beside it, verifies them and signs the app's answers",
    ) {
        Ok(arguments) => exit::run("edge", || async move {
            edge::proxy::run(&arguments.config(), arguments.check_config()).await
        }),
        Err(code) => code,
    }
}
