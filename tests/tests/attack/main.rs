//! Known attacks, made on a running system at its HTTP borders. Each asserts the exact code and status,
//! and that nothing changed. `README.md` beside this file has a row for each.
#![cfg(test)]

mod access;
mod border;
mod case;
mod derivation;
mod directory;
mod hsm;
mod link;
mod refresh;
mod repeat;
mod revocation;
mod rotation;
mod session;
mod shape;
mod table;

use tests::craft::Device;
use tests::http::Http;

/// Asserts that the account goes on as if nothing had happened: its device rotates, has a session
/// and refreshes it.
async fn unharmed(device: &mut Device, auth: &Http) {
    device.rotate(auth).await.response();
    device.open_session(auth).await;
    device.try_refresh(auth).await.response();
}
