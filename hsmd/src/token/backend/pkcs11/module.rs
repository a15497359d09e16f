//! One module file of this process: loaded once, called by one thread at a time, whichever tokens are behind it.
//!
//! `C_Initialize` and `C_Finalize` are the process's, not a token's: the first who needs the module
//! initialises it, the last who leaves finalises it, and a token that has it initialised anew voids the
//! sessions of the others, which find that out by the epoch and open their own again. Some modules crash
//! when two threads call them (SoftHSM 2.6.1), so every call is made in the module's turn.
//!
//! A call that never returns must not take the other tokens with it: after [`PATIENCE`] the next one calls the
//! module beside it. Every module that is initialised as this one is has to bear that, and if one crashes, the
//! process is started anew as it would have been for the call that hangs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    slot::{Slot, TokenInfo},
};

use super::fault;
use crate::token::backend::{Cause, Fault};

/// How long a token waits for the other's call to return: far longer than a device takes for anything hsmd asks
/// of it, and shorter than a call may take before its token counts as stuck: who waits is not.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the module is initialised anew at most while another token uses it: each time costs that token its
/// session.
const SHARED_PAUSE: Duration = Duration::from_secs(10);

/// Modules by the path they were loaded from. Never unloaded: threads and exit handlers of a module may
/// outlive its last session.
static LOADED: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A loaded module.
struct Module {
    context: Pkcs11,
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    initialised: bool,
    /// Counts initialisations: a session is void once this has changed.
    epoch: u64,
    /// Tokens that use it.
    users: usize,
    /// Whose turn it is, and since when.
    turn: Option<(u64, Instant)>,
    /// Counts turns.
    turns: u64,
    /// Turns that were not waited for and have not ended yet.
    astray: usize,
    /// Slots that were asked which token is in them, and whose call has not returned.
    unanswered: BTreeSet<u64>,
    /// When the module was finalised last.
    finalised: Option<Instant>,
}

/// One token's use of a module.
pub(super) struct Use(Arc<Module>);

/// One token's turn to call the module.
pub(super) struct Turn<'a> {
    module: &'a Arc<Module>,
    number: u64,
}

impl Use {
    /// Loads the module at `path`, unless another token has.
    pub(super) fn of(path: &Path) -> Result<Self, Fault> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let module = if let Some(module) = loaded.get(path) {
            Arc::clone(module)
        } else {
            let context = Pkcs11::new(path).map_err(|error| unloadable(path, error))?;
            let module = Arc::new(Module { context, state: Mutex::default(), left: Condvar::new() });
            loaded.insert(path.to_owned(), Arc::clone(&module));
            module
        };
        module.state().users += 1;
        Ok(Self(module))
    }

    /// Whether another token uses it too.
    pub(super) fn is_shared(&self) -> bool {
        self.0.state().users > 1
    }

    /// Waits until no other token calls the module, or one has for too long.
    pub(super) fn lock(&self) -> Turn<'_> {
        let mut state = self.0.state();
        while let Some((_, since)) = state.turn {
            let Some(left) = PATIENCE.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) else {
                tracing::warn!(
                    "a call of the PKCS#11 module has not returned; another token no longer waits for it"
                );
                state.astray += 1;
                break;
            };
            state = self.0.left.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.turns = state.turns.wrapping_add(1);
        let number = state.turns;
        state.turn = Some((number, Instant::now()));
        Turn { module: &self.0, number }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let turn = self.lock();
        let mut state = turn.module.state();
        state.users = state.users.saturating_sub(1);
        let unused = state.users == 0;
        drop(state);
        if unused {
            turn.finalise();
        }
    }
}

impl Turn<'_> {
    /// The module, initialised if it was not.
    pub(super) fn context(&self) -> Result<&Pkcs11, Fault> {
        let context = &self.module.context;
        // Not locked meanwhile: this may be the call that never returns.
        if !self.module.state().initialised {
            match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                Err(error) => return Err(fault(error)),
            }
            let mut state = self.module.state();
            state.initialised = true;
            state.epoch = state.epoch.wrapping_add(1);
        }
        Ok(context)
    }

    /// Which token is in a slot. Every token is looked for in all slots, so a call that does not return is left to a
    /// thread of its own: a token that hangs must not hide the other. Its slot is not asked again until it returns.
    pub(super) fn token_in(&self, slot: Slot) -> Result<TokenInfo, Fault> {
        let hangs =
            || Fault::Lost { call: "C_GetTokenInfo".to_owned(), source: "the call has not returned".into() };
        if !self.module.state().unanswered.insert(slot.id()) {
            return Err(hangs());
        }
        let (to, answer) = mpsc::sync_channel(1);
        let module = Arc::clone(self.module);
        let ask = move || {
            let info = module.context.get_token_info(slot);
            module.state().unanswered.remove(&slot.id());
            // The asker is gone if it took too long.
            drop(to.send(info));
        };
        if let Err(error) = thread::Builder::new().name("token-info".to_owned()).spawn(ask) {
            self.module.state().unanswered.remove(&slot.id());
            return Err(Fault::Lost { call: "C_GetTokenInfo".to_owned(), source: Cause::new(error) });
        }
        match answer.recv_timeout(PATIENCE) {
            Ok(info) => info.map_err(fault),
            Err(_) => Err(hangs()),
        }
    }

    /// Which initialisation sessions are of now.
    pub(super) fn epoch(&self) -> u64 {
        self.module.state().epoch
    }

    /// Ends the module's sessions, everybody's, and has it initialised anew when it is needed next. Not while a
    /// call is still inside it, nor over and over at the cost of another token.
    pub(super) fn finalise(&self) {
        let mut state = self.module.state();
        let lately = state.finalised.is_some_and(|last| last.elapsed() < SHARED_PAUSE);
        let is_inside = state.astray > 0 || !state.unanswered.is_empty();
        if !state.initialised || is_inside || (state.users > 1 && lately) {
            return;
        }
        state.initialised = false;
        state.epoch = state.epoch.wrapping_add(1);
        state.finalised = Some(Instant::now());
        drop(state);
        if let Err(error) = self.module.context.clone().finalize() {
            tracing::warn!(%error, "cannot finalise the PKCS#11 module");
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.module.state();
        if state.turn.is_some_and(|(number, _)| number == self.number) {
            state.turn = None;
            self.module.left.notify_one();
        } else {
            state.astray = state.astray.saturating_sub(1);
        }
    }
}

impl Module {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that is no module is wrong configuration; a module that answers with a fault is a fault.
fn unloadable(path: &Path, error: Error) -> Fault {
    match error {
        Error::Pkcs11(..) => fault(error),
        _ => Fault::Module { path: path.display().to_string(), source: Cause::new(error) },
    }
}
