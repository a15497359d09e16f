//! A clock that a test sets wrong in the real daemon: `HSMD_CLOCK_OFFSET` names a file with milliseconds, which
//! are added to the time of day whenever it is read.
//!
//! It exists only where debug assertions do. In a release build [`offset_ms()`] is empty, and neither the
//! variable's name nor a branch is left of it (`tests/it/clock.rs` proves it).

/// Milliseconds that the time of day is off.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn offset_ms() -> i64 {
    0
}

#[cfg(debug_assertions)]
pub use armed::{VARIABLE, offset_ms};

#[cfg(debug_assertions)]
mod armed {
    use std::{path::PathBuf, sync::OnceLock};

    /// The variable that names the file.
    pub const VARIABLE: &str = "HSMD_CLOCK_OFFSET";

    /// Milliseconds that the time of day is off; zero without the variable or the file.
    pub fn offset_ms() -> i64 {
        static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let file = FILE.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
}
