//! A road that loses the reply to everything once: the device asks again and ends where it would have.

use keychain::cesr::Digest;
use keychain::chain::{Chain, Settings, SignedEvent};
use keychain::device::{Device, Outgoing, Trust, server_identity};
use keychain::endorsement::Endorsement;
use keychain::error::{Code, Refusal};
use keychain::key::SigningKey;
use serde_json::value::RawValue;
use tests::World;
use tests::craft::{self, Keys, key, message, now};
use tests::http::{Answer, Http};
use tests::proxy::LossyProxy;

/// Far more than the one repeat that it takes.
const ATTEMPTS: usize = 5;

/// What makes two messages the same request: `payload.request`, without the nonce around it. A lost
/// session creation starts over with another challenge, so it is known by its device.
fn request_of(body: &str) -> Option<String> {
    let request = body.split_once("\"request\":")?.1;
    let request = request.split_once(",\"signature\"").map_or(request, |(request, _)| request);
    let creation = request.strip_prefix("{\"access\":").filter(|rest| rest.contains("\"nonce\":"));
    Some(
        creation
            .map_or(request, |rest| rest.split_once("\"authentication\":").unwrap().1.split_at(60).0)
            .to_owned(),
    )
}

fn entropy(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).unwrap();
}

/// A device as it ships, on a bad road, whose process dies whenever a reply is lost.
struct Stubborn<'a> {
    device: Device,
    road: Http,
    world: &'a World,
    repeats: usize,
}

impl<'a> Stubborn<'a> {
    fn new(road: &Http, world: &'a World) -> Self {
        Self { device: Device::new(), road: road.clone(), world, repeats: 0 }
    }

    /// Gives a command and repeats it until its answer has been taken.
    async fn ask(&mut self, command: impl FnOnce(&mut Device) -> Result<Outgoing, Refusal>) {
        let mut outgoing = command(&mut self.device).unwrap();
        for _ in 0..ATTEMPTS {
            let saved = self.device.save().unwrap();
            if let Ok(answer) = self.road.try_post(outgoing.operation.path(), outgoing.body).await {
                assert_eq!(answer.status, 200, "{}", answer.body);
                return self.take(&answer).await;
            }
            self.repeats += 1;
            self.device = Device::restore(&saved).unwrap();
            outgoing = self.device.retry(&mut entropy).unwrap();
        }
        panic!("no answer in {ATTEMPTS} attempts");
    }

    async fn take(&mut self, answer: &Answer) {
        let keys = self.world.keys();
        let signer = server_identity(answer.body.as_bytes()).unwrap();
        let endorsement = Endorsement::parse(&keys.get(&format!("/keys/{signer}")).await.body).unwrap();
        let chain = published_chain(self.world).await;
        let trust = Trust { chain: &chain, endorsement: &endorsement };
        self.device.handle_response(answer.body.as_bytes(), &trust, now()).unwrap();
    }

    /// A session takes a challenge and its answer; a lost answer begins with a challenge again.
    async fn open_session(&mut self) {
        for _ in 0..ATTEMPTS {
            self.ask(|device| device.session_request(&mut entropy)).await;
            self.ask(|device| device.session_create(&mut entropy)).await;
            if self.device.claims().is_some() {
                return;
            }
        }
        panic!("no session in {ATTEMPTS} attempts");
    }
}

async fn published_chain(world: &World) -> Chain {
    let text = world.keys().get("/hsm/keys").await.body;
    let events: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
    let prefix = Digest::parse(&world.endpoints().identity).unwrap();
    let mut chain = Chain::new(prefix, Settings::default());
    chain.merge(events.into_iter().map(|event| SignedEvent::parse(event.get()).unwrap()), now());
    chain
}

#[tokio::test]
async fn a_device_as_it_ships_converges_although_every_reply_is_lost_once() {
    let world = World::shared().await;
    let proxy = LossyProxy::before(&world.endpoints().auth, request_of).await;
    let road = Http::to(&proxy.url());
    let recovery: [SigningKey; 3] = [key(), key(), key()];
    let hash = |which: usize| recovery[which].public_key().digest();

    let mut phone = Stubborn::new(&road, &world);
    phone.ask(|device| device.create(&hash(0), &mut entropy)).await;
    let identity = phone.device.identity().unwrap();
    for _ in 0..3 {
        phone.ask(|device| device.rotate(&mut entropy)).await;
    }
    phone.open_session().await;
    phone.ask(|device| device.session_refresh(&mut entropy)).await;

    let mut laptop = Stubborn::new(&road, &world);
    let container = laptop.device.join(&identity, &mut entropy).unwrap();
    phone.ask(|device| device.link(&container, &mut entropy)).await;
    laptop.open_session().await;
    phone.ask(|device| device.change_recovery(&hash(1), &mut entropy)).await;
    let gone = laptop.device.device().unwrap();
    phone.ask(|device| device.unlink(&gone, &mut entropy)).await;

    let mut tablet = Stubborn::new(&road, &world);
    tablet.ask(|device| device.recover(&identity, &recovery[1], &hash(2), &mut entropy)).await;
    tablet.open_session().await;
    tablet.ask(|device| device.delete(&mut entropy)).await;
    assert_eq!(tablet.device.identity(), None);

    let repeats = phone.repeats + laptop.repeats + tablet.repeats;
    assert_eq!(repeats, proxy.lost(), "every loss was met by one repeat");
    assert!(repeats >= 14, "only {repeats} replies were lost");
}

/// The same with messages made by hand: what must come back is fixed by the protocol, not by our device.
#[tokio::test]
async fn whoever_repeats_a_request_is_never_stranded() {
    let world = World::shared().await;
    let proxy = LossyProxy::before(&world.endpoints().auth, request_of).await;
    let road = Http::to(&proxy.url());
    let mut device = craft::Device::draw();
    insist(&road, "/account/create", &device.create_request(), &device.keys.current).await.response();
    for _ in 0..3 {
        insist_gated(&road, &mut device, "/device/rotate", craft::Device::rotate_request).await;
    }
    let keys = device.keys.ahead();
    let fork = Keys { current: craft::same(&keys.current), next: key() };
    insist_gated(&road, &mut device, "/account/delete", |device, _| device.rotate_request(&fork)).await;
    // Deleted with one commitment, the key is spent for any other.
    let again = message(&device.rotate_request(&keys), &keys.current);
    world.auth().post("/device/rotate", again).await.refused(Code::UnknownDevice);
    assert_eq!(proxy.lost(), 5);
}

/// Sends until there is an answer, each time with a fresh nonce.
async fn insist(road: &Http, path: &str, request: &str, signer: &SigningKey) -> Answer {
    for _ in 0..ATTEMPTS {
        if let Ok(answer) = road.try_post(path, message(request, signer)).await {
            return answer;
        }
    }
    panic!("no answer to {path} in {ATTEMPTS} attempts");
}

async fn insist_gated(
    road: &Http,
    device: &mut craft::Device,
    path: &str,
    request: impl FnOnce(&craft::Device, &Keys) -> String,
) {
    let keys = device.keys.ahead();
    let request = request(device, &keys);
    insist(road, path, &request, &keys.current).await.response();
    device.keys = keys;
}
