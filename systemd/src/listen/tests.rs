//! Real sockets in a temporary folder and on ports that the system chooses.

use std::fs;

use super::*;

fn unix(path: &Path) -> Address {
    Address::Unix(path.to_owned())
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn addresses() {
    for text in ["127.0.0.1:8080", "[::1]:8080", "unix:/run/x.sock", "fd:endorse"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    for text in ["", "8080", "localhost:8080", "127.0.0.1", "unix:", "unix:x.sock", "fd:", "127.0.0.1:70000"]
    {
        let error = text.parse::<Address>().unwrap_err();
        assert!(error.contains("unix:/run/x.sock"), "{error}");
    }
}

#[test]
fn what_is_local() {
    let cases = [
        ("127.0.0.1:1", true),
        ("[::1]:1", true),
        ("0.0.0.0:1", false),
        ("[::]:1", false),
        ("10.0.0.1:1", false),
        ("unix:/x", true),
        ("fd:x", false),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<Address>().unwrap().is_local(), expected, "{text}");
    }
}

#[test]
fn modes() {
    assert_eq!("0660".parse::<Mode>().unwrap().bits(), 0o660);
    assert_eq!("600".parse::<Mode>().unwrap().bits(), 0o600);
    for text in ["", "0888", "1777", "00660", "u+w", "-660", "+660"] {
        assert!(text.parse::<Mode>().is_err(), "`{text}`");
    }
}

#[test]
fn tcp_takes_a_free_port_and_says_which() {
    let socket = "127.0.0.1:0".parse::<Address>().unwrap().bind().unwrap();
    let address = socket.tcp_address().unwrap();
    assert_ne!(address.port(), 0);
    let error = Address::Tcp(address).bind().unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[test]
fn a_unix_socket_has_its_mode_and_leaves_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endorse.sock");
    let _private = unix(&path).bind().unwrap();
    assert_eq!(mode_of(&path), 0o600);
    UnixStream::connect(&path).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let shared = folder.path().join("shared.sock");
    let _shared = unix(&shared).bind_with("0660".parse().unwrap()).unwrap();
    assert_eq!(mode_of(&shared), 0o660);
}

#[test]
fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    drop(unix(&path).bind().unwrap());
    let served = unix(&path).bind().unwrap();
    let error = unix(&path).bind().unwrap_err();
    assert!(
        matches!(&error, Error::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse),
        "{error}"
    );
    UnixStream::connect(&path).unwrap();
    drop(served);
}

#[test]
fn another_file_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    fs::write(&path, "precious").unwrap();
    unix(&path).bind().unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}
