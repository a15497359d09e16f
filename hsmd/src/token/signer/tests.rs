use std::sync::{
    Mutex,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use keychain::SigningKey;

use super::*;
use crate::token::{
    Slot,
    backend::{Kept, KeyIds, Rung},
    member::Member,
};

/// More calls than any test here makes.
const CALLS_MAX: usize = 1024;

/// A token that says which call has reached it, and answers only when it is let.
struct Gated {
    calls: SyncSender<String>,
    gate: Receiver<Step>,
}

enum Step {
    Answer,
    Break,
    Fail,
}

/// The test's end of it.
struct Device {
    calls: Receiver<String>,
    gate: SyncSender<Step>,
}

impl Device {
    fn start() -> (Signer, Self, thread::JoinHandle<()>) {
        let (calls, called) = sync_channel(CALLS_MAX);
        let (open, gate) = sync_channel(CALLS_MAX);
        let (signer, thread) = Signer::start(Box::new(Gated { calls, gate })).unwrap();
        (signer, Self { calls: called, gate: open }, thread)
    }

    /// The next call that reaches the token.
    async fn call(&self) -> String {
        loop {
            match self.calls.try_recv() {
                Ok(call) => return call,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    fn answer(&self, step: Step) {
        self.gate.send(step).unwrap();
    }
}

impl Gated {
    fn pass<T>(&self, call: String, answer: T) -> Result<T, Fault> {
        self.calls.send(call).unwrap();
        match self.gate.recv().unwrap() {
            Step::Answer => Ok(answer),
            Step::Break => panic!("a bug in a module"),
            Step::Fail => Err(Fault::Refused { call: "a call".to_owned(), source: "planned".into() }),
        }
    }
}

impl Backend for Gated {
    fn generate(&mut self, id: KeyId) -> Result<Key, Fault> {
        let handle = Handle { epoch: 0, number: 0 };
        self.pass(format!("generate {id}"), Key { handle, id, public_key: key(1), carriable: false })
    }

    fn sign(&mut self, _: Handle, digest: &[u8; 32]) -> Result<Signature, Fault> {
        self.pass(format!("sign {}", digest[0]), Signature::from_bytes([digest[0]; 64]))
    }

    fn inventory(&mut self) -> Result<Inventory, Fault> {
        let key = |number: u8| Key {
            handle: Handle { epoch: 0, number: number.into() },
            id: KeyIds::default().of(number.into()),
            public_key: key(number),
            carriable: false,
        };
        self.pass("list".to_owned(), Inventory { keys: vec![key(1), key(2)], halves: Vec::new() })
    }

    fn destroy(&mut self, _: Handle) -> Result<(), Fault> {
        self.pass("destroy".to_owned(), ())
    }

    fn reconnect(&mut self, _: Rung) -> Result<(), Fault> {
        Ok(())
    }
}

fn key(number: u8) -> PublicKey {
    SigningKey::from_seed(&[number; 32]).unwrap().public_key()
}

type Answers = Arc<Mutex<Vec<(u8, Result<u8, Fault>)>>>;

/// Asks for a signature and notes what came of it.
fn ask(signer: &Signer, answers: &Answers, digest: u8, class: Class) -> tokio::task::JoinHandle<()> {
    let (signer, answers) = (signer.clone(), Arc::clone(answers));
    tokio::spawn(async move {
        let done = signer.sign(key(1), [digest; 32], class).await;
        answers.lock().unwrap().push((digest, done.map(|signature| signature.bytes()[0])));
    })
}

/// Waits until so many requests are in the queue or at the token.
async fn until(signer: &Signer, waiting: usize) {
    while signer.waiting() != waiting {
        tokio::task::yield_now().await;
    }
}

/// Lets the first signature come as far as the token, with the keys known; others then wait behind it.
async fn hold(signer: &Signer, device: &Device, answers: &Answers) -> tokio::task::JoinHandle<()> {
    let held = ask(signer, answers, 0, Class::Endorsement);
    assert_eq!(device.call().await, "list");
    device.answer(Step::Answer);
    assert_eq!(device.call().await, "sign 0");
    held
}

#[tokio::test]
async fn classes_are_served_in_strict_order() {
    let (signer, device, _thread) = Device::start();
    let answers = Answers::default();
    let mut asked = vec![hold(&signer, &device, &answers).await];
    let classes =
        [(1, Class::Probe), (2, Class::Endorsement), (3, Class::Statement), (4, Class::Endorsement)];
    for (waiting, (digest, class)) in (2..).zip(classes) {
        asked.push(ask(&signer, &answers, digest, class));
        until(&signer, waiting).await;
    }
    let chain = signer.clone();
    let generated = tokio::spawn(async move { chain.generate(KeyIds::default().of(7)).await });
    until(&signer, 6).await;
    assert_eq!(
        signer.depths().map(|(class, depth)| (class.as_str(), depth)),
        [("chain", 1), ("statement", 1), ("endorsement", 3), ("probe", 1),]
    );
    for _ in 0..6 {
        device.answer(Step::Answer);
    }
    for expected in ["generate 0008", "sign 3", "sign 2", "sign 4", "sign 1"] {
        assert_eq!(device.call().await, expected);
    }
    generated.await.unwrap().unwrap();
    for asked in asked {
        asked.await.unwrap();
    }
    until(&signer, 0).await;
    assert_eq!(answers.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn each_queue_has_its_own_bound() {
    let (signer, device, _thread) = Device::start();
    let answers = Answers::default();
    let mut asked = vec![hold(&signer, &device, &answers).await];
    let capacity = Class::Endorsement.capacity();
    for digest in 1..=u8::try_from(capacity).unwrap() {
        asked.push(ask(&signer, &answers, digest, Class::Endorsement));
    }
    until(&signer, capacity + 1).await;
    let refused = signer.sign(key(1), [255; 32], Class::Endorsement).await.unwrap_err();
    assert!(matches!(refused, Fault::Busy { capacity: shown } if shown == capacity), "{refused}");
    asked.push(ask(&signer, &answers, 254, Class::Statement));
    until(&signer, capacity + 2).await;
    for _ in 0..capacity + 2 {
        device.answer(Step::Answer);
    }
    assert_eq!(device.call().await, "sign 254");
    for asked in asked {
        asked.await.unwrap();
    }
    assert!(answers.lock().unwrap().iter().all(|(digest, done)| matches!(done, Ok(same) if same == digest)));
}

#[tokio::test]
async fn equal_requests_share_a_signature_or_its_fault() {
    for step in [Step::Answer, Step::Fail] {
        let (signer, device, _thread) = Device::start();
        let answers = Answers::default();
        let mut asked = vec![hold(&signer, &device, &answers).await];
        // With the one at the token, and with one that waits; never with one of another class.
        for digest in [0, 1, 0, 1, 1] {
            asked.push(ask(&signer, &answers, digest, Class::Endorsement));
        }
        asked.push(ask(&signer, &answers, 1, Class::Statement));
        until(&signer, 3).await;
        let fails = matches!(step, Step::Fail);
        device.answer(step);
        device.answer(Step::Answer);
        device.answer(Step::Answer);
        for asked in asked {
            asked.await.unwrap();
        }
        assert_eq!([device.call().await, device.call().await], ["sign 1", "sign 1"]);
        assert!(device.calls.try_recv().is_err(), "three signatures for seven requests");
        let answers = answers.lock().unwrap();
        assert_eq!(answers.len(), 7);
        for (digest, done) in answers.iter() {
            match done {
                Ok(same) => assert_eq!(same, digest),
                Err(fault) => assert!(fails && *digest == 0 && matches!(fault, Fault::Refused { .. })),
            }
        }
        assert_eq!(answers.iter().filter(|(_, done)| done.is_err()).count(), if fails { 3 } else { 0 });
    }
}

#[tokio::test]
async fn what_waits_for_a_retired_key_is_told_so_without_a_listing() {
    let (signer, device, _thread) = Device::start();
    let answers = Answers::default();
    let held = hold(&signer, &device, &answers).await;
    let late = ask(&signer, &answers, 1, Class::Endorsement);
    until(&signer, 2).await;
    let chain = signer.clone();
    let retired = tokio::spawn(async move { chain.retire(key(1)).await });
    until(&signer, 3).await;
    device.answer(Step::Answer);
    assert_eq!(device.call().await, "destroy");
    device.answer(Step::Answer);
    for asked in [held, late] {
        asked.await.unwrap();
    }
    retired.await.unwrap().unwrap();
    assert!(device.calls.try_recv().is_err());
    assert!(matches!(answers.lock().unwrap()[1], (1, Err(Fault::NoSuchKey(_)))));
    // Another's key does cost a lookup.
    let other = signer.clone();
    let other = tokio::spawn(async move { other.sign(key(3), [1; 32], Class::Endorsement).await });
    assert_eq!(device.call().await, "list");
    device.answer(Step::Answer);
    assert!(matches!(other.await.unwrap(), Err(Fault::NoSuchKey(_))));
}

#[tokio::test]
async fn a_thread_that_ends_tells_everybody() {
    let (signer, device, thread) = Device::start();
    let answers = Answers::default();
    let asked = [hold(&signer, &device, &answers).await, ask(&signer, &answers, 1, Class::Probe)];
    until(&signer, 2).await;
    assert!(signer.time_in_call().is_some());
    device.answer(Step::Break);
    for asked in asked {
        asked.await.unwrap();
    }
    assert!(answers.lock().unwrap().iter().all(|(_, done)| matches!(done, Err(Fault::Stopped))));
    assert!(matches!(signer.inventory().await, Err(Fault::Stopped)));
    assert_eq!(signer.waiting(), 0);
    assert!(thread.join().is_err());
}

#[tokio::test]
async fn the_thread_ends_with_the_last_who_could_ask() {
    let (signer, device, thread) = Device::start();
    let clone = signer.clone();
    drop(signer);
    let listed = tokio::spawn(async move { clone.inventory().await });
    assert_eq!(device.call().await, "list");
    device.answer(Step::Answer);
    assert_eq!(listed.await.unwrap().unwrap().keys.len(), 2);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap();
}

/// A PIN that is refused later closes the connection; what was kept of the device's log is still to be written.
#[tokio::test]
async fn a_device_log_outlives_its_connection() {
    let (signer, _device, _thread) = Device::start();
    let kept = Kept { device: "1".to_owned(), entries: 30, newest: "aa".to_owned(), gaps: 0 };
    signer.log().add(kept.clone());
    let member = Member::opened(Slot::First, signer, true);
    member.give_up();
    assert_eq!(member.device_log(), [kept]);
    assert!(member.device_log().is_empty());
}
