//! hsmd and hsm-publisher against real parts: SoftHSM, SQLite, PostgreSQL, Redis, Unix sockets.

#![expect(unreachable_pub, reason = "one binary: its modules share what they need")]

#[cfg(test)]
mod border;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod life;
#[cfg(test)]
mod publisher;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod support;
