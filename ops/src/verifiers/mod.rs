//! The verifiers of a deployment, and what each has acknowledged (`PROTOCOL.md#acknowledgement`).
//!
//! Who ought to be there, the chain and its head come from hsmd's admin socket; the acknowledgements come from the
//! directory, which can hide one and make none. What is not acknowledged is never said to be done.

mod judge;
mod table;
mod wait;
mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use keychain::acknowledgement::Instance;
use keychain::chain::Chain;
use keychain::directory::Directory;
use keychain::endorsement::Purpose;
use keychain::feed::Position;
use keychain::statement::HeadPlace;
use serde::Deserialize;

use crate::chain::Proved;
use crate::clock;
use crate::deployment::Deployment;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};
use crate::statements::Stated;
#[cfg(test)]
pub(crate) use judge::Verdict;
pub(crate) use judge::{Expected, Goal, Row, judge};
pub(crate) use table::{RowStatus, name, print};
pub(crate) use wait::Wait;
pub(crate) use watch::{Watch, watch};

/// hsmd's answer to `GET /services`.
#[derive(Deserialize)]
struct Services {
    services: Vec<ServiceRow>,
}

#[derive(Deserialize)]
struct ServiceRow {
    service: String,
    purposes: Vec<String>,
    instances: Vec<String>,
    closed: bool,
}

/// What hsmd says at one moment: who ought to be there, and by which chain and head they are judged.
pub(crate) struct View {
    pub(crate) expected: Vec<Expected>,
    pub(crate) chain: Chain,
    pub(crate) head: HeadPlace,
}

impl View {
    /// Asks hsmd for all of it.
    pub(crate) async fn read(hsmd: &Door) -> Result<Self, Failure> {
        let proved = Proved::parse_ahead(&hsmd.get("/chain").await?.ok(hsmd)?)?;
        let expected = expected(hsmd).await?;
        Self::of(hsmd, &proved, expected).await
    }

    async fn of(hsmd: &Door, proved: &Proved, expected: Vec<Expected>) -> Result<Self, Failure> {
        let stated = Stated::read(hsmd, proved).await?;
        Ok(Self { expected, chain: stated.chain, head: stated.place })
    }
}

/// The processes that hsmd's policy says ought to be there, sorted.
pub(crate) async fn expected(hsmd: &Door) -> Result<Vec<Expected>, Failure> {
    let body = hsmd.get("/services").await?.ok(hsmd)?;
    read_expected(&body)
}

fn read_expected(body: &str) -> Result<Vec<Expected>, Failure> {
    let wrong = || "hsmd's list of services has not the form that it should have";
    let Services { services } = serde_json::from_str(body).or_fail(Exit::Data, wrong)?;
    let mut expected = Vec::new();
    for row in services {
        let purposes: BTreeSet<Purpose> = row
            .purposes
            .iter()
            .map(|purpose| Purpose::parse(purpose))
            .collect::<Result<_, _>>()
            .or_fail(Exit::Data, wrong)?;
        for instance in &row.instances {
            let instance = Instance::parse(instance).or_fail(Exit::Data, wrong)?;
            let (service, purposes, closed) = (row.service.clone(), purposes.clone(), row.closed);
            expected.push(Expected { service, instance, purposes, closed });
        }
    }
    Ok(expected)
}

/// Where acknowledgements are read.
pub(crate) struct Acknowledgements(Directory);

impl Acknowledgements {
    pub(crate) fn of(deployment: &Deployment) -> Result<Self, Failure> {
        deployment.directory().map(Self)
    }

    /// Judges every process that ought to be there, and that the goal concerns, by what the directory holds of it now.
    pub(crate) async fn judge(&self, view: &View, goal: &Goal) -> Result<Vec<Row>, Failure> {
        let texts = self.read(view).await?;
        Ok(Self::judge_texts(view, &texts, goal))
    }

    /// What the directory holds of every process that ought to be there.
    async fn read(&self, view: &View) -> Result<Vec<Option<String>>, Failure> {
        let who: Vec<_> = view.expected.iter().map(|one| (one.service.as_str(), &one.instance)).collect();
        let texts = self.0.acknowledgements(&who).await;
        texts.or_fail(Exit::Unavailable, || "cannot read acknowledgements from the directory")
    }

    fn judge_texts(view: &View, texts: &[Option<String>], goal: &Goal) -> Vec<Row> {
        // hsmd's newest event counts whatever this machine's clock says.
        let newest = view.chain.head().map_or_else(clock::now, |event| event.event().created_at);
        let now = clock::now().max(newest);
        let judged = view.expected.iter().zip(texts).filter(|(one, _)| goal.concerns(one));
        judged.map(|(one, text)| judge(one, text.as_deref(), goal, &view.chain, now)).collect()
    }
}

/// Every verifier as it stands to hsmd's newest head.
pub(crate) async fn survey(deployment: &Deployment) -> Result<Vec<Row>, Failure> {
    let hsmd = deployment.admin()?;
    let acknowledgements = Acknowledgements::of(deployment)?;
    let view = View::read(&hsmd).await?;
    let mut goal = Goal::next_head();
    goal.note(view.head);
    for _ in 0..LOOKS {
        let rows = acknowledgements.judge(&view, &goal).await?;
        if rows.iter().all(|row| row.verdict.is_settled()) {
            return Ok(rows);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    acknowledgements.judge(&view, &goal).await
}

/// Every edge as it stands to a position of the denial feed.
pub(crate) async fn survey_feed(deployment: &Deployment, position: Position) -> Result<Vec<Row>, Failure> {
    let view = View::read(&deployment.admin()?).await?;
    Acknowledgements::of(deployment)?.judge(&view, &Goal::feed(position)).await
}

/// How often, and after which pause, it is looked again before somebody is said to lag: a head that was made a moment
/// ago is on its way, and so is the first word of a verifier that has just started.
const LOOKS: usize = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// hsmd's chain, asked for anew only when its newest head is of another event.
pub(crate) struct Follow<'a> {
    hsmd: &'a Door,
    proved: Proved,
    expected: Vec<Expected>,
}

impl<'a> Follow<'a> {
    pub(crate) async fn start(hsmd: &'a Door) -> Result<Self, Failure> {
        let proved = Proved::parse_ahead(&hsmd.get("/chain").await?.ok(hsmd)?)?;
        Ok(Self { hsmd, proved, expected: expected(hsmd).await? })
    }

    /// What hsmd says now.
    pub(crate) async fn view(&mut self) -> Result<View, Failure> {
        match View::of(self.hsmd, &self.proved, self.expected.clone()).await {
            Ok(view) => Ok(view),
            Err(_of_another_event) => {
                *self = Self::start(self.hsmd).await?;
                View::of(self.hsmd, &self.proved, self.expected.clone()).await
            }
        }
    }
}
