//! The control file: what is to go wrong.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use cryptoki_sys as sys;

/// The environment variable that names the control file. Without it the module only forwards.
pub const CONTROL: &str = "P11FAULT_CONTROL";

/// The environment variable that names the real module; SoftHSM's usual place if it is not set.
pub const MODULE: &str = "P11FAULT_MODULE";

/// Every code that is injected, by name.
pub const CODES: [(&str, sys::CK_RV); 12] = [
    ("CKR_DEVICE_ERROR", sys::CKR_DEVICE_ERROR),
    ("CKR_DEVICE_REMOVED", sys::CKR_DEVICE_REMOVED),
    ("CKR_TOKEN_NOT_PRESENT", sys::CKR_TOKEN_NOT_PRESENT),
    ("CKR_SESSION_HANDLE_INVALID", sys::CKR_SESSION_HANDLE_INVALID),
    ("CKR_SESSION_CLOSED", sys::CKR_SESSION_CLOSED),
    ("CKR_USER_NOT_LOGGED_IN", sys::CKR_USER_NOT_LOGGED_IN),
    ("CKR_OBJECT_HANDLE_INVALID", sys::CKR_OBJECT_HANDLE_INVALID),
    ("CKR_GENERAL_ERROR", sys::CKR_GENERAL_ERROR),
    ("CKR_FUNCTION_FAILED", sys::CKR_FUNCTION_FAILED),
    ("CKR_DEVICE_MEMORY", sys::CKR_DEVICE_MEMORY),
    ("CKR_PIN_INCORRECT", sys::CKR_PIN_INCORRECT),
    ("CKR_PIN_LOCKED", sys::CKR_PIN_LOCKED),
];

/// Every call that can be made to fail: those that hsmd makes.
pub const CALLS: [&str; 15] = [
    "C_Initialize",
    "C_Finalize",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_OpenSession",
    "C_CloseSession",
    "C_Login",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_GetAttributeValue",
    "C_GenerateKeyPair",
    "C_SignInit",
    "C_Sign",
    "C_DestroyObject",
];

/// Every call that hsmd makes beyond those, to mirror a key.
pub const MIRROR_CALLS: [&str; 3] = ["C_CreateObject", "C_UnwrapKey", "C_WrapKey"];

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The call has its effect, and its caller is told that it failed.
    After,
    /// The call fails without effect.
    Before,
    /// The call does not return until the rule is lifted.
    Hang,
    /// The call takes so many milliseconds longer.
    Slow(u64),
}

/// One rule of the control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The call's name; `*` for every call.
    pub call: String,
    /// What is answered; of no meaning for [`Mode::Hang`] and [`Mode::Slow`].
    pub code: String,
    /// How it goes wrong.
    pub mode: Mode,
    /// How often in one process; without end if absent.
    pub times: Option<u64>,
    /// In which process; in every one if absent.
    pub pid: Option<u32>,
    /// For which token, by its label without spaces; for every one, and calls that are about none, if absent.
    pub token: Option<String>,
}

impl Rule {
    /// Fails `call` with `code` until the rule is lifted.
    pub fn new(call: &str, code: &str, mode: Mode) -> Self {
        Self { call: call.to_owned(), code: code.to_owned(), mode, times: None, pid: None, token: None }
    }

    /// The code as the module answers it.
    pub(crate) fn answer(&self) -> sys::CK_RV {
        let known = CODES.iter().find(|(name, _)| *name == self.code);
        match known {
            Some((_, code)) => *code,
            // A module that lets pass what it does not do.
            None if self.code == "CKR_OK" => sys::CKR_OK,
            None => sys::CKR_GENERAL_ERROR,
        }
    }
}

/// The whole control file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What fails.
    pub rules: Vec<Rule>,
    /// Sessions that may be open at a time.
    pub sessions_max: Option<u64>,
    /// Objects that the token holds at most.
    pub objects_max: Option<u64>,
    /// The mechanism under which the token wraps every key, whatever the key says of itself.
    pub wraps_by: Option<u64>,
    /// How long a session lives without a call, on the plan's own clock.
    pub idle_ms: Option<u64>,
    /// That clock.
    pub clock_ms: u64,
    /// Tells plans apart that read the same: what was used up in one is not used up in the next.
    pub number: u64,
}

impl Plan {
    /// One rule.
    pub fn of(rule: Rule) -> Self {
        Self { rules: vec![rule], ..Self::default() }
    }

    /// Puts the plan into force: replaces the file at once and whole.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, self.to_string())?;
        fs::rename(new, path)
    }

    /// Reads a plan. Lines that mean nothing are passed over: the file is the tests' own.
    pub(crate) fn read(text: &str) -> Self {
        let mut plan = Self::default();
        for line in text.lines() {
            let words = || line.split(' ').filter_map(|word| word.split_once('='));
            let word = |name: &str| words().find(|(found, _)| *found == name).map(|(_, value)| value);
            let number = |name: &str| word(name).and_then(|value| value.parse().ok());
            if let Some(call) = word("call") {
                let mode = match word("mode") {
                    Some("after") => Mode::After,
                    Some("hang") => Mode::Hang,
                    Some("slow") => Mode::Slow(number("ms").unwrap_or(0)),
                    _ => Mode::Before,
                };
                let pid = word("pid").and_then(|value| value.parse().ok());
                let code = word("code").unwrap_or_default().to_owned();
                let (times, token) = (number("times"), word("token").map(str::to_owned));
                plan.rules.push(Rule { call: call.to_owned(), code, mode, times, pid, token });
            }
            plan.sessions_max = number("sessions_max").or(plan.sessions_max);
            plan.objects_max = number("objects_max").or(plan.objects_max);
            plan.wraps_by = number("wraps_by").or(plan.wraps_by);
            plan.idle_ms = number("idle_ms").or(plan.idle_ms);
            plan.clock_ms = number("clock_ms").unwrap_or(plan.clock_ms);
            plan.number = number("number").unwrap_or(plan.number);
        }
        plan
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "clock_ms={} number={}", self.clock_ms, self.number)?;
        let limits = [
            ("sessions_max", self.sessions_max),
            ("objects_max", self.objects_max),
            ("wraps_by", self.wraps_by),
            ("idle_ms", self.idle_ms),
        ];
        for (name, limit) in limits {
            if let Some(limit) = limit {
                writeln!(f, "{name}={limit}")?;
            }
        }
        for rule in &self.rules {
            let mode = match rule.mode {
                Mode::After => "after".to_owned(),
                Mode::Before => "before".to_owned(),
                Mode::Hang => "hang".to_owned(),
                Mode::Slow(ms) => format!("slow ms={ms}"),
            };
            write!(f, "call={} code={} mode={mode}", rule.call, rule.code)?;
            if let Some(times) = rule.times {
                write!(f, " times={times}")?;
            }
            if let Some(pid) = rule.pid {
                write!(f, " pid={pid}")?;
            }
            if let Some(token) = &rule.token {
                write!(f, " token={token}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Where the module logs what it did under the control file at `control`: a line for each injected fault
/// (`fault CALL CODE`), and one for each login with its answer (`login NUMBER`).
pub fn log_of(control: &Path) -> PathBuf {
    control.with_extension("log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let mut plan = Plan::of(Rule::new("C_Sign", "CKR_DEVICE_ERROR", Mode::After));
        plan.rules.push(Rule { times: Some(3), pid: Some(7), ..Rule::new("*", "", Mode::Slow(73)) });
        plan.rules.push(Rule { token: Some("second".to_owned()), ..Rule::new("C_Login", "", Mode::Hang) });
        assert_eq!(Plan::read(&plan.to_string()), plan);
        let limits = Plan {
            sessions_max: Some(16),
            objects_max: Some(256),
            wraps_by: Some(sys::CKM_RSA_PKCS),
            idle_ms: Some(30_000),
            clock_ms: 5,
            number: 9,
            ..Plan::default()
        };
        assert_eq!(Plan::read(&limits.to_string()), limits);
    }
}
