//! What somebody can do who writes to the database, and by what it is found: the table of `authd/STORE.md`,
//! cell by cell.

use authd::challenge::Challenge;
use authd::record::{Cause, DeviceRecord, DeviceState, SignedRequest};
use authd::store::{
    Backlog, Failure, Fault, Finding, Judge, Refreshing, SessionOpening, Since, Stands, Store, Verdict,
    Visitor,
};
use keychain::chain::Chain;
use keychain::message::Operation;
use keychain::{Code, Digest, Nonce, PublicKey, Refusal, Signature, Timestamp};
use std::time::Duration;
use tests::craft::{Device, Keys, key, message, now};
use tests::until;

use crate::macs::{self, ENTROPY, Row, Value};
use crate::stage::{Stage, gated};

crate::on_both!(
    each_way_to_write_is_found_by_what_the_page_says,
    a_commitment_to_ones_own_key_lets_nobody_in,
    a_whole_older_state_is_found_by_a_summary,
    a_lift_or_a_denial_that_was_put_back_is_found,
    an_end_of_sessions_and_its_denial_are_each_missed_by_the_other,
);

const PAGE: &str = include_str!("../../STORE.md");
const PATIENCE: Duration = Duration::from_secs(20);

/// What a walk came upon.
#[derive(Default)]
struct Seen {
    findings: Vec<Finding>,
    stands: Vec<Stands>,
}

impl Visitor for Seen {
    fn found(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn stands(&mut self, stands: Stands) {
        self.stands.push(stands);
    }
}

/// A store with rows in every table, and no authd that runs.
struct Scene {
    stage: Stage,
    store: Store,
    chain: Chain,
    device: Device,
    refresh: (Digest, Digest),
    challenge: Challenge,
}

impl Scene {
    async fn set(mut stage: Stage) -> Self {
        let auth = &stage.auth;
        let (mut device, other) = stage.couple().await;
        let gone = other.device;
        device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
        let recovery = key();
        device
            .gated(auth, "/recovery/change", |by, keys| by.change_request(keys, &recovery))
            .await
            .response();
        device.open_session(auth).await;
        let spent = (device.session().keys.ahead().public_key().digest(), Digest::of("another"));
        device.try_refresh(auth).await.response();
        device.try_refresh(auth).await.response();
        let service = stage.service();
        let challenge: Nonce = Nonce::parse(stage.rows("spent_challenges").await[0].word("nonce")).unwrap();
        let challenge = service.challenger.recognise(challenge, now(), Duration::from_secs(5)).unwrap();
        let (banned, lifted) = (Device::create(auth).await, Device::create(auth).await);
        assert!(stage.set_banned(&banned.identity, true).await);
        for banned in [true, false] {
            assert!(stage.set_banned(&lifted.identity, banned).await);
        }
        for role in ["/roles/grant", "/roles/revoke"] {
            assert!(stage.order(role, &device.identity, r#","role":"moderator""#).await);
        }
        let mut second = Device::create(auth).await;
        second.open_session(auth).await;
        assert!(stage.order("/roles/grant", &second.identity, r#","role":"moderator""#).await);
        let third = device.link(auth).await;
        device.open_session(auth).await;
        for (path, name, more) in [
            ("/owner/devices/name", device.device, r#","name":"phone""#),
            ("/owner/devices/name", third.device, r#","name":"tablet""#),
            ("/owner/sessions/end", third.device, ""),
            ("/owner/sessions/end", device.device, ""),
        ] {
            let request = format!(r#"{{"device":"{name}","operation":"{path}"{more}}}"#);
            auth.post(path, device.session().access(&request)).await.response();
        }
        stage.dump().await; // all is told
        let chain = stage.service().trust.state().chain().clone();
        until("two endorsements", PATIENCE, || async {
            (stage.rows("endorsements").await.len() == 2).then_some(())
        })
        .await;
        stage.dismiss().await;
        let mut signer = stage.rows("signers").await[0].clone();
        // A second one, as after a day.
        let another = key().public_key();
        let endorsement = stage.hsm.endorse_for(keychain::endorsement::Purpose::Access, another, "authd");
        signer.values = vec![Some(Value::Word(another.to_string())), Some(Value::Word(endorsement))];
        signer.mac = Some(macs::mac(signer.table, &signer.values, ENTROPY));
        stage.insert(&signer).await;
        let store = stage.open_store().await;
        Self { stage, store, chain, device, refresh: spent, challenge }
    }

    fn judge(&self) -> Judge<'_> {
        Judge { chain: &self.chain, denial: Duration::from_mins(16), now: now() }
    }

    async fn walk(&self) -> Seen {
        let mut seen = Seen::default();
        self.store.walk(self.judge(), &mut seen).await.unwrap();
        seen
    }

    async fn compare(&self, stood: &[Stands], at: Timestamp) -> Vec<Finding> {
        let mut seen = Seen::default();
        let judge = Judge { now: at, ..self.judge() };
        self.store.compare(stood, Since::default(), judge, &mut seen).await.unwrap();
        seen.findings
    }

    /// Whether who needs a row of the table gets an error, or goes on without it.
    async fn is_read_as_wrong(&self, table: &str) -> bool {
        let store = &self.store;
        let is_fault = |fault: Option<Fault>| matches!(fault, Some(Fault::Corrupt { .. }));
        match table {
            "account_records" | "device_records" | "role_records" | "ban_records" => {
                let mut wrong = false;
                for row in self.stage.rows("account_records").await {
                    let identity = Digest::parse(row.word("identity"));
                    wrong |= match identity {
                        Ok(identity) => is_fault(store.standing(&identity).await.err()),
                        Err(_) => true,
                    };
                }
                wrong || is_fault(store.standing(&self.device.identity).await.err())
            }
            "audit_lines" => is_fault(store.lines(0).await.err()),
            "endorsements" => {
                let rows = self.stage.rows(table).await.len();
                store.endorsements(now()).await.unwrap().len() < rows
            }
            "refreshes" => {
                let (digest, next) = self.refresh;
                let case =
                    Refreshing { identity: self.device.identity, device: self.device.device, digest, next };
                let refused = store.decide(&case, now(), |view| {
                    let refusal = Refusal::new(Code::Replay, "it is spent");
                    if view.spent.is_some() { Err(refusal) } else { Ok(Verdict::Answer(())) }
                });
                matches!(refused.await, Err(Failure::Store(Fault::Corrupt { .. })))
            }
            "spent_challenges" => {
                let (device, challenge) = (self.device.device, self.challenge);
                let case = SessionOpening { device, challenge, is_for: |_: &Digest| true };
                let asked = store.decide(&case, now(), |_| Ok(Verdict::Answer(())));
                matches!(asked.await, Err(Failure::Store(Fault::Corrupt { .. })))
            }
            "secrets" => is_fault(store.challenge_key(&[1; 32]).await.err()),
            "outbox" => {
                let page = store.pending(Backlog::All, 0, now()).await.unwrap();
                page.entries.len() < page.ids.len()
            }
            "device_names" => store.sightings(&self.device.identity).await.unwrap().unreadable > 0,
            "session_ends" => {
                let (digest, next) = self.refresh;
                let case =
                    Refreshing { identity: self.device.identity, device: self.device.device, digest, next };
                let asked = store.decide(&case, now(), |_| Ok(Verdict::Answer(())));
                matches!(asked.await, Err(Failure::Store(Fault::Corrupt { .. })))
            }
            "feeds" => is_fault(store.feed_position().await.err()),
            "marks" => {
                let refused = Store::open(&self.stage.database, macs::keys()).await;
                matches!(refused, Err(Fault::Corrupt { .. } | Fault::Location(_)))
            }
            _ => false,
        }
    }
}

/// The cells of the page: table, what is done to it, by what it is found.
fn cells() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut lines =
        PAGE.split("<!-- found -->\n").nth(1).unwrap().lines().take_while(|line| line.starts_with('|'));
    let words = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let heads = words(lines.next().unwrap());
    let rows = lines.skip(1).map(words);
    let mut cells = Vec::new();
    for row in rows {
        let table = row[0].trim_matches('`');
        cells.extend(heads.iter().zip(&row).skip(1).map(|(attack, found)| (table, *attack, *found)));
    }
    assert_eq!(cells.len(), macs::TABLES.len() * 6, "a table of the store is not on the page");
    cells
}

/// A row of the table that the account of the scene, or the readers, need.
fn victim(scene: &Scene, rows: &[Row]) -> usize {
    let identity = scene.device.identity.to_string();
    let digest = scene.refresh.0.to_string();
    let nonce = scene.challenge.nonce().to_string();
    let is_it = |row: &Row| match row.table.name {
        "device_records" | "device_names" | "session_ends" => {
            row.word("device") == scene.device.device.to_string()
        }
        "account_records" | "role_records" => row.word("identity") == identity,
        "refreshes" => row.word("digest") == digest,
        "spent_challenges" => row.word("nonce") == nonce,
        "secrets" => row.word("name") == "challenge",
        "marks" => row.word("name") == "macs",
        // What database 3 is told: the feed reads the others in the same way.
        "outbox" => row.word("cause") != "sessions",
        _ => true,
    };
    let mut found: Vec<usize> = (0..rows.len()).filter(|place| is_it(&rows[*place])).collect();
    if rows[0].place("sequence_number").is_some() {
        found.sort_by_key(|place| rows[*place].number("sequence_number"));
    }
    *found.last().unwrap()
}

/// Another row of the same table, to exchange with; of the same chain if `is_near`.
fn other(rows: &[Row], victim: usize, is_near: bool) -> usize {
    let is_of_chain = |row: &Row| {
        row.place("prefix").is_none_or(|_| (row.word("prefix") == rows[victim].word("prefix")) == is_near)
    };
    (0..rows.len()).find(|place| *place != victim && is_of_chain(&rows[*place])).unwrap()
}

/// Does one thing to a table.
async fn attack(scene: &Scene, rows: &[Row], attack: &str) {
    let stage = &scene.stage;
    let place = victim(scene, rows);
    let row = &rows[place];
    match attack {
        "altered" => {
            let mut changed = row.clone();
            let last = changed.values.iter().rposition(Option::is_some).unwrap();
            changed.values[last] = match changed.values[last].clone().unwrap() {
                Value::Flag(flag) => Some(Value::Flag(!flag)),
                Value::Number(number) => Some(Value::Number(number + 1)),
                Value::Word(word) => Some(Value::Word(format!("{word} "))),
            };
            stage.remove(row).await;
            stage.insert(&changed).await;
        }
        "exchanged with another" => {
            let mut one = row.clone();
            let mut two = rows[other(rows, place, false)].clone();
            stage.remove(&one).await;
            stage.remove(&two).await;
            // Everything but the key, with its MAC.
            let key = one.values[0].clone();
            one.values[0] = std::mem::replace(&mut two.values[0], key);
            stage.insert(&one).await;
            stage.insert(&two).await;
        }
        "repeated" => {
            let mut again = row.clone();
            again.values[0] = match again.values[0].clone().unwrap() {
                Value::Number(_) => {
                    let column = row.table.columns[0].0;
                    Some(Value::Number(rows.iter().map(|row| row.number(column)).max().unwrap() + 1))
                }
                _ if row.table.name == "spent_challenges" => {
                    Some(Value::Word(Nonce::from_bytes([1; 16]).to_string()))
                }
                _ if row.table.columns[0].0 == "public_key" => {
                    Some(Value::Word(key().public_key().to_string()))
                }
                _ => Some(Value::Word(Digest::of("again").to_string())),
            };
            if let Some(number) = row.place("sequence_number") {
                again.values[number] = Some(Value::Number(row.number("sequence_number") + 1));
            }
            stage.insert(&again).await;
        }
        "re-ordered" => {
            let mut one = row.clone();
            let mut two = rows[other(rows, place, true)].clone();
            stage.remove(&one).await;
            stage.remove(&two).await;
            let order = row.place("sequence_number").unwrap_or(0);
            std::mem::swap(&mut one.values[order], &mut two.values[order]);
            stage.insert(&one).await;
            stage.insert(&two).await;
        }
        "removed" if row.place("prefix").is_some() => {
            stage.remove(&rows[other(rows, place, true)]).await;
        }
        "removed" if row.table.name == "audit_lines" => stage.remove(&rows[1]).await,
        "removed" if row.table.name == "outbox" => {
            let denies = rows.iter().find(|row| row.word("cause") == "ban" && !is_lifted(row)).unwrap();
            stage.remove(denies).await;
        }
        "removed" if row.table.name == "signers" => {
            let signer = stage.rows("ban_records").await[0].word("signer").to_owned();
            stage.remove(rows.iter().find(|row| row.word("public_key") == signer).unwrap()).await;
        }
        "removed" | "newest removed" => {
            let newest = if row.table.name == "audit_lines" { rows.last().unwrap() } else { row };
            stage.remove(newest).await;
        }
        other => panic!("the page has a column `{other}` that is not tried"),
    }
}

fn is_lifted(row: &Row) -> bool {
    row.values[row.place("lifted").unwrap()] == Some(Value::Flag(true))
}

async fn each_way_to_write_is_found_by_what_the_page_says(stage: Stage) {
    let scene = Scene::set(stage).await;
    let mut tried = 0;
    for (table, done, found_by) in cells() {
        if found_by == "–" {
            continue;
        }
        tried += 1;
        let rows = scene.stage.rows(table).await;
        let is_wrong = scene.is_read_as_wrong(table).await;
        assert!(!is_wrong, "{table}: something is wrong before it is {done}");
        // As of when nobody can add to the sets of rows that end together any more.
        let as_of = match table {
            "spent_challenges" => rows[victim(&scene, &rows)].number("forgotten_at") - 20_000,
            "refreshes" => now().unix_millis() + 600_000,
            _ => now().unix_millis(),
        };
        let mut stood = Seen::default();
        let judge = Judge { now: Timestamp::from_unix_millis(as_of), ..scene.judge() };
        scene.store.walk(judge, &mut stood).await.unwrap();
        assert_eq!(stood.findings, [], "{table} was not put back");
        assert_eq!(scene.compare(&stood.stands, judge.now).await, []);

        attack(&scene, &rows, done).await;
        let findings = scene.walk().await.findings;
        match found_by {
            "read" => {
                assert!(
                    scene.is_read_as_wrong(table).await,
                    "{table}, {done}: nothing is wrong when it is read"
                );
                if table != "marks" {
                    assert!(!findings.is_empty(), "{table}, {done}: the check finds nothing");
                }
            }
            "check" => assert!(!findings.is_empty(), "{table}, {done}: the check finds nothing"),
            "summary" => {
                let gone = scene.compare(&stood.stands, judge.now).await;
                assert!(gone.iter().any(|finding| finding.table == table), "{table}, {done}: {gone:?}");
            }
            other => panic!("{table}, {done}: `{other}` is no way to find anything"),
        }
        scene.stage.put_back(table, &rows).await;
    }
    println!("{tried} ways to write were found");
    assert!(tried > 55, "{tried}");
}

/// The device's request that made a row.
fn request(row: &Row) -> SignedRequest {
    SignedRequest {
        operation: Operation::from_path(row.word("path")).unwrap(),
        digest: Digest::parse(row.word("cause")).unwrap(),
        payload: row.word("payload").to_owned(),
        signature: Signature::parse(row.word("signature")).unwrap(),
    }
}

/// The victim's newest row committing to somebody's own key, its address computed anew; MACs as the thief can
/// make them.
async fn a_commitment_to_ones_own_key_lets_nobody_in(mut stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    let his = Keys::draw();
    let good = stage.rows("device_records").await.remove(0);
    let digest = |column: &str| Digest::parse(good.word(column)).unwrap();
    let keys = (PublicKey::parse(good.word("public_key")).unwrap(), his.public_key().digest());
    let made = Timestamp::from_unix_millis(good.number("created_at"));
    let owner = (digest("identity"), digest("device"));
    let record = DeviceRecord::new(None, owner, keys, DeviceState::Active, request(&good), made);
    assert!(record.is_intact() && matches!(record.cause, Cause::Device(_)));
    let mut forged = good.clone();
    for (column, text) in [
        ("id", record.version.id),
        ("prefix", record.version.prefix),
        ("rotation_hash", record.rotation_hash),
    ] {
        let place = forged.place(column).unwrap();
        forged.values[place] = Some(Value::Word(text.to_string()));
    }
    let by_his_key = macs::mac(forged.table, &forged.values, [9; 32]);
    let (_, his_mac) = by_his_key.split_once('.').unwrap();
    let named = good.mac.as_deref().unwrap().split_once('.').unwrap().0;
    for mac in [
        good.mac.clone(),
        None,
        Some(String::new()),
        Some(by_his_key.clone()),
        Some(format!("{named}.{his_mac}")),
        Some(named.to_owned()),
    ] {
        stage.put_back("device_records", &[Row { mac, ..forged.clone() }]).await;
        let theft = message(&device.rotate_request(&his), &his.current);
        stage.refuses("/device/rotate", theft, Code::Internal).await;
        let (rotate, _, _) = gated(&device, Device::rotate_request);
        stage.refuses("/device/rotate", rotate, Code::Internal).await;
    }
    // Even a MAC would not hide it from the walk.
    let mac = macs::mac(forged.table, &forged.values, ENTROPY);
    stage.put_back("device_records", &[Row { mac: Some(mac), ..forged }]).await;
    let chain = stage.service().trust.state().chain().clone();
    let judge = Judge { chain: &chain, denial: Duration::from_mins(16), now: now() };
    let mut seen = Seen::default();
    stage.open_store().await.walk(judge, &mut seen).await.unwrap();
    let because: Vec<_> = seen.findings.iter().map(|finding| finding.because.as_str()).collect();
    assert!(because.contains(&"it is not what its request asked for"), "{because:?}");
    stage.put_back("device_records", &[good]).await;
    assert_eq!(device.rotate(&stage.auth).await.status, 200);
    stage.dismiss().await;
}

async fn a_whole_older_state_is_found_by_a_summary(stage: Stage) {
    let names = macs::TABLES.map(|table| table.name);
    let mut scene = Scene::set(stage).await;
    let mut older = Vec::new();
    for name in names {
        older.push((name, scene.stage.rows(name).await));
    }
    scene.stage.restart().await;
    let mut device = Device { session: None, ..scene.device };
    device.rotate(&scene.stage.auth).await.response();
    Device::create(&scene.stage.auth).await;
    assert!(scene.stage.set_banned(&device.identity, true).await);
    scene.device = device;
    scene.stage.dump().await;
    scene.stage.dismiss().await;
    let stood = scene.walk().await;
    assert_eq!(stood.findings, []);
    for (name, rows) in &older {
        scene.stage.put_back(name, rows).await;
    }
    assert_eq!(scene.walk().await.findings, [], "an older state holds by itself");
    let gone = scene.compare(&stood.stands, now()).await;
    for table in ["account_records", "device_records", "ban_records", "audit_lines", "feeds", "outbox"] {
        assert!(gone.iter().any(|finding| finding.table == table), "{table}: {gone:?}");
    }
    let rotated = gone
        .iter()
        .find(|finding| finding.table == "device_records" && finding.because.contains("ends with"));
    assert!(rotated.unwrap().because.contains(&scene.device.identity.to_string()), "{gone:?}");
    assert!(gone.iter().any(|finding| finding.because.contains("is gone")), "{gone:?}");
}

async fn a_lift_or_a_denial_that_was_put_back_is_found(mut stage: Stage) {
    let device = Device::create(&stage.auth).await;
    assert!(stage.set_banned(&device.identity, true).await);
    stage.dump().await;
    let denials = stage.rows("outbox").await;
    assert!(stage.set_banned(&device.identity, false).await);
    stage.dump().await;
    let chain = stage.service().trust.state().chain().clone();
    let judge = Judge { chain: &chain, denial: Duration::from_mins(16), now: now() };
    stage.dismiss().await;
    let store = stage.open_store().await;
    let lifted = stage.rows("outbox").await;
    for (rows, because) in [
        (denials.clone(), "its lift is missing in the outbox, so edges may not hear of it"),
        ([lifted.clone(), denials].concat(), "no record says what it denies"),
        (Vec::new(), "its lift is missing in the outbox, so edges may not hear of it"),
    ] {
        stage.put_back("outbox", &rows).await;
        let mut seen = Seen::default();
        store.walk(judge, &mut seen).await.unwrap();
        let found: Vec<_> = seen.findings.iter().map(|finding| finding.because.as_str()).collect();
        assert!(found.contains(&because), "{found:?}");
    }
    stage.put_back("outbox", &lifted).await;
    let mut seen = Seen::default();
    store.walk(judge, &mut seen).await.unwrap();
    assert_eq!(seen.findings, []);
}

async fn an_end_of_sessions_and_its_denial_are_each_missed_by_the_other(mut stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let path = "/owner/sessions/end";
    let request = format!(r#"{{"device":"{}","operation":"{path}"}}"#, device.device);
    stage.auth.post(path, device.session().access(&request)).await.response();
    stage.dump().await;
    let chain = stage.service().trust.state().chain().clone();
    let judge = Judge { chain: &chain, denial: Duration::from_mins(16), now: now() };
    stage.dismiss().await;
    let store = stage.open_store().await;
    let walk = async || {
        let mut seen = Seen::default();
        store.walk(judge, &mut seen).await.unwrap();
        seen.findings.iter().map(|finding| (finding.table, finding.because.clone())).collect::<Vec<_>>()
    };
    assert_eq!(walk().await, []);
    for (table, missed_by, because) in [
        ("outbox", "session_ends", "its denial is missing in the outbox, so edges may not hear of it"),
        ("session_ends", "outbox", "no record says what it denies"),
    ] {
        let rows = stage.rows(table).await;
        assert_eq!(rows.len(), 1);
        stage.remove(&rows[0]).await;
        assert_eq!(walk().await, [(missed_by, because.to_owned())]);
        stage.put_back(table, &rows).await;
        assert_eq!(walk().await, []);
    }
}
