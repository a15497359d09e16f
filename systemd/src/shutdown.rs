//! The end of a daemon: what asks for it.

use std::pin::Pin;

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

/// What asks a daemon to end, as long as it serves.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Does what has to be done before a daemon can serve, and then has it `serve`, until it is asked to end.
///
/// The signal is listened for from the first moment on and once for both, so that one that comes between the two is not
/// lost. One that comes during the start ends that, and is no failure.
pub async fn serve<T, E>(
    start: impl Future<Output = Result<T, E>>,
    serve: impl AsyncFnOnce(T, Stop) -> Result<(), E>,
) -> Result<(), E> {
    let mut stop: Stop = Box::pin(signal());
    let started = tokio::select! {
        started = start => started?,
        () = &mut stop => return Ok(()),
    };
    serve(started, stop).await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::future::{pending, poll_fn};
    use std::task::Poll;
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};
    use tokio::sync::Mutex;
    use tokio::task::yield_now;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(5);

    /// A signal reaches the whole process: one test at a time.
    static ALONE: Mutex<()> = Mutex::const_new(());

    /// Asks this process to end; the handlers are registered by then.
    fn terminate() {
        kill_process(getpid(), Signal::TERM).unwrap();
    }

    #[tokio::test]
    async fn sigterm_resolves_it() {
        let _alone = ALONE.lock().await;
        let mut signal = Box::pin(super::signal());
        // The first poll registers the handlers; only then may the signal come.
        poll_fn(|context| {
            assert!(signal.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        terminate();
        timeout(SOON, signal).await.unwrap();
    }

    /// The signal comes in the last moment of the start, when what listens for it cannot have heard it yet.
    #[tokio::test]
    async fn a_signal_between_start_and_service_is_not_lost() {
        let _alone = ALONE.lock().await;
        let served = Cell::new(false);
        let start = async {
            yield_now().await;
            terminate();
            Ok::<_, Infallible>(())
        };
        let serve = async |(), stop: super::Stop| {
            served.set(true);
            stop.await;
            Ok(())
        };
        let Ok(()) = timeout(SOON, super::serve(start, serve)).await.unwrap();
        assert!(served.get());
    }

    #[tokio::test]
    async fn a_signal_during_the_start_ends_it() {
        let _alone = ALONE.lock().await;
        let served = Cell::new(false);
        let start = async {
            yield_now().await;
            terminate();
            pending::<Result<(), Infallible>>().await
        };
        let serve = async |(), _: super::Stop| {
            served.set(true);
            Ok(())
        };
        let Ok(()) = timeout(SOON, super::serve(start, serve)).await.unwrap();
        assert!(!served.get());
    }
}
