//! How tokens are opened: each by a thread of its own, which tries until the token is there.

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

use super::{
    Slot, Tokens,
    member::{Member, Stage},
};
use crate::{
    token::backend::{self, Backend, Cause, Fault, Settings},
    token::signer::Signer,
};

/// How long a token is waited for once the other is open.
const TOGETHER: Duration = Duration::from_secs(10);

/// How long any token is waited for: longer than any device takes.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// How often it is asked how far they are.
const CHECK: Duration = Duration::from_millis(10);

/// The pause after a token could not be opened; doubled each time, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(2);

/// The longest such pause of one of two: each attempt may cost the other token, behind the same module, its session.
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
    /// A thread could not be started.
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
    let (tokens, threads) = start(first, second)?;
    match tokens.opened().await {
        Ok(()) => Ok((tokens, threads)),
        Err(unopened) => {
            threads.end();
            Err(unopened)
        }
    }
}

/// Begins to open the token, or two, and does not wait: until a token is open it is silent.
pub fn start(first: Source, second: Option<Source>) -> Result<(Tokens, Threads), Unopened> {
    let (threads, identities) = (Threads::default(), Arc::default());
    let alone = second.is_none();
    let sources = [(Slot::First, Some(first)), (Slot::Second, second)];
    let sources: Vec<_> = sources.into_iter().filter_map(|(slot, source)| Some((slot, source?))).collect();
    // Both are read before a thread begins with either.
    let settings: Vec<_> =
        sources.iter().map(|(_, source)| source().map_err(Unopened::Settings)).collect::<Result<_, _>>()?;
    let mut members = Vec::new();
    for ((slot, source), settings) in sources.into_iter().zip(settings) {
        let member = Arc::new(Member::unopened(slot, alone));
        members.push(Arc::clone(&member));
        let opening =
            Opening { member, source, alone, identities: Arc::clone(&identities), threads: threads.clone() };
        let name = format!("open-{}", slot.as_str());
        let run = move || opening.run(settings);
        threads.add(thread::Builder::new().name(name).spawn(run).map_err(Unopened::Thread)?);
    }
    let mut members = members.into_iter();
    let first = members.next().ok_or(Unopened::Hangs)?;
    Ok((Tokens { first, second: members.next(), require_both: false, unmirrored: Arc::default() }, threads))
}

impl Tokens {
    /// Waits until all are open, or one is and the other has failed or been waited for.
    pub async fn opened(&self) -> Result<(), Unopened> {
        let start = Instant::now();
        loop {
            let stages: Vec<_> = self.members().map(Member::stage).collect();
            if let Some(Stage::Same(fault)) = stages.iter().find(|stage| matches!(stage, Stage::Same(_))) {
                return Err(Unopened::Token(fault.clone()));
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
            if start.elapsed() >= OPEN_MAX {
                return Err(Unopened::Hangs);
            }
            tokio::time::sleep(CHECK).await;
        }
    }
}

/// One token, while it is opened.
struct Opening {
    member: Arc<Member>,
    source: Source,
    alone: bool,
    identities: Arc<Mutex<Vec<String>>>,
    threads: Threads,
}

impl Opening {
    /// The thread: tries until the token is open. A refused PIN is not presented again.
    fn run(&self, settings: Settings) {
        let (mut settings, mut pause) = (Ok(settings), PAUSE_MIN);
        while !self.threads.are_ending() {
            self.member.note_opening(true);
            let opened = settings.map_err(|failure: Failure| Fault::NoSuchToken(failure.to_string()));
            let stage = match opened.and_then(backend::open) {
                Ok(backend) => self.take(backend),
                Err(fault) => Stage::Failed(fault),
            };
            self.member.note_opening(false);
            let failed = matches!(&stage, Stage::Failed(fault) if !matches!(fault, Fault::Pin { .. }));
            self.member.note_stage(stage);
            if !failed {
                return;
            }
            self.rest(pause);
            pause = if self.alone { PAUSE_MIN } else { pause.saturating_mul(2).min(PAUSE_MAX) };
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
                self.member.adopt(signer);
                Stage::Open
            }
            Err(error) => {
                let (call, source) = ("the start of a thread".to_owned(), Cause::new(error));
                Stage::Failed(Fault::Lost { call, source })
            }
        }
    }

    fn rest(&self, pause: Duration) {
        let start = Instant::now();
        while let Some(left) = pause.checked_sub(start.elapsed()).filter(|_| !self.threads.are_ending()) {
            thread::park_timeout(left);
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
