//! The end of the program: requests under way are answered, and nobody can hold it up.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use reqwest::{Body, Certificate, Client, Version};
use rustix::process::Signal;
use tests::certificate::Authority;
use tests::craft::{Device, message};
use tests::http::Http;
use tests::until;

use crate::program::Program;
use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(20);

/// A request of which all but the last bytes have been sent.
struct Begun {
    stream: TcpStream,
    rest: String,
}

impl Begun {
    fn begin(program: &Program, device: &Device) -> Self {
        let body = message(&device.rotate_request(&device.keys), &device.keys.current);
        let mut stream = TcpStream::connect(("127.0.0.1", program.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (first, rest) = body.split_at(body.len() - 10);
        let length = body.len();
        write!(stream, "POST /device/rotate HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{first}")
            .unwrap();
        Self { stream, rest: rest.to_owned() }
    }

    fn finish(mut self) -> String {
        self.stream.write_all(self.rest.as_bytes()).unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// Until a request of that operation is seen to be under way, and the end to have begun.
async fn ends(program: &Program) {
    program.process.signal(Signal::TERM);
    until("authd to say that it ends", PATIENCE, || async {
        let page = program.observe.try_get("/readyz").await.ok()?;
        (page.status == 503 && page.body.contains("ending: requests under way are answered")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_begun_is_answered_and_idle_connections_end() {
    let stage = Stage::on_sqlite().await;
    let mut program = Program::start(&stage, "drain = \"1m\"\n").await;
    let device = Device::create(&program.auth()).await;
    let mut idle = TcpStream::connect(("127.0.0.1", program.port)).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut some = [0; 16];
    idle.read_exact(&mut some).unwrap();
    let begun = Begun::begin(&program, &device);
    // The connections were taken in this order: what is asked after them shows that they were.
    assert_eq!(program.auth().get("/health").await.status, 200);
    let started = Instant::now();
    ends(&program).await;
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert!(program.process.ended().is_none(), "it ended before its last answer");
    let answer = begun.finish();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let status = until("authd to end", PATIENCE, || {
        let ended = program.process.ended();
        async move { ended }
    })
    .await;
    assert_eq!(status.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(50), "it waited for its limit, not for its requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_who_dawdles_holds_up_no_end() {
    let stage = Stage::on_sqlite().await;
    let mut program = Program::start(&stage, "drain = \"1s\"\n").await;
    let device = Device::create(&program.auth()).await;
    let _begun = Begun::begin(&program, &device);
    assert_eq!(program.auth().get("/health").await.status, 200);
    program.process.signal(Signal::TERM);
    // The body itself would be waited for for 10 s.
    let status = until("authd to end", Duration::from_secs(8), || {
        let ended = program.process.ended();
        async move { ended }
    })
    .await;
    assert_eq!(status.code(), Some(0));
}

/// HTTP/2 has no end of its own: a client that is not told goes on asking over the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_http2_are_told_of_the_end() {
    let stage = Stage::on_sqlite().await;
    let authority = Authority::new();
    authority.issue(stage.folder.path());
    let lines = format!("drain = \"1m\"\n{}", Authority::lines(stage.folder.path()));
    let mut program = Program::start(&stage, &lines).await;
    let base = format!("https://127.0.0.1:{}", program.port);
    let device = Device::create(&Http::trusting(&base, authority.pem())).await;
    let trusted = Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only([trusted]).build().unwrap();
    assert_eq!(client.get(format!("{base}/health")).send().await.unwrap().version(), Version::HTTP_2);
    // A request whose body is not all there keeps the connection open.
    let (rest, body) = tokio::sync::oneshot::channel::<Result<String, std::io::Error>>();
    let begun = client.post(format!("{base}/device/rotate"));
    let begun = begun.body(Body::wrap_stream(futures_util::stream::once(async { body.await.unwrap() })));
    let begun = tokio::spawn(begun.send());
    assert_eq!(client.get(format!("{base}/health")).send().await.unwrap().status(), 200);
    program.process.signal(Signal::TERM);
    until("the client to use the connection no more", Duration::from_secs(9), || async {
        client.get(format!("{base}/health")).send().await.err().map(drop)
    })
    .await;
    assert!(program.process.ended().is_none(), "it ended before its last answer");
    rest.send(Ok(message(&device.rotate_request(&device.keys), &device.keys.current))).unwrap();
    assert_eq!(begun.await.unwrap().unwrap().status(), 200);
    let status = until("authd to end", PATIENCE, || {
        let ended = program.process.ended();
        async move { ended }
    })
    .await;
    assert_eq!(status.code(), Some(0));
}
