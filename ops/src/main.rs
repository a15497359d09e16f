//! `opsctl`: the operator's command.
//!
//! It reads the chain and proves it (`identity`, `chain`), changes it (`rotate`, `taint`), has keys of
//! services refused (`revoke-key`), brings the chain back to a signer that lost it and looks after its tokens (`hsm`), looks at a
//! deployment (`status`), tries one from a device's side (`probe`), and runs one for development
//! (`dev`).
//!
//! # What it is not
//!
//! It holds no key and decides nothing: hsmd decides who may rotate, by the peer credentials of its
//! admin socket. It is not a daemon and keeps no state of its own, save in the directory of `dev`.
//!
//! # Invariants
//!
//! - Standard output is data, standard error is talk; `--json` has a version and stays stable.
//! - It never asks a question without a terminal, and takes no secret as an argument.
//! - What it says about a chain it has verified itself, whatever the source.
//! - Every wait has a deadline, and the exit code says what went wrong (`opsctl --help`).
//! - A repeated or interrupted `rotate` or `taint` names the generation that it meant, so that it can
//!   never hit the next one.

mod args;
mod chain;
mod clock;
mod deployment;
mod dev;
mod door;
mod failure;
mod generation;
mod hsm;
mod probe;
mod revocation;
mod statements;
mod status;
mod talk;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Arguments, ChainVerb, Command, HsmVerb, IdentityVerb};
use failure::{Exit, Failure, OrFail};
use talk::Talk;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let wrong = error.use_stderr();
            // Nobody is left to tell when help cannot be printed.
            let _printed: std::io::Result<()> = error.print();
            return if wrong { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let talk = Talk::new(arguments.quiet);
    match execute(arguments, talk) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            Talk::warn(failure.to_string());
            failure.exit().into()
        }
    }
}

fn execute(arguments: Arguments, talk: Talk) -> Result<(), Failure> {
    match arguments.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "opsctl", &mut std::io::stdout());
            Ok(())
        }
        Command::InitialiseToken(options) => dev::initialise(&options),
        command => on_main_thread(run(command, talk)),
    }
}

/// A current-thread runtime: a child's parent-death signal belongs to the thread that started it,
/// and the main thread lives as long as the process does.
fn on_main_thread(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_fail(Exit::Software, || "cannot start the runtime")?
        .block_on(work)
}

async fn run(command: Command, talk: Talk) -> Result<(), Failure> {
    match command {
        Command::Identity { verb: IdentityVerb::Export { source } } => chain::export(&source).await,
        Command::Chain { verb: ChainVerb::Show { source, json } } => chain::show(&source, json).await,
        Command::Chain { verb: ChainVerb::Verify { source, json } } => chain::verify(&source, json).await,
        Command::Rotate(options) => generation::rotate(&options, talk).await,
        Command::Taint(options) => generation::taint(&options, talk).await,
        Command::Hsm { verb } => match verb {
            HsmVerb::Backup(options) => Err(hsm::backup(&options)),
            HsmVerb::Recover(options) => hsm::recover(&options, talk).await,
            HsmVerb::Restore(options) => Err(hsm::restore(&options)),
            HsmVerb::Verify(options) => hsm::verify(&options, talk).await,
        },
        Command::RevokeKey(options) => revocation::revoke_key(&options, talk).await,
        Command::Status(options) => status::status(&options).await,
        Command::Probe(options) => probe::probe(&options).await,
        Command::Dev(options) => dev::run(&options, talk).await,
        // Handled before the runtime starts.
        Command::Completions { .. } | Command::InitialiseToken(_) => Ok(()),
    }
}
