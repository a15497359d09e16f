//! The policy of a running hsmd: exchanged without a restart, on connections that are open as well, and kept
//! when the new one is not right.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    time::Duration,
};

use keychain::endorsement::Purpose;

use crate::support::{
    daemon::{Answer, request},
    eventually,
    world::{Database, World, service_key, sign_request},
};

const HOUR: Duration = Duration::from_hours(1);

/// A connection that stays open until it is refused: hsmd then leaves the body unread.
struct Connection(UnixStream, PathBuf);

impl Connection {
    fn open(world: &World, socket: &str) -> Self {
        Self::to(world.socket(socket))
    }

    fn to(socket: PathBuf) -> Self {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream, socket)
    }

    /// Asks for an endorsement: head and body of the answer.
    fn sign(&mut self) -> (String, String) {
        let body = sign_request(Purpose::Response, service_key(1), HOUR / 2);
        let head = format!("POST /sign HTTP/1.1\r\nHost: hsmd\r\nContent-Length: {}\r\n\r\n", body.len());
        self.0.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = Vec::new();
        loop {
            let text = std::str::from_utf8(&answer).unwrap();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
                if body.len() >= length.parse::<usize>().unwrap() {
                    return (head, body.to_owned());
                }
            }
            let mut piece = [0; 4096];
            let length = self.0.read(&mut piece).unwrap();
            assert_ne!(length, 0, "the connection was closed: {text}");
            answer.extend_from_slice(&piece[..length]);
        }
    }

    /// Status and, of a refusal, code.
    fn verdict(&mut self) -> String {
        let (head, body) = self.sign();
        let status = head.split(' ').nth(1).unwrap().to_owned();
        if status == "403" {
            *self = Self::to(self.1.clone());
        }
        match body.split_once("\"code\":\"") {
            Some((_, rest)) => format!("{status} {}", rest.split('"').next().unwrap()),
            None => status,
        }
    }
}

#[test]
fn the_policy_is_exchanged_under_open_connections_and_a_bad_one_is_not_taken() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let mut edge = Connection::open(&world, "edge");
    let mut other = Connection::open(&world, "other");
    assert_eq!((edge.verdict(), other.verdict()), ("200".into(), "403 BA303".into()));
    let uid = rustix::process::geteuid().as_raw();
    let good = world.policy();
    // The rows of the two sockets change users.
    let swapped = good
        .replace(&format!("user = {uid}\n"), "user = X\n")
        .replace(&format!("user = {}\n", uid + 1), &format!("user = {uid}\n"))
        .replace("user = X\n", &format!("user = {}\n", uid + 1));
    world.write_policy(&swapped);
    assert!(hsmd.reload().starts_with("generation 0 of E"));
    assert_eq!((edge.verdict(), other.verdict()), ("403 BA303".into(), "200".into()));
    assert_eq!(request(&world.socket("admin"), "POST", "/rotate", "{}").code(), "BA303");

    for (text, part) in [
        (good.replace("\"rotate\"", "\"rotete\""), "`rotete`"),
        (format!("{good}[[alow]]\n"), "`alow`"),
        ("= ".to_owned(), "line 1"),
        // As a full disk leaves it.
        (String::new(), "no row that allows anybody anything"),
        ("# nothing\n".to_owned(), "no row that allows anybody anything"),
        (
            good.split("[[allow]]").take(4).collect::<Vec<_>>().join("[[allow]]"),
            "no row that lets a user of this host taint",
        ),
        (
            "[[allow]]\nuser = \"nobody-at-all\"\noperations = [\"taint\"]\n".to_owned(),
            "allows anybody anything",
        ),
    ] {
        world.write_policy(&text);
        let status = hsmd.reload();
        for part in ["generation 0 of E", "policy.toml", part, "the last good policy stays"] {
            assert!(status.contains(part), "`{part}` is not in: {status}");
        }
        assert_eq!((edge.verdict(), other.verdict()), ("403 BA303".into(), "200".into()));
        // Somebody has to see to it, but hsmd serves as before.
        let health = request(&world.socket("edge"), "GET", "/health", "").ok();
        assert!(health.contains("\"warnings\":{\"policy\":\"") && health.contains("\"healthy\""), "{health}");
    }
    assert!(hsmd.log().contains("the last good one stays"));

    world.write_policy(&good);
    assert!(!hsmd.reload().contains("policy"));
    assert_eq!((edge.verdict(), other.verdict()), ("200".into(), "403 BA303".into()));
    request(&world.socket("admin"), "POST", "/rotate", "{}").ok();
    let health = request(&world.socket("edge"), "GET", "/health", "").ok();
    assert!(health.contains("\"warnings\":{}"), "{health}");
    hsmd.stop();
}

#[test]
fn over_its_rate_a_caller_is_told_when_to_come_again() {
    let world = World::new(Database::Sqlite);
    let rare = "longest_response = \"1h\"\nrate = \"2/h\"";
    world.write_policy(&world.policy().replacen("longest_response = \"1h\"\nrate = \"1000000/s\"", rare, 1));
    let mut hsmd = world.start();
    let mut edge = Connection::open(&world, "edge");
    assert_eq!([edge.verdict(), edge.verdict()], ["200", "200"]);
    let (head, body) = edge.sign();
    assert!(head.starts_with("http/1.1 429 ") && body.contains("\"code\":\"BA604\""), "{head} {body}");
    let seconds: u64 = head.split("retry-after: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&seconds), "{seconds}");
    assert!(body.contains(&format!("\"retryAfter\":\"{seconds}\"")), "{body}");
    // Another connection of the same caller is the same caller; a reload gives no fresh burst.
    assert_eq!(Connection::open(&world, "edge").verdict(), "429 BA604");
    hsmd.reload();
    assert_eq!(edge.verdict(), "429 BA604");
    // Another row is not touched.
    assert_eq!(Connection::open(&world, "authd").verdict(), "200");
    hsmd.stop();
}

#[test]
fn a_policy_that_others_can_write_or_that_is_not_there_is_a_wrong_configuration() {
    let world = World::new(Database::Sqlite);
    let policy = world.path().join("policy.toml");
    for file in [&policy, &world.config()] {
        for mode in [0o664, 0o646] {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
            let (code, complaint) = check(&world);
            assert_eq!(code, Some(78));
            for part in [file.to_str().unwrap(), &format!("mode 0{mode:o}"), "chmod go-w"] {
                assert!(complaint.contains(part), "`{part}` is not in: {complaint}");
            }
        }
        fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(check(&world).0, Some(0));
    }
    world.write_policy("[[allow]]\nuser = 1\noperation = [\"endorse\"]\n");
    let (code, complaint) = check(&world);
    assert_eq!(code, Some(78));
    assert!(complaint.contains("policy.toml` line 3, key `operation`"), "{complaint}");
    fs::remove_file(&policy).unwrap();
    assert_eq!(world.spawn().ready().unwrap_err().code(), Some(78));
}

/// `hsmd --check-config`: exit code and complaint.
fn check(world: &World) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_hsmd"))
        .arg("--config")
        .arg(world.config())
        .arg("--check-config")
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// What a request may do is decided by what holds when it is whole: one that was begun while its caller was
/// allowed, and whose body comes later, is refused. And a body that does not come is not waited for.
#[test]
fn a_request_is_judged_when_it_is_whole() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let sign = sign_request(Purpose::Response, service_key(1), HOUR / 2);
    let begin = |socket: &str, path: &str, length: usize| {
        let mut stream = UnixStream::connect(world.socket(socket)).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: hsmd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let end = |mut stream: UnixStream, body: &str| {
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        Answer::parse(&answer).unwrap()
    };
    let parked = [("edge", "/sign", sign.as_str()), ("admin", "/taint", "{}"), ("admin", "/rotate", "{}")];
    let begun = parked.map(|(socket, path, body)| (begin(socket, path, body.len()), body));
    // They are being read by now: what comes after them over another connection was answered.
    request(&world.socket("edge"), "GET", "/chain", "").ok();
    request(&world.socket("admin"), "GET", "/chain", "").ok();
    let uid = rustix::process::geteuid().as_raw();
    let others = world.policy().replace(&format!("user = {uid}\n"), &format!("user = {}\n", uid + 2));
    world.write_policy(&others);
    hsmd.reload();
    for (stream, body) in begun {
        let answer = end(stream, body);
        assert_eq!((answer.status, answer.code()), (403, "BA303"), "{}", answer.body);
    }
    world.write_policy(&world.policy());
    hsmd.reload();
    assert_eq!(world.chain().len(), 1);
    let never = end(begin("edge", "/sign", 100), "");
    assert_eq!((never.status, never.code()), (400, "BA101"));
    hsmd.stop();
}

/// One caller's connections leave places for the others'.
#[test]
fn a_caller_that_the_policy_does_not_know_has_few_connections() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let wait = "GET /chain?after=0&wait=2 HTTP/1.1\r\nHost: hsmd\r\n\r\n";
    let waiting: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = UnixStream::connect(world.socket("other")).unwrap();
            stream.write_all(wait.as_bytes()).unwrap();
            stream
        })
        .collect();
    let beyond = request(&world.socket("other"), "GET", "/chain", "");
    assert_eq!((beyond.status, beyond.code()), (429, "BA604"));
    request(&world.socket("edge"), "GET", "/chain", "").ok();
    // Whoever goes away in the midst of a wait is noticed at its end.
    drop(waiting);
    eventually("room for another connection", Duration::from_secs(10), || {
        request(&world.socket("other"), "GET", "/chain", "").status == 200
    });
    hsmd.stop();
}
