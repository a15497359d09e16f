//! The public key directory: `keysd --config FILE [--check-config]`.

use std::process::ExitCode;

use systemd::arguments::Arguments;
use systemd::exit;

fn main() -> ExitCode {
    match Arguments::read("keysd", "Tells devices which keys sign answers, and the HSM's key chain") {
        Ok(arguments) => exit::run("keysd", || async move {
            edge::keysd::run(&arguments.config(), arguments.check_config()).await
        }),
        Err(code) => code,
    }
}
