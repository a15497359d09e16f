//! The drills of ops/RUNBOOK.md: each failure is made, and the page's own commands lead out of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tests::craft::{Device, payload};
use tests::process::{command, run, send};
use tests::world::binary;
use tests::{World, until};

use crate::page::commands;

const PAGE: &str = include_str!("../../../ops/RUNBOOK.md");
const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;
const SOON: Duration = Duration::from_mins(1);

/// What stands for a host's programs: a laboratory has no systemd, and starts again whoever dies. `opsctl status` is
/// asked until all is well, as an operator does.
const HOST: &str = r##"
opsctl() {
    if [[ $1 == status ]]; then
        for _ in {1..300}; do
            if command opsctl "$@" --endpoints where.json >status.txt 2>&1; then cat status.txt; return; fi
            sleep 0.1
        done
        cat status.txt; return 1
    fi
    command opsctl "$@" --endpoints where.json
}
systemctl() {
    local name=${2/@/-}
    case $1 in
        restart) kill -9 "$(cat "dev/run/${name%-server}.pid")" || true ;;
        reload) kill -HUP "$(cat "dev/run/$name.pid")" ;;
        cat) echo "# $name" ;;
    esac
}
"##;

/// A laboratory, a device with a session, and which blocks of the page were run.
struct Drill {
    world: World,
    device: Device,
    done: BTreeSet<String>,
}

impl Drill {
    fn folder(&self) -> PathBuf {
        self.world.endpoints_file().parent().unwrap().to_owned()
    }

    /// Runs the commands of a section; what they printed.
    fn cure(&mut self, mark: &str) -> String {
        println!("{mark}");
        let endpoints = self.world.endpoints();
        let metrics = endpoints.metrics["edge-rust"].trim_end_matches("/metrics");
        let block = commands(PAGE, mark)
            .replace("redis://127.0.0.1:6379", &endpoints.redis)
            .replace("http://127.0.0.1:9103", metrics)
            .replace("/var/lib/edge/ruby", "dev/edge-ruby/state")
            .replace("/var/lib/edge", "dev/edge-ruby/state")
            .replace("/var/lib/hsmd", "dev/hsmd")
            .replace("EIDENTITY", &self.device.identity.to_string());
        let programs = binary("opsctl").parent().unwrap().to_owned();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut shell = command("bash");
        shell.args(["-euo", "pipefail", "-c", &format!("{HOST}{block}")]);
        shell.current_dir(self.folder()).env("PATH", &path);
        self.done.insert(mark.to_owned());
        run(shell)
    }

    async fn admitted(&self) -> bool {
        self.answered().await == Some(200)
    }

    async fn answered(&self) -> Option<u16> {
        let request = self.device.session().access(REQUEST);
        Some(self.world.app("rust").try_post("/foo/bar", request).await.ok()?.status)
    }

    /// The session goes on as soon as the edge is there.
    async fn goes_on(&self) {
        until("the session to go on", SOON, async || self.admitted().await.then_some(())).await;
    }

    async fn redis(&self, words: &[&str]) {
        let mut redis = self.world.directory(0).await;
        let () = redis::cmd(words[0]).arg(&words[1..]).query_async(&mut redis).await.unwrap();
    }

    /// How `opsctl ban` of somebody ends.
    fn ban(&self, who: &str) -> Option<i32> {
        let mut program = command(binary("opsctl"));
        program.args(["ban", who, "--reason", "drill", "--endpoints"]).arg(self.world.endpoints_file());
        program.output().unwrap().status.code()
    }

    fn signal(&self, name: &str, signal: Signal) {
        let file = self.folder().join(format!("dev/run/{name}.pid"));
        send(fs::read_to_string(file).unwrap().parse().unwrap(), signal);
    }
}

#[tokio::test]
async fn every_section_of_the_runbook_leads_out() {
    let world = World::start().await;
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    let mut drill = Drill { world, device, done: BTreeSet::new() };
    let seen = drill.cure("look");
    assert!(seen.contains("acknowledged") && seen.contains("\"serving\":true"), "{seen}");
    the_directory(&mut drill).await;
    verifiers(&mut drill).await;
    authd(&mut drill).await;
    hsmd(&mut drill).await;
    let marks = PAGE.split("<!-- ").skip(1).filter_map(|rest| rest.split(" -->").next());
    let marks: BTreeSet<String> = marks.map(str::to_owned).filter(|mark| mark != "row").collect();
    assert_eq!(drill.done, marks, "a block of the page was not run");
}

async fn the_directory(drill: &mut Drill) {
    drill.redis(&["FLUSHALL"]).await;
    assert!(drill.admitted().await);
    drill.cure("empty");

    let who = keychain::Digest::of("somebody").to_string();
    drill.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(drill.ban(&who), Some(2));
    for breaks in [["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "min-replicas-to-write", "1"]] {
        drill.redis(&breaks).await;
        assert!(drill.admitted().await, "{breaks:?}");
        drill.cure("no-writes");
    }
    until("the order to arrive", SOON, async || (drill.ban(&who) == Some(0)).then_some(())).await;
    drill.redis(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert!(drill.admitted().await);
    drill.cure("no-writes");

    drill.redis(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let seen = drill.cure("look");
    assert!(seen.contains("\ndirectory   allkeys-lru: with its memory full the directory deletes"), "{seen}");
    let seen = drill.cure("evicts");
    assert!(!seen.contains("\ndirectory   "), "{seen}");
    let mut bans = drill.world.directory(3).await;
    let identity = drill.device.identity.to_string();
    let () = redis::cmd("SET").arg(identity).arg("1").query_async(&mut bans).await.unwrap();
    until("the ban to bite", SOON, async || (drill.answered().await == Some(403)).then_some(())).await;
    let () = redis::cmd("FLUSHDB").query_async(&mut bans).await.unwrap();
    assert_eq!(drill.answered().await, Some(403), "what was flushed is not lifted");
    drill.cure("lost");
    drill.goes_on().await;

    drill.signal("redis", Signal::STOP);
    assert!(drill.admitted().await);
    drill.cure("hangs");
    drill.goes_on().await;

    let mut chain = drill.world.directory(4).await;
    let () = redis::cmd("SET").arg("E".repeat(44)).arg("junk").query_async(&mut chain).await.unwrap();
    drill.cure("junk");
    let left: bool = redis::cmd("EXISTS").arg("E".repeat(44)).query_async(&mut chain).await.unwrap();
    assert!(!left && drill.admitted().await);
}

async fn verifiers(drill: &mut Drill) {
    drill.cure("head");
    drill.cure("irregular");
    assert_eq!(drill.answered().await, Some(401), "a session of the tainted generation");
    let auth = drill.world.auth();
    let ask = format!(r#"{{"authentication":{{"identity":"{}"}}}}"#, drill.device.identity);
    until("a session under the new one", SOON, async || {
        let asked = auth.post("/session/request", format!(r#"{{"payload":{}}}"#, payload(&ask))).await;
        let opened = asked.status == 200 && drill.device.try_session(&auth).await.status == 200;
        (opened && drill.admitted().await).then_some(())
    })
    .await;
    drill.cure("source");

    drill.signal("edge-ruby", Signal::STOP);
    drill.cure("silent");
    drill.cure("disk");

    let state = drill.folder().join("dev/edge-ruby/state/trust.json");
    let whole = fs::read_to_string(&state).unwrap();
    drill.signal("edge-ruby", Signal::STOP);
    fs::write(&state, &whole[..whole.len() - 2]).unwrap();
    drill.signal("edge-ruby", Signal::KILL);
    let log = drill.folder().join("dev/log/edge-ruby.log");
    until("the damage to be named", SOON, async || {
        fs::read_to_string(&log).unwrap_or_default().contains("trust.json` is damaged").then_some(())
    })
    .await;
    drill.cure("state");
    assert!(state.exists(), "it is written again");
}

async fn authd(drill: &mut Drill) {
    drill.signal("authd", Signal::KILL);
    drill.cure("feed");
    drill.redis(&["FLUSHALL"]).await;
    drill.goes_on().await;
    drill.cure("kept");
    drill.cure("confirmed");
    let auth = drill.world.auth();
    drill.cure("ahead");
    until("the identity to be let in again", SOON, async || drill.admitted().await.then_some(())).await;
    drill.device.try_refresh(&auth).await.response();
}

async fn hsmd(drill: &mut Drill) {
    drill.signal("hsmd", Signal::KILL);
    assert!(drill.admitted().await, "sessions go on");
    drill.cure("outage");
    let seen = drill.cure("swap");
    assert!(seen.contains("Filename") && seen.contains("\nswap: "), "{seen}");
    drill.cure("report");
    drill.cure("copy");
    drill.cure("handshakes");
    drill.cure("certificate");
    drill.cure("many-handshakes");
    drill.goes_on().await;
}
