//! The red button under traffic: what it refuses is what it is for, and nothing else fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keychain::Code;
use keychain::token::Token;
use tests::craft::Device;
use tests::http::Answer;
use tests::process::command;
use tests::public_app::PublicApp;
use tests::world::binary;
use tests::{World, until};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;
const APPS: [&str; 4] = ["python", "ruby", "rust", "typescript"];
const SOON: Duration = Duration::from_secs(30);

/// Devices that ask without a pause.
const DEVICES: usize = 6;

/// Requests of each before the button is pressed, and after everything is re-keyed.
const BEFORE: usize = 8;
const AFTER: usize = 12;

/// Who asks, and what came of it.
struct Traffic {
    world: Arc<World>,
    stop: AtomicBool,
    answered: Vec<AtomicUsize>,
    ended: AtomicUsize,
}

impl Traffic {
    /// Waits until each device was answered `more` times more.
    async fn goes_on(&self, more: usize) {
        let counts = || self.answered.iter().map(|count| count.load(Ordering::Relaxed));
        let goals: Vec<_> = counts().map(|count| count + more).collect();
        until("every device to be answered", SOON, async || {
            counts().zip(&goals).all(|(count, goal)| count >= *goal).then_some(())
        })
        .await;
    }

    /// One device that asks every app in turn, refreshes now and then, and begins a new session when its token ends.
    async fn run(self: Arc<Self>, number: usize, old: BTreeSet<String>) {
        let auth = self.world.auth();
        let mut device = Device::create(&auth).await;
        device.open_session(&auth).await;
        for round in number.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let issuer = issuer(&device);
            let app = APPS[round % APPS.len()];
            let answer = self.world.app(app).try_post("/foo/bar", device.session().access(REQUEST)).await;
            let answer = answer.unwrap_or_else(|error| panic!("{app} dropped a connection: {error:?}"));
            let mut is_good = is_answered(&answer, &issuer, &old, app);
            if !is_good || round % 5 == 0 {
                is_good = is_answered(&device.try_refresh(&auth).await, &issuer, &old, "a refresh");
            }
            if is_good {
                self.answered[number].fetch_add(1, Ordering::Relaxed);
            } else {
                self.ended.fetch_add(1, Ordering::Relaxed);
                device.try_session(&auth).await.response();
            }
            if round % 7 == 0 {
                device.rotate(&auth).await.response();
            }
        }
    }
}

/// Whether it succeeded. A refusal is that of a token whose issuer, one of `old`, was endorsed by the tainted generation.
fn is_answered(answer: &Answer, issuer: &str, old: &BTreeSet<String>, what: &str) -> bool {
    if answer.status == 200 {
        answer.response();
        return true;
    }
    assert!(
        old.contains(issuer),
        "{what} refused a token of the new generation: {} {}",
        answer.status,
        answer.body
    );
    answer.refused(Code::DeadKey);
    false
}

fn issuer(device: &Device) -> String {
    Token::parse(&device.session().token).unwrap().claims().server_identity.to_string()
}

/// The names in the database of keys that issue tokens.
async fn issuers(world: &World) -> BTreeSet<String> {
    redis::cmd("KEYS").arg("1AAI*").query_async(&mut world.directory(0).await).await.unwrap()
}

/// No request fails but those with tokens of the tainted generation, each with its code; sessions begin anew at once. A
/// public app server, which knows of no taint, refuses those tokens too.
#[tokio::test(flavor = "multi_thread")]
async fn a_red_button_fails_no_request_that_is_not_to_be_refused() {
    let world = Arc::new(World::start().await);
    let old = issuers(&world).await;
    let mut device = Device::create(&world.auth()).await;
    let token = device.open_session(&world.auth()).await.token.clone();
    let mut public = PublicApp::beside(&world);
    assert!(public.accepts(&token).await);

    let answered = (0..DEVICES).map(|_| AtomicUsize::new(0)).collect();
    let (stop, ended) = (AtomicBool::new(false), AtomicUsize::new(0));
    let traffic = Arc::new(Traffic { world: Arc::clone(&world), stop, answered, ended });
    let devices: Vec<_> =
        (0..DEVICES).map(|number| tokio::spawn(Arc::clone(&traffic).run(number, old.clone()))).collect();
    let work = async {
        traffic.goes_on(BEFORE).await;
        assert_eq!(traffic.ended.load(Ordering::Relaxed), 0);
        let mut button = command(binary("opsctl"));
        button.args(["red-button", "--reason", "drill", "--yes", "--wait", "30s"]);
        button.arg("--endpoints").arg(world.endpoints_file());
        let pressed = tokio::task::spawn_blocking(move || button.output().unwrap()).await.unwrap();
        assert_eq!(pressed.status.code(), Some(0), "{}", pressed.stderr.escape_ascii());
        assert!(!public.accepts(&token).await, "a public app server goes on");
        traffic.goes_on(AFTER).await;
        // A session that was just being refreshed may have gone on with a token of the new generation.
        assert!(traffic.ended.load(Ordering::Relaxed) > 0, "tokens of before have ended");
        traffic.stop.store(true, Ordering::Relaxed);
    };
    let all = async {
        for device in devices {
            device.await.unwrap();
        }
    };
    tokio::pin!(work, all);
    // A device that fails says why at once.
    tokio::select! {
        () = &mut work => all.await,
        () = &mut all => panic!("the devices ended by themselves"),
    }
}

/// Taint, denial, revoked key and revoked service: each time the public app server refuses as soon as the publisher has
/// deleted the entry; and a service that is endorsed anew is accepted.
#[tokio::test]
async fn a_public_app_server_refuses_what_was_killed() {
    let world = World::start().await;
    let mut public = PublicApp::beside(&world);
    let mut device = Device::create(&world.auth()).await;
    let opsctl = |arguments: &[&str]| {
        let mut program = command(binary("opsctl"));
        program.args(arguments).args(["--reason", "drill", "--yes", "--wait", "30s"]);
        program.arg("--endpoints").arg(world.endpoints_file());
        let output = program.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", output.stderr.escape_ascii());
    };
    let generation = async || {
        let chain = world.admin().get("/chain").await.json();
        chain.as_array().unwrap().last().unwrap()["payload"]["id"].as_str().unwrap().to_owned()
    };
    for kind in ["taint", "denial", "key", "service"] {
        let token = device.open_session(&world.auth()).await.token.clone();
        until("the token to be accepted", SOON, async || public.accepts(&token).await.then_some(())).await;
        match kind {
            "taint" => opsctl(&["taint"]),
            "denial" => {
                let old = generation().await;
                assert_eq!(
                    world.admin().post("/rotate", format!("{{\"from\":\"{old}\"}}")).await.status,
                    200
                );
                opsctl(&["taint", "--generation", &old]);
            }
            "key" => opsctl(&["revoke-key", &issuer(&device)]),
            _ => opsctl(&["revoke-service", "authd"]),
        }
        until("the public app server to refuse", SOON, async || {
            (!public.accepts(&token).await).then_some(())
        })
        .await;
    }
}
