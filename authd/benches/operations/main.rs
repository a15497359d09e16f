//! How many operations a second authd carries out, beside a control that has the database do the same and proves nothing.
//!
//! `cargo build --profile bench --workspace --bins --bench operations --locked`, then
//! `cargo bench --workspace --bench operations`; the words after `--` choose:
//!
//! ```text
//! rates [SECONDS]    each operation on 1, 16 and 64 connections, on each database; so long each time (3)
//! smoke              a little of everything: whether it works
//! ```
//!
//! Databases: SQLite (`synchronous=FULL`), PostgreSQL (`fsync=on`), and the same PostgreSQL with 1 ms more on each round
//! trip and 2 ms more on each flush. A client is one connection that sends its next request when it has the answer; it
//! shares the machine's cores with authd, the database, and the control, and does the same for both. Without `--bench`,
//! which cargo passes, it is the smoke form.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench ends at the first surprise")]

mod control;
mod distance;
mod load;
mod setting;

use std::time::Duration;

use load::{Operation, Rate};
use setting::{Database, Setting, Side};

/// Connections at once.
const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// How long each operation is measured in a round.
const ROUND: Duration = Duration::from_secs(3);
/// Rounds, authd and control in turn.
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match words.as_slice() {
        ["control", address, database] => control::serve(address, database),
        ["rates"] => runtime.block_on(rates(ROUND, ROUNDS)),
        [] if is_bench => runtime.block_on(rates(ROUND, ROUNDS)),
        [] | ["smoke"] => runtime.block_on(rates(Duration::from_millis(200), 1)),
        ["rates", seconds] => runtime.block_on(rates(Duration::from_secs(number(seconds)), ROUNDS)),
        _ => panic!("want `rates` or `smoke`: {words:?}"),
    }
}

fn number<N: std::str::FromStr>(word: &str) -> N {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is not a number"))
}

/// Each operation on each database, authd and control in turn; the best round of each counts, for the machine is shared.
async fn rates(round: Duration, rounds: usize) {
    for database in Database::ALL {
        let setting = Setting::start(database).await;
        println!("\n{}\n", database.name());
        println!("{}", Rate::HEADER);
        for operation in Operation::ALL {
            for connections in CONNECTIONS {
                let mut best = [None, None];
                for _ in 0..rounds {
                    for (side, best) in [Side::Authd, Side::Control].into_iter().zip(&mut best) {
                        let rate = load::measure(&setting, side, operation, connections, round).await;
                        *best = Some(rate.better_of(best.take()));
                    }
                }
                let [Some(authd), Some(control)] = best else { continue };
                println!("{}", authd.line(operation, connections, &control));
            }
        }
    }
}
