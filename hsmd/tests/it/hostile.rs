//! Nothing between a caller and hsmd decides anything: a publisher, a proxy or a Redis in an attacker's hands
//! obtains no endorsement and moves no chain.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keychain::endorsement::Purpose;

use crate::support::{
    daemon::{Daemon, raw, request},
    eventually, install_program, servers,
    world::{Database, World, service_key, sign_request},
};

const NOBODY: u32 = 65534;

/// What a proxy that stands before a service would say of whom it speaks for.
const CLAIMS: &str = "Forwarded: for=127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-User: authd\r\n\
                      X-Remote-User: authd\r\nX-Client-Cert: authd\r\nX-Forwarded-Client-Cert: URI=keelson:authd\r\n\
                      X-Real-Uid: 0\r\nAuthorization: Basic YXV0aGQ6\r\nX-HTTP-Method-Override: POST\r\n";

/// Requests as bytes, and what each comes to for somebody whom no row names.
fn attempts(admin: bool) -> Vec<(String, &'static str)> {
    let sign = |purpose| sign_request(purpose, service_key(1), Duration::from_mins(30));
    let bytes = |method: &str, path: &str, fields: &str, body: &str| {
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: hsmd\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        )
    };
    if admin {
        return vec![
            (bytes("POST", "/rotate", "", "{}"), "403 BA303"),
            (bytes("POST", "/taint", CLAIMS, "{\"reason\":\"x\"}"), "403 BA303"),
            (bytes("POST", "/recover", "", "[]"), "403 BA303"),
            (bytes("POST", "/clock", CLAIMS, "{\"time\":\"2027-01-01T00:00:00.000Z\"}"), "403 BA303"),
            (bytes("GET", "/clock", "", ""), "200"),
            (bytes("DELETE", "/clock", "", ""), "405 BA107"),
            (bytes("POST", "/sign", "", &sign(Purpose::Response)), "404 BA106"),
            (bytes("GET", "/rotate", CLAIMS, ""), "405 BA107"),
        ];
    }
    vec![
        (bytes("GET", "/chain", "", ""), "200"),
        (bytes("POST", "/sign", "", &sign(Purpose::Response)), "403 BA303"),
        (bytes("POST", "/sign", "", &sign(Purpose::Access)), "403 BA303"),
        (bytes("POST", "/sign", CLAIMS, &sign(Purpose::Response)), "403 BA303"),
        (bytes("POST", "/sign?service=authd&uid=0", "", &sign(Purpose::Response)), "403 BA303"),
        (bytes("POST", "/sign", "", ""), "403 BA303"),
        (bytes("GET", "/sign", CLAIMS, ""), "405 BA107"),
        (bytes("POST", "/rotate", CLAIMS, "{}"), "404 BA106"),
        (bytes("POST", "/clock", "", "{}"), "405 BA107"),
        (bytes("POST", "/../admin/rotate", "", "{}"), "404 BA106"),
        // A second request hidden behind the first.
        (bytes("GET", "/chain", "", &bytes("POST", "/sign", "", &sign(Purpose::Response))), "200"),
    ]
}

/// The publisher's user may connect and read the chain. Taken over, it can do no more, whatever it says, and
/// whatever it recorded of another's request.
#[test]
fn a_publisher_or_proxy_taken_over_obtains_nothing() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    // As somebody whom no row of the socket names: what anybody but root can try here.
    for (socket, admin) in [("other", false), ("other-admin", true)] {
        for (bytes, expected) in attempts(admin) {
            assert_eq!(verdict(&world.socket(socket), &bytes), expected, "{socket}: {bytes}");
        }
    }
    // As another user of this host, on the very sockets that let this one through.
    if rustix::process::geteuid().is_root() {
        raw(&world.socket("edge"), attempts(false)[1].0.as_bytes()).unwrap().ok();
        for (socket, admin) in [("edge", false), ("authd", false), ("admin", true)] {
            try_as_nobody(&world, socket, admin);
        }
        assert_eq!(world.endorsed(), 1);
    } else {
        assert_eq!(world.endorsed(), 0);
    }
    assert_eq!(world.chain().len(), 1);
    hsmd.stop();
}

fn verdict(socket: &Path, bytes: &str) -> String {
    let answer = raw(socket, bytes.as_bytes()).unwrap();
    if answer.status == 200 {
        assert!(!answer.body.contains("\"signature\"") || answer.body.starts_with('['), "{}", answer.body);
        return "200".to_owned();
    }
    format!("{} {}", answer.status, answer.code())
}

/// Runs [`as_nobody`] in a process of user nobody, let to the socket by the permissions of its file.
fn try_as_nobody(world: &World, socket: &str, admin: bool) {
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let program = world.path().join("attacker");
    install_program(&std::env::current_exe().unwrap(), &program);
    open(world.path(), 0o711);
    open(&world.socket(socket), 0o666);
    let id = NOBODY.to_string();
    let output = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
        .arg(&program)
        .args(["--exact", "--ignored", "--nocapture", "hostile::as_nobody"])
        .env("KEELSON_SOCKET", world.socket(socket))
        .env("KEELSON_ADMIN", if admin { "1" } else { "" })
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && said.contains("1 passed"), "{socket}: {said}");
}

#[test]
#[ignore = "run by `a_publisher_or_proxy_taken_over_obtains_nothing`"]
fn as_nobody() {
    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY);
    let socket = std::env::var("KEELSON_SOCKET").unwrap();
    for (bytes, expected) in attempts(!std::env::var("KEELSON_ADMIN").unwrap().is_empty()) {
        assert_eq!(verdict(Path::new(&socket), &bytes), expected, "{bytes}");
    }
}

/// A hostile Redis reaches the publisher and no process behind it.
#[test]
fn a_redis_taken_over_obtains_nothing() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let chain = world.chain();
    // One that holds what an attacker wrote.
    let redis = servers::redis(world.path());
    let mut connection = redis::Client::open(redis.url.as_str()).unwrap().get_connection().unwrap();
    let (event, key) = (chain[0].id().to_string(), service_key(1).to_string());
    let sign = sign_request(Purpose::Response, service_key(1), Duration::from_mins(30));
    for (database, name, value) in [
        (0, key.as_str(), sign.as_str()),
        (1, &key, &sign),
        (4, &event, "{\"payload\":{\"taintPrevious\":true},\"signature\":\"0I\"}"),
        (4, "POST /rotate", "{}"),
    ] {
        redis::cmd("SELECT").arg(database).exec(&mut connection).unwrap();
        redis::cmd("SET").arg(name).arg(value).exec(&mut connection).unwrap();
    }
    let mut publisher = start_publisher(&world, &redis.url);
    let mut put_back = || {
        redis::cmd("SELECT").arg(4).exec(&mut connection).unwrap();
        let held: String = redis::cmd("GET").arg(&event).query(&mut connection).unwrap();
        held == chain[0].text()
    };
    eventually("the event put back", Duration::from_secs(10), &mut put_back);
    publisher.kill();

    // One that answers with whatever could be taken for a request.
    let (address, answered) = hostile_server(&sign);
    let mut publisher = start_publisher(&world, &format!("redis://{address}"));
    eventually("the publisher to ask", Duration::from_secs(20), || answered.load(Ordering::Relaxed) > 1);
    publisher.kill();

    assert_eq!(world.endorsed(), 0);
    assert_eq!(world.chain().len(), 1);
    assert_eq!(world.chain()[0].text(), chain[0].text());
    let health = request(&world.socket("edge"), "GET", "/health", "").ok();
    assert!(health.starts_with("{\"status\":\"healthy\""), "{health}");
    hsmd.stop();
}

/// Starts a publisher and does not wait: before a hostile Redis it never becomes ready.
fn start_publisher(world: &World, redis: &str) -> Daemon {
    let folder = world.path().display();
    let config = format!(
        "endorse = \"unix:{folder}/other.sock\"\nredis = \"{redis}\"\nmetrics = \"unix:{folder}/publisher.sock\"\n"
    );
    let file = world.path().join("publisher.toml");
    fs::write(&file, config).unwrap();
    Daemon::spawn(env!("CARGO_BIN_EXE_hsm-publisher"), &file, world.path(), &world.softhsm.conf())
}

fn hostile_server(sign: &str) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    let request =
        format!("POST /sign HTTP/1.1\r\nHost: hsmd\r\nContent-Length: {}\r\n\r\n{sign}", sign.len());
    let answers = [
        request.clone(),
        format!("${}\r\n{request}\r\n", request.len()),
        format!("%1\r\n+server\r\n+{}\r\n>2\r\n+invalidate\r\n*1\r\n+{sign}\r\n", "redis"),
        "*1000000000\r\n".to_owned(),
        "$9223372036854775807\r\n".to_owned(),
    ];
    std::thread::spawn(move || {
        for (connection, answer) in listener.incoming().zip(answers.iter().cycle()) {
            let mut connection = connection.unwrap();
            if connection.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {
                connection.write_all(answer.as_bytes()).ok();
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (address, answered)
}
