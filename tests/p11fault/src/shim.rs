//! What the module knows: the plan in force, what of it is used up, and the sessions.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use cryptoki_sys::{CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CKR_SESSION_COUNT, CKR_SESSION_HANDLE_INVALID};

use crate::plan::{CONTROL, Mode, Plan, log_of};

/// How often a call that hangs looks whether it may go on.
const LOOK: Duration = Duration::from_millis(2);

/// What is to be done with one call.
pub(crate) enum Order {
    /// Forward it, and answer this instead.
    After(CK_RV),
    /// Answer this.
    Before(CK_RV),
    /// Forward it.
    Forward,
}

pub(crate) struct Shim {
    control: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Device, file and time of the control file when it was read last.
    stamp: Option<(u64, i64, i64)>,
    plan: Plan,
    /// How often each rule of the plan was obeyed.
    used: Vec<u64>,
    /// Open sessions: their slot, and when each was used last on the plan's clock. One that died of idleness
    /// has no time.
    sessions: BTreeMap<CK_SESSION_HANDLE, (CK_SLOT_ID, Option<u64>)>,
}

impl Shim {
    pub(crate) fn new() -> Self {
        Self { control: std::env::var_os(CONTROL).map(PathBuf::from), state: Mutex::default() }
    }

    /// The slot that a call is about, if the plan in force tells tokens apart.
    pub(crate) fn slot(
        &self,
        session: Option<CK_SESSION_HANDLE>,
        slot: Option<CK_SLOT_ID>,
    ) -> Option<CK_SLOT_ID> {
        let state = self.read();
        state.plan.rules.iter().find(|rule| rule.token.is_some())?;
        slot.or_else(|| state.sessions.get(&session?).map(|(slot, _)| *slot))
    }

    /// What the plan says of a call, and of the token that it is about.
    pub(crate) fn order(&self, call: &str, session: Option<CK_SESSION_HANDLE>, token: Option<&str>) -> Order {
        if let Some(code) = session.and_then(|session| self.use_session(session)) {
            return Order::Before(code);
        }
        let start = Instant::now();
        let mut told = false;
        loop {
            let mut state = self.read();
            let Some(index) = state.applicable(call, token) else { return Order::Forward };
            let Some(rule) = state.plan.rules.get(index).cloned() else { return Order::Forward };
            let over = matches!(rule.mode, Mode::Slow(ms) if start.elapsed() >= Duration::from_millis(ms));
            if let Some(used) = state.used.get_mut(index).filter(|_| !told) {
                *used += 1;
            }
            drop(state);
            if !told && !matches!(rule.mode, Mode::Slow(_)) {
                self.log(&format!("fault {call} {}", rule.code));
            }
            told = true;
            match rule.mode {
                Mode::After => return Order::After(rule.answer()),
                Mode::Before => return Order::Before(rule.answer()),
                Mode::Slow(_) if over => return Order::Forward,
                Mode::Slow(_) | Mode::Hang => thread::park_timeout(LOOK),
            }
        }
    }

    /// Notes what became of a login.
    pub(crate) fn note_login(&self, answer: CK_RV) {
        self.log(&format!("login {answer}"));
    }

    /// Refuses one session too many.
    pub(crate) fn demand_room_for_session(&self) -> Result<(), CK_RV> {
        let state = self.read();
        let open = u64::try_from(state.sessions.len()).unwrap_or(u64::MAX);
        if state.plan.sessions_max.is_some_and(|max| open >= max) { Err(CKR_SESSION_COUNT) } else { Ok(()) }
    }

    /// Forgets a session that has died; its handle, for the real module to close.
    pub(crate) fn bury(&self, session: CK_SESSION_HANDLE) -> Option<CK_SESSION_HANDLE> {
        let mut state = self.lock();
        let dead = state.sessions.get(&session).is_some_and(|(_, used)| used.is_none());
        dead.then(|| state.sessions.remove(&session)).map(|_| session)
    }

    /// Whether the token wraps every key by this mechanism.
    pub(crate) fn wraps_by(&self, mechanism: u64) -> bool {
        self.read().plan.wraps_by == Some(mechanism)
    }

    pub(crate) fn objects_max(&self) -> Option<u64> {
        self.read().plan.objects_max
    }

    pub(crate) fn opened(&self, slot: CK_SLOT_ID, session: CK_SESSION_HANDLE) {
        let mut state = self.lock();
        let now = state.plan.clock_ms;
        state.sessions.insert(session, (slot, Some(now)));
    }

    pub(crate) fn closed(&self, session: CK_SESSION_HANDLE) {
        self.lock().sessions.remove(&session);
    }

    pub(crate) fn closed_all(&self, slot: Option<CK_SLOT_ID>) {
        self.lock().sessions.retain(|_, (open, _)| slot.is_some_and(|slot| slot != *open));
    }

    /// Notes that a session is used; the code to answer if it has died of idleness.
    fn use_session(&self, session: CK_SESSION_HANDLE) -> Option<CK_RV> {
        let mut state = self.read();
        let (now, idle) = (state.plan.clock_ms, state.plan.idle_ms);
        let (_, used) = state.sessions.get_mut(&session)?;
        let alive = used.filter(|used| idle.is_none_or(|idle| now.saturating_sub(*used) < idle));
        *used = alive.map(|_| now);
        alive.is_none().then_some(CKR_SESSION_HANDLE_INVALID)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, with the plan that is in force now.
    fn read(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if let Some(path) = &self.control {
            let found = fs::metadata(path).ok();
            let stamp = found.map(|file| (file.ino(), file.mtime(), file.mtime_nsec()));
            if stamp != state.stamp {
                let plan = Plan::read(&fs::read_to_string(path).unwrap_or_default());
                state.stamp = stamp;
                state.used = vec![0; plan.rules.len()];
                state.plan = plan;
            }
        }
        state
    }

    fn log(&self, line: &str) {
        let Some(control) = &self.control else { return };
        let log = fs::File::options().append(true).create(true).open(log_of(control));
        // A log that cannot be written is a test that finds nothing in it.
        drop(log.and_then(|mut log| log.write_all(format!("{line}\n").as_bytes())));
    }
}

impl State {
    fn applicable(&self, call: &str, token: Option<&str>) -> Option<usize> {
        let rules = self.plan.rules.iter().zip(&self.used);
        rules.into_iter().position(|(rule, used)| {
            (rule.call == "*" || rule.call == call)
                && rule.times.is_none_or(|times| *used < times || matches!(rule.mode, Mode::Hang))
                && rule.pid.is_none_or(|pid| pid == std::process::id())
                && rule.token.as_deref().is_none_or(|of| token == Some(of))
        })
    }
}
