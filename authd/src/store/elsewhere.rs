//! What other accounts have to do with a device, as conditions of a statement. They are spelled as the indexes want
//! them: an index of some rows is not used where what they have in common is bound.

use keychain::message::Operation;

/// That another account has ever had it. Of each account the first row is found at once, and no later ones are looked
/// at.
pub(super) fn held(device: &str, identity: &str) -> String {
    let first = format!("SELECT 1 FROM device_records WHERE sequence_number = 0 AND device = {device}");
    format!("(EXISTS ({first} AND identity < {identity}) OR EXISTS ({first} AND identity > {identity}))")
}

/// That another account has registered it by a recovery.
pub(super) fn recovered(device: &str, identity: &str) -> String {
    let path = Operation::AccountRecover.path();
    format!(
        "EXISTS (SELECT 1 FROM device_records WHERE sequence_number = 0 AND path = '{path}' \
         AND device = {device} AND identity <> {identity})"
    )
}
