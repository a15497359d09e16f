//! `opsctl`: the operator's command.
//!
//! It reads the chain and hsmd's audit trail and proves them (`identity`, `chain`, `audit`), changes the chain
//! (`rotate`, `taint`), has keys of services refused (`revoke-key`), has authd carry out what operators order of
//! accounts (`ban`, `account`, `device`, `role`), brings the chain back to a signer that lost
//! it and looks after its tokens (`hsm`), makes certificates for services of other hosts (`tls`), looks at a
//! deployment (`status`), tries one from a device's side (`probe`), and runs one for development (`dev`).
//!
//! # What it is not
//!
//! It holds no key of the chain and decides nothing: hsmd decides who may rotate, by the peer credentials of its
//! admin socket. It is not a daemon and keeps no state of its own, save in the directories of `dev` and `tls`.
//!
//! # Invariants
//!
//! - Standard output is data, standard error is talk; `--json` has a version and stays stable.
//! - It never asks a question without a terminal, and takes no secret as an argument.
//! - What it says about a chain it has verified itself, whatever the source.
//! - Every wait has a deadline, and the exit code says what went wrong (`opsctl --help`).
//! - Output that is cut off ends a command with 74, never half way ([`out`]).
//! - A repeated or interrupted `rotate` or `taint` names the generation that it meant, so that it can
//!   never hit the next one.

#![deny(clippy::print_stdout, reason = "out.rs writes standard output: a print panics when it is cut off")]
#![deny(clippy::print_stderr, reason = "talk.rs writes standard error, for the same reason")]

mod account;
mod args;
mod audit;
mod chain;
mod clock;
mod declaration;
mod deployment;
mod dev;
mod door;
mod failure;
mod generation;
mod hsm;
mod out;
mod probe;
mod red_button;
mod reset;
mod revocation;
mod roll;
mod services;
mod statements;
mod status;
mod talk;
mod tls;
mod verifiers;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{
    AccountVerb, Arguments, AuditVerb, ChainVerb, Command, DeviceVerb, HsmVerb, IdentityVerb, PinVerb,
    ResetVerb, RoleVerb, TlsVerb, TokenVerb,
};
use failure::{Exit, Failure, OrFail};
use talk::Talk;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let wrong = error.use_stderr();
            let printed = error.print();
            return match printed {
                _ if wrong => Exit::Usage.into(),
                Err(_) => Exit::Io.into(),
                Ok(()) => ExitCode::SUCCESS,
            };
        }
    };
    let talk = Talk::new(arguments.quiet);
    // The code of a command that failed says more than that of its output.
    match execute(arguments, talk).and_then(|()| out::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                Talk::warn(failure.to_string());
            }
            failure.exit().into()
        }
    }
}

fn execute(arguments: Arguments, talk: Talk) -> Result<(), Failure> {
    match arguments.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "opsctl", &mut script);
            let script = String::from_utf8(script).or_fail(Exit::Software, || "a script that is no text")?;
            out::text(script);
            Ok(())
        }
        Command::InitialiseToken(options) => dev::initialise(&options),
        Command::Tls { verb: TlsVerb::Init(options) } => tls::init(&options, clock::now(), talk),
        Command::Tls { verb: TlsVerb::Issue(options) } => tls::issue(&options, clock::now(), talk),
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
            HsmVerb::Clock(options) => hsm::clock(&options, talk).await,
            HsmVerb::Lease { verb } => hsm::lease(&verb, talk).await,
            HsmVerb::Backup(options) => Err(hsm::backup(&options)),
            HsmVerb::Recover(options) => hsm::recover(&options, talk).await,
            HsmVerb::Restore(options) => Err(hsm::restore(&options)),
            HsmVerb::Pair(options) => Err(hsm::pair(&options)),
            HsmVerb::Replace(options) => Err(hsm::replace(&options)),
            HsmVerb::Pin { verb: PinVerb::Retry(options) } => Err(hsm::retry_pin(&options)),
            HsmVerb::Token { verb: TokenVerb::Accept(options) } => Err(hsm::accept_token(&options)),
            HsmVerb::Verify(options) => hsm::verify(&options, talk).await,
        },
        Command::RevokeKey(options) => revocation::revoke_key(&options, talk).await,
        Command::Audit { verb: AuditVerb::Show(options) } => audit::show(&options, talk).await,
        Command::Audit { verb: AuditVerb::Export(options) } => audit::export(&options, talk).await,
        Command::Audit { verb: AuditVerb::Archive(options) } => audit::archive(&options, talk).await,
        Command::RevokeService(options) => services::revoke_service(&options, talk).await,
        Command::OpenService(options) => services::open_service(&options, talk).await,
        Command::Audit { verb: AuditVerb::Verify(options) } => audit::verify(&options).await,
        Command::Ban(options) => account::ban(&options, talk).await,
        Command::Unban(options) => account::unban(&options, talk).await,
        Command::Account { verb } => match verb {
            AccountVerb::Show(options) => account::show(&options).await,
            AccountVerb::Delete(options) => account::delete(&options, talk).await,
            AccountVerb::Export(options) => account::export(&options).await,
            AccountVerb::Restore(options) => account::restore(&options, talk).await,
        },
        Command::Device { verb: DeviceVerb::List(options) } => account::devices(&options).await,
        Command::Device { verb: DeviceVerb::Revoke(options) } => account::revoke(&options, talk).await,
        Command::Role { verb } => match verb {
            RoleVerb::List(options) => account::roles(&options).await,
            RoleVerb::Grant(options) => account::grant(&options, talk).await,
            RoleVerb::Revoke(options) => account::withdraw(&options, talk).await,
        },
        Command::RedButton(options) => red_button::red_button(&options, talk).await,
        Command::Feed { verb } => account::feed(&verb, talk).await,
        Command::Reset { verb } => match verb {
            ResetVerb::Redis(options) => reset::redis(&options, talk).await,
            ResetVerb::Database(options) => reset::database(&options, talk).await,
            ResetVerb::Everything(options) => reset::everything(&options, talk).await,
        },
        Command::Roll(options) => roll::roll(&options, talk).await,
        Command::Watch(options) => verifiers::watch(&options, talk).await,
        Command::Status(options) => status::status(&options).await,
        Command::Probe(options) => probe::probe(&options).await,
        Command::Dev(options) => dev::run(&options, talk).await,
        // Handled before the runtime starts.
        Command::Completions { .. } | Command::InitialiseToken(_) | Command::Tls { .. } => Ok(()),
    }
}
