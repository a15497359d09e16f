//! `authd check`: the walk over the whole store, its signed summary, and the store beside an earlier one.

use std::path::PathBuf;

use edge::clock::Clock;
use systemd::exit::Failure;

use super::summary::{Draft, Summary};
use super::{conclude, could_not, print};
use crate::config::Config;
use crate::store::{Finding, Judge, Stands, Store, Visitor};

/// Lines of a summary that are looked up at once.
const LINES: usize = 500;

/// What is asked of a check.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Compare with this summary of before, too: find rows that were removed since, or put back from before
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Write a summary of what stands, signed by a key that hsmd endorses for it; keep it on another machine
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
}

/// Prints what is found, and gathers what stands.
struct Report {
    findings: u64,
    draft: Option<Draft>,
}

impl Visitor for Report {
    fn found(&mut self, finding: Finding) {
        self.findings += 1;
        print(&finding);
    }

    fn stands(&mut self, stands: Stands) {
        if let Some(draft) = &mut self.draft {
            draft.add(&stands);
        }
    }
}

pub(super) async fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    let macs = config.mac_keys().map_err(super::unusable)?;
    let now = Clock::system().now();
    let chain = super::chain(config, now)?;
    let judge = Judge { chain: &chain, denial: config.denial(), now };
    // Whether it can be believed is known before anything is read that takes long.
    let former = options.against.as_ref().map(|path| Summary::read(path, &chain)).transpose()?;
    let draft = options.summary.as_ref().map(|path| Draft::begin(path)).transpose()?;
    let store = Store::open_existing(&config.database, macs).await.map_err(could_not)?;
    let mut report = Report { findings: 0, draft };
    let counts = store.walk(judge, &mut report).await.map_err(could_not)?;
    for (table, count) in &counts.0 {
        println!("{table} {count}");
    }
    if let Some(former) = &former {
        compare(&store, former, judge, &mut report).await?;
    }
    let concluded = conclude(report.findings);
    if let (Err(_), Some(draft)) = (&concluded, &report.draft) {
        draft.discard();
    }
    concluded?;
    if let Some(draft) = report.draft {
        let digest = draft.sign(config, &chain, &counts).await?;
        println!("summary {digest}");
    }
    println!("ok");
    Ok(())
}

async fn compare(
    store: &Store,
    former: &Summary,
    judge: Judge<'_>,
    report: &mut Report,
) -> Result<(), Failure> {
    println!("against {} of {}", former.digest(), former.made_at());
    let since = store.since(former.trail()).await.map_err(could_not)?;
    if since.reset {
        println!("an operator deleted every account since: records are not compared");
    }
    for lines in former.lines(LINES)? {
        store.compare(&lines?, since, judge, report).await.map_err(could_not)?;
    }
    Ok(())
}
