//! Refusals in the log. Strangers cause them, so only some are written: metrics count all.

use keychain::{Code, Refusal};
use systemd::telemetry::Quota;

use super::RequestId;

/// Lines a minute about each code.
const LINES: u32 = 6;

/// Writes some refusals of each code.
#[derive(Debug)]
pub struct RefusalLog([Quota; Code::ALL.len()]);

impl RefusalLog {
    /// One that has written nothing yet.
    pub const fn new() -> Self {
        Self([const { Quota::per_minute(LINES) }; Code::ALL.len()])
    }

    /// Writes a refusal of the request `id`, which asked for `operation`, unless enough was written of its code.
    pub fn note(&self, id: &RequestId, operation: &'static str, refusal: &Refusal) {
        let (code, because) = (refusal.code().as_str(), refusal.because());
        let Some(left_out) = self.quota(refusal.code()).and_then(Quota::admit) else { return };
        if refusal.code() == Code::Internal {
            tracing::error!(request = %id, operation, code, because, left_out, "refused");
        } else {
            tracing::info!(request = %id, operation, code, because, left_out, "refused");
        }
    }

    fn quota(&self, code: Code) -> Option<&Quota> {
        let place = Code::ALL.iter().position(|known| *known == code)?;
        self.0.get(place)
    }
}

impl Default for RefusalLog {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_code_hides_no_other() {
        let log = RefusalLog::new();
        let admitted = |code| (0..100).filter(|_| log.quota(code).unwrap().admit().is_some()).count();
        for code in Code::ALL {
            assert_eq!(admitted(code), 6, "{code}");
        }
    }
}
