//! `authd mac-key`: a new key for the MACs of the store's rows.

use std::io::{self, IsTerminal as _, Write as _};

use systemd::exit::{Failure, USAGE};
use zeroize::Zeroizing;

use crate::store::MacKeys;

/// Prints the line of a new key, to nobody's screen.
pub(super) fn print() -> Result<(), Failure> {
    let mut out = io::stdout();
    if out.is_terminal() {
        let because = "the key is a secret: send it to a file of mode 0600, or to `systemd-creds encrypt`";
        return Err(Failure::new(USAGE, because));
    }
    let mut entropy = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(entropy.as_mut()).map_err(Failure::unavailable)?;
    let line = MacKeys::line(&entropy);
    out.write_all(line.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .map_err(Failure::io)
}
