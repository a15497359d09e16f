//! A connection to PostgreSQL that is cut at each piece of a request's talk with it: before a statement arrives, and before
//! its answer is back. An answer is true, and a request without one can be sent again.

use std::time::Duration;

use keychain::{Code, Digest};
use tests::craft::{Device, Keys, key, message, now};
use tests::cutting_proxy::{Cut, CuttingProxy};
use tests::http::Answer;
use tests::until;

use crate::feed::reads;
use crate::stage::{Stage, gated};

/// More pieces than any operation sends, the probe's among them.
const PIECES: usize = 14;

/// A request, and what it is sent again for.
struct Asked<'a> {
    path: &'a str,
    body: String,
}

/// What came of all of them.
#[derive(Default)]
struct Counts {
    cut: u32,
    answered: u32,
}

impl Asked<'_> {
    /// Sends it while the road is cut, and again if it was not answered; the answer.
    async fn carried(
        &self,
        stage: &Stage,
        road: &CuttingProxy,
        (cut, after): (Cut, usize),
        counts: &mut Counts,
    ) {
        road.cut(cut, after);
        let first = stage.auth.post(self.path, self.body.clone()).await;
        let is_cut = road.mend();
        counts.cut += u32::from(is_cut);
        counts.answered += u32::from(is_cut && first.status == 200);
        self.is_answered_or_unknown(&first, cut, after);
        // An operation that was answered stands, and one that was not is carried out, once.
        until("an answer", Duration::from_secs(20), || async {
            let again = stage.auth.post(self.path, self.body.clone()).await;
            self.is_answered_or_unknown(&again, cut, after);
            (again.status == 200).then_some(())
        })
        .await;
    }

    #[track_caller]
    fn is_answered_or_unknown(&self, answer: &Answer, cut: Cut, after: usize) {
        let is_fine = answer.status == 200 || answer.code() == Code::Unavailable.as_str();
        assert!(is_fine, "{} {cut:?} {after}: {}", self.path, answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_road_to_the_database_loses_and_doubles_nothing() {
    let (stage, road) = Stage::on_postgres_behind_a_road().await;
    let mut counts = Counts::default();
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    for cut in [Cut::Before, Cut::After] {
        for after in 0..PIECES {
            let at = (cut, after);
            let founder = Device::draw();
            let body = message(&founder.create_request(), &founder.keys.current);
            Asked { path: "/account/create", body }.carried(&stage, &road, at, &mut counts).await;

            let (body, _, keys) = gated(&device, Device::rotate_request);
            Asked { path: "/device/rotate", body }.carried(&stage, &road, at, &mut counts).await;
            device.keys = keys;

            let recovery = key();
            let (body, _, keys) = gated(&device, |by, keys| by.change_request(keys, &recovery));
            Asked { path: "/recovery/change", body }.carried(&stage, &road, at, &mut counts).await;
            device.keys = keys;

            let linked = device.another();
            let container = linked.link_container();
            let (body, _, keys) = gated(&device, |by, keys| by.link_request(keys, &container));
            Asked { path: "/device/link", body }.carried(&stage, &road, at, &mut counts).await;
            device.keys = keys;

            let keys: Keys = device.session().keys.ahead();
            let body = message(&device.session().refresh_request(&keys), &keys.current);
            Asked { path: "/session/refresh", body }.carried(&stage, &road, at, &mut counts).await;
            device.open_session(&stage.auth).await;
        }
    }
    let Counts { cut, answered } = counts;
    println!(
        "counted: {cut} requests during which the road to PostgreSQL was cut, {answered} of them answered at once"
    );
    assert!(cut > 50 && answered > 10, "{cut} {answered}");
}

/// Whom a ban denies is told to a new reader of the feed, wherever the talk of its order and of the feed is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_road_to_the_database_delays_a_ban_and_loses_none() {
    let (stage, road) = Stage::on_postgres_behind_a_road().await;
    for after in 0..2 * PIECES {
        let identity = Digest::of(after.to_string());
        let body = format!(r#"{{"identity":"{identity}","reason":"a test"}}"#);
        road.cut(Cut::After, after);
        until("the order to be taken", Duration::from_secs(20), || async {
            (stage.admin().post("/ban", body.clone()).await.status == 200).then_some(())
        })
        .await;
        reads(&stage, &format!("the ban that was cut at {after} to be told"), |state| {
            state.denials().denies(&identity, now())
        })
        .await;
        road.mend();
    }
}
