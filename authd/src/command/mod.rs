//! What authd does in place of serving: what an operator asks of the store, without a running authd (`STORE.md`).
//!
//! Each ends with 0 if all is well, with 1 if rows are not as authd left them, and with 2 if it could not
//! find out. A wrong command line or configuration ends as in any daemon, with 64 or 78.

mod check;
mod given;
mod mac_key;
mod summary;

use clap::Subcommand;
use keychain::chain::{self, Chain};
use systemd::arguments::Arguments;
use systemd::exit::Failure;

use crate::config::Config;
use crate::store::{Fault, Finding};

/// Something was found that is not as it should be.
const FOUND: u8 = 1;

/// It could not be found out.
const COULD_NOT: u8 = 2;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Walk the whole store: MACs, signatures, commitments, order; exit 1 if a row is not as authd left it, 2
    /// if it cannot be told
    Check(check::Options),
    /// Print a new key for the credential of `store_mac_key`: one line, into a file or a pipe
    MacKey,
    /// Give every row a MAC by the first key of the credential in place of one by the second
    RenewMacs,
    /// Give the rows of an authd of before rows had MACs theirs, once; no authd may run meanwhile
    TakeIn(given::Options),
}

/// Carries out a command.
pub async fn run(arguments: Arguments, command: Command) -> Result<(), Failure> {
    if let Command::MacKey = command {
        return mac_key::print();
    }
    let config = Config::load(&arguments.config())?;
    match command {
        Command::Check(options) => check::run(&config, &options).await,
        Command::MacKey => Ok(()),
        Command::RenewMacs => given::renew(&config).await,
        Command::TakeIn(options) => given::take_in(&config, &options).await,
    }
}

/// The HSM's chain as authd kept it here.
fn chain(config: &Config, now: keychain::Timestamp) -> Result<Chain, Failure> {
    let settings =
        chain::Settings { skew: config.clock_skew.duration(), pin: config.chain_pin, highest: None };
    let chain = edge::trust::kept_chain(&config.state, config.identity, settings, now);
    if chain.head().is_some() {
        return Ok(chain);
    }
    let state = config.state.display();
    Err(Failure::new(
        COULD_NOT,
        format!("`{state}` has no chain of this identity, by which orders are judged: start authd here once"),
    ))
}

fn could_not(fault: Fault) -> Failure {
    match fault {
        Fault::Corrupt { .. } => Failure::new(FOUND, fault),
        Fault::Location(_) | Fault::Lost(_) | Fault::Unavailable(_) => Failure::new(COULD_NOT, fault),
    }
}

fn unusable(config_error: crate::config::Unusable) -> Failure {
    Failure::config(config_error)
}

/// Tells of what was found, and how it ends.
fn conclude(findings: u64) -> Result<(), Failure> {
    if findings == 0 {
        return Ok(());
    }
    let because =
        format!("{findings} rows or chains are not as authd left them: authd/STORE.md says what to do");
    Err(Failure::new(FOUND, because))
}

fn print(finding: &Finding) {
    println!("found {finding}");
}
