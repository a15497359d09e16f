//! How many statements an operation has the database carry out, those that begin and end transactions among them.
//!
//! sea-orm opens a span for each of them, in the task that asks. So an operation that is carried out by the test
//! itself is counted by itself, whatever the daemon's own tasks do meanwhile. What sea-orm does not tell of,
//! PostgreSQL's log does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use authd::operation::owner;
use keychain::Code;
use keychain::message::Operation;
use sea_orm::DbBackend;
use tests::craft::{Device, Keys, Session, key, message};
use tests::until;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

use crate::stage::{Stage, gated};

crate::on_both!(
    operations_take_few_statements,
    what_is_refused_unproven_takes_one_statement_whoever_is_named,
    repeats_take_one_statement,
    owners_requests_take_few_statements,
);

/// The spans of statements: where they are opened, and how they are named.
const STATEMENTS: [(&str, &[&str]); 2] = [
    (
        "sea_orm::database::db_connection",
        &["execute_raw", "execute_unprepared", "query_one_raw", "query_all_raw"],
    ),
    (
        "sea_orm::database::transaction",
        &[
            "execute_raw",
            "execute_unprepared",
            "query_one_raw",
            "query_all_raw",
            "begin",
            "commit",
            "rollback",
        ],
    ),
];

/// Writes down the statements of each thread whose subscriber it is.
struct Asked;

/// One for all tests, and another that nobody uses: while there is but one, a place that tells for the first time in a
/// thread without it would remember that nobody listens.
static ASKED: LazyLock<[Dispatch; 2]> = LazyLock::new(|| [Dispatch::new(Asked), Dispatch::new(Asked)]);

thread_local! {
    static HERE: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

impl Subscriber for Asked {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_of = |(target, names): &(&str, &[&str])| {
            metadata.target() == *target && names.contains(&metadata.name())
        };
        metadata.is_span() && STATEMENTS.iter().any(is_of)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        HERE.with_borrow_mut(|here| here.push(span.metadata().name()));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Has a request carried out, and tells which statements that took, and how it was refused if it was.
async fn count(stage: &Stage, operation: Operation, body: &str) -> (Vec<&'static str>, Option<Code>) {
    let outcome = {
        let [listener, _] = &*ASKED;
        let _here = tracing::dispatcher::set_default(listener);
        tracing::callsite::rebuild_interest_cache();
        let service = stage.service();
        service.answer(operation, body.as_bytes(), service.now()).await
    };
    let code = outcome.err().map(|failure| failure.into_refusal().code());
    (HERE.take(), code)
}

/// What a session is opened or refreshed with.
fn opening(device: &Device, challenge: &str) -> (String, Keys) {
    let access = Keys::draw();
    (message(&device.session_request(&access, challenge), &device.keys.current), access)
}

fn refreshing(session: &Session) -> String {
    let keys = session.keys.ahead();
    message(&session.refresh_request(&keys), &keys.current)
}

/// A body for each operation that writes, in an order in which each is carried out.
async fn bodies(stage: &Stage) -> Vec<(Operation, String)> {
    let auth = &stage.auth;
    let founder = Device::draw();
    let mut bodies =
        vec![(Operation::AccountCreate, message(&founder.create_request(), &founder.keys.current))];
    let mut device = Device::create(auth).await;
    bodies.push((Operation::SessionCreate, opening(&device, &device.challenge(auth).await).0));
    device.open_session(auth).await;
    bodies.push((Operation::SessionRefresh, refreshing(device.session())));
    let mut push = |operation, (body, _, keys): (String, String, Keys)| {
        bodies.push((operation, body));
        keys
    };
    let (linked, recovery) = (device.another(), key());
    let container = linked.link_container();
    device.keys = push(Operation::DeviceRotate, gated(&device, Device::rotate_request));
    device.keys = push(Operation::DeviceLink, gated(&device, |by, keys| by.link_request(keys, &container)));
    device.keys =
        push(Operation::RecoveryChange, gated(&device, |by, keys| by.change_request(keys, &recovery)));
    device.keys =
        push(Operation::DeviceUnlink, gated(&device, |by, keys| by.unlink_request(keys, &linked.device)));
    let mut fresh = device.another();
    fresh.recovery = recovery;
    bodies.push((Operation::AccountRecover, message(&fresh.recover_request(&key()), &fresh.recovery)));
    bodies.push((Operation::AccountDelete, gated(&fresh, Device::rotate_request).0));
    bodies
}

async fn operations_take_few_statements(stage: Stage) {
    let (read, locks) = match stage.sql.get_database_backend() {
        DbBackend::Postgres => ("query_one_raw", &["query_one_raw"][..]),
        _ => ("query_one_raw", &[][..]),
    };
    // Between the lock and the commit: what is read besides, and the tables that are appended to.
    let (list, count_devices, append) = ("query_all_raw", "query_one_raw", "execute_raw");
    // The numbers of rows of the outbox, which their MACs cover.
    let number = "query_all_raw";
    let locked = |between: &[&'static str]| [&[read, "begin"], locks, between, &["commit"]].concat();
    let expected = [
        (Operation::AccountCreate, locked(&[append, append]), 6),
        (Operation::SessionCreate, vec!["query_all_raw", append], 5),
        (Operation::SessionRefresh, vec![read, append], 5),
        (Operation::DeviceRotate, locked(&[append]), 6),
        (Operation::DeviceLink, locked(&[count_devices, append]), 7),
        (Operation::RecoveryChange, locked(&[append, append]), 6),
        (Operation::DeviceUnlink, locked(&[append, number, append]), 7),
        (Operation::AccountRecover, locked(&[list, append, append, number, append]), 9),
        (Operation::AccountDelete, locked(&[list, append, append, number, append]), 9),
    ];
    let bodies = bodies(&stage).await;
    assert_eq!(bodies.len(), expected.len());
    for ((operation, body), (named, statements, most)) in bodies.into_iter().zip(expected) {
        assert_eq!(operation, named);
        let (asked, code) = count(&stage, operation, &body).await;
        assert_eq!((code, &asked), (None, &statements), "{operation}");
        assert!(asked.len() <= most, "{operation}: {asked:?}");
    }
}

async fn what_is_refused_unproven_takes_one_statement_whoever_is_named(stage: Stage) {
    let auth = &stage.auth;
    let mut device = Device::create(auth).await;
    for _ in 0..3 {
        device.link(auth).await;
    }
    let (nobody, stranger) = (Device::draw(), Keys::draw());
    let challenge = device.challenge(auth).await;
    let signed = |request: String| message(&request, &stranger.current);
    let junk = |device: &Device| {
        let recovering = Device { recovery: key(), ..device.another() };
        vec![
            (Operation::DeviceRotate, signed(device.rotate_request(&stranger)), Code::RotationMismatch),
            (Operation::AccountDelete, signed(device.rotate_request(&stranger)), Code::RotationMismatch),
            (
                Operation::DeviceLink,
                signed(device.link_request(&stranger, &device.another().link_container())),
                Code::RotationMismatch,
            ),
            (
                Operation::DeviceUnlink,
                signed(device.unlink_request(&stranger, &device.device)),
                Code::RotationMismatch,
            ),
            (
                Operation::AccountRecover,
                message(&recovering.recover_request(&key()), &recovering.recovery),
                Code::RotationMismatch,
            ),
            (
                Operation::SessionCreate,
                signed(device.session_request(&Keys::draw(), &challenge)),
                Code::BadSignature,
            ),
        ]
    };
    for ((operation, known, code), (_, unknown, _)) in junk(&device).into_iter().zip(junk(&nobody)) {
        let (known, unknown) =
            (count(&stage, operation, &known).await, count(&stage, operation, &unknown).await);
        assert_eq!((known.1, unknown.1), (Some(code), Some(Code::UnknownDevice)), "{operation}");
        assert_eq!(known.0.len(), 1, "{operation}: {:?}", known.0);
        assert_eq!(known.0, unknown.0, "{operation}");
    }
    // Anyone may ask for a challenge, and no row is read for it.
    for device in [&device, &nobody] {
        let request = format!(r#"{{"authentication":{{"identity":"{}"}}}}"#, device.identity);
        let body = format!(r#"{{"payload":{}}}"#, tests::craft::payload(&request));
        assert_eq!(count(&stage, Operation::SessionRequest, &body).await, (vec![], None));
    }
}

async fn owners_requests_take_few_statements(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let body = device.session().access(r#"{"operation":"/owner/devices/list"}"#);
    let asked = async || {
        let outcome = {
            let [listener, _] = &*ASKED;
            let _here = tracing::dispatcher::set_default(listener);
            tracing::callsite::rebuild_interest_cache();
            let service = stage.service();
            service.answer_owner(owner::Operation::DevicesList, body.as_bytes(), service.now()).await
        };
        let code = outcome.err().map(|failure| failure.into_refusal().code());
        (HERE.take(), code)
    };
    assert_eq!(asked().await, (vec!["query_one_raw", "execute_raw", "query_all_raw"], None));
    assert_eq!(asked().await, (vec!["query_one_raw"], Some(Code::Replay)));
}

async fn repeats_take_one_statement(stage: Stage) {
    for (operation, body) in bodies(&stage).await {
        assert_eq!(count(&stage, operation, &body).await.1, None, "{operation}");
        let (asked, code) = count(&stage, operation, &body).await;
        // The challenge is spent, and the recovered account is the last to repeat what revoked its devices.
        let expected = (operation == Operation::SessionCreate).then_some(Code::UnknownChallenge);
        assert_eq!((asked.len(), code), (1, expected), "{operation}: {asked:?}");
    }
}

/// What PostgreSQL itself says: nothing is asked of it besides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_carries_out_what_was_counted_and_nothing_else() {
    let stage = Stage::on_postgres_with(&["log_statement=all", "log_line_prefix=%p:%a:"]).await;
    for (operation, body) in bodies(&stage).await {
        let before = stage.postgres_log().len();
        let (asked, code) = count(&stage, operation, &body).await;
        assert_eq!(code, None, "{operation}");
        let carried_out = until("the statements in the log", Duration::from_secs(10), || async {
            let carried_out = of_operations(&stage.postgres_log()[before..]);
            (carried_out.len() >= asked.len()).then_some(carried_out)
        })
        .await;
        assert_eq!(carried_out.len(), asked.len(), "{operation}: {carried_out:#?}");
    }
}

/// The statements of authd in a log, without those of its tasks: transactions that touch no table of operations.
fn of_operations(log: &str) -> Vec<String> {
    const TABLES: [&str; 4] = ["account_records", "device_records", "refreshes", "spent_challenges"];
    let mut transactions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut found = Vec::new();
    for line in log.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(process), Some("authd"), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let statement = text.strip_prefix("LOG:  statement: ");
        let executed = text.strip_prefix("LOG:  execute ").and_then(|text| text.split_once(": "));
        let Some(statement) = statement.or(executed.map(|(_, statement)| statement)) else { continue };
        let open = transactions.entry(process).or_default();
        open.push(statement.to_owned());
        let (begins, ends) = (open[0] == "BEGIN", matches!(statement, "COMMIT" | "ROLLBACK"));
        if !begins || ends {
            let whole = std::mem::take(open);
            if whole.iter().any(|statement| TABLES.iter().any(|table| statement.contains(table))) {
                found.extend(whole);
            }
        }
    }
    found
}
