//! The daemon around the chain: its configuration, its health, and what it looks after while it serves.

pub mod audit;
pub mod clock;
pub mod config;
pub mod device;
pub mod process;
pub mod reload;
pub mod supervise;
pub mod tokens;
