//! `authd take-in` and `authd renew-macs`: MACs for rows that have none, or one by a key that is to go.

use edge::clock::Clock;
use systemd::exit::Failure;

use super::{conclude, could_not, print};
use crate::config::Config;
use crate::store::{Finding, Given, Judge, Stands, Store, Visitor};

/// What is asked of a taking in.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Take in also rows whose MAC is by a key that the credential does not hold: the key was lost
    #[arg(long)]
    key_was_lost: bool,
}

/// Prints and counts what is found.
#[derive(Default)]
struct Findings(u64);

impl Visitor for Findings {
    fn found(&mut self, finding: Finding) {
        self.0 += 1;
        print(&finding);
    }

    fn stands(&mut self, _: Stands) {}
}

pub(super) async fn take_in(config: &Config, options: &Options) -> Result<(), Failure> {
    let macs = config.mac_keys().map_err(super::unusable)?;
    let now = Clock::system().now();
    let chain = super::chain(config, now)?;
    let store =
        Store::open_to_take_in(&config.database, macs, options.key_was_lost).await.map_err(could_not)?;
    let mut findings = Findings::default();
    let given = store.take_in(options.key_was_lost).await.map_err(could_not)?;
    tell(given, &mut findings);
    conclude(findings.0)?;
    // A MAC says only that the row stood there. What devices and operators signed says more.
    let judge = Judge { chain: &chain, denial: config.denial(), now };
    store.walk(judge, &mut findings).await.map_err(could_not)?;
    conclude(findings.0)?;
    store.end_taking_in().await.map_err(could_not)?;
    println!("ok");
    Ok(())
}

pub(super) async fn renew(config: &Config) -> Result<(), Failure> {
    let macs = config.mac_keys().map_err(super::unusable)?;
    let now = Clock::system().now();
    let chain = super::chain(config, now)?;
    let store = Store::open_existing(&config.database, macs).await.map_err(could_not)?;
    let judge = Judge { chain: &chain, denial: config.denial(), now };
    let mut findings = Findings::default();
    // Whoever has the old key can write rows; what is signed in them he cannot.
    store.walk(judge, &mut findings).await.map_err(could_not)?;
    conclude(findings.0)?;
    let given = store.renew_macs().await.map_err(could_not)?;
    tell(given, &mut findings);
    conclude(findings.0)?;
    println!("ok");
    Ok(())
}

fn tell(given: Given, findings: &mut Findings) {
    for (table, count) in given.rows {
        println!("{table} {count}");
    }
    given.findings.into_iter().for_each(|finding| findings.found(finding));
}
