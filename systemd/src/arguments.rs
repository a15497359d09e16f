//! The command line that every daemon has: `--config FILE [--check-config]`, and the commands that some have besides.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::exit;

/// What a daemon is told on its command line.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// The configuration file [default: `/etc/DAEMON/DAEMON.toml`]
    #[arg(long, value_name = "FILE", global = true)]
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
        Self::read_with::<NoCommand>(daemon, about).map(|(arguments, _)| arguments)
    }

    /// The same for a daemon that has commands: what it does in place of serving, if it is told one.
    pub fn read_with<C: Subcommand>(
        daemon: &'static str,
        about: &'static str,
    ) -> Result<(Self, Option<C>), ExitCode> {
        let parse = |words| Self::parse_with(words, daemon, about);
        parse(std::env::args_os().collect()).map_err(|error| {
            let printed = error.print().is_ok();
            ExitCode::from(if error.use_stderr() || !printed { exit::USAGE } else { exit::OK })
        })
    }

    fn parse_with<C: Subcommand>(
        words: Vec<OsString>,
        daemon: &'static str,
        about: &'static str,
    ) -> Result<(Self, Option<C>), clap::Error> {
        let command = C::augment_subcommands(Self::command().name(daemon).about(about));
        let matches = command.try_get_matches_from(words)?;
        let told = matches.subcommand_name().map(|_| C::from_arg_matches(&matches)).transpose()?;
        Ok((Self { daemon, ..Self::from_arg_matches(&matches)? }, told))
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

/// The commands of a daemon that has none.
#[derive(Debug, Subcommand)]
enum NoCommand {}

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

    #[test]
    fn a_daemon_may_have_commands() {
        #[derive(Debug, PartialEq, Subcommand)]
        enum Command {
            Check { file: Option<PathBuf> },
        }
        let read = |words: &[&str]| {
            let words = words.iter().map(OsString::from).collect();
            Arguments::parse_with::<Command>(words, "authd", "about")
        };
        let (arguments, told) = read(&["authd", "check", "--config", "a.toml", "b"]).unwrap();
        assert_eq!(
            (arguments.config(), told),
            ("a.toml".into(), Some(Command::Check { file: Some("b".into()) }))
        );
        let (arguments, told) = read(&["authd"]).unwrap();
        assert_eq!((arguments.config(), told), ("/etc/authd/authd.toml".into(), None));
        for bad in [&["authd", "serve"][..], &["authd", "check", "a", "b"], &["authd", "help", "x"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        let words = ["hsmd", "check"].iter().map(OsString::from).collect();
        assert!(Arguments::parse_with::<NoCommand>(words, "hsmd", "about").is_err());
    }
}
