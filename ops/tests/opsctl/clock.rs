//! What opsctl does when its own clock, or hsmd's, is wrong.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use keychain::chain::Draft;
use keychain::{SigningKey, Timestamp};

use crate::{opsctl, stderr};

const HOUR: Duration = Duration::from_hours(1);

/// An hsmd that answers from a script: what was asked of it, request line and body.
struct Script {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Script {
    /// Answers each path with its body, and is gone when it is asked anything else.
    fn start(answers: Vec<(&'static str, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("admin.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !answer(stream.unwrap(), &answers, &heard) {
                    return;
                }
            }
        });
        Self { folder, asked }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let socket = self.folder.path().join("admin.sock");
        opsctl().args(arguments).args([Path::new("--admin"), &socket]).output().unwrap()
    }

    /// The bodies that were sent to `request`, as `POST /taint`.
    fn sent(&self, request: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(line, _)| line == request).map(|(_, body)| body.clone()).collect()
    }
}

fn answer(mut stream: UnixStream, answers: &[(&str, String)], heard: &Mutex<Vec<(String, String)>>) -> bool {
    let mut text = String::new();
    let (head, body) = loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).unwrap();
        if length == 0 {
            return true;
        }
        text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let announced = head.to_ascii_lowercase();
        let announced = announced.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        if body.len() >= announced.map_or(0, |length| length.parse().unwrap()) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let line =
        head.rsplit_once(" HTTP/1.1").map_or(head.as_str(), |_| head.split(" HTTP/1.1").next().unwrap());
    heard.lock().unwrap().push((line.to_owned(), body));
    let Some((_, answer)) = answers.iter().find(|(asked, _)| *asked == line) else { return false };
    let head = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
    stream.write_all((head + answer).as_bytes()).unwrap();
    true
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// The id and the published form of a first event.
fn chain(created_at: Timestamp) -> (String, String) {
    let [key, next] = [1, 2].map(|seed| SigningKey::from_seed(&[seed; 32]).unwrap());
    let draft = Draft::first(&key.public_key(), &next.public_key().digest(), created_at.to_millis());
    let signature = key.sign(draft.payload().as_bytes()).unwrap();
    let event = draft.seal(&signature).unwrap();
    (event.id().to_string(), format!("[{}]", event.text()))
}

/// A taint is sent whatever this machine's clock makes of the chain; a rotation is not.
#[test]
fn a_taint_is_sent_in_any_case_and_names_its_generation() {
    for (ahead, complaint) in [(Duration::ZERO, false), (HOUR, true)] {
        let (id, chain) = chain(now().plus(ahead));
        let done = format!(
            "{{\"taintedGenerationId\":\"{id}\",\"newGenerationId\":\"{id}\",\"effect\":\"tainted\"}}"
        );
        let hsmd = Script::start(vec![("GET /chain", chain), ("POST /taint", done)]);
        let output = hsmd.run(&["taint", "--yes", "--reason", "drill", "--no-wait"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(hsmd.sent("POST /taint"), [format!("{{\"generationId\":\"{id}\",\"reason\":\"drill\"}}")]);
        assert_eq!(
            stderr(&output).contains("ahead of this machine's clock"),
            complaint,
            "{}",
            stderr(&output)
        );
        if complaint {
            let output = hsmd.run(&["rotate"]);
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            assert_eq!(hsmd.sent("POST /rotate"), [""; 0]);
        }
    }
}

/// An hsmd that is gone after a taint: opsctl says so when its wait has ended, and does not go on for ever.
#[test]
fn a_wait_ends_although_nothing_can_be_asked() {
    let (id, chain) = chain(now());
    let done =
        format!("{{\"taintedGenerationId\":\"{id}\",\"newGenerationId\":\"{id}\",\"effect\":\"tainted\"}}");
    let hsmd = Script::start(vec![("GET /chain", chain), ("POST /taint", done)]);
    let output = hsmd.run(&["taint", "--yes", "--reason", "drill", "--wait", "1s"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("it is not known who has acknowledged it"), "{}", stderr(&output));
}

#[test]
fn a_clock_is_shown_and_accepted() {
    let at = now().minus(HOUR).to_millis();
    let doubt = ",\"doubt\":{\"cause\":\"ahead\",\"because\":\"it is 30days ahead\",\"since\":\"2026-01-01T00:00:00.000Z\",\"cure\":\"set it right\"}";
    for (trusted, doubt, code) in [(true, "", 0), (false, doubt, 1)] {
        let report = format!(
            "{{\"trusted\":{trusted},\"time\":\"{at}\",\"lastTrusted\":\"{at}\",\"sources\":{{\"event\":\"{at}\"}}{doubt}}}"
        );
        let (_, chain) = chain(now());
        let hsmd = Script::start(vec![
            ("GET /clock", report.clone()),
            ("GET /chain", chain),
            ("POST /clock", "{}".to_owned()),
        ]);
        let shown = hsmd.run(&["hsm", "clock"]);
        assert_eq!(shown.status.code(), Some(code), "{}", stderr(&shown));
        let told = crate::stdout(&shown);
        assert!(told.contains("newest event") && told.contains("this machine's clock  "), "{told}");
        assert_eq!(told.contains("it is 30days ahead"), !trusted, "{told}");
        // The word is for the time that was shown; nothing is sent for a clock that is trusted.
        let accepted = hsmd.run(&["hsm", "clock", "accept", "--yes", "--reason", "drill"]);
        let word = format!("{{\"time\":\"{at}\",\"reason\":\"drill\"}}");
        let sent = if trusted { vec![] } else { vec![word] };
        assert_eq!(hsmd.sent("POST /clock"), sent, "{}", stderr(&accepted));
        let refused = hsmd.run(&["hsm", "clock", "accept", "--reason", "drill"]);
        assert_eq!(refused.status.code(), Some(if trusted { 0 } else { 64 }), "{}", stderr(&refused));
    }
}
