//! The command line that every daemon has: `--config FILE [--check-config]`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use crate::exit;

/// What a daemon is told on its command line.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// The configuration file [default: `/etc/DAEMON/DAEMON.toml`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, say "ok" or what is wrong with it, and end
    #[arg(long)]
    check_config: bool,
    #[arg(skip)]
    daemon: &'static str,
}

impl Arguments {
    /// Reads the command line of `daemon`, which does what `about` says. Err is the code to end with: help
    /// or the version were asked for and printed, or the usage is wrong ([`exit::USAGE`]).
    pub fn read(daemon: &'static str, about: &'static str) -> Result<Self, ExitCode> {
        let command = Self::command().name(daemon).about(about);
        match command.try_get_matches().and_then(|matches| Self::from_arg_matches(&matches)) {
            Ok(arguments) => Ok(Self { daemon, ..arguments }),
            Err(error) => {
                let printed = error.print().is_ok();
                Err(ExitCode::from(if error.use_stderr() || !printed { exit::USAGE } else { exit::OK }))
            }
        }
    }

    /// Where the configuration is.
    pub fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| format!("/etc/{0}/{0}.toml", self.daemon).into())
    }

    /// Whether only to check it.
    pub const fn check_config(&self) -> bool {
        self.check_config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_its_place() {
        Arguments::command().debug_assert();
        let read = |words: &[&str]| Arguments::try_parse_from(words);
        let named = read(&["authd", "--config", "a.toml", "--check-config"]).unwrap();
        assert_eq!((named.config(), named.check_config()), (PathBuf::from("a.toml"), true));
        let plain = Arguments { daemon: "authd", ..read(&["authd"]).unwrap() };
        assert_eq!((plain.config(), plain.check_config()), (PathBuf::from("/etc/authd/authd.toml"), false));
        for bad in [&["authd", "--config"][..], &["authd", "x"], &["authd", "--verbose"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
