//! The sample apps: all four answer alike, and only their edge.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::until;

const SECRET: &str = "a secret between an edge and its app";

struct App {
    process: Child,
    url: String,
}

impl App {
    async fn start(name: &str, secret: &Path) -> Self {
        let address = free_address();
        let apps = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/apps"));
        let (mut command, source) = match name {
            "python" => (Command::new("python3"), Some(apps.join("python/server.py"))),
            "ruby" => (Command::new("ruby"), Some(apps.join("ruby/server.rb"))),
            "typescript" => (Command::new("node"), None),
            _ => (Command::new(Path::new(env!("CARGO_BIN_EXE_opsctl")).with_file_name("app-rust")), None),
        };
        command.args(source).stdin(Stdio::null());
        if name == "typescript" {
            command.args(["--input-type=module", "-"]);
            command.stdin(std::fs::File::open(apps.join("typescript/server.ts")).unwrap());
        }
        let process = command.arg(address.to_string()).arg(secret).spawn().unwrap();
        let app = Self { process, url: format!("http://{address}") };
        until(&format!("the {name} app"), async || TcpStream::connect(address).ok()).await;
        app
    }

    async fn post(&self, path: &str, secret: &str, body: &str) -> (u16, Value) {
        let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
        let request = client.post(format!("{}{path}", self.url)).header("keelson-edge-secret", secret);
        let response = request.body(body.to_owned()).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }
}

impl App {
    /// What it says to a body beyond its limit. It may answer and hang up before it has read everything,
    /// which an HTTP client takes for a failure of its own; so this one listens whatever became of its writing.
    fn answer_to_too_much(&self) -> String {
        let mut app = TcpStream::connect(self.url.strip_prefix("http://").unwrap()).unwrap();
        app.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let body = format!(r#"{{"foo":1,"bar":"{}"}}"#, "x".repeat(1 << 20));
        let head = format!(
            "POST /foo/bar HTTP/1.1\r\nhost: app\r\nkeelson-edge-secret: {SECRET}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        app.write_all(head.as_bytes()).unwrap();
        let _it_may_have_hung_up: std::io::Result<()> = app.write_all(body.as_bytes());
        let mut answer = [0; 32];
        app.read_exact(&mut answer).unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Already gone is as good.
        let _gone: std::io::Result<()> = self.process.kill();
        let _reaped: std::io::Result<_> = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn the_apps_answer_alike() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    for name in ["python", "ruby", "rust", "typescript"] {
        let app = App::start(name, &secret).await;
        let good = r#"{"foo":"é\n","bar":[1,2.5,null,{"a":true}],"more":0}"#;
        let table = [
            ("/foo/bar", SECRET, good, 200),
            ("/foo/bar?x=/y", SECRET, good, 200),
            ("/foo/bar", SECRET, r#"{"foo":1}"#, 400),
            ("/foo/bar", SECRET, "null", 400),
            ("/foo/bar", SECRET, "[1]", 400),
            ("/foo/bar", SECRET, "{", 400),
            ("/foo", SECRET, good, 404),
            ("/foo/bar", "a secret between an edge and its bpp", good, 403),
            ("/foo/bar", "", good, 403),
        ];
        for (path, secret, body, status) in table {
            let (answered, value) = app.post(path, secret, body).await;
            let start: String = body.chars().take(60).collect();
            assert_eq!(answered, status, "{name} {path} {start}: {value}");
            if status == 200 {
                let bar = json!([1, 2.5, null, {"a": true}]);
                assert_eq!(value, json!({"wasFoo": "é\n", "wasBar": bar, "serverName": name}));
            } else {
                assert!(value["error"].is_string(), "{name} {path} {start}: {value}");
            }
        }
        let answer = app.answer_to_too_much();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{name}: {answer}");
    }
}
