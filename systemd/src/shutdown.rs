//! The end of a daemon: what asks for it.

use tokio::signal::unix::{SignalKind, signal as register};

/// Resolves at the first SIGTERM or SIGINT.
///
/// If a handler cannot be registered it resolves at once, with the reason logged: a daemon that
/// could not be stopped cleanly had better not run.
pub async fn signal() {
    let (mut terminate, mut interrupt) =
        match (register(SignalKind::terminate()), register(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot listen for SIGTERM and SIGINT; stopping");
                return;
            }
        };
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "asked to stop");
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    #[tokio::test]
    async fn sigterm_resolves_it() {
        let mut signal = Box::pin(super::signal());
        // The first poll registers the handlers; only then may the signal come.
        poll_fn(|context| {
            assert!(signal.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        kill_process(getpid(), Signal::TERM).unwrap();
        tokio::time::timeout(Duration::from_secs(5), signal).await.unwrap();
    }
}
