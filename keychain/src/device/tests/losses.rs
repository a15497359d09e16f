//! A lost request or reply at any step never strands a device (`PROTOCOL.md#exact-repeats`).

use std::time::Duration;

use super::server::Server;
use super::world::{World, key, recovery_hash};
use crate::{
    cesr::Digest,
    device::{Device, Outgoing},
    error::{Code, Refusal},
    message::Operation,
};

/// What becomes of one operation's messages before one gets through.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Request,
    Reply,
    ReplyTwice,
    LateReply,
}

/// The world, with a loss at one of the steps.
struct Pair {
    world: World,
    server: Server,
    step: usize,
    loss: Option<(usize, Loss)>,
}

impl Pair {
    fn new(loss: Option<(usize, Loss)>) -> Self {
        Self { world: World::new(), server: Server::default(), step: 0, loss }
    }

    /// Sees one operation through, saving and restoring the device wherever it could be killed.
    fn run(
        &mut self,
        device: &mut Device,
        command: impl FnOnce(&mut Device, &mut World) -> Result<Outgoing, Refusal>,
    ) {
        let mut outgoing = command(device, &mut self.world).unwrap();
        self.reborn(device);
        if let Some((step, loss)) = self.loss
            && step == self.step
        {
            outgoing = self.lose(device, &outgoing, loss);
        }
        self.deliver(device, &outgoing);
        self.step += 1;
    }

    fn lose(&mut self, device: &mut Device, outgoing: &Outgoing, loss: Loss) -> Outgoing {
        self.world.pass(Duration::from_secs(5));
        let mut late = None;
        if loss != Loss::Request {
            late =
                Some(self.server.answer(&self.world, outgoing.operation, outgoing.body.as_bytes()).unwrap());
        }
        if loss == Loss::ReplyTwice {
            let again = device.retry(&mut self.world.entropy()).unwrap();
            self.server.answer(&self.world, again.operation, again.body.as_bytes()).unwrap();
        }
        let again = device.retry(&mut self.world.entropy()).unwrap();
        self.reborn(device);
        if let (Loss::LateReply, Some(late)) = (loss, late) {
            let late = device.handle_response(late.as_bytes(), &self.world.trust(), self.world.now);
            assert_eq!(late.unwrap_err().code(), Code::IncorrectNonce);
        }
        again
    }

    fn deliver(&mut self, device: &mut Device, outgoing: &Outgoing) {
        self.world.exchange(&mut self.server, device, outgoing).unwrap();
        self.reborn(device);
    }

    /// Killed and started again: at the step that loses something, or at all of them if none does.
    fn reborn(&self, device: &mut Device) {
        if self.loss.is_none_or(|(step, _)| step == self.step) {
            *device = Device::restore(&device.save().unwrap()).unwrap();
        }
    }

    fn open_session(&mut self, device: &mut Device) {
        self.run(device, |device, world| device.session_request(&mut world.entropy()));
        self.run(device, |device, world| device.session_create(&mut world.entropy()));
        if device.is_challenged() {
            // It was lost, and has started over.
            self.run(device, |device, world| device.session_create(&mut world.entropy()));
        }
        let claims = device.claims().expect("a session");
        assert_eq!((Some(claims.identity), Some(claims.device)), (device.identity(), device.device()));
    }
}

/// Every operation once or more, by three devices of one account.
fn life(pair: &mut Pair) {
    let (mut first, mut second, mut third) = (Device::new(), Device::new(), Device::new());
    pair.run(&mut first, |device, world| device.create(&recovery_hash(30), &mut world.entropy()));
    let identity = first.identity().unwrap();
    pair.open_session(&mut first);
    pair.run(&mut first, |device, world| device.session_refresh(&mut world.entropy()));
    pair.run(&mut first, |device, world| device.rotate(&mut world.entropy()));

    let container = second.join(&identity, &mut pair.world.entropy()).unwrap();
    pair.reborn(&mut second);
    assert_eq!(second.container(), Some(container.as_str()));
    pair.run(&mut first, |device, world| device.link(&container, &mut world.entropy()));
    pair.open_session(&mut second);
    assert_eq!(second.container(), None);
    pair.run(&mut second, |device, world| device.change_recovery(&recovery_hash(31), &mut world.entropy()));
    let gone = first.device().unwrap();
    pair.run(&mut second, |device, world| device.unlink(&gone, &mut world.entropy()));
    pair.run(&mut second, |device, world| device.session_refresh(&mut world.entropy()));
    let own = second.device().unwrap();
    pair.run(&mut second, |device, world| device.unlink(&own, &mut world.entropy()));
    assert_eq!((second.identity(), second.claims()), (None, None));

    pair.run(&mut third, |device, world| {
        device.recover(&identity, &key(31), &recovery_hash(32), &mut world.entropy())
    });
    pair.open_session(&mut third);
    pair.run(&mut third, |device, world| device.rotate(&mut world.entropy()));
    pair.run(&mut third, |device, world| device.delete(&mut world.entropy()));
    assert_eq!(third.identity(), None);

    let outgoing = first.rotate(&mut pair.world.entropy()).unwrap();
    let refused = pair.world.exchange(&mut pair.server, &mut first, &outgoing).unwrap_err();
    assert_eq!(refused.code(), Code::UnknownDevice);
}

/// What the server applied when nothing is lost: the same must have been applied whatever is lost.
fn applied_without_losses() -> (usize, Vec<Operation>) {
    let mut pair = Pair::new(None);
    life(&mut pair);
    (pair.step, pair.server.applied)
}

#[test]
fn every_operation_survives_every_loss_at_every_step() {
    let (steps, applied) = applied_without_losses();
    assert_eq!(steps, 17);
    for step in 0..steps {
        for loss in [Loss::Request, Loss::Reply, Loss::ReplyTwice, Loss::LateReply] {
            let mut pair = Pair::new(Some((step, loss)));
            life(&mut pair);
            // A lost session creation is the one thing that is done twice.
            let mut once = pair.server.applied.clone();
            once.dedup_by(|later, earlier| later == earlier && *later == Operation::SessionCreate);
            assert_eq!(once, applied, "step {step}, {loss:?}");
        }
    }
}

#[test]
fn an_operation_may_be_abandoned_whether_or_not_it_was_applied() {
    type Command = fn(&mut Device, &mut World) -> Result<Outgoing, Refusal>;
    let commands: [(&str, Command, bool); 5] = [
        ("recovery", |device, world| device.change_recovery(&recovery_hash(33), &mut world.entropy()), true),
        ("unlink", |device, world| device.unlink(&Digest::of("unknown"), &mut world.entropy()), false),
        ("leave", |device, world| device.unlink(&device.device().unwrap(), &mut world.entropy()), false),
        ("delete", |device, world| device.delete(&mut world.entropy()), false),
        (
            "link",
            |device, world| {
                let container = Device::new().join(&device.identity().unwrap(), &mut world.entropy())?;
                device.link(&container, &mut world.entropy())
            },
            true,
        ),
    ];
    for (name, command, may_apply) in commands {
        for apply in [false, may_apply] {
            let mut pair = Pair::new(None);
            let mut device = Device::new();
            pair.run(&mut device, |device, world| device.create(&recovery_hash(30), &mut world.entropy()));
            let outgoing = command(&mut device, &mut pair.world).unwrap();
            if apply {
                pair.server.answer(&pair.world, outgoing.operation, outgoing.body.as_bytes()).unwrap();
            }
            let rotation = device.abandon(&mut pair.world.entropy()).unwrap().expect("a rotation");
            pair.reborn(&mut device);
            assert_eq!(rotation.operation, Operation::DeviceRotate, "{name}");
            assert_eq!(device.abandon(&mut pair.world.entropy()).unwrap_err().code(), Code::Conflict);
            pair.deliver(&mut device, &rotation);
            pair.run(&mut device, |device, world| device.rotate(&mut world.entropy()));
            pair.open_session(&mut device);
        }
    }
}

#[test]
fn an_abandoned_refresh_keeps_the_session_it_would_have_followed() {
    let mut pair = Pair::new(None);
    let mut device = Device::new();
    pair.run(&mut device, |device, world| device.create(&recovery_hash(30), &mut world.entropy()));
    pair.open_session(&mut device);
    let before = device.claims();
    device.session_refresh(&mut pair.world.entropy()).unwrap();
    assert!(device.abandon(&mut pair.world.entropy()).unwrap().is_none());
    assert_eq!((device.claims(), device.waits_for()), (before, None));
    pair.open_session(&mut device);
}
