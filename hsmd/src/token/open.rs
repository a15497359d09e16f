//! How tokens are opened: one as it must be, of two whichever comes, and the other as soon as it does.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use systemd::exit::Failure;

use super::{Tokens, Which, place::Place};
use crate::{
    daemon::supervise::HANG_MAX,
    token::backend::{self, Backend, Fault, Settings},
    token::signer::Signer,
};

/// How long a token is waited for once the other is open.
const TOGETHER: Duration = Duration::from_secs(10);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(10);

/// The pause after a token could not be opened; doubled each time, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(2);

/// The longest such pause: each attempt may cost the other token, behind the same module, its session.
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// Tells where a token is, with its PIN read anew.
pub type Source = Box<dyn Fn() -> Result<Settings, Failure> + Send + Sync>;

/// Why no token was opened.
#[derive(Debug)]
pub enum Unopened {
    /// A call has not returned.
    Hangs,
    /// The configuration cannot be read any further.
    Settings(Failure),
    /// The token said no; of two the first.
    Token(Fault),
    /// A thread could not be started, or ended badly.
    Thread(io::Error),
}

/// The threads that talk to the tokens.
#[derive(Clone, Default)]
pub struct Threads(Arc<Running>);

#[derive(Default)]
struct Running {
    handles: Mutex<Vec<thread::JoinHandle<()>>>,
    ending: AtomicBool,
}

/// Opens the token, or two. Of two it is enough that one opens: the other is tried on in the background.
pub async fn open(first: Source, second: Option<Source>) -> Result<(Tokens, Threads), Unopened> {
    match second {
        None => open_one(first().map_err(Unopened::Settings)?).await,
        Some(second) => open_two([first, second]).await,
    }
}

async fn open_one(settings: Settings) -> Result<(Tokens, Threads), Unopened> {
    let opening = tokio::task::spawn_blocking(move || backend::open(settings));
    let opened = tokio::time::timeout(HANG_MAX, opening).await.map_err(|_| Unopened::Hangs)?;
    let backend = opened.map_err(|error| Unopened::Thread(error.into()))?.map_err(Unopened::Token)?;
    let (signer, thread) = Signer::start(backend).map_err(Unopened::Thread)?;
    let threads = Threads::default();
    threads.add(thread);
    Ok((signer.into(), threads))
}

async fn open_two(sources: [Source; 2]) -> Result<(Tokens, Threads), Unopened> {
    let (threads, identities) = (Threads::default(), Arc::default());
    let mut openings = Vec::new();
    // Both are read before a thread begins with either.
    let [first, second] = &sources;
    let settings = [first().map_err(Unopened::Settings)?, second().map_err(Unopened::Settings)?];
    for ((which, source), settings) in [Which::First, Which::Second].into_iter().zip(sources).zip(settings) {
        let opening = Arc::new(Opening::new(which, source, Arc::clone(&identities), threads.clone()));
        openings.push(Arc::clone(&opening));
        let name = format!("open-{}", which.as_str());
        let run = move || opening.run(settings);
        threads.add(thread::Builder::new().name(name).spawn(run).map_err(Unopened::Thread)?);
    }
    let outcome = wait(&openings).await;
    if let Err(unopened) = outcome {
        threads.end();
        return Err(unopened);
    }
    let mut places = openings.iter().map(|opening| Arc::clone(&opening.place));
    let (first, second) = (places.next(), places.next());
    let first = first.ok_or(Unopened::Hangs)?;
    Ok((Tokens { first, second }, threads))
}

/// Waits until both are open, or one is and the other has failed or been waited for.
async fn wait(openings: &[Arc<Opening>]) -> Result<(), Unopened> {
    let start = Instant::now();
    loop {
        let stages: Vec<_> = openings.iter().map(|opening| opening.stage()).collect();
        if let Some(Stage::Same(fault)) = stages.iter().find(|stage| matches!(stage, Stage::Same(_))) {
            return Err(Unopened::Token(fault.again()));
        }
        let opened = stages.iter().any(|stage| matches!(stage, Stage::Open));
        let waits = stages.iter().any(|stage| matches!(stage, Stage::Opening));
        if opened && (!waits || start.elapsed() >= TOGETHER) {
            return Ok(());
        }
        if !waits {
            let first = stages.into_iter().find_map(|stage| match stage {
                Stage::Failed(fault) => Some(fault),
                _ => None,
            });
            return Err(first.map_or(Unopened::Hangs, Unopened::Token));
        }
        if start.elapsed() >= HANG_MAX {
            return Err(Unopened::Hangs);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One of two tokens, while it is opened.
struct Opening {
    place: Arc<Place>,
    source: Source,
    identities: Arc<Mutex<Vec<String>>>,
    threads: Threads,
    stage: Mutex<Stage>,
}

enum Stage {
    Failed(Fault),
    Open,
    Opening,
    /// It is the other token.
    Same(Fault),
}

impl Opening {
    fn new(which: Which, source: Source, identities: Arc<Mutex<Vec<String>>>, threads: Threads) -> Self {
        let place = Arc::new(Place::unopened(which));
        Self { place, source, identities, threads, stage: Mutex::new(Stage::Opening) }
    }

    /// The thread: tries until the token is open. A refused PIN is not presented again.
    fn run(&self, settings: Settings) {
        let (mut settings, mut pause) = (Ok(settings), PAUSE_MIN);
        while !self.threads.are_ending() {
            self.place.note_opening(true);
            let opened = settings.map_err(|failure: Failure| Fault::NoSuchToken(failure.to_string()));
            let stage = match opened.and_then(backend::open) {
                Ok(backend) => self.take(backend),
                Err(fault) => Stage::Failed(fault),
            };
            self.place.note_opening(false);
            if let Stage::Failed(fault) | Stage::Same(fault) = &stage {
                self.place.note_silence(fault.told());
            }
            let ends = !matches!(&stage, Stage::Failed(fault) if !matches!(fault, Fault::Pin { .. }));
            *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
            if ends {
                return;
            }
            self.rest(pause);
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
            settings = (self.source)();
        }
    }

    /// Takes an open token into use, unless it is the other one.
    fn take(&self, backend: Box<dyn Backend>) -> Stage {
        let identity = backend.identity();
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = identity {
            if identities.contains(&identity) {
                return Stage::Same(Fault::NoSuchToken(format!(
                    "`[hsm]` and `[second_hsm]` name one and the same token ({identity}): name another in one of them"
                )));
            }
            identities.push(identity);
        }
        match Signer::start(backend) {
            Ok((signer, thread)) => {
                self.threads.add(thread);
                self.place.adopt(signer);
                Stage::Open
            }
            Err(error) => {
                Stage::Failed(Fault::Lost { call: "the start of a thread".to_owned(), source: error.into() })
            }
        }
    }

    fn rest(&self, pause: Duration) {
        let start = Instant::now();
        while let Some(left) = pause.checked_sub(start.elapsed()).filter(|_| !self.threads.are_ending()) {
            thread::park_timeout(left);
        }
    }

    /// How far it has come; what is told of a failure is a copy.
    fn stage(&self) -> Stage {
        match &*self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Failed(fault) => Stage::Failed(fault.again()),
            Stage::Open => Stage::Open,
            Stage::Opening => Stage::Opening,
            Stage::Same(fault) => Stage::Same(fault.again()),
        }
    }
}

impl Threads {
    /// Waits until every token is closed; nobody may be able to ask for anything any more. Blocks.
    pub fn join(self) -> thread::Result<()> {
        self.end();
        loop {
            let handle = self.handles().pop();
            let Some(handle) = handle else { return Ok(()) };
            handle.join()?;
        }
    }

    fn add(&self, handle: thread::JoinHandle<()>) {
        self.handles().push(handle);
    }

    /// No token that is not open yet is tried on.
    fn end(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
        for handle in self.handles().iter() {
            handle.thread().unpark();
        }
    }

    fn are_ending(&self) -> bool {
        self.0.ending.load(Ordering::Relaxed)
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, Vec<thread::JoinHandle<()>>> {
        self.0.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
