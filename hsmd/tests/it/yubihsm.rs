//! The YubiHSM backend, on the mock device of the client library and on an emulation of the device's limits.
//! Neither is a device: see `hsmd/YUBIHSM.md`.

mod backup;
mod daemon;
mod device;
mod document;
mod emulator;
mod mirror;
mod mock;
