//! Devices as they ship, on roads that lose a tenth of all replies: none is stranded, and nothing is done twice.
//!
//! `KEELSON_LOSSY=100000` has a thousand devices do so many operations, on PostgreSQL with two authd.

use std::collections::BTreeMap;
use std::time::Instant;

use authd::daemon::Daemon;
use futures_util::StreamExt as _;
use keychain::chain::Chain;
use keychain::device::{Device, Outgoing, Trust, refusal_code, server_identity};
use keychain::endorsement::Endorsement;
use keychain::message::Operation;
use keychain::{Code, Digest, PublicKey, Refusal, SigningKey};
use sea_orm::{ConnectionTrait, Statement};
use tests::craft::{key, now, random};
use tests::proxy::LossyProxy;
use tests::wire::{Broken, Place, Wire};

use crate::stage::Stage;

/// Operations of a short run on PostgreSQL and on SQLite.
const SHORT: usize = 2_000;
const SHORT_ON_SQLITE: usize = 500;

/// How many of them a device does in a short run, and how many devices there are in a long one.
const OF_EACH_DEVICE: usize = 50;
const LONG_DEVICES: usize = 1_000;

/// Of a hundred replies, so many are lost.
const LOST_PERCENT: u8 = 10;

/// Accounts at work at once.
const AT_ONCE: usize = 16;

/// One in ten is lost: so many in a row are, once in 10^30.
const ATTEMPTS: usize = 30;

/// What devices check answers against, and the roads to the authd.
struct Surroundings {
    chain: Chain,
    endorsements: BTreeMap<PublicKey, Endorsement>,
    roads: Vec<Place>,
}

/// A device with what it is sent over.
struct Stubborn<'a> {
    device: Device,
    around: &'a Surroundings,
    repeats: usize,
}

/// An account with its devices, and what they have done.
struct Account<'a> {
    around: &'a Surroundings,
    phone: Stubborn<'a>,
    laptop: Option<Stubborn<'a>>,
    identity: Digest,
    recovery: SigningKey,
    done: Done,
    /// Of the accounts that were deleted before.
    earlier: Vec<(Digest, Done)>,
    repeats: usize,
}

/// Operations that were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    /// Those that leave records.
    changes: u64,
    refreshes: u64,
}

fn entropy(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).unwrap();
}

/// A number below `end`.
fn draw(end: u8) -> u8 {
    let [byte] = random();
    byte % end
}

impl Stubborn<'_> {
    /// Gives a command and repeats it until an answer has been taken: says to which operation. The process of the device
    /// dies with each reply that is lost.
    async fn ask(&mut self, command: impl FnOnce(&mut Device) -> Result<Outgoing, Refusal>) -> Operation {
        let mut outgoing = command(&mut self.device).unwrap();
        for _ in 0..ATTEMPTS {
            let saved = self.device.save().unwrap();
            let road = &self.around.roads[usize::from(draw(2)) % self.around.roads.len()];
            match Wire::to(road.clone()).post(outgoing.operation.path(), &outgoing.body).await {
                Ok(reply) if reply.status == 200 => return self.take(&reply.body),
                Ok(reply) => {
                    let code = refusal_code(reply.body.as_bytes());
                    let passes = [Some(Code::Unavailable), Some(Code::TooMany)].contains(&code);
                    assert!(passes, "a device is stuck with {}: {}", outgoing.operation, reply.body);
                }
                Err(Broken::Unanswered) => {}
                Err(Broken::Unsent(error)) => panic!("the road is closed: {error}"),
            }
            self.repeats += 1;
            self.device = Device::restore(&saved).unwrap();
            outgoing = self.device.retry(&mut entropy).unwrap();
        }
        panic!("no answer to {} in {ATTEMPTS} attempts", outgoing.operation);
    }

    fn take(&mut self, body: &str) -> Operation {
        let signer = server_identity(body.as_bytes()).unwrap();
        let endorsement = &self.around.endorsements[&signer];
        let trust = Trust { chain: &self.around.chain, endorsement };
        self.device.handle_response(body.as_bytes(), &trust, now()).unwrap()
    }

    /// A creation whose answer is lost begins with a challenge again.
    async fn open_session(&mut self) {
        for _ in 0..ATTEMPTS {
            if !self.device.is_challenged() {
                self.ask(|device| device.session_request(&mut entropy)).await;
            }
            if self.ask(|device| device.session_create(&mut entropy)).await == Operation::SessionCreate {
                return;
            }
        }
        panic!("no session in {ATTEMPTS} attempts");
    }
}

impl<'a> Account<'a> {
    async fn create(around: &'a Surroundings) -> Self {
        let (mut phone, recovery) = (Stubborn::new(around), key());
        let hash = recovery.public_key().digest();
        phone.ask(|device| device.create(&hash, &mut entropy)).await;
        let identity = phone.device.identity().unwrap();
        let done = Done { changes: 1, refreshes: 0 };
        Self { around, phone, laptop: None, identity, recovery, done, earlier: Vec::new(), repeats: 0 }
    }

    /// Does so many operations, and then each of its devices shows that it is not stuck.
    async fn live(mut self, operations: usize) -> Self {
        for _ in 0..operations {
            self.step().await;
        }
        for device in [Some(&mut self.phone), self.laptop.as_mut()].into_iter().flatten() {
            device.ask(|device| device.rotate(&mut entropy)).await;
            device.open_session().await;
            self.done.changes += 1;
        }
        self
    }

    async fn step(&mut self) {
        match draw(32) {
            0 => self.begin_anew().await,
            1 | 2 => self.recover().await,
            3..=5 => self.change_recovery().await,
            6..=9 => self.link_or_unlink().await,
            10..=17 => self.either().open_session().await,
            18..=24 => self.refresh().await,
            _ => {
                self.either().ask(|device| device.rotate(&mut entropy)).await;
                self.done.changes += 1;
            }
        }
    }

    /// The phone or, if there is one, the laptop.
    fn either(&mut self) -> &mut Stubborn<'a> {
        match &mut self.laptop {
            Some(laptop) if draw(2) == 0 => laptop,
            _ => &mut self.phone,
        }
    }

    async fn refresh(&mut self) {
        let device = self.either();
        if device.device.claims().is_none() {
            device.open_session().await;
        }
        device.ask(|device| device.session_refresh(&mut entropy)).await;
        self.done.refreshes += 1;
    }

    async fn link_or_unlink(&mut self) {
        match self.laptop.take() {
            None => {
                let mut laptop = Stubborn::new(self.around);
                let container = laptop.device.join(&self.identity, &mut entropy).unwrap();
                self.phone.ask(|device| device.link(&container, &mut entropy)).await;
                laptop.open_session().await;
                self.laptop = Some(laptop);
            }
            Some(mut laptop) => {
                let gone = laptop.device.device().unwrap();
                let by = if draw(2) == 0 { &mut laptop } else { &mut self.phone };
                by.ask(|device| device.unlink(&gone, &mut entropy)).await;
                self.repeats += laptop.repeats;
            }
        }
        self.done.changes += 1;
    }

    async fn change_recovery(&mut self) {
        let recovery = key();
        let hash = recovery.public_key().digest();
        self.either().ask(|device| device.change_recovery(&hash, &mut entropy)).await;
        self.recovery = recovery;
        self.done.changes += 1;
    }

    async fn recover(&mut self) {
        let (mut phone, next) = (Stubborn::new(self.around), key());
        let hash = next.public_key().digest();
        let (identity, recovery) = (self.identity, &self.recovery);
        phone.ask(|device| device.recover(&identity, recovery, &hash, &mut entropy)).await;
        let before = std::mem::replace(&mut self.phone, phone);
        self.repeats += before.repeats + self.laptop.take().map_or(0, |laptop| laptop.repeats);
        self.recovery = next;
        self.done.changes += 1;
    }

    async fn begin_anew(&mut self) {
        self.phone.ask(|device| device.delete(&mut entropy)).await;
        self.done.changes += 1;
        let next = Self::create(self.around).await;
        let before = std::mem::replace(self, next);
        self.repeats = before.repeats + before.phone.repeats + before.laptop.map_or(0, |it| it.repeats);
        self.earlier = before.earlier;
        self.earlier.push((before.identity, before.done));
    }

    fn repeats(&self) -> usize {
        self.repeats + self.phone.repeats + self.laptop.as_ref().map_or(0, |laptop| laptop.repeats)
    }
}

impl<'a> Stubborn<'a> {
    fn new(around: &'a Surroundings) -> Self {
        Self { device: Device::new(), around, repeats: 0 }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_authd_on_postgresql_devices_converge_though_a_tenth_of_all_replies_is_lost() {
    let long = std::env::var("KEELSON_LOSSY").ok().map(|text| text.parse().unwrap());
    let (operations, devices) = long.map_or((SHORT, SHORT / OF_EACH_DEVICE), |long| (long, LONG_DEVICES));
    let stage = Stage::unlimited_on_postgres().await;
    let (second, _) = stage.another("second").await;
    devices_converge(stage, Some(second), operations, devices).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_devices_converge_though_a_tenth_of_all_replies_is_lost() {
    let devices = SHORT_ON_SQLITE / OF_EACH_DEVICE;
    devices_converge(Stage::unlimited_on_sqlite().await, None, SHORT_ON_SQLITE, devices).await;
}

async fn devices_converge(stage: Stage, second: Option<Daemon>, operations: usize, devices: usize) {
    // Most accounts have two.
    let accounts = devices / 2;
    let begun = Instant::now();
    let services = [Some(stage.service()), second.as_ref().map(Daemon::service)];
    let keys = services.into_iter().flatten().map(|service| service.response.current());
    let endorsements = keys.map(|key| (key.public_key(), key.endorsement().clone())).collect();
    let addresses = [Some(stage.address()), second.as_ref().and_then(Daemon::address)];
    let mut proxies = Vec::new();
    for address in addresses.into_iter().flatten() {
        proxies.push(LossyProxy::at_random(&format!("http://{address}"), LOST_PERCENT).await);
    }
    let place = |proxy: &LossyProxy| Place::Tcp(proxy.url().strip_prefix("http://").unwrap().to_owned());
    let roads = proxies.iter().map(place).collect();
    let around = Surroundings { chain: stage.hsm.seen(), endorsements, roads };

    let around = &around;
    let live = |_| async move { Account::create(around).await.live(operations / accounts).await };
    let lived: Vec<_> =
        futures_util::stream::iter(0..accounts).map(live).buffer_unordered(AT_ONCE).collect().await;

    let lost: usize = proxies.iter().map(LossyProxy::lost).sum();
    let repeats: usize = lived.iter().map(Account::repeats).sum();
    assert!(repeats >= lost && lost > operations / 20, "{lost} replies were lost, {repeats} repeats");
    let done = lived
        .iter()
        .flat_map(|account| account.earlier.iter().copied().chain([(account.identity, account.done)]));
    let done: BTreeMap<String, Done> = done.map(|(identity, done)| (identity.to_string(), done)).collect();
    assert_eq!(rows(&stage).await, done);
    println!(
        "counted: {accounts} accounts, {operations} operations, {lost} replies lost, {repeats} repeats; {:?}",
        begun.elapsed()
    );
}

/// How many requests left records, and how many refreshes there were, of each account; no request did so twice.
async fn rows(stage: &Stage) -> BTreeMap<String, Done> {
    let records = "SELECT identity, identity AS chain, cause FROM account_records UNION ALL \
                   SELECT identity, identity || device AS chain, cause FROM device_records";
    let twice = format!("SELECT chain FROM ({records}) AS r GROUP BY chain, cause HAVING count(*) > 1");
    let query = |text: String| Statement::from_string(stage.sql.get_database_backend(), text);
    assert!(
        stage.sql.query_all_raw(query(twice)).await.unwrap().is_empty(),
        "a request was carried out twice"
    );
    let changes =
        format!("SELECT identity, count(DISTINCT cause) AS n FROM ({records}) AS r GROUP BY identity");
    let refreshes = "SELECT identity, count(*) AS n FROM refreshes GROUP BY identity".to_owned();
    let mut rows: BTreeMap<String, Done> = BTreeMap::new();
    for (text, is_change) in [(changes, true), (refreshes, false)] {
        for row in stage.sql.query_all_raw(query(text)).await.unwrap() {
            let done = rows.entry(row.try_get("", "identity").unwrap()).or_default();
            let count = u64::try_from(row.try_get::<i64>("", "n").unwrap()).unwrap();
            if is_change { done.changes = count } else { done.refreshes = count }
        }
    }
    rows
}
