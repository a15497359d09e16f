//! One table over callers, sockets, purposes, lifetimes.

use keychain::SigningKey;

use super::*;

const SKEW: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_hours(1);

fn service(name: &str) -> Service {
    Service::try_from(name.to_owned()).unwrap()
}

fn whole(purpose: Purpose) -> (Purpose, Duration) {
    (purpose, purpose.longest_lifetime())
}

/// The endorse socket of a key VM: authd, two edges (one of them kept short), and the publisher.
fn endorse() -> Policy {
    let user = |number, service, purposes| Rule { caller: Caller::User(number), service, purposes };
    let rules = vec![
        user(1, Some(service("authd")), vec![whole(Purpose::Access), whole(Purpose::Response)]),
        user(2, Some(service("edge:demo")), vec![whole(Purpose::Response)]),
        user(3, Some(service("edge:short")), vec![(Purpose::Response, HOUR)]),
        user(4, None, vec![]),
        // Configuration refuses these two; the policy does not lean on it.
        user(5, Some(service("edge:greedy")), vec![whole(Purpose::Access)]),
        user(6, None, vec![whole(Purpose::Response)]),
    ];
    Policy::new(Role::Endorse, rules, SKEW)
}

fn admin() -> Policy {
    let rule = |number, service, purposes| Rule { caller: Caller::User(number), service, purposes };
    let rules = vec![rule(0, None, vec![]), rule(1, Some(service("authd")), vec![whole(Purpose::Access)])];
    Policy::new(Role::Admin, rules, SKEW)
}

#[test]
fn who_may_have_what_endorsed() {
    use Purpose::{Access, Response};
    let now = Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap();
    let public_key = SigningKey::from_seed(&[9; 32]).unwrap().public_key();
    let (day, half) = (24 * HOUR, 12 * HOUR + Duration::from_mins(1));
    let ms = Duration::from_millis(1);
    let forbidden = Err("BA303");
    let user = |number| Some(Caller::User(number));
    for (policy, caller, purpose, life, expected) in [
        (endorse(), user(1), Access, day, Ok("authd")),
        (endorse(), user(1), Access, day + SKEW, Ok("authd")),
        (endorse(), user(1), Access, day + SKEW + ms, forbidden),
        (endorse(), user(1), Response, half + SKEW, Ok("authd")),
        (endorse(), user(1), Response, half + SKEW + ms, forbidden),
        (endorse(), user(1), Response, ms, Ok("authd")),
        (endorse(), user(1), Response, Duration::ZERO, Err("BA101")),
        (endorse(), user(2), Response, half, Ok("edge:demo")),
        (endorse(), user(2), Access, HOUR, forbidden),
        (endorse(), user(3), Response, HOUR + SKEW, Ok("edge:short")),
        (endorse(), user(3), Response, HOUR + SKEW + ms, forbidden),
        (endorse(), user(4), Response, HOUR, forbidden),
        (endorse(), user(5), Access, HOUR, forbidden),
        (endorse(), user(6), Response, HOUR, forbidden),
        (endorse(), user(0), Response, HOUR, forbidden),
        (endorse(), user(u32::MAX), Response, HOUR, forbidden),
        (endorse(), Some(Caller::Loopback), Response, HOUR, forbidden),
        (endorse(), None, Response, HOUR, forbidden),
        (admin(), user(0), Response, HOUR, forbidden),
        (admin(), user(1), Access, HOUR, forbidden),
        (Policy::new(Role::Endorse, vec![], SKEW), user(0), Response, HOUR, forbidden),
    ] {
        let request = SignRequest { purpose, public_key, expiration: now.plus(life) };
        let verdict = policy.permit_endorsement(caller, &request, now);
        let verdict = verdict.as_ref().map(Permission::service).map_err(|refusal| refusal.code().as_str());
        assert_eq!(verdict, expected, "{caller:?} {purpose:?} {life:?}");
    }
}

#[test]
fn who_may_change_the_chain() {
    for (policy, caller, allowed) in [
        (admin(), Some(Caller::User(0)), true),
        (admin(), Some(Caller::User(2)), false),
        (admin(), Some(Caller::Loopback), false),
        (admin(), None, false),
        (endorse(), Some(Caller::User(1)), false),
        (Policy::new(Role::Admin, vec![], SKEW), Some(Caller::User(0)), false),
    ] {
        let verdict = policy.permit_administration(caller);
        let code = verdict.as_ref().err().map(|refusal| refusal.code().as_str());
        assert_eq!(code, if allowed { None } else { Some("BA303") }, "{caller:?}");
    }
}

#[test]
fn services_are_named_plainly() {
    for name in ["authd", "edge:a", "edge:demo-1.eu_west"] {
        assert_eq!(service(name).as_str(), name);
    }
    let long = format!("edge:{}", "a".repeat(65));
    for name in
        ["", "Authd", "authd ", "edge", "edge:", "edge:a b", "edge:a\"", "edge:ä", "edge:<", long.as_str()]
    {
        assert!(Service::try_from(name.to_owned()).is_err(), "{name}");
    }
}
