//! Callers of other hosts: mutual TLS on an inherited TCP socket, and what each kind of certificate gets.

mod client;
mod reload;
mod strangers;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::PathBuf,
};

use crate::support::{
    authority::{Authority, Issued},
    daemon::Daemon,
    world::{Database, World},
};
use client::Client;

/// An hsmd with a socket for other hosts.
struct Remote {
    world: World,
    authority: Authority,
    listener: TcpListener,
}

impl Remote {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = Self { world: World::new(Database::Sqlite), authority: Authority::new(), listener };
        remote.configure("");
        remote.write("ca.crt", remote.authority.pem());
        remote.install(&remote.authority.server());
        remote
    }

    /// The configuration, with `more` under `[listen.tls]`.
    fn configure(&self, more: &str) {
        self.world.configure("");
        let folder = self.world.path().display();
        let text = fs::read_to_string(self.world.config()).unwrap();
        let text = format!(
            r#"{text}
[[listen]]
address = "fd:remote"
role = "endorse"
[listen.tls]
certificate = "{folder}/server.crt"
key = "{folder}/server.key"
client_ca = "{folder}/ca.crt"
{more}
"#
        );
        fs::write(self.world.config(), text).unwrap();
        self.world.write_policy(&self.policy());
    }

    /// Two services on other hosts.
    fn policy(&self) -> String {
        let rows = [("URI:keelson:edge:far", "edge:far"), ("DNS:edge-1.example", "edge:one")].map(|(san, service)| {
            format!(
                "[[allow]]\nsan = \"{san}\"\noperations = [\"endorse\"]\nservice = \"{service}\"\npurposes = [\"response\"]\n"
            )
        });
        self.world.policy() + &rows.concat()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Puts a server's certificate and key where the configuration says.
    fn install(&self, issued: &Issued) {
        self.write("server.crt", &issued.certificate);
        self.write("server.key", &issued.key);
        fs::set_permissions(self.path("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn spawn(&self) -> Daemon {
        self.world.spawn_inheriting("remote", OwnedFd::from(self.listener.try_clone().unwrap()))
    }

    fn start(&self) -> Daemon {
        let mut daemon = self.spawn();
        if let Err(status) = daemon.ready() {
            panic!("hsmd ended: {status}; {}", daemon.log());
        }
        daemon
    }

    /// A client that knows hsmd by the first authority, with or without a certificate.
    fn client(&self, issued: Option<&Issued>) -> Client {
        Client::new(self.address(), self.authority.pem(), issued)
    }
}
