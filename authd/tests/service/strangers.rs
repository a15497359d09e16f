//! What whoever can reach authd cannot make it do: fill the log.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use keychain::message::Operation;
use tests::certificate::Authority;
use tests::craft::{Device, message};

use crate::program::Program;
use crate::stage::Stage;

/// Of each kind.
const FLOOD: usize = 200;

/// Lines of all floods together: six a code and what a start and an end say, with room.
const LINES_MAX: usize = 80;

/// Sends bytes over a connection of its own, and waits until authd has done with them.
fn throw(port: u16, bytes: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(bytes).ok();
    stream.shutdown(Shutdown::Write).ok();
    stream.read_to_end(&mut Vec::new()).ok();
}

fn flood(port: u16) {
    let header = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    for bytes in [
        &b"\x16\x03\x01\x00\x05hello"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /device/rotate HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab",
        b"POST /device/rotate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        header.as_bytes(),
    ] {
        for _ in 0..FLOOD {
            throw(port, bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_any_kind_are_a_few_lines_of_the_log() {
    let stage = Stage::on_sqlite().await;
    let mut program = Program::start(&stage, "").await;
    let auth = program.auth();
    let device = Device::create(&auth).await;
    let port = program.port;
    tokio::task::spawn_blocking(move || flood(port)).await.unwrap();
    let forged = message(&device.rotate_request(&device.keys), &device.recovery);
    let spent = message(&device.rotate_request(&device.keys.ahead()), &device.keys.current);
    for _ in 0..FLOOD {
        assert_eq!(auth.post("/nowhere", "{}").await.status, 404);
        assert_eq!(auth.get("/device/rotate").await.status, 405);
        for body in ["", "{}", "\n<6>authd: forged line\n", &forged, &spent] {
            assert_ne!(auth.post(Operation::DeviceRotate.path(), body).await.status, 200);
        }
    }
    assert_eq!(program.process.stop().code(), Some(0));
    let log = program.log();
    let lines = log.lines().count();
    assert!(lines <= LINES_MAX, "{lines} lines:\n{log}");
    assert!(log.contains("BA101") && log.contains("BA201") && log.contains("left_out="), "{log}");
    assert!(!log.contains("forged line"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_fail_are_no_lines_of_the_log() {
    let stage = Stage::on_sqlite().await;
    let authority = Authority::new();
    authority.issue(stage.folder.path());
    let mut program = Program::start(&stage, &Authority::lines(stage.folder.path())).await;
    let port = program.port;
    tokio::task::spawn_blocking(move || flood(port)).await.unwrap();
    assert_eq!(program.process.stop().code(), Some(0));
    let log = program.log();
    assert!(log.lines().count() <= LINES_MAX, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_name_of_a_request_stands_in_its_answer_and_in_the_log() {
    let stage = Stage::on_sqlite().await;
    let mut program = Program::start(&stage, "trusted_proxies = [\"127.0.0.1\"]\n").await;
    let answer = program.auth().post_with("/account/create", "{}", "x-request-id", "front-1.7").await;
    assert_eq!((answer.status, answer.header("x-request-id")), (400, "front-1.7"));
    assert_eq!(program.process.stop().code(), Some(0));
    assert!(program.log().contains("refused request=front-1.7"), "{}", program.log());
}
