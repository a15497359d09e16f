//! The units as they are installed, under a real systemd on a machine of the test's own.
#![cfg(test)]

mod host;
mod restart;
