//! How tokens are opened: each by a thread of its own, which tries until the token is there, and opens it anew once its
//! PIN was refused and may be presented again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use systemd::exit::Failure;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::{
    Slot, Tokens,
    member::{Member, Stage},
};
use crate::{
    token::backend::{self, Backend, Cause, Fault, RefusedPin, Settings},
    token::signer::Signer,
};

/// How long tokens are waited for at the start before the chain is reconciled without them.
const TOGETHER: Duration = Duration::from_secs(10);

/// How often it is asked how far they are.
const CHECK: Duration = Duration::from_millis(10);

/// The pause after a token could not be opened; of two doubled each time, up to [`PAUSE_MAX`]. Also how often it is seen
/// whether a refused PIN may be presented again.
const PAUSE_MIN: Duration = Duration::from_secs(2);

/// The longest such pause of one of two: each attempt may cost the other token, behind the same module, its session.
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// Tells where a token is, with its PIN read anew.
pub type Source = Box<dyn Fn() -> Result<Settings, Failure> + Send + Sync>;

/// The threads that talk to the tokens.
#[derive(Clone, Default)]
pub struct Threads(Arc<Running>);

#[derive(Default)]
struct Running {
    handles: Mutex<Vec<thread::JoinHandle<()>>>,
    begun: AtomicBool,
    ending: AtomicBool,
}

/// Makes ready to open the token, or two, once [`Threads::begin`] is called: until a token is open it is silent. Errs if
/// what this process can read of the configuration is wrong.
pub fn start(first: Source, second: Option<Source>) -> Result<(Tokens, Threads), Failure> {
    let (threads, identities, attempted) = (Threads::default(), Arc::default(), Arc::default());
    let alone = second.is_none();
    let sources = [(Slot::First, Some(first)), (Slot::Second, second)];
    let sources: Vec<_> = sources.into_iter().filter_map(|(slot, source)| Some((slot, source?))).collect();
    // Both are read before a thread begins with either.
    let settings: Vec<_> = sources.iter().map(|(_, source)| source()).collect::<Result<_, _>>()?;
    let mut members = Vec::new();
    for ((slot, source), settings) in sources.into_iter().zip(settings) {
        let member = Arc::new(Member::unopened(slot, alone));
        members.push(Arc::clone(&member));
        let opening = Opening {
            member,
            source,
            alone,
            identities: Arc::clone(&identities),
            threads: threads.clone(),
            attempted: Arc::clone(&attempted),
        };
        let name = format!("open-{}", slot.as_str());
        let run = move || opening.run(settings);
        threads.add(thread::Builder::new().name(name).spawn(run).map_err(Failure::io)?);
    }
    let mut members = members.into_iter();
    let first = members.next().ok_or_else(|| Failure::software("no slot is configured"))?;
    Ok((Tokens::shared(first, members.next(), attempted), threads))
}

impl Tokens {
    /// Whether each token is open or has failed once.
    pub fn are_attempted(&self) -> bool {
        !self.members().any(|member| matches!(member.stage(), Stage::Opening))
    }

    /// Waits for that; not for ever: one may hang.
    pub async fn attempted(&self) {
        let start = Instant::now();
        while !self.are_attempted() && start.elapsed() < TOGETHER {
            tokio::time::sleep(CHECK).await;
        }
    }

    /// Resolves when another attempt to open a token has ended since this was last asked.
    pub async fn attempt(&self) {
        self.attempted.notified().await;
    }
}

/// One token, while it is opened.
struct Opening {
    member: Arc<Member>,
    source: Source,
    alone: bool,
    identities: Arc<Mutex<BTreeMap<Slot, String>>>,
    threads: Threads,
    attempted: Arc<Notify>,
}

impl Opening {
    /// The thread. A refused PIN is not presented again before [`Presented::gives_way_to`].
    fn run(&self, settings: Settings) {
        while !self.threads.have_begun() && !self.threads.are_ending() {
            thread::park();
        }
        let (mut settings, mut pause) = (Ok(settings), PAUSE_MIN);
        while !self.threads.are_ending() {
            let presented = settings.as_ref().ok().map(Presented::of);
            let opened = self.attempt(settings);
            self.attempted.notify_one();
            settings = if opened || self.member.is_pin_refused() {
                pause = PAUSE_MIN;
                self.wait_while_open();
                self.member.give_up();
                self.wait_for_pin(presented.as_ref())
            } else {
                self.rest(pause);
                pause = if self.alone { PAUSE_MIN } else { pause.saturating_mul(2).min(PAUSE_MAX) };
                (self.source)()
            };
        }
    }

    /// Tries once; whether the token is open.
    fn attempt(&self, settings: Result<Settings, Failure>) -> bool {
        self.member.note_opening(true);
        let opened = settings.map_err(|failure: Failure| Fault::NoSuchToken(failure.to_string()));
        let stage = match opened.and_then(backend::open) {
            Ok(backend) => self.adopt(backend),
            Err(fault) => Stage::Failed(fault),
        };
        self.member.note_opening(false);
        let is_open = matches!(stage, Stage::Open);
        self.member.note_stage(stage);
        is_open
    }

    /// Takes an open token into use, unless it is the other one.
    fn adopt(&self, backend: Box<dyn Backend>) -> Stage {
        if let Some(identity) = backend.identity() {
            let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
            if identities.iter().any(|(slot, other)| *slot != self.member.slot && *other == identity) {
                return Stage::Failed(Fault::NoSuchToken(format!(
                    "`[hsm]` and `[second_hsm]` name one and the same token ({identity}): name another in one of them"
                )));
            }
            identities.insert(self.member.slot, identity);
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

    /// Waits until the token has refused its PIN, at the login or at a later one.
    fn wait_while_open(&self) {
        while !self.member.is_pin_refused() && !self.threads.are_ending() {
            self.rest(PAUSE_MIN);
        }
    }

    /// Waits until another PIN is configured, or an operator says that the refused one is right; answers what is
    /// configured then.
    fn wait_for_pin(&self, presented: Option<&Presented>) -> Result<Settings, Failure> {
        loop {
            let settings = (self.source)();
            let Some(refused) = presented else { return settings };
            let is_over = settings.as_ref().is_ok_and(|settings| refused.gives_way_to(settings));
            if is_over || self.threads.are_ending() {
                return settings;
            }
            self.rest(PAUSE_MIN);
        }
    }

    fn rest(&self, pause: Duration) {
        let start = Instant::now();
        while let Some(left) = pause.checked_sub(start.elapsed()).filter(|_| !self.threads.are_ending()) {
            thread::park_timeout(left);
        }
    }
}

/// A PIN that was presented, in case it is refused.
struct Presented {
    secret: Zeroizing<Vec<u8>>,
    memory: Option<RefusedPin>,
}

impl Presented {
    fn of(settings: &Settings) -> Self {
        Self { secret: settings.secret(), memory: settings.refused_pin().cloned() }
    }

    /// Whether what is configured by now may be presented although this was refused.
    fn gives_way_to(&self, settings: &Settings) -> bool {
        settings.secret() != self.secret || self.memory.as_ref().is_some_and(RefusedPin::is_withdrawn)
    }
}

impl Threads {
    /// Lets the threads open their tokens.
    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::Relaxed);
        for handle in self.handles().iter() {
            handle.thread().unpark();
        }
    }

    /// Waits until every token is closed; no handle may be left that can ask for anything. Blocks.
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

    fn have_begun(&self) -> bool {
        self.0.begun.load(Ordering::Relaxed)
    }

    fn are_ending(&self) -> bool {
        self.0.ending.load(Ordering::Relaxed)
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, Vec<thread::JoinHandle<()>>> {
        self.0.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
