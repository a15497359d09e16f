//! A road that loses the reply to everything once: the device asks again and ends where it would have.

use tests::World;
use tests::craft::{Device, Keys, key, message};
use tests::http::{Answer, Http};
use tests::proxy::LossyProxy;

/// What makes two messages the same request: `payload.request`, without the nonce around it.
fn request_of(body: &str) -> Option<String> {
    Some(body.split_once("\"request\":")?.1.split_once(",\"signature\"")?.0.to_owned())
}

/// Sends until there is an answer, each time with a fresh nonce.
async fn insist(road: &Http, path: &str, request: &str, signer: &keychain::key::SigningKey) -> Answer {
    for _ in 0..5 {
        if let Ok(answer) = road.try_post(path, message(request, signer)).await {
            return answer;
        }
    }
    panic!("no answer to {path} in five attempts");
}

async fn insist_gated(
    road: &Http,
    device: &mut Device,
    path: &str,
    request: impl FnOnce(&Device, &Keys) -> String,
) {
    let keys = device.keys.ahead();
    let request = request(device, &keys);
    insist(road, path, &request, &keys.current).await.response();
    device.keys = keys;
}

#[tokio::test]
async fn a_device_that_repeats_itself_is_never_stranded() {
    let world = World::shared().await;
    let proxy = LossyProxy::before(&world.endpoints().auth, request_of).await;
    let road = Http::to(&proxy.url());
    let mut device = Device::draw();
    insist(&road, "/account/create", &device.create_request(), &device.keys.current).await.response();
    for _ in 0..3 {
        insist_gated(&road, &mut device, "/device/rotate", Device::rotate_request).await;
    }
    let other = device.another();
    let container = other.link_container();
    insist_gated(&road, &mut device, "/device/link", |device, keys| device.link_request(keys, &container))
        .await;
    let recovery = key();
    insist_gated(&road, &mut device, "/recovery/change", |device, keys| {
        device.change_request(keys, &recovery)
    })
    .await;
    insist_gated(&road, &mut device, "/device/unlink", |device, keys| {
        device.unlink_request(keys, &other.device)
    })
    .await;

    // A lost session starts over, with another challenge.
    device.open_session(&world.auth()).await;
    let keys = device.session().keys.ahead();
    let request = device.session().refresh_request(&keys);
    insist(&road, "/session/refresh", &request, &keys.current).await.response();

    let mut fresh = device.another();
    fresh.recovery = recovery;
    insist(&road, "/account/recover", &fresh.recover_request(&key()), &fresh.recovery).await.response();
    insist_gated(&road, &mut fresh, "/account/delete", Device::rotate_request).await;
    assert_eq!(proxy.lost(), 10);
}
