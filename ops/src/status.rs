//! `opsctl status`: the chain and every daemon's own word, on one screen.

use std::collections::BTreeMap;

use keychain::directory::Retention;
use serde::{Deserialize, Serialize};

use crate::chain::{Proved, print_json};
use crate::clock;
use crate::deployment::Deployment;
use crate::door::Address;
use crate::failure::{Exit, Failure, OrFail};
use crate::generation;
use crate::out;
use crate::statements::Stated;
use crate::verifiers::{self, RowStatus};

/// The version of what `--json` prints.
const JSON_VERSION: u32 = 1;
/// Where the daemons' units serve their metrics; those of the edges are instances, named by their users.
const UNITS: [(&str, &str); 1] = [("hsmd", "unix:/run/hsmd/metrics.sock")];

/// Options of `opsctl status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    deployment: Deployment,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    version: u32,
    ready: bool,
    /// How hsmd says that ledger and tokens stand to each other; absent if it cannot be asked.
    state: Option<ChainState>,
    chain: ChainStatus,
    head: HeadStatus,
    /// What the key directory does when its memory is full, or why it cannot be asked.
    directory_eviction: String,
    daemons: BTreeMap<String, DaemonStatus>,
    /// Every verifier that ought to be there, and what it acknowledged.
    verifiers: Vec<RowStatus>,
    /// Why they are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    verifiers_problem: Option<String>,
}

/// The state of the chain, of which hsmd/RECOVERY.md has a section.
#[derive(Deserialize, Serialize)]
struct ChainState {
    name: String,
    cause: String,
    cure: String,
}

/// The part of `GET /health` that is of interest here.
#[derive(Deserialize)]
struct Health {
    state: ChainState,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChainStatus {
    identity: Option<String>,
    generation: Option<String>,
    sequence_number: Option<u64>,
    created_at: Option<String>,
    age_seconds: Option<u64>,
    problem: Option<String>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct HeadStatus {
    issued_at: Option<String>,
    age_seconds: Option<u64>,
    /// Older generations that are refused.
    denied: Vec<String>,
    /// How many keys of services are revoked.
    revoked_keys: usize,
    /// The services that are revoked.
    revoked_services: Vec<String>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct DaemonStatus {
    ready: bool,
    /// What the daemon says about itself, or why it cannot be asked.
    detail: Vec<String>,
}

/// `opsctl status`.
pub(crate) async fn status(options: &Options) -> Result<(), Failure> {
    let chain = match options.deployment.admin() {
        Err(failure) => Err(failure),
        Ok(hsmd) => generation::chain(&hsmd).await,
    };
    let head = match (options.deployment.admin(), &chain) {
        (Ok(hsmd), Ok(chain)) => describe_head(Stated::read(&hsmd, chain).await),
        _ => HeadStatus::default(),
    };
    let state = state(&options.deployment).await;
    let mut daemons = BTreeMap::new();
    for (name, address) in metrics(&options.deployment)? {
        daemons.insert(name, ask(&options.deployment, &address).await);
    }
    let retention = retention(&options.deployment).await;
    let surveyed = verifiers::survey(&options.deployment).await;
    let rows = surveyed.as_deref().unwrap_or_default();
    let all_there =
        rows.iter().all(|row| row.verdict.is_settled() && row.silent_for.is_none() && !row.went_back());
    let ready = chain.is_ok() && surveyed.is_ok() && all_there && daemons.values().all(|daemon| daemon.ready);
    let now = clock::now();
    let status = Status {
        version: JSON_VERSION,
        ready,
        state,
        chain: describe(chain)?,
        head,
        directory_eviction: retention.clone().map_or_else(|problem| problem, |known| known.to_string()),
        daemons,
        verifiers: rows.iter().map(|row| RowStatus::new(row, now)).collect(),
        verifiers_problem: surveyed.as_ref().err().map(ToString::to_string),
    };
    if options.json {
        print_json(&status)?;
    } else {
        print(&status);
        if retention != Ok(Retention::Keeps) {
            out::line(format_args!("directory   {}", status.directory_eviction));
        }
        verifiers::print(rows, now).iter().for_each(out::line);
    }
    if ready { Ok(()) } else { Err(Failure::new(Exit::No, "not everything is ready")) }
}

/// Asks the key directory, with the credentials of this command.
async fn retention(deployment: &Deployment) -> Result<Retention, String> {
    let directory = deployment.directory().map_err(|failure| failure.to_string())?;
    directory.retention().await.map_err(|error| error.to_string())
}

/// Asks hsmd, which answers in every state, for the state.
async fn state(deployment: &Deployment) -> Option<ChainState> {
    let answer = deployment.admin().ok()?.get("/health").await.ok()?;
    serde_json::from_str::<Health>(&answer.body).ok().map(|health| health.state)
}

fn metrics(deployment: &Deployment) -> Result<BTreeMap<String, String>, Failure> {
    Ok(match deployment.endpoints()? {
        Some(endpoints) => endpoints.metrics,
        None => UNITS.into_iter().map(|(name, address)| (name.to_owned(), address.to_owned())).collect(),
    })
}

async fn ask(deployment: &Deployment, metrics: &str) -> DaemonStatus {
    let readyz = async {
        let address: Address =
            metrics.trim_end_matches("/metrics").parse().or_fail(Exit::Data, || "metrics")?;
        deployment.open(&address)?.get("/readyz").await
    };
    match readyz.await {
        Ok(answer) => DaemonStatus {
            ready: answer.is_ok(),
            detail: answer.body.lines().skip(1).map(str::to_owned).collect(),
        },
        Err(failure) => DaemonStatus { ready: false, detail: vec![failure.to_string()] },
    }
}

fn describe(chain: Result<Proved, Failure>) -> Result<ChainStatus, Failure> {
    Ok(match chain {
        Ok(chain) => {
            let head = chain.head()?.event();
            ChainStatus {
                identity: Some(chain.identity().to_string()),
                generation: Some(head.id.to_string()),
                sequence_number: Some(head.sequence_number),
                created_at: Some(head.created_at.to_string()),
                age_seconds: Some(clock::now().since(head.created_at).as_secs()),
                problem: None,
            }
        }
        Err(failure) => ChainStatus {
            identity: None,
            generation: None,
            sequence_number: None,
            created_at: None,
            age_seconds: None,
            problem: Some(failure.to_string()),
        },
    })
}

fn describe_head(stated: Result<Stated, Failure>) -> HeadStatus {
    match stated {
        Ok(stated) => HeadStatus {
            issued_at: Some(stated.issued_at.to_string()),
            age_seconds: Some(stated.age.as_secs()),
            denied: stated.entries.denied.iter().map(ToString::to_string).collect(),
            revoked_keys: stated.entries.keys.len(),
            revoked_services: stated.entries.services.keys().cloned().collect(),
            problem: None,
        },
        Err(failure) => HeadStatus { problem: Some(failure.to_string()), ..HeadStatus::default() },
    }
}

fn print_head(head: &HeadStatus) {
    if let (Some(issued_at), Some(age)) = (&head.issued_at, head.age_seconds) {
        out::line(format_args!("head        {issued_at}, {age} s old"));
    }
    for generation in &head.denied {
        out::line(format_args!("denied      {generation}"));
    }
    if head.revoked_keys > 0 {
        out::line(format_args!("revoked     {} keys of services", head.revoked_keys));
    }
    for service in &head.revoked_services {
        out::line(format_args!("revoked     {service}"));
    }
    if let Some(problem) = &head.problem {
        out::line(format_args!("head        {problem}"));
    }
}

fn print(status: &Status) {
    if let Some(ChainState { name, cause, cure }) =
        status.state.as_ref().filter(|state| state.name != "ready")
    {
        out::line(format_args!("state       {name}"));
        out::line(format_args!("cause       {cause}"));
        out::line(format_args!("cure        {cure} (hsmd/RECOVERY.md#{name})"));
    }
    let chain = &status.chain;
    if let (Some(identity), Some(generation), Some(number), Some(since)) =
        (&chain.identity, &chain.generation, chain.sequence_number, &chain.created_at)
    {
        out::line(format_args!("identity    {identity}"));
        out::line(format_args!("generation  {generation}"));
        out::line(format_args!("            number {number}, since {since}"));
    }
    if let Some(problem) = &chain.problem {
        out::line(format_args!("chain       {problem}"));
    }
    print_head(&status.head);
    if let Some(problem) = &status.verifiers_problem {
        out::line(format_args!("verifiers   {problem}"));
    }
    for (name, daemon) in &status.daemons {
        out::line(format_args!("{name:16}{}", if daemon.ready { "ready" } else { "NOT READY" }));
        for line in &daemon.detail {
            out::line(format_args!("{:16}  {line}", ""));
        }
    }
}
