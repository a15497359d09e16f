//! Places where a test may kill the daemon, or make a step fail, to see that the chain survives it.
//!
//! `HSMD_FAILURE_POINT=rotate/after-commit:kill:1` kills the process (as SIGKILL does, for it is one) when it
//! comes to that point for the first time. `fail` instead of `kill` makes a write answer an error: at a point
//! before the write, one that was not persisted; at a point after it, one that was.
//!
//! All of it exists only where debug assertions do. In a release build [`pass()`] and [`write()`] are empty, and
//! no label, no variable's name and no branch is left of them (`tests/it/failure_points.rs` looks).

/// What the daemon is about when it comes to a failure point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Endorses a service's key.
    Endorse,
    /// Makes the first keys and event 0, in an empty ledger.
    First,
    /// Writes the ledger: the audit trail, and everything else.
    Ledger,
    /// Publishes events into the key directory.
    Publish,
    /// Imports the published chain.
    Recover,
    /// Leaves a generation for the next.
    Rotate,
    /// Makes token and ledger agree.
    Settle,
    /// Leaves a compromised generation for the next.
    Taint,
}

/// That a failure point made a write fail. There is no such thing in a release build.
#[cfg(debug_assertions)]
#[derive(Debug)]
pub struct Failed(String);

/// That a failure point made a write fail. There is no such thing in a release build.
#[cfg(not(debug_assertions))]
#[derive(Debug)]
pub enum Failed {}

impl std::error::Error for Failed {}

impl std::fmt::Display for Failed {
    #[cfg(debug_assertions)]
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "failure point `{}`", self.0)
    }

    #[cfg(not(debug_assertions))]
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

/// Comes to a point where the process may die.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn pass(_: Step, _: &str) {}

/// Comes to a point before or after a write, where the process may die or the write fail.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn write(_: Step, _: &str) -> Result<(), Failed> {
    Ok(())
}

#[cfg(debug_assertions)]
pub use armed::{LABELS, Label, VARIABLE, pass, write};

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    use rustix::process::{Signal, getpid, kill_process};

    use super::{Failed, Step};

    /// The variable that says where to fail.
    pub const VARIABLE: &str = "HSMD_FAILURE_POINT";

    /// A point by name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Label {
        /// Step and point, as the variable names them.
        pub name: &'static str,
        /// Whether it stands before or after a write, which can be made to fail there.
        pub write: bool,
    }

    const fn at(name: &'static str) -> Label {
        Label { name, write: false }
    }

    const fn write_at(name: &'static str) -> Label {
        Label { name, write: true }
    }

    /// Every point, in the order in which the steps come to them.
    pub const LABELS: &[Label] = &[
        write_at("ledger/before-begin"),
        write_at("ledger/after-begin"),
        write_at("ledger/before-change"),
        write_at("ledger/after-change"),
        write_at("ledger/after-lines"),
        write_at("ledger/before-commit"),
        write_at("ledger/after-commit"),
        write_at("first/before-migrate"),
        write_at("first/after-migrate"),
        write_at("first/before-intend"),
        write_at("first/after-intend"),
        at("first/before-keys"),
        at("first/between-keys"),
        at("first/after-keys"),
        at("first/after-sign"),
        write_at("first/before-commit"),
        write_at("first/after-commit"),
        write_at("rotate/before-intend"),
        write_at("rotate/after-intend"),
        at("rotate/after-turn"),
        at("rotate/after-key"),
        at("rotate/after-sign"),
        write_at("rotate/before-commit"),
        write_at("rotate/after-commit"),
        at("rotate/after-show"),
        at("rotate/after-retire"),
        write_at("taint/before-intend"),
        write_at("taint/after-intend"),
        at("taint/after-turn"),
        at("taint/after-key"),
        at("taint/after-sign"),
        write_at("taint/before-commit"),
        write_at("taint/after-commit"),
        at("taint/after-show"),
        at("taint/after-retire"),
        at("settle/before-sweep"),
        at("settle/amid-sweep"),
        at("settle/after-sweep"),
        at("endorse/before-sign"),
        at("endorse/after-sign"),
        at("endorse/after-audit"),
        write_at("recover/before-import"),
        write_at("recover/after-import"),
        at("recover/after-settle"),
        write_at("publish/before-write"),
        write_at("publish/after-write"),
    ];

    /// Comes to a point where the process may die.
    pub fn pass(step: Step, point: &str) {
        if plan(step, point).is_some_and(|plan| plan.fails) {
            tracing::error!(?step, point, "nothing can fail at this failure point");
        }
    }

    /// Comes to a point before or after a write, where the process may die or the write fail.
    pub fn write(step: Step, point: &str) -> Result<(), Failed> {
        match plan(step, point) {
            Some(plan) => Err(Failed(plan.label.clone())),
            None => Ok(()),
        }
    }

    struct Plan {
        label: String,
        fails: bool,
        /// Passes until the plan is carried out.
        left: AtomicU64,
    }

    /// The plan, if it is this point's turn to fail. Does not return if it is its turn to kill.
    fn plan(step: Step, point: &str) -> Option<&'static Plan> {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        let plan = PLAN.get_or_init(|| read(&std::env::var(VARIABLE).ok()?)).as_ref()?;
        if plan.label != format!("{}/{point}", step.name()) || plan.left.fetch_sub(1, Ordering::Relaxed) != 1
        {
            return None;
        }
        tracing::warn!(label = plan.label, "failure point");
        if !plan.fails && kill_process(getpid(), Signal::KILL).is_err() {
            std::process::abort();
        }
        Some(plan)
    }

    /// Reads `LABEL:kill|fail:N`. A plan that cannot be carried out ends the process: a test that asks for
    /// nothing must not pass.
    fn read(text: &str) -> Option<Plan> {
        let mut parts = text.split(':');
        let (label, action, pass) = (parts.next()?, parts.next(), parts.next());
        let known = LABELS.iter().find(|known| known.name == label);
        let fails = action == Some("fail");
        let left = pass.and_then(|pass| pass.parse().ok());
        match (known, left) {
            (Some(known), Some(left)) if (fails && known.write) || action == Some("kill") => {
                Some(Plan { label: label.to_owned(), fails, left: AtomicU64::new(left) })
            }
            _ => std::process::abort(),
        }
    }

    impl Step {
        const fn name(self) -> &'static str {
            match self {
                Self::Endorse => "endorse",
                Self::First => "first",
                Self::Ledger => "ledger",
                Self::Publish => "publish",
                Self::Recover => "recover",
                Self::Rotate => "rotate",
                Self::Settle => "settle",
                Self::Taint => "taint",
            }
        }
    }
}
