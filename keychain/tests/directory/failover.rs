//! Another server behind the same name: whoever holds a connection to the one that was there gets over by himself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keychain::directory::{Change, Changes, Db, Directory, Error, Following};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{HOUR, Redis, SOON, digest, key, next};

/// A name that leads to one server after the other.
struct Name {
    folder: TempDir,
}

impl Name {
    fn of(redis: &Redis) -> Self {
        let name = Self { folder: tempfile::tempdir().unwrap() };
        name.leads_to(redis);
        name
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("name")
    }

    fn leads_to(&self, redis: &Redis) {
        self.leads_to_path(&redis.dir.path().join("socket"));
    }

    fn leads_to_path(&self, socket: &Path) {
        let next = self.folder.path().join("next");
        std::os::unix::fs::symlink(socket, &next).unwrap();
        std::fs::rename(next, self.path()).unwrap();
    }

    fn directory(&self) -> Directory {
        Directory::connect(&format!("unix://{}", self.path().display())).unwrap()
    }
}

/// Makes a server the replica of a master that is not there.
async fn demote(redis: &Redis) {
    redis.command::<()>(0, &["REPLICAOF", "127.0.0.1", "1"]).await;
}

async fn set(redis: &Redis, key: &str, value: &str) {
    redis.command::<()>(0, &["CONFIG", "SET", key, value]).await;
}

/// Waits until changes are followed, or lost for a reason with that in it.
async fn is(following: &mut watch::Receiver<Following>, lost: Option<&str>) {
    let seen = following.wait_for(|state| match (state, lost) {
        (Following::Lost(error), Some(because)) => chain(error).contains(because),
        (Following::Yes, None) => true,
        _ => false,
    });
    timeout(SOON, seen).await.expect("it is seen").unwrap();
}

/// An error with its causes.
fn chain(error: &Arc<Error>) -> String {
    let cause = std::error::Error::source(&**error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

#[tokio::test]
async fn a_writer_leaves_a_server_that_was_demoted() {
    let (first, second) = (Redis::start().await, Redis::start().await);
    let name = Name::of(&first);
    let directory = name.directory();
    directory.revoke(&digest("before"), None).await.unwrap();
    demote(&first).await;
    for _ in 0..2 {
        let refused = directory.revoke(&digest("meanwhile"), None).await.unwrap_err();
        assert!(matches!(refused, Error::Unfit { .. }), "{refused}");
    }
    name.leads_to(&second);
    directory.revoke(&digest("after"), None).await.unwrap();
    directory.publish(Db::Access, &key(1), "text", HOUR).await.unwrap();
    // In a transaction the answer is another one.
    directory.publish_event_with_head(&digest("event"), "event", "head", HOUR).await.unwrap();
    demote(&second).await;
    let refused = directory.publish_event_with_head(&digest("event"), "event", "head", HOUR).await;
    assert!(matches!(refused, Err(Error::Unfit { .. })), "{refused:?}");
    let third = Redis::start().await;
    name.leads_to(&third);
    directory.publish_event_with_head(&digest("event"), "event", "head", HOUR).await.unwrap();
    assert_eq!(third.command::<i64>(4, &["DBSIZE"]).await, 1);
}

#[tokio::test]
async fn a_writer_leaves_a_server_that_takes_no_writes() {
    let (first, second) = (Redis::start().await, Redis::start().await);
    let name = Name::of(&first);
    for (answer, setting, value, well) in [
        ("NOREPLICAS", "min-replicas-to-write", "1", "0"),
        ("MasterDown", "replica-serve-stale-data", "no", "yes"),
    ] {
        let directory = name.directory();
        directory.lift(&digest("nobody")).await.unwrap();
        set(&first, setting, value).await;
        if answer == "MasterDown" {
            demote(&first).await;
            let refused = Arc::new(directory.events().await.unwrap_err());
            assert!(chain(&refused).contains(answer), "{}", chain(&refused));
        } else {
            let refused = Arc::new(directory.lift(&digest("nobody")).await.unwrap_err());
            assert!(chain(&refused).contains(answer), "{}", chain(&refused));
        }
        name.leads_to(&second);
        directory.lift(&digest("nobody")).await.unwrap();
        directory.events().await.unwrap();
        name.leads_to(&first);
        set(&first, setting, well).await;
    }
}

/// MISCONF: the server cannot save, and takes no writes.
#[tokio::test]
async fn a_writer_leaves_a_server_that_cannot_save() {
    let (first, second) = (Redis::start().await, Redis::start().await);
    let name = Name::of(&first);
    let directory = name.directory();
    directory.lift(&digest("nobody")).await.unwrap();
    set(&first, "save", "3600 1").await;
    let mut operator = first.connection(0).await;
    // Where it would save is a folder that is not there any more; where it listens is still there.
    let socket = name.folder.path().join("moved");
    std::fs::rename(first.dir.path().join("socket"), &socket).unwrap();
    name.leads_to_path(&socket);
    std::fs::remove_dir_all(first.dir.path()).unwrap();
    redis::cmd("BGSAVE").exec_async(&mut operator).await.unwrap();
    let misconfigured = async {
        loop {
            match directory.revoke(&digest("one"), None).await {
                Err(Error::Unfit { .. }) => return,
                Err(error) => panic!("{error}"),
                Ok(()) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    };
    timeout(SOON, misconfigured).await.expect("the failed save is noticed");
    name.leads_to(&second);
    directory.revoke(&digest("one"), None).await.unwrap();
    assert_eq!(second.command::<i64>(3, &["DBSIZE"]).await, 1);
}

/// A replica that hears nothing of its master is not followed; whoever followed it gets over to what the name leads to.
#[tokio::test]
async fn a_follower_leaves_a_replica_without_a_link() {
    let (first, second) = (Redis::start().await, Redis::start().await);
    let name = Name::of(&first);
    let directory = name.directory();
    let mut changes: Changes = directory.changes();
    let mut following = changes.following();
    assert_eq!(next(&mut changes).await, Change::Reconnected);
    directory.publish(Db::Response, &key(1), "old", HOUR).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Key(key(1).to_string()));
    is(&mut following, None).await;
    assert_eq!(directory.endorsement(Db::Response, &key(1)).await.unwrap().as_deref(), Some("old"));

    demote(&first).await;
    let follower = tokio::spawn(async move {
        let change = changes.next().await;
        (changes, change)
    });
    is(&mut following, Some("a replica without a link to its master")).await;
    assert!(!follower.is_finished(), "nothing is followed meanwhile");
    second.directory().publish(Db::Response, &key(1), "new", HOUR).await.unwrap();
    name.leads_to(&second);
    let (mut changes, change) = timeout(SOON, follower).await.expect("a change arrives").unwrap();
    assert_eq!(change, Change::Reconnected);
    is(&mut following, None).await;
    // What is read from now on is read from there, though nothing broke the connection to the first one.
    assert_eq!(directory.endorsement(Db::Response, &key(1)).await.unwrap().as_deref(), Some("new"));
    second.directory().publish(Db::Response, &key(2), "new", HOUR).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Key(key(2).to_string()));
}

/// A value that may not be read is not taken for absent.
#[tokio::test]
async fn what_may_not_be_read_is_not_taken_for_absent() {
    let redis = Redis::start().await;
    let directory = redis.directory();
    directory.publish(Db::Response, &key(1), "kept", HOUR).await.unwrap();
    let mut acl = redis.connection(0).await;
    for (rights, is_read) in [("-getrange", false), ("+getrange", true)] {
        redis::cmd("ACL").arg(&["SETUSER", "default", rights]).exec_async(&mut acl).await.unwrap();
        let all = directory.all_response().await;
        assert_eq!(all.is_ok(), is_read, "what cannot be read is not absent: {all:?}");
        assert_eq!(directory.snapshot().await.is_ok(), is_read);
    }
}
