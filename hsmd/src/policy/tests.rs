//! One table over callers, sockets, operations, purposes, names, lifetimes and rates: the file as an operator
//! writes it, and what it permits.

use std::{
    io::Write as _,
    sync::{Arc, Mutex},
};

use keychain::SigningKey;

use super::*;
use crate::clock::Clock;

const SKEW: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_hours(1);
const HALF: Duration = Duration::from_mins(12 * 60 + 1);
const MS: Duration = Duration::from_millis(1);

/// authd, three edges (one kept short, one on another host, one with a name of an old kind), operators, and
/// the one user that is two services through two sockets.
const POLICY: &str = r#"
[[allow]]
user = 1
operations = ["endorse"]
service = "authd"
purposes = ["access", "response"]
[[allow]]
user = 2
operations = ["endorse"]
service = "edge:short"
purposes = ["response"]
longest_response = "1h"
[[allow]]
san = "URI:keelson:edge:far"
operations = ["endorse"]
service = "edge:far"
purposes = ["response"]
[[allow]]
san = "DNS:edge-1.example"
operations = ["endorse"]
service = "edge:one"
purposes = ["response"]
[[allow]]
user = 3
socket = "unix:/endorse"
operations = ["endorse"]
service = "edge:here"
purposes = ["response"]
[[allow]]
user = 3
socket = "unix:/other"
operations = ["endorse"]
service = "edge:there"
purposes = ["response"]
[[allow]]
user = 3
operations = ["rotate"]
[[allow]]
user = 0
operations = ["rotate", "taint", "revoke-keys", "recover", "accept-clock", "revoke-service"]
[[allow]]
user = 5
operations = ["report"]
[[allow]]
user = 9
operations = ["endorse"]
service = "edge:rare"
purposes = ["response"]
rate = "2/min"
[[allow]]
user = 9
operations = ["taint"]
rate = "1/h"
"#;

/// A row that gives a policy its owner.
const OWNER: &str = "[[allow]]\nuser = 99\noperations = [\"taint\"]\n";

struct Script(Arc<Mutex<Duration>>);

impl Clock for Script {
    fn now(&self) -> Timestamp {
        now()
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// A policy file with its clock, and a gate at each of three sockets.
struct Stage {
    file: tempfile::NamedTempFile,
    clock: Arc<Mutex<Duration>>,
    policy: Arc<PolicyFile>,
}

fn scope() -> Scope {
    let fixed = Rule {
        who: Who::Loopback,
        socket: Some(address("127.0.0.1:8082")),
        allows: Allows::Endorsements {
            service: Service::insecure(),
            purposes: vec![(Purpose::Response, HALF)],
            instances: BTreeSet::new(),
        },
        rate: row::usual_rate(Role::Endorse),
    };
    Scope {
        entrances: ["endorse", "other", "admin", "publish", "fd", "loopback"].map(entrance).to_vec(),
        fixed: vec![fixed],
        skew: SKEW,
    }
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn entrance(name: &str) -> Entrance {
    let (address, role) = match name {
        "fd" => (address("fd:remote"), Role::Endorse),
        "loopback" => (address("127.0.0.1:8082"), Role::Endorse),
        "admin" => (address("unix:/admin"), Role::Admin),
        "publish" => (address("unix:/publish"), Role::Publish),
        _ => (address(&format!("unix:/{name}")), Role::Endorse),
    };
    Entrance { address, role }
}

impl Stage {
    fn try_new(text: &str) -> Result<Self, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let clock = Arc::new(Mutex::new(HOUR));
        let policy = PolicyFile::open(file.path(), scope(), Box::new(Script(Arc::clone(&clock))));
        Ok(Self { file, clock, policy: Arc::new(policy.map_err(|error| error.to_string())?) })
    }

    fn new(text: &str) -> Self {
        Self::try_new(text).unwrap()
    }

    fn gate(&self, name: &str) -> Gate {
        Gate::new(entrance(name), Arc::clone(&self.policy))
    }

    fn rewrite(&self, text: &str) -> Result<(), String> {
        std::fs::write(self.file.path(), text).unwrap();
        self.policy.read().map(|policy| self.policy.adopt(policy)).map_err(|error| error.to_string())
    }

    fn endorse(
        &self,
        socket: &str,
        caller: Option<&Caller>,
        purpose: Purpose,
        life: Duration,
    ) -> Result<String, String> {
        let public_key = SigningKey::from_seed(&[9; 32]).unwrap().public_key();
        let request = SignRequest { purpose, public_key, expiration: now().plus(life) };
        let gate = self.gate(socket);
        let verdict = gate.permit_endorsement(caller, &request, now());
        let known = gate.demand_known(caller).is_ok();
        assert!(known || verdict.is_err(), "{caller:?}: permitted without being known");
        verdict.map(|permission| permission.service().to_owned()).map_err(|refusal| say(&refusal))
    }

    fn administer(&self, socket: &str, caller: Option<&Caller>, operation: Operation) -> Result<(), String> {
        let verdict = self.gate(socket).permit(operation, caller);
        verdict.map(|authority| assert_eq!(authority.operation(), operation)).map_err(|refusal| say(&refusal))
    }
}

fn say(refusal: &Refusal) -> String {
    let after = refusal.context("retryAfter").map(|seconds| format!(" after {seconds}"));
    format!("{}{}", refusal.code().as_str(), after.unwrap_or_default())
}

fn now() -> Timestamp {
    Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "the tables hold unknown callers too")]
fn user(number: u32) -> Option<Caller> {
    Some(Caller::User(number))
}

#[expect(clippy::unnecessary_wraps, reason = "the tables hold unknown callers too")]
fn named(names: &[San]) -> Option<Caller> {
    Some(Caller::Named(names.into()))
}

#[test]
fn who_may_have_what_endorsed() {
    use Purpose::{Access, Response};
    let stage = Stage::new(POLICY);
    let far = [San::uri("keelson:edge:far")];
    let forbidden = Err("BA303");
    for (socket, caller, purpose, life, expected) in [
        ("endorse", user(1), Access, 24 * HOUR, Ok("authd")),
        ("endorse", user(1), Access, 24 * HOUR + SKEW, Ok("authd")),
        ("endorse", user(1), Access, 24 * HOUR + SKEW + MS, forbidden),
        ("endorse", user(1), Response, HALF + SKEW, Ok("authd")),
        ("endorse", user(1), Response, HALF + SKEW + MS, forbidden),
        ("endorse", user(1), Response, MS, Ok("authd")),
        ("endorse", user(1), Response, Duration::ZERO, Err("BA101")),
        ("other", user(1), Access, HOUR, Ok("authd")),
        ("admin", user(1), Access, HOUR, forbidden),
        ("endorse", user(2), Response, HOUR + SKEW, Ok("edge:short")),
        ("endorse", user(2), Response, HOUR + SKEW + MS, forbidden),
        ("endorse", user(2), Access, HOUR, forbidden),
        // One user, told apart by the socket.
        ("endorse", user(3), Response, HOUR, Ok("edge:here")),
        ("other", user(3), Response, HOUR, Ok("edge:there")),
        ("fd", user(3), Response, HOUR, forbidden),
        ("admin", user(3), Response, HOUR, forbidden),
        // Operators have nothing endorsed.
        ("endorse", user(0), Response, HOUR, forbidden),
        ("admin", user(0), Response, HOUR, forbidden),
        ("endorse", user(u32::MAX), Response, HOUR, forbidden),
        ("endorse", None, Response, HOUR, forbidden),
        // By certificate.
        ("fd", named(&far), Response, HALF, Ok("edge:far")),
        ("fd", named(&far), Access, HOUR, forbidden),
        ("admin", named(&far), Response, HOUR, forbidden),
        ("fd", named(&[San::dns("Edge-1.EXAMPLE")]), Response, HOUR, Ok("edge:one")),
        ("fd", named(&[San::dns("edge-1.example.org")]), Response, HOUR, forbidden),
        ("fd", named(&[San::dns("a.edge-1.example")]), Response, HOUR, forbidden),
        ("fd", named(&[San::dns("*.example")]), Response, HOUR, forbidden),
        ("fd", named(&[San::uri("keelson:edge:Far")]), Response, HOUR, forbidden),
        ("fd", named(&[San::uri("keelson:edge:far ")]), Response, HOUR, forbidden),
        ("fd", named(&[San::dns("keelson:edge:far")]), Response, HOUR, forbidden),
        ("fd", named(&[San::uri("edge-1.example")]), Response, HOUR, forbidden),
        ("fd", named(&[]), Response, HOUR, forbidden),
        // Of several names, the first row of the file that knows one.
        (
            "fd",
            named(&[San::dns("edge-1.example"), San::uri("keelson:edge:far")]),
            Response,
            HOUR,
            Ok("edge:far"),
        ),
        ("fd", named(&[San::dns("unknown"), San::dns("edge-1.example")]), Response, HOUR, Ok("edge:one")),
        // The insecure address is its own, and nobody else's.
        ("loopback", Some(Caller::Loopback), Response, HOUR, Ok("edge:insecure")),
        ("loopback", Some(Caller::Loopback), Access, HOUR, forbidden),
        ("endorse", Some(Caller::Loopback), Response, HOUR, forbidden),
        ("fd", Some(Caller::Loopback), Response, HOUR, forbidden),
    ] {
        let verdict = stage.endorse(socket, caller.as_ref(), purpose, life);
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(verdict, expected, "{socket} {caller:?} {purpose:?} {life:?}");
    }
    assert_eq!(
        Stage::new(OWNER).endorse("endorse", user(0).as_ref(), Response, HOUR),
        Err("BA303".to_owned())
    );
}

#[test]
fn who_may_do_what_operators_do() {
    use Operation::{AcceptClock, Endorse, Recover, Report, RevokeKeys, RevokeService, Rotate, Taint};
    let stage = Stage::new(POLICY);
    for (socket, caller, allowed) in [
        ("admin", user(0), vec![AcceptClock, Recover, RevokeKeys, RevokeService, Rotate, Taint]),
        ("endorse", user(0), vec![]),
        ("fd", user(0), vec![]),
        ("publish", user(0), vec![]),
        ("publish", user(5), vec![Report]),
        ("admin", user(5), vec![]),
        ("endorse", user(5), vec![]),
        ("admin", user(3), vec![Rotate]),
        ("endorse", user(3), vec![]),
        ("admin", user(1), vec![]),
        ("admin", user(4), vec![]),
        ("admin", named(&[San::uri("keelson:edge:far")]), vec![]),
        ("admin", Some(Caller::Loopback), vec![]),
        ("admin", None, vec![]),
    ] {
        for operation in Operation::ALL {
            let expected = if allowed.contains(&operation) { Ok(()) } else { Err("BA303".to_owned()) };
            let verdict = stage.administer(socket, caller.as_ref(), operation);
            assert_eq!(verdict, expected, "{socket} {caller:?} {operation:?}");
        }
        assert!(!allowed.contains(&Endorse));
    }
}

#[test]
fn how_often() {
    let stage = Stage::new(POLICY);
    let nine = user(9);
    let sign = |purpose, life| stage.endorse("endorse", nine.as_ref(), purpose, life);
    let service = || Ok("edge:rare".to_owned());
    let refused = |code: &str| Err(code.to_owned());
    // What is refused for another reason costs nothing.
    for _ in 0..5 {
        assert_eq!(sign(Purpose::Access, HOUR), refused("BA303"));
        assert_eq!(sign(Purpose::Response, 13 * HOUR), refused("BA303"));
        assert_eq!(sign(Purpose::Response, Duration::ZERO), refused("BA101"));
    }
    for (seconds, verdict) in [
        (0, service()),
        (0, service()),
        (0, refused("BA604 after 30")),
        (1, refused("BA604 after 29")),
        (30, service()),
        (30, refused("BA604 after 30")),
        (1000, service()),
        (1000, service()),
        (1000, refused("BA604 after 30")),
    ] {
        *stage.clock.lock().unwrap() = HOUR + Duration::from_secs(seconds);
        assert_eq!(sign(Purpose::Response, HOUR), verdict, "{seconds}");
    }
    // Each row counts for itself.
    let taint = || stage.administer("admin", nine.as_ref(), Operation::Taint);
    assert_eq!(taint(), Ok(()));
    assert_eq!(taint(), Err("BA604 after 3600".to_owned()));
    assert_eq!(stage.endorse("endorse", user(1).as_ref(), Purpose::Response, HOUR), Ok("authd".to_owned()));
    // Another policy leaves the count of rows that stay as they are, and a bad one changes nothing.
    stage.rewrite(&POLICY.replace("user = 1\n", "user = 11\n")).unwrap();
    assert_eq!(taint(), Err("BA604 after 3600".to_owned()));
    assert_eq!(stage.endorse("endorse", user(1).as_ref(), Purpose::Response, HOUR), refused("BA303"));
    stage.rewrite("[[allow]]").unwrap_err();
    assert_eq!(stage.endorse("endorse", user(11).as_ref(), Purpose::Response, HOUR), Ok("authd".to_owned()));
    stage.rewrite(&POLICY.replace("1/h", "2/h")).unwrap();
    assert_eq!(taint(), Ok(()));
}

#[test]
fn what_changes_is_told_before_it_does() {
    let stage = Stage::new(POLICY);
    assert_eq!(stage.policy.change(&stage.policy.read().unwrap()), None);
    std::fs::write(stage.file.path(), OWNER).unwrap();
    let next = stage.policy.read().unwrap();
    let change = Change { before: Digest::of(POLICY), after: Digest::of(OWNER), rows: 2 };
    assert_eq!(stage.policy.change(&next), Some(change));
    assert_eq!(stage.policy.current().digest(), Digest::of(POLICY));
}

/// A file that a full disk cut short, or whose operators are gone, would lock out those who have to act.
#[test]
fn a_policy_that_nobody_owns_is_refused() {
    let endorse = POLICY.split("[[allow]]").find(|row| row.contains("edge:short")).unwrap();
    let endorse = format!("[[allow]]{endorse}");
    let gone = OWNER.replace("user = 99", "user = \"nobody-of-that-name\"");
    let stage = Stage::new(POLICY);
    for (text, because) in [
        ("", "no row that allows anybody anything"),
        ("\n# all commented out\n", "no row that allows anybody anything"),
        (gone.as_str(), "no row that allows anybody anything"),
        (&endorse, "no row that lets a user of this host taint"),
        (&format!("{endorse}{gone}"), "no row that lets a user of this host taint"),
        ("[[allow]]\nuser = 1\noperations = [\"rotate\"]\n", "no row that lets a user of this host taint"),
    ] {
        let error = Stage::try_new(text).err().unwrap();
        assert!(error.contains(because), "{error}");
        let error = stage.rewrite(text).unwrap_err();
        assert!(error.contains(because), "{error}");
        assert_eq!(stage.policy.current().digest(), Digest::of(POLICY), "the last good one stays");
    }
    assert!(Stage::try_new(&format!("{endorse}{OWNER}")).is_ok());
}

/// Without a rate a service has a handful of keys endorsed a minute, and some at once when it starts.
#[test]
fn how_often_without_a_rate() {
    let stage = Stage::new(&POLICY.replace("service = \"edge:here\"", "service = \"edge:here\"\nburst = 3"));
    for (socket, caller, burst) in [("endorse", 1, 10), ("endorse", 3, 3), ("other", 3, 10)] {
        let caller = user(caller);
        let sign = || stage.endorse(socket, caller.as_ref(), Purpose::Response, HOUR);
        let let_through = (0..100).filter(|_| sign().is_ok()).count();
        assert_eq!(let_through, burst, "{socket} {caller:?}");
        assert_eq!(sign(), Err("BA604 after 12".to_owned()));
    }
    for _ in 0..100 {
        assert_eq!(stage.administer("admin", user(0).as_ref(), Operation::Taint), Ok(()));
    }
}

/// A good row, and what becomes of it with some lines exchanged or added.
#[test]
fn a_policy_that_cannot_be_meant_is_refused_with_its_line_key_and_fix() {
    const GOOD: &str =
        "[[allow]]\nuser = 1\noperations = [\"endorse\"]\nservice = \"edge:a\"\npurposes = [\"response\"]\n";
    assert!(Stage::try_new(&format!("{GOOD}{OWNER}")).is_ok());
    let more = |line: &str| format!("{GOOD}{line}\n");
    let instead = |from: &str, to: &str| GOOD.replace(from, to);
    let admin = "[[allow]]\nuser = 1\noperations = [\"taint\"]\n";
    for (text, parts) in [
        (more("sorvice = 1"), vec!["line 6", "`sorvice`", "unknown"]),
        (format!("x = 1\n{GOOD}"), vec!["line 1", "`x`", "`allow`"]),
        (more("san = \"DNS:a\""), vec!["line 1", "either `user` or `san`"]),
        (instead("user = 1\n", ""), vec!["line 1", "either `user` or `san`"]),
        (instead("user = 1", "san = \"edge\""), vec!["line 2", "`san`", "URI:keelson:edge:demo"]),
        (instead("user = 1", "san = \"DNS:Edge\""), vec!["line 2", "lower case"]),
        (instead("user = 1", "user = -1"), vec!["line 2", "`user`"]),
        (instead("\"endorse\"", "\"sign\""), vec!["line 3", "`operations`", "`sign`", "revoke-keys"]),
        (instead("\"endorse\"", ""), vec!["line 1", "`operations`", "empty"]),
        (instead("\"endorse\"", "\"endorse\", \"endorse\""), vec!["`operations`", "twice"]),
        (instead("\"endorse\"", "\"endorse\", \"rotate\""), vec!["`operations`", "a row of its own"]),
        (instead("\"endorse\"", "\"rotate\", \"report\""), vec!["`operations`", "a row of its own"]),
        (instead("service = \"edge:a\"\n", ""), vec!["`service`", "missing"]),
        (instead("edge:a", "edge a"), vec!["line 4", "`service`", "edge:"]),
        (instead("purposes = [\"response\"]\n", ""), vec!["`purposes`", "missing"]),
        (instead("\"response\"", "\"access\""), vec!["`purposes`", "authd alone"]),
        (instead("\"response\"", "\"head\""), vec!["line 5", "`purposes`", "`response`"]),
        (instead("\"response\"", "\"response\", \"response\""), vec!["`purposes`", "twice"]),
        (more("longest_response = \"13h\""), vec!["`longest_response`", "12h 1m"]),
        (more("instances = [\"a b\"]"), vec!["instance"]),
        (more("instances = [\"a\", \"a\"]"), vec!["`instances`", "stands twice"]),
        (more("longest_response = \"0s\""), vec!["`longest_response`", "more than zero"]),
        (more("longest_access = \"1h\""), vec!["`longest_access`", "`purposes`"]),
        (more("rate = \"often\""), vec!["line 6", "`rate`", "60/min"]),
        (more("rate = 60"), vec!["line 6", "`rate`"]),
        (more("burst = 0"), vec!["line 1", "`burst`", "1 to 1000000"]),
        (more("burst = \"some\""), vec!["line 6", "`burst`"]),
        (more("socket = \"unix:/nowhere\""), vec!["row 1", "`socket`", "[[listen]]"]),
        (more("socket = \"unix:/admin\""), vec!["row 1", "`socket`", "admin"]),
        (format!("{admin}service = \"authd\""), vec!["`service`", "leave it out"]),
        (format!("{admin}purposes = []"), vec!["`purposes`", "leave it out"]),
        (format!("{GOOD}{GOOD}"), vec!["rows 1 and 2", "uid 1"]),
        (format!("{admin}{admin}"), vec!["rows 1 and 2"]),
        (format!("{GOOD}{}", more("socket = \"unix:/other\"")), vec!["rows 1 and 2"]),
    ] {
        let error = Stage::try_new(&text).err().unwrap_or_else(|| panic!("taken: {text}"));
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
    // The same user by name and by number; nobody of that name.
    let by_name = format!("{}{}", instead("user = 1", "user = 0"), instead("user = 1", "user = \"root\""));
    assert!(Stage::try_new(&by_name).err().unwrap().contains("uid 0"));
    let unmade = instead("user = 1", "user = \"nobody-of-that-name\"");
    Stage::try_new(&format!("{unmade}{OWNER}")).unwrap();
    // Two rows for one caller that never meet.
    Stage::try_new(&format!("{GOOD}{admin}")).unwrap();
}

#[test]
fn services_are_named_plainly() {
    let service = |name: &str| Service::try_from(name.to_owned());
    for name in ["authd", "edge:a", "edge:demo-1.eu_west", "keysd:a"] {
        assert_eq!(service(name).unwrap().as_str(), name);
    }
    let long = format!("edge:{}", "a".repeat(65));
    for name in
        ["", "Authd", "authd ", "edge", "edge:", "edge:a b", "edge:a\"", "edge:ä", "edge:<", long.as_str()]
    {
        assert!(service(name).is_err(), "{name}");
    }
}

#[test]
fn who_ought_to_be_there_is_read_from_all_rows_of_a_service() {
    let text = format!(
        "{OWNER}{}{}{}",
        "[[allow]]\nuser = 1\noperations = [\"endorse\"]\nservice = \"authd\"\npurposes = [\"access\", \"response\"]\n",
        "[[allow]]\nsan = \"DNS:b.example\"\noperations = [\"endorse\"]\nservice = \"authd\"\npurposes = [\"response\"]\n\
         instances = [\"b\", \"c\"]\n",
        "[[allow]]\nuser = 2\noperations = [\"endorse\"]\nservice = \"keysd:a\"\npurposes = [\"response\"]\ninstances = []\n",
    );
    let policy = Stage::new(&text).policy.current();
    let services = policy.services();
    let found: Vec<_> = services
        .iter()
        .map(|(service, expected)| {
            let instances: Vec<_> = expected.instances.iter().map(Instance::as_str).collect();
            (*service, instances.join(","), expected.purposes.len())
        })
        .collect();
    let expected =
        [("authd", "b,c,main".into(), 2), ("edge:insecure", String::new(), 1), ("keysd:a", String::new(), 1)];
    assert_eq!(found, expected);
}
