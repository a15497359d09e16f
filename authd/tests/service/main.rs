//! authd as devices meet it: over HTTP, on SQLite and on PostgreSQL, with a real redis-server and a chain
//! whose HSM is software. Every test runs on both databases.
#![expect(clippy::unwrap_used, reason = "a test reports by panicking, in its helpers too")]
#![expect(clippy::panic, reason = "a test reports by panicking, in its helpers too")]
#![expect(clippy::indexing_slicing, reason = "a test reports by panicking, in its helpers too")]

mod admin;
mod believed;
mod border;
mod commands;
mod cuts;
mod daemon;
mod ending;
mod endorsements;
mod feed;
mod histories;
mod hsm;
mod lossy;
mod macs;
mod operations;
mod outage;
mod outbox;
mod owner;
mod plans;
mod program;
mod races;
mod refusals;
mod restart;
mod sessions;
mod stage;
mod state;
mod statements;
mod store;
mod strangers;
mod throttle;
mod tls;
mod tokens;

/// Makes a test on each database of each function that takes a stage.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::stage::Stage::on_sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::stage::Stage::on_postgres().await).await;
            })*
        }
    };
}
