//! hsmd and hsm-publisher against real parts: SoftHSM, SQLite, PostgreSQL, Redis, Unix sockets.

#![expect(unreachable_pub, reason = "one binary: its modules share what they need")]

#[cfg(test)]
mod audit;
#[cfg(test)]
mod border;
#[cfg(test)]
mod callers;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod failure_points;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod head_numbers;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lease;
#[cfg(test)]
mod life;
#[cfg(test)]
mod pair;
#[cfg(test)]
mod process;
#[cfg(test)]
mod publisher;
#[cfg(test)]
mod race;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod remote;
#[cfg(test)]
mod restored;
#[cfg(test)]
mod room;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod start;
#[cfg(test)]
mod statements;
#[cfg(test)]
mod states;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod support;
#[cfg(test)]
mod yubihsm;
