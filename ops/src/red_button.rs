//! `opsctl red-button`: the newest generation is compromised. Taint it, have every service re-keyed, see the dead entries
//! leave the directory, and say who has acknowledged it. Run again after an interruption it goes on.

use std::time::{Duration, Instant};

use keychain::chain::Chain;
use keychain::directory::{self, Directory};
use keychain::endorsement::Endorsement;
use serde::Serialize;
use systemd::config::Span;

use crate::chain::Proved;
use crate::clock;
use crate::declaration::{Declaration, reason};
use crate::deployment::Deployment;
use crate::door::{Address, Door};
use crate::failure::{Exit, Failure, OrFail};
use crate::generation::{chain_in_any_case, to_json};
use crate::out;
use crate::talk::Talk;
use crate::verifiers::{self, Expected, Row, View};

/// How long after a taint a repetition goes on with it. Later the button means a taint of its own.
const GOES_ON_FOR: Duration = Duration::from_mins(15);

/// Longest delay of a service before it asks for a key, and what is around the signatures.
const AROUND: Duration = Duration::from_millis(800);

/// How long hsm-publisher may take at least to delete entries of dead keys, also if the acknowledgements took all the time.
const DELETION: Duration = Duration::from_secs(2);

/// Pause between two looks at the directory.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What signs as long as no signature was measured: a YubiHSM 2.
const UNMEASURED: Duration = Duration::from_millis(73);

/// Where hsmd's unit serves its metrics.
const METRICS: &str = "/run/hsmd/metrics.sock";

/// Options of `opsctl red-button`.
#[derive(Debug, clap::Args)]
pub(crate) struct RedButton {
    #[command(flatten)]
    declaration: Declaration,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// Taint also if the newest generation came of a taint a moment ago, instead of going on with that
    #[arg(long)]
    again: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TaintRequest<'a> {
    generation_id: String,
    reason: &'a str,
}

/// What the button has to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// Taint the newest generation.
    Taint,
    /// It came of a taint that not everybody has acknowledged: an interrupted button, perhaps.
    GoOn,
}

/// `opsctl red-button`.
pub(crate) async fn red_button(options: &RedButton, talk: Talk) -> Result<(), Failure> {
    let RedButton { declaration, reason, again } = options;
    let button = Button::find(declaration, *again, talk).await?;
    button.explain(talk).await?;
    if !declaration.consent.is_given(&button.chain.identity(), "the red button", talk)? {
        return Ok(());
    }
    button.press(reason, talk).await
}

/// The button, not pressed yet.
pub(crate) struct Button<'a> {
    declaration: &'a Declaration,
    hsmd: Door,
    chain: Proved,
    begin: Begin,
}

impl<'a> Button<'a> {
    /// Finds what is to be tainted; unless `again`, an interrupted button is gone on with.
    pub(crate) async fn find(declaration: &'a Declaration, again: bool, talk: Talk) -> Result<Self, Failure> {
        let hsmd = declaration.deployment.admin()?;
        let chain = chain_in_any_case(&hsmd, talk).await?;
        let newest = chain.head()?.event();
        let age = clock::now().since(newest.created_at);
        let tainted = newest.taint_previous.then_some(age);
        let begin = if again {
            Begin::Taint
        } else {
            begin(tainted, verifiers::survey(&declaration.deployment).await.ok().as_deref())
        };
        Ok(Self { declaration, hsmd, chain, begin })
    }

    /// Whose chain it is.
    pub(crate) const fn chain(&self) -> &Proved {
        &self.chain
    }

    /// Says what is going to be done, and how long it takes.
    pub(crate) async fn explain(&self, talk: Talk) -> Result<(), Failure> {
        let expected = verifiers::expected(&self.hsmd).await?;
        let signature = signature_time(&self.declaration.deployment).await;
        plan(self.begin, &self.chain, &expected, signature, talk)
    }

    /// Does it, and says who has acknowledged it.
    pub(crate) async fn press(&self, reason: &str, talk: Talk) -> Result<(), Failure> {
        let Self { declaration, hsmd, chain, begin } = self;
        let begun = Instant::now();
        if *begin == Begin::Taint {
            let generation_id = chain.head()?.id().to_string();
            let request = TaintRequest { generation_id, reason };
            hsmd.post("/taint", to_json(&request)?).await?.ok(hsmd)?;
            talk.say("tainted; every service is asking for new keys");
        }
        let waited = declaration.acknowledged(hsmd, talk).await;
        let view = View::read(hsmd).await?;
        out::line(view.head.event_id);
        let gone = match declaration.limit() {
            None => Ok(()),
            Some(limit) => {
                let left = limit.saturating_sub(begun.elapsed()).max(DELETION);
                let gone = await_deletion(&declaration.deployment, &view.chain, left).await;
                gone.inspect(|()| {
                    talk.say("no entry of a dead key is left in the directory for public peers");
                })
            }
        };
        waited?;
        gone?;
        talk.say(format!("done in {:.1} s", begun.elapsed().as_secs_f32()));
        Ok(())
    }
}

/// Whether a taint of before is gone on with: only one that is young, and that somebody has not acknowledged.
fn begin(tainted: Option<Duration>, rows: Option<&[Row]>) -> Begin {
    let is_young = tainted.is_some_and(|age| age < GOES_ON_FOR);
    // Who cannot be asked may not have acknowledged it.
    let all_settled = rows.is_some_and(|rows| rows.iter().all(|row| row.verdict.is_settled()));
    if is_young && !all_settled { Begin::GoOn } else { Begin::Taint }
}

/// Says what is going to be done, and how long it takes.
fn plan(
    begin: Begin,
    chain: &Proved,
    expected: &[Expected],
    signature: Option<Duration>,
    talk: Talk,
) -> Result<(), Failure> {
    let newest = chain.head()?.event();
    let keys: usize = expected.iter().filter(|one| !one.closed).map(|one| one.purposes.len()).sum();
    match begin {
        Begin::Taint => talk.say(format!(
            "generation {} (number {}) is to be tainted: every key that it endorsed, and every token and answer that \
             those keys signed, is to be refused",
            newest.id, newest.sequence_number
        )),
        Begin::GoOn => talk.say(format!(
            "going on with the taint of {}, which not every verifier has acknowledged; --again taints anew",
            newest.created_at
        )),
    }
    let verifiers = expected.iter().filter(|one| !one.closed).count();
    talk.say(format!("{verifiers} services make {keys} new keys; devices sign in again, accounts stay"));
    let (time, measured) = match signature {
        Some(time) => (time, "measured"),
        None => (UNMEASURED, "not measured yet"),
    };
    let estimate = Span::from(Duration::from_secs(estimate(keys, time).as_secs().saturating_add(1)));
    talk.say(format!("about {estimate}, at {} ms a signature ({measured})", time.as_millis()));
    Ok(())
}

/// How long it takes: an event, a head and all keys signed one after the other, and what is around.
fn estimate(keys: usize, signature: Duration) -> Duration {
    let signatures = u32::try_from(keys).unwrap_or(u32::MAX).saturating_add(2);
    signature.saturating_mul(signatures).saturating_add(AROUND)
}

/// How long the token takes for a signature, by hsmd's metrics.
async fn signature_time(deployment: &Deployment) -> Option<Duration> {
    let address = match deployment.endpoints().ok()? {
        Some(endpoints) => endpoints.metrics.get("hsmd")?.trim_end_matches("/metrics").parse().ok()?,
        None => Address::Socket(METRICS.into()),
    };
    let door: Door = deployment.open(&address).ok()?;
    mean_signature(&door.get("/metrics").await.ok()?.body)
}

/// The mean of the signatures that worked.
fn mean_signature(metrics: &str) -> Option<Duration> {
    let value = |suffix: &str| {
        let name = format!("hsmd_token_duration_seconds_{suffix}{{");
        let is_it = |line: &&str| {
            line.starts_with(&name) && line.contains("op=\"sign\"") && line.contains("result=\"ok\"")
        };
        metrics.lines().find(is_it)?.rsplit(' ').next()?.parse::<f64>().ok()
    };
    Duration::try_from_secs_f64(value("sum")? / value("count")?).ok()
}

/// Waits until hsm-publisher has taken the entries of keys that the chain and its head killed out of the directory: public
/// peers, which read no head, would go on with what they find there.
async fn await_deletion(deployment: &Deployment, chain: &Chain, limit: Duration) -> Result<(), Failure> {
    let context = || "cannot look for entries of dead keys in the directory";
    let directory = deployment.directory()?;
    let begun = Instant::now();
    loop {
        let dead = match count_dead(&directory, chain).await {
            Ok(0) => return Ok(()),
            Ok(dead) => Ok(dead),
            Err(error) => Err(error).or_fail(Exit::Partial, context),
        };
        if begun.elapsed() >= limit {
            let what = format!(
                "{} entries of dead keys stand in the directory for public peers: see hsm-publisher's health, which \
                 takes them out, and run this again",
                dead?
            );
            return Err(Failure::new(Exit::Partial, what));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn count_dead(directory: &Directory, chain: &Chain) -> Result<usize, directory::Error> {
    let entries = [directory.all_access().await?, directory.all_response().await?].concat();
    let is_dead = |(name, text): &&(String, String)| {
        let endorsement = Endorsement::parse(text).ok();
        let own = endorsement.filter(|one| one.subject.public_key.to_string() == *name);
        own.is_some_and(|one| one.killed(chain, clock::now()).is_ok_and(|killed| killed.is_some()))
    };
    Ok(entries.iter().filter(is_dead).count())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use keychain::acknowledgement::Instance;

    use super::*;
    use crate::verifiers::Verdict;

    fn row(verdict: Verdict) -> Row {
        let expected = Expected {
            service: "authd".to_owned(),
            instance: Instance::only(),
            purposes: BTreeSet::new(),
            closed: false,
        };
        Row { expected, verdict, silent_for: None, detail: None }
    }

    #[test]
    fn a_young_taint_that_somebody_lacks_is_gone_on_with() {
        let all = [row(Verdict::Acknowledged), row(Verdict::Closed)];
        let some = [row(Verdict::Acknowledged), row(Verdict::Unheard)];
        let young = Some(Duration::from_mins(1));
        for (tainted, rows, expected) in [
            (None, Some(&some[..]), Begin::Taint),
            (None, None, Begin::Taint),
            (young, Some(&some[..]), Begin::GoOn),
            (young, None, Begin::GoOn),
            (young, Some(&all[..]), Begin::Taint),
            (Some(GOES_ON_FOR), Some(&some[..]), Begin::Taint),
            (Some(GOES_ON_FOR), None, Begin::Taint),
        ] {
            assert_eq!(begin(tainted, rows), expected, "{tainted:?} {rows:?}");
        }
    }

    #[test]
    fn the_estimate_grows_with_keys_and_with_the_time_of_a_signature() {
        for (keys, signature, expected) in [(0, 73, 946), (6, 73, 1_384), (100, 73, 8_246), (100, 1, 902)] {
            let estimate = estimate(keys, Duration::from_millis(signature));
            assert_eq!(estimate, Duration::from_millis(expected), "{keys} {signature}");
        }
    }

    #[test]
    fn a_signature_is_measured_by_what_hsmd_counted() {
        let sum = "hsmd_token_duration_seconds_sum{op=\"sign\",result=\"ok\"} 0.5";
        let count = "hsmd_token_duration_seconds_count{op=\"sign\",result=\"ok\"} 10";
        let other = "hsmd_token_duration_seconds_sum{op=\"sign\",result=\"fault\"} 9";
        let fifty = Some(Duration::from_millis(50));
        for (metrics, expected) in [
            (format!("# x\n{other}\n{sum}\n{count}\n"), fifty),
            (format!("{sum}\n"), None),
            (format!("{sum}\n{}\n", count.replace(" 10", " 0")), None),
            (String::new(), None),
        ] {
            assert_eq!(mean_signature(&metrics), expected, "{metrics}");
        }
    }
}
