//! An emulation of a YubiHSM 2 and of the connector before it, written from Yubico's documentation of the
//! protocol: it speaks the wire's secure channel, holds authentication keys to their capabilities and domains,
//! forgets sessions that are idle for 30 s of a clock that the test moves, has sixteen of them and 256 objects,
//! keeps a log of 62 entries with its digests, refuses to work while that is full if it is set to force
//! auditing, and attests keys. It is no device: what it does is what was read, not what was measured.

mod card;
mod connector;
mod device;
mod object;

pub use connector::Connector;
pub use device::{Emulator, Role};
