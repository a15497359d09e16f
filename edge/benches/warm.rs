//! The warm access check against one bare aws-lc-rs verification of the same message, in one run.
//!
//! `cargo bench --profile ci -p edge --bench warm`. Besides criterion's report it prints both medians and
//! their ratio, measured in alternation so that a busy machine slows both alike.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench ends at the first surprise")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use criterion::{BatchSize, Criterion};
use edge::trust::{Denied, TrustState};
use edge::verifier::issuers::Issuer;
use edge::verifier::{AccessVerifier, Audience, Demand, Settings};
use keychain::endorsement::Purpose;
use keychain::{Digest, Timestamp};

#[path = "../tests/edge/support/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests, which use other parts")]
mod fixture;

use fixture::{Hsm, Session, at, key, nonce};

const DEMAND: Demand<'_> = Demand { place: "/foo/bar", permission: Some(("user", "read")) };
const INNER: &str = r#"{"foo":"bar","bar":"foo"}"#;

/// Rounds of the comparison, and checks in each.
const ROUNDS: usize = 40;
const CHECKS: usize = 250;

/// Everything that a check needs, with the token known already.
struct Bench {
    verifier: AccessVerifier,
    trust: TrustState,
    session: Session,
    now: Timestamp,
    nonces: u64,
}

impl Bench {
    fn new() -> Self {
        let hsm = Hsm::new(0, at(-1_000));
        let authd = key(100);
        let mut denied = Denied::default();
        for number in 0..10_000 {
            denied.hold(&Digest::of(format!("banned {number}")), None);
        }
        let settings = Settings {
            clock_skew: Duration::from_secs(5),
            audience: Audience::default(),
            nonce_capacity: 16 << 20,
        };
        let verifier = AccessVerifier::new(settings);
        let (trust, now) = (hsm.trust(at(0)).denying(denied), at(1));
        let text = hsm.endorse(Purpose::Access, authd.public_key(), at(86_400));
        let issuer = Issuer::verify(&text, authd.public_key(), &trust, now).unwrap();
        verifier.issuers().keep(authd.public_key(), issuer);
        let session = Session::open(&authd, 200, at(0));
        let mut bench = Self { verifier, trust, session, now, nonces: 0 };
        let first = bench.request();
        bench.check(&first);
        bench
    }

    fn request(&mut self) -> String {
        self.nonces += 1;
        self.session.request(nonce(self.nonces), self.now, INNER)
    }

    fn check(&self, body: &str) {
        let admitted = self.verifier.check(body.as_bytes(), DEMAND, &self.trust, self.now);
        black_box(admitted.unwrap());
    }
}

/// The bare verification: aws-lc-rs, parsed key, the very bytes that were signed.
struct Bare {
    key: ParsedPublicKey,
}

impl Bare {
    fn new(session: &Session) -> Self {
        let public_key = session.key.public_key();
        Self { key: ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key.sec1()).unwrap() }
    }

    fn verify(&self, (payload, signature): &(String, [u8; 64])) {
        black_box(self.key.verify_sig(payload.as_bytes(), signature)).unwrap();
    }
}

/// What is signed in a request, and the signature over it.
fn parts(body: &str) -> (String, [u8; 64]) {
    let envelope = keychain::signed::Envelope::parse(body).unwrap();
    (envelope.payload.to_owned(), *envelope.signature.unwrap().bytes())
}

fn compare() {
    let mut bench = Bench::new();
    let bare = Bare::new(&bench.session);
    let (mut warm, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let bodies: Vec<String> = (0..CHECKS).map(|_| bench.request()).collect();
        let messages: Vec<_> = bodies.iter().map(|body| parts(body)).collect();
        warm.push(each(|| bodies.iter().for_each(|body| bench.check(body))));
        plain.push(each(|| messages.iter().for_each(|message| bare.verify(message))));
    }
    let (warm, plain) = (median(warm), median(plain));
    println!("warm access check       {warm:8.2} µs");
    println!("bare aws-lc-rs verify   {plain:8.2} µs");
    println!("ratio                   {:8.3}", warm / plain);
}

/// Microseconds for each check of one round.
fn each(round: impl FnOnce()) -> f64 {
    let started = Instant::now();
    round();
    started.elapsed().as_secs_f64() * 1e6 / f64::from(u32::try_from(CHECKS).unwrap())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    compare();
    let mut criterion = Criterion::default().configure_from_args();
    let mut bench = Bench::new();
    let bare = Bare::new(&bench.session);
    let message = parts(&bench.request());
    criterion.bench_function("bare aws-lc-rs verify", |bencher| bencher.iter(|| bare.verify(&message)));
    criterion.bench_function("warm access check", |bencher| {
        bencher.iter_custom(|rounds| {
            let bodies: Vec<String> = (0..rounds).map(|_| bench.request()).collect();
            let started = Instant::now();
            for body in &bodies {
                bench.check(body);
            }
            started.elapsed()
        });
    });
    let authd = key(100);
    let mut number = 1_000;
    criterion.bench_function("cold token", |bencher| {
        bencher.iter_batched(
            || {
                number += 1;
                Session::open(&authd, number, at(0)).request(nonce(u64::from(number) << 32), at(1), INNER)
            },
            |body| bench.check(&body),
            BatchSize::SmallInput,
        );
    });
    criterion.final_summary();
}
