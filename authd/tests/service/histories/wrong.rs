//! Whether the checker can fail: it must accept every history of an authd that is right by its making, and find each way
//! of being wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use authd::operation::session::Lifetimes;
use authd::roles::Roles;
use keychain::limits;
use tests::craft::key;

use super::perform::{Servers, Stagehand};
use super::plan;
use super::search::{self, Rules};
use super::sham::{Defect, Sham};

/// Plans that are played before a sham that is right.
const PLANS: u64 = 100;

/// Most plans that it may take to find a way of being wrong.
const PLANS_MAX: u64 = 200;

fn rules() -> Rules {
    let role = |name: &str| BTreeMap::from([(name.to_owned(), vec!["read".to_owned()])]);
    Rules {
        lifetimes: Lifetimes {
            access: limits::ACCESS_LIFETIME,
            refresh: limits::REFRESH_LIFETIME,
            skew: limits::CLOCK_SKEW,
        },
        denial: limits::ACCESS_LIFETIME,
        roles: Roles::new(role("user"), role("moderator")).unwrap(),
        operator: "uid 0".to_owned(),
        key: key(),
    }
}

/// Plays a plan before a sham, and checks its answers, with or without its rows.
async fn check(seed: u64, defect: Defect, with_rows: bool) -> Result<(), String> {
    let plan = plan::of(seed);
    let sham = Arc::new(Sham::new(rules(), defect));
    let stagehand = Stagehand::new(Servers::Sham(Arc::clone(&sham)), plan.accounts);
    stagehand.play(&plan).await;
    if with_rows {
        stagehand.look(sham.rows());
    }
    search::explain(&stagehand.into_calls(), sham.rules())
}

#[tokio::test]
async fn every_history_of_an_authd_that_is_right_is_accepted() {
    for seed in 0..PLANS {
        if let Err(report) = check(seed, Defect::None, seed % 2 == 0).await {
            panic!("{seed}: {report}");
        }
    }
}

#[tokio::test]
async fn every_way_of_being_wrong_is_found() {
    for (defect, with_rows) in [
        (Defect::AppliesTwice, true),
        (Defect::DecidesOnASnapshot, true),
        (Defect::ForgetsDenials, true),
        (Defect::ForgetsRevocations, true),
        (Defect::ForgetsSuccessors, true),
        (Defect::ForgetsWrites, true),
        (Defect::RefreshesTwice, true),
        // The answers alone give these away.
        (Defect::DecidesOnASnapshot, false),
        (Defect::ForgetsRevocations, false),
        (Defect::ForgetsSuccessors, false),
        (Defect::ForgetsWrites, false),
        (Defect::RefreshesTwice, false),
    ] {
        let mut seeds = 0..PLANS_MAX;
        let found = loop {
            let seed = seeds.next().unwrap_or_else(|| panic!("{defect:?}, with rows {with_rows}: not found"));
            if let Err(report) = check(seed, defect, with_rows).await {
                break (seed, report);
            }
        };
        println!("{defect:?}, with rows {with_rows}: found by plan {}", found.0);
    }
}
