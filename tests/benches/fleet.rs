//! How long until a fleet refuses what an operator declares, and what that costs; `edge/SCALE.md` is the page on it.
//!
//! `cargo bench --workspace --bench fleet` measures everything; the words after `--` choose:
//!
//! ```text
//! latency [TIMES]                 50 followers; so many of each declaration (200)
//! scale [TIMES] [FOLLOWERS …]     so many of each declaration (5) with so many followers (10 50 200 500)
//! smoke                           a few of everything, in seconds: whether it works
//! ```
//!
//! The daemons must have been built with the same profile. redis-server and SoftHSM must be installed, and the sample
//! apps' languages. Four followers are edges with their apps; all others are simulated in this process, and share the
//! machine with everything else. Without `--bench`, which cargo passes, it is the smoke form.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench ends at the first surprise")]

use std::time::Duration;

use tests::fleet::{Cost, Declaration, Fleet, Measured, pace};

/// How many followers hear the declarations whose latency counts.
const FOLLOWERS: usize = 50;
/// How often each of them is declared.
const TIMES: usize = 200;
/// Declarations of each kind that one system takes: a head lists 64 denials and 64 keys at most, each for a day.
const PER_SYSTEM_MAX: usize = 50;

/// The sizes of the curve, and how often each declaration is made at each.
const SIZES: [usize; 4] = [10, 50, 200, 500];
const SCALE_TIMES: usize = 5;

/// How long the fleet is watched at rest.
const REST: Duration = Duration::from_secs(30);

/// Commands named in a line: those of which there are most.
const COMMANDS_NAMED: usize = 6;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match words.as_slice() {
            [] if is_bench => {
                latency(FOLLOWERS, TIMES).await;
                scale(SCALE_TIMES, &SIZES, REST).await;
            }
            [] | ["smoke"] => {
                latency(6, 1).await;
                scale(1, &[5], Duration::from_secs(2)).await;
            }
            ["latency"] => latency(FOLLOWERS, TIMES).await,
            ["latency", times] => latency(FOLLOWERS, number(times)).await,
            ["scale"] => scale(SCALE_TIMES, &SIZES, REST).await,
            ["scale", times] => scale(number(times), &SIZES, REST).await,
            ["scale", times, sizes @ ..] => {
                let sizes: Vec<_> = sizes.iter().map(|size| number(size)).collect();
                scale(number(times), &sizes, REST).await;
            }
            _ => panic!("want `latency`, `scale` or `smoke`: {words:?}"),
        }
    });
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is not a number"))
}

/// Each declaration so many times, in as many systems as it takes.
async fn latency(followers: usize, times: usize) {
    let systems = times.div_ceil(PER_SYSTEM_MAX);
    let mut all: Vec<(Declaration, Vec<Measured>)> =
        Declaration::ALL.iter().map(|declaration| (*declaration, Vec::new())).collect();
    for system in 0..systems {
        let mut fleet = Fleet::start(followers).await;
        for (declaration, measured) in &mut all {
            for _ in 0..PER_SYSTEM_MAX.min(times - system * PER_SYSTEM_MAX) {
                measured.push(fleet.declare(*declaration).await);
            }
            eprintln!("system {} of {systems}: {} {}", system + 1, measured.len(), declaration.name());
        }
    }
    let pace = pace(followers);
    println!(
        "\n{followers} followers, {times} times each in {systems} system(s), asked every {pace:?}; ms\n"
    );
    println!("| | last refusal p50 | p99 | max | with its code p50 | p99 | command ends p50 | p99 |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (declaration, measured) in &all {
        let [refused, denied] = [last(measured, |it| &it.refused), last(measured, |it| &it.denied)];
        let ended = sorted(measured.iter().map(|measured| measured.ended));
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            declaration.name(),
            millis(at(&refused, 50)),
            millis(at(&refused, 99)),
            millis(at(&refused, 100)),
            millis(at(&denied, 50)),
            millis(at(&denied, 99)),
            millis(at(&ended, 50)),
            millis(at(&ended, 99)),
        );
    }
    let of_bans = all.iter().filter(|(declaration, _)| *declaration == Declaration::Ban);
    let others = of_bans.flat_map(|(_, measured)| measured).map(|measured| measured.bystander);
    let (refused, admitted) = others.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!("\nduring the bans, requests of another device: {admitted} admitted, {refused} not");
}

/// What declarations and rest cost at each size.
async fn scale(times: usize, sizes: &[usize], rest: Duration) {
    println!("\n{times} of each declaration; what rest costs, over {rest:?} at each size, is taken off\n");
    println!(
        "| followers | | last refusal p50, ms | max | Redis: commands | KB in | KB out | CPU, ms | hsmd: CPU, ms |"
    );
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut named = Vec::new();
    for size in sizes {
        let mut fleet = Fleet::start(*size).await;
        let at_rest = fleet.rest(rest).await;
        println!("| {size} | a second at rest | | | {} |", columns(&at_rest));
        named.push(format!("{size}, rest: {}", commands(&at_rest)));
        for declaration in Declaration::ALL {
            let mut measured = Vec::with_capacity(times);
            for _ in 0..times {
                measured.push(fleet.declare(declaration).await);
            }
            let refused = last(&measured, |it| &it.refused);
            let costs = measured.into_iter().map(|measured| measured.cost);
            let cost = costs.fold(Cost::default(), |sum, cost| sum + cost).beyond(&at_rest);
            let cost = cost.by(f64::from(u32::try_from(times).unwrap()));
            let (name, middle, most) =
                (declaration.name(), millis(at(&refused, 50)), millis(at(&refused, 100)));
            println!("| {size} | {name} | {middle} | {most} | {} |", columns(&cost));
            named.push(format!("{size}, {name}: {}", commands(&cost)));
        }
    }
    println!("\ncommands by name:\n{}", named.join("\n"));
}

/// The times until the last verifier refused, in order.
fn last(measured: &[Measured], of: impl Fn(&Measured) -> &[Duration]) -> Vec<Duration> {
    sorted(measured.iter().map(|measured| of(measured).iter().copied().max().unwrap()))
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times
}

/// The percentile: the least of the times that so many of a hundred do not exceed.
fn at(sorted: &[Duration], percentile: usize) -> Duration {
    let rank = (sorted.len() * percentile).div_ceil(100).max(1);
    *sorted.get(rank - 1).unwrap()
}

fn millis(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e3)
}

fn columns(cost: &Cost) -> String {
    format!(
        "{:.0} | {:.1} | {:.1} | {:.1} | {:.1}",
        cost.all_commands(),
        cost.bytes_in / 1e3,
        cost.bytes_out / 1e3,
        cost.redis_cpu * 1e3,
        cost.hsmd_cpu * 1e3
    )
}

fn commands(cost: &Cost) -> String {
    let mut all: Vec<_> = cost.commands.iter().collect();
    all.sort_by(|one, other| other.1.total_cmp(one.1));
    let named = all.iter().take(COMMANDS_NAMED).map(|(name, count)| format!("{name} {count:.1}"));
    named.collect::<Vec<_>>().join(", ")
}
