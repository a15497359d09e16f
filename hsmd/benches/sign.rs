//! Endorsements per second through hsmd's socket, with 1 client, with 16 and with 64, as a share of raw `C_Sign` on
//! one session of the same token in the same run; and hsmd's own CPU time per signature beyond the token's.
//!
//! `cargo bench -p hsmd --bench sign`. SoftHSM must be installed. Clients and hsmd are two
//! processes on this machine and share its cores. Every request asks for another key, so that none shares a
//! signature with another, and every answer is a success with a signature; hsmd does all that it does in
//! production, its ledger on SQLite with synchronous=FULL. Raw signing and hsmd are measured in turns, and
//! the median of the rounds counts.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench ends at the first surprise"
)]
#![expect(unreachable_pub, reason = "one binary: it shares the tests' support")]

use std::{
    io::{Read as _, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, UserType},
};
use keychain::{PublicKey, endorsement::Purpose};

#[path = "../tests/it/support/mod.rs"]
#[expect(dead_code, reason = "shared with the tests, which use other parts")]
mod support;

use support::{
    softhsm::{MODULE, PIN},
    world::{Database, World, sign_request},
};

/// How long one measurement takes.
const SPAN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;
const CLIENTS: [usize; 3] = [1, 16, 64];

fn main() {
    match std::env::var_os("KEELSON_BENCH_FOLDER") {
        // SoftHSM reads its environment once: the measuring process is started with it.
        None => prepare(),
        Some(folder) => measure(Path::new(&folder)),
    }
}

fn prepare() {
    let world = World::new(Database::Sqlite);
    let hsmd = world.start();
    let status = Command::new(std::env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", world.softhsm.conf())
        .env("KEELSON_BENCH_FOLDER", world.path())
        .env("KEELSON_BENCH_HSMD", hsmd.pid().to_string())
        .arg0("sign")
        .status()
        .unwrap();
    assert!(status.success(), "{status}; {}", hsmd.log());
}

fn measure(folder: &Path) {
    let hsmd: u32 = std::env::var("KEELSON_BENCH_HSMD").unwrap().parse().unwrap();
    let socket = folder.join("authd.sock");
    let token = open_token();
    let mut raw = Vec::new();
    let mut through: [Vec<Sample>; CLIENTS.len()] = Default::default();
    for _ in 0..ROUNDS {
        raw.push(sign_raw(&token));
        for (samples, clients) in through.iter_mut().zip(CLIENTS) {
            samples.push(sign_through(&socket, hsmd, clients));
        }
    }
    let raw = median(&raw);
    println!("{:<28}{:>14}{:>12}{:>24}", "", "signatures/s", "of raw", "CPU beyond token (µs)");
    println!("{:<28}{:>14.0}{:>11.0}%{:>24}", "raw C_Sign, one session", raw.rate, 100.0, "");
    for (samples, clients) in through.iter().zip(CLIENTS) {
        let sample = median(samples);
        let share = 100.0 * sample.rate / raw.rate;
        let beyond = (sample.cpu - raw.cpu) * 1e6;
        println!(
            "{:<28}{:>14.0}{share:>11.0}%{beyond:>24.0}",
            format!("hsmd, {clients} clients"),
            sample.rate
        );
    }
}

/// Signatures per second, and CPU seconds per signature of the process that asks the token.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    cpu: f64,
}

fn median(samples: &[Sample]) -> Sample {
    let middle = |value: fn(&Sample) -> f64| {
        let mut values: Vec<_> = samples.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Sample { rate: middle(|sample| sample.rate), cpu: middle(|sample| sample.cpu) }
}

/// A session on the token that hsmd signs with, and one of its keys.
fn open_token() -> (Session, ObjectHandle) {
    let module = Pkcs11::new(MODULE).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_ro_session(slot).unwrap();
    session.login(UserType::User, Some(&PIN.to_owned().into())).unwrap();
    let key = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap()[0];
    (session, key)
}

fn sign_raw((session, key): &(Session, ObjectHandle)) -> Sample {
    let (start, used) = (Instant::now(), cpu_seconds(std::process::id()));
    let mut count = 0_u32;
    while start.elapsed() < SPAN {
        let mut digest = [7; 32];
        digest[..4].copy_from_slice(&count.to_be_bytes());
        assert_eq!(session.sign(&Mechanism::Ecdsa, *key, &digest).unwrap().len(), 64);
        count += 1;
    }
    Sample {
        rate: f64::from(count) / start.elapsed().as_secs_f64(),
        cpu: (cpu_seconds(std::process::id()) - used) / f64::from(count),
    }
}

fn sign_through(socket: &Path, hsmd: u32, clients: usize) -> Sample {
    // Made before the clock starts: the clients are not what is measured, and share the machine.
    let requests: Vec<_> = (0..clients).map(requests_of).collect();
    let (start, used) = (Instant::now(), cpu_seconds(hsmd));
    let count: u32 = std::thread::scope(|scope| {
        let asking =
            requests.iter().map(|requests| scope.spawn(|| ask_until(socket, start + SPAN, requests)));
        let clients: Vec<_> = asking.collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    Sample {
        rate: f64::from(count) / start.elapsed().as_secs_f64(),
        cpu: (cpu_seconds(hsmd) - used) / f64::from(count),
    }
}

/// What one client asks, over and over. No two requests that are under way together are the same: those of
/// one client differ in their expirations, and those of two clients with one expiration in their keys.
fn requests_of(client: usize) -> Vec<Vec<u8>> {
    let keys: Vec<PublicKey> = (1..=64_u8).map(support::world::service_key).collect();
    let request = |number: u32| {
        let key = keys[(client + usize::try_from(number).unwrap()) % keys.len()];
        let life = Duration::from_mins(10) + Duration::from_millis(u64::from(number));
        let body = sign_request(Purpose::Response, key, life);
        let length = body.len();
        format!("POST /sign HTTP/1.1\r\nHost: hsmd\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
    };
    (0..1024).map(request).collect()
}

/// One client: a request after the other over one connection.
fn ask_until(socket: &Path, end: Instant, requests: &[Vec<u8>]) -> u32 {
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut count = 0_u32;
    let mut answer = [0; 4096];
    for request in requests.iter().cycle().take_while(|_| Instant::now() < end) {
        stream.write_all(request).unwrap();
        let mut length = 0;
        while !answer[..length].ends_with(b"\"}") {
            let more = stream.read(&mut answer[length..]).unwrap();
            assert!(more > 0, "hsmd closed the connection");
            length += more;
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", std::str::from_utf8(&answer[..length]));
        count += 1;
    }
    count
}

/// CPU time that a process has used, in its own and in the kernel's code.
fn cpu_seconds(process: u32) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, fixed on Linux
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}
