//! One module file of this process: loaded once, called by one thread at a time, whichever tokens are behind it.
//!
//! `C_Initialize` and `C_Finalize` are the process's, not a token's: the first who needs the module
//! initialises it, the last who leaves finalises it, and a token that has it initialised anew voids the
//! sessions of the others, which find that out by the epoch and open their own again. Some modules crash
//! when two threads call them (SoftHSM 2.6.1), so every call is made under the module's lock.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
};

use super::fault;
use crate::backend::Fault;

/// Modules by the path they were loaded from. Never unloaded: threads and exit handlers of a module may
/// outlive its last session.
static LOADED: Mutex<BTreeMap<PathBuf, Arc<Mutex<Module>>>> = Mutex::new(BTreeMap::new());

/// A loaded module.
pub(super) struct Module {
    context: Pkcs11,
    initialised: bool,
    /// Counts initialisations: a session is void once this has changed.
    epoch: u64,
    /// Tokens that use it.
    users: usize,
}

/// One token's use of a module.
pub(super) struct Use(Arc<Mutex<Module>>);

impl Use {
    /// Loads the module at `path`, unless another token has.
    pub(super) fn of(path: &Path) -> Result<Self, Fault> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let module = if let Some(module) = loaded.get(path) {
            Arc::clone(module)
        } else {
            let context = Pkcs11::new(path).map_err(|error| unloadable(path, error))?;
            let module = Module { context, initialised: false, epoch: 0, users: 0 };
            let module = Arc::new(Mutex::new(module));
            loaded.insert(path.to_owned(), Arc::clone(&module));
            module
        };
        module.lock().unwrap_or_else(PoisonError::into_inner).users += 1;
        Ok(Self(module))
    }

    /// Waits until no other token calls the module.
    pub(super) fn lock(&self) -> MutexGuard<'_, Module> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut module = self.lock();
        module.users = module.users.saturating_sub(1);
        if module.users == 0 {
            module.finalise();
        }
    }
}

impl Module {
    /// The module, initialised if it was not.
    pub(super) fn context(&mut self) -> Result<&Pkcs11, Fault> {
        if !self.initialised {
            match self.context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                Err(error) => return Err(fault(error)),
            }
            self.initialised = true;
            self.epoch = self.epoch.wrapping_add(1);
        }
        Ok(&self.context)
    }

    /// Which initialisation sessions are of now.
    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Ends the module's sessions, everybody's, and has it initialised anew when it is needed next.
    pub(super) fn finalise(&mut self) {
        if !self.initialised {
            return;
        }
        self.initialised = false;
        self.epoch = self.epoch.wrapping_add(1);
        if let Err(error) = self.context.clone().finalize() {
            tracing::warn!(%error, "cannot finalise the PKCS#11 module");
        }
    }
}

/// A file that is no module is wrong configuration; a module that answers with a fault is a fault.
fn unloadable(path: &Path, error: Error) -> Fault {
    match error {
        Error::Pkcs11(..) => fault(error),
        _ => Fault::Module { path: path.display().to_string(), source: Box::new(error) },
    }
}
