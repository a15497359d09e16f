//! The order in which the system comes up, and what each part is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Options;
use super::app::{self, App, in_path};
use super::child::{Program, Ready};
use super::endpoints::Endpoints;
use super::fleet::Fleet;
use super::layout::{Layout, mac_key, secret, write_private};
use super::port::Port;
use super::render::{self, Authd, Edge, Hsmd, Keysd, Policy, Publisher, SAMPLE_ROUTE, Service, Verifier};
use super::token::Token;
use crate::chain::Proved;
use crate::door::{Address, Answer, Door};
use crate::failure::{Exit, Failure, OrFail};
use crate::talk::Talk;

/// How long hsmd may take to answer once it is ready.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// How long the daemons may take to hear of each other, and the pause between two questions.
const SETTLE_DEADLINE: Duration = Duration::from_mins(1);
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// Starts everything and says where it is. What has been started stays in the fleet in any case.
///
/// The stages are those of stopping, which runs through them backwards: an edge ends before its
/// app, all verifiers before what publishes for them, hsmd and redis last.
pub(crate) async fn everything(
    fleet: &mut Fleet,
    layout: &Layout,
    options: &Options,
) -> Result<Endpoints, Failure> {
    let mut system = System::plan(layout, options)?;
    system.left_out.iter().for_each(Talk::warn);
    fleet.launch(vec![system.redis()?])?;
    fleet.launch(vec![system.hsmd().await?])?;
    fleet.ready().await?;
    let identity = system.identity().await?;
    fleet.launch(vec![system.publisher()?])?;
    fleet.launch(vec![system.authd(&identity, options.database.as_deref())?, system.keysd(&identity)?])?;
    let (apps, edges): (Vec<_>, Vec<_>) = system.apps(&identity)?.into_iter().unzip();
    fleet.launch(apps)?;
    fleet.launch(edges)?;
    fleet.ready().await?;
    let endpoints = system.endpoints(identity);
    settle(&endpoints).await?;
    Ok(endpoints)
}

/// Waits until every daemon says that nothing is missing: some serve before they have heard of all the others.
async fn settle(endpoints: &Endpoints) -> Result<(), Failure> {
    let begun = Instant::now();
    for (name, metrics) in &endpoints.metrics {
        let address: Address =
            metrics.trim_end_matches("/metrics").parse().or_fail(Exit::Software, || "metrics")?;
        let door = Door::open(&address, ASK_DEADLINE)?;
        loop {
            let answer = door.get("/readyz").await;
            if answer.as_ref().is_ok_and(Answer::is_ok) {
                break;
            }
            if begun.elapsed() > SETTLE_DEADLINE {
                let says = answer.map_or_else(|failure| failure.to_string(), |answer| answer.body);
                let what = format!("`{name}` serves and is not ready: {}", says.trim());
                return Err(Failure::new(Exit::Unavailable, what));
            }
            tokio::time::sleep(SETTLE_INTERVAL).await;
        }
    }
    Ok(())
}

/// Everything that is decided before the first process starts, and the ports held for all of them.
struct System<'a> {
    layout: &'a Layout,
    binaries: PathBuf,
    apps: Vec<(App, Port)>,
    left_out: Vec<String>,
    redis: Port,
    hsm: Port,
    auth: Port,
    keys: Port,
    edges: BTreeMap<&'static str, Port>,
    metrics: BTreeMap<String, Port>,
}

impl<'a> System<'a> {
    fn plan(layout: &'a Layout, options: &Options) -> Result<Self, Failure> {
        let reserve = || Port::reserve().or_fail(Exit::Temporary, || "cannot reserve a loopback port");
        let program =
            std::env::current_exe().or_fail(Exit::Software, || "cannot find this program's own file")?;
        let binaries = program.parent().unwrap_or(Path::new("/")).to_owned();
        let (found, left_out) = app::find(options.apps.as_deref(), &binaries)?;
        let mut system = Self {
            layout,
            binaries,
            apps: Vec::new(),
            left_out,
            redis: reserve()?,
            hsm: reserve()?,
            auth: reserve()?,
            keys: reserve()?,
            edges: BTreeMap::new(),
            metrics: BTreeMap::new(),
        };
        for daemon in ["authd", "hsm-publisher", "keysd"] {
            system.metrics.insert(daemon.to_owned(), reserve()?);
        }
        for app in found {
            system.metrics.insert(edge_name(app.name), reserve()?);
            system.edges.insert(app.name, reserve()?);
            system.apps.push((app, reserve()?));
        }
        Ok(system)
    }

    fn redis(&self) -> Result<Program, Failure> {
        let executable = in_path("redis-server").or_fail(
            Exit::Config,
            || "redis-server is not installed: install the package (`apt-get install redis-server`)",
        )?;
        let folder = self.layout.folder("redis")?;
        let configuration = folder.join("redis.conf");
        let text = format!(
            "bind 127.0.0.1\nport {}\ndir \"{}\"\nappendonly yes\nappendfsync everysec\nsave \"\"\n",
            self.redis.address().port(),
            folder.display(),
        );
        write_private(&configuration, text.as_bytes())?;
        Ok(Program {
            name: "redis".to_owned(),
            executable,
            arguments: vec![configuration.into()],
            environment: Vec::new(),
            stdin: None,
            ready: Ready::Pongs(self.redis.address()),
        })
    }

    async fn hsmd(&self) -> Result<Program, Failure> {
        let folder = self.layout.folder("hsmd")?;
        let token = Token::open(&folder).await?;
        let user = rustix::process::getuid().as_raw();
        let mut doors = vec![
            render::Door::admin(self.layout.socket("admin")),
            render::Door::endorse(self.layout.socket("endorse"), Service::Laboratory),
            render::Door::endorse(self.layout.socket("authd"), Service::Authd),
            render::Door::endorse(self.layout.socket("keysd"), Service::Keysd),
            render::Door::publish(self.layout.socket("publish")),
        ];
        for name in self.edges.keys() {
            let socket = self.layout.socket(&edge_name(name));
            doors.push(render::Door::endorse(socket, Service::Edge(name)));
        }
        let configuration = Hsmd::new(&folder, &token.module, self.hsm.address(), &doors);
        render::write(&configuration.policy, &Policy::new(user, &doors))?;
        let mut program = self.daemon("hsmd", "hsmd", &configuration)?;
        program.environment.push(("SOFTHSM2_CONF", token.configuration.into()));
        Ok(program)
    }

    /// The identity that hsmd proves, which every other daemon is told to pin. It never changes in
    /// a directory: another one means that the ledger was exchanged, and is refused.
    async fn identity(&self) -> Result<String, Failure> {
        let door = Door::open(&Address::Socket(self.layout.socket("endorse")), ASK_DEADLINE)?;
        let identity = Proved::parse(&door.get("/chain").await?.ok(&door)?, None)?.identity().to_string();
        let pinned = self.layout.identity();
        match std::fs::read_to_string(&pinned) {
            Ok(known) if known.trim_end() != identity => Err(Failure::new(
                Exit::Data,
                format!(
                    "hsmd's chain is {identity}, but `{}` pins {}: its ledger or token was exchanged; restore them \
                     or start in a fresh --dir",
                    pinned.display(),
                    known.trim_end()
                ),
            )),
            Ok(_) => Ok(identity),
            Err(_) => write_private(&pinned, format!("{identity}\n").as_bytes()).map(|()| identity),
        }
    }

    fn publisher(&self) -> Result<Program, Failure> {
        let configuration = Publisher {
            endorse: render::unix(&self.layout.socket("endorse")),
            publish: render::unix(&self.layout.socket("publish")),
            redis: self.redis_url(),
            metrics: self.metrics_address("hsm-publisher")?,
        };
        self.daemon("hsm-publisher", "hsm-publisher", &configuration)
    }

    fn authd(&self, identity: &str, database: Option<&str>) -> Result<Program, Failure> {
        let accounts = self.layout.folder("authd")?.join("accounts.db");
        let policy = self.layout.folder("authd")?.join("policy.toml");
        let store_mac_key = self.layout.folder("authd")?.join("store-mac-key");
        mac_key(&store_mac_key)?;
        render::write(&policy, &render::AuthdPolicy::new(rustix::process::getuid().as_raw()))?;
        let configuration = Authd {
            verifier: self.verifier("authd", identity, &self.auth)?,
            endorse: render::unix(&self.layout.socket("authd")),
            database: database.map_or_else(|| render::sqlite(&accounts), str::to_owned),
            store_mac_key,
            grantable_roles: render::SAMPLE_GRANTABLE.into(),
            limits: render::LIMITS.into(),
            admin: render::Admin {
                listen: render::unix(&self.layout.socket("accounts")),
                mode: "0600",
                policy,
            },
        };
        self.daemon("authd", "authd", &configuration)
    }

    fn keysd(&self, identity: &str) -> Result<Program, Failure> {
        let configuration = Keysd {
            verifier: self.verifier("keysd", identity, &self.keys)?,
            admin: render::unix(&self.roll_socket("keysd")),
            endorse: render::unix(&self.layout.socket("keysd")),
        };
        self.daemon("keysd", "keysd", &configuration)
    }

    /// Each app with the edge before it.
    fn apps(&mut self, identity: &str) -> Result<Vec<(Program, Program)>, Failure> {
        let apps = std::mem::take(&mut self.apps);
        let mut programs = Vec::with_capacity(apps.len());
        for (app, port) in &apps {
            let name = edge_name(app.name);
            let app_secret = self.layout.folder(&name)?.join("app-secret");
            secret(&app_secret)?;
            let listen = self.edges.get(app.name).or_fail(Exit::Software, || "an app without an edge")?;
            let configuration = Edge {
                verifier: self.verifier(&name, identity, listen)?,
                admin: render::unix(&self.roll_socket(&name)),
                endorse: render::unix(&self.layout.socket(&name)),
                name: app.name.to_owned(),
                app: port.url(),
                app_secret: app_secret.clone(),
                route: vec![SAMPLE_ROUTE],
            };
            programs.push((
                app.program(port.address(), &app_secret),
                self.daemon("edge", &name, &configuration)?,
            ));
        }
        self.apps = apps;
        Ok(programs)
    }

    fn verifier(&self, name: &str, identity: &str, listen: &Port) -> Result<Verifier, Failure> {
        Ok(Verifier {
            identity: identity.to_owned(),
            listen: listen.address(),
            redis: self.redis_url(),
            metrics: self.metrics_address(name)?,
            state: self.layout.folder(&format!("{name}/state"))?,
        })
    }

    /// One of ours, with its configuration written to its folder.
    fn daemon(
        &self,
        binary: &str,
        name: &str,
        configuration: &impl serde::Serialize,
    ) -> Result<Program, Failure> {
        let executable = self.binaries.join(binary);
        if !executable.is_file() {
            let what =
                format!("`{}` is not built: `cargo build --profile ci` builds all", executable.display());
            return Err(Failure::new(Exit::Config, what));
        }
        let file = self.layout.folder(name)?.join(format!("{binary}.toml"));
        render::write(&file, configuration)?;
        Ok(Program {
            name: name.to_owned(),
            executable,
            arguments: vec!["--config".into(), file.into()],
            environment: Vec::new(),
            stdin: None,
            ready: Ready::Notifies,
        })
    }

    /// Where a daemon takes orders of new keys.
    fn roll_socket(&self, name: &str) -> PathBuf {
        self.layout.socket(&format!("{name}-r"))
    }

    /// The same by service.
    fn rolls(&self) -> BTreeMap<String, PathBuf> {
        let edges =
            self.edges.keys().map(|name| (format!("edge:{name}"), self.roll_socket(&edge_name(name))));
        let authd = ("authd".to_owned(), self.layout.socket("accounts"));
        let keysd = (render::KEYSD.to_owned(), self.roll_socket("keysd"));
        edges.chain([authd, keysd]).collect()
    }

    fn redis_url(&self) -> String {
        format!("redis://{}", self.redis.address())
    }

    fn metrics_address(&self, name: &str) -> Result<SocketAddr, Failure> {
        let port =
            self.metrics.get(name).or_fail(Exit::Software, || "a daemon without a port for metrics")?;
        Ok(port.address())
    }

    fn endpoints(&self, identity: String) -> Endpoints {
        let hsmd = ("hsmd".to_owned(), render::unix(&self.layout.socket("metrics")));
        let daemons =
            self.metrics.iter().map(|(name, port)| (name.clone(), format!("{}/metrics", port.url())));
        Endpoints {
            identity,
            auth: self.auth.url(),
            keys: self.keys.url(),
            hsm: Some(self.hsm.url()),
            endorse: self.layout.socket("endorse"),
            admin: self.layout.socket("admin"),
            auth_admin: self.layout.socket("accounts"),
            redis: self.redis_url(),
            rolls: self.rolls(),
            apps: self.edges.iter().map(|(name, port)| ((*name).to_owned(), port.url())).collect(),
            metrics: daemons.chain([hsmd]).collect(),
        }
    }
}

fn edge_name(app: &str) -> String {
    format!("edge-{app}")
}
