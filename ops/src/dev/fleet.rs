//! The children as a whole: started stage by stage, restarted when they die, stopped in reverse.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::child::{Child, Program, Ready};
use super::layout::{Layout, write_private};
use super::notify::Notifications;
use crate::failure::{Exit, Failure, OrFail};
use crate::talk::Talk;

/// Far more than any start takes; past it something waits for what will not come.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How often a server that cannot notify is tried.
const TRY_INTERVAL: Duration = Duration::from_millis(10);
/// The pause before the first restart, doubled for each further death in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A child that lived this long starts with a clean record.
const HEALTHY_LIFE: Duration = Duration::from_secs(30);

/// All children, in the order of their stages.
pub(crate) struct Fleet {
    logs: PathBuf,
    run: PathBuf,
    talk: Talk,
    stages: Vec<Vec<Supervised>>,
    /// Of those that were launched since everyone was last known to be ready.
    starting: Vec<IsReady>,
}

type IsReady = oneshot::Receiver<Result<(), Failure>>;

impl Fleet {
    pub(crate) fn new(layout: &Layout, talk: Talk) -> Result<Self, Failure> {
        let (logs, run) = (layout.folder("log")?, layout.folder("run")?);
        Ok(Self { logs, run, talk, stages: Vec::new(), starting: Vec::new() })
    }

    /// Starts the programs of one stage, without waiting for them.
    pub(crate) fn launch(&mut self, programs: Vec<Program>) -> Result<(), Failure> {
        self.stages.push(Vec::new());
        for program in programs {
            let (supervised, ready) = self.supervise(program)?;
            self.starting.push(ready);
            if let Some(stage) = self.stages.last_mut() {
                stage.push(supervised);
            }
        }
        Ok(())
    }

    /// Waits until everything launched serves, or until the first that fails.
    pub(crate) async fn ready(&mut self) -> Result<(), Failure> {
        let starting = self
            .starting
            .drain(..)
            .map(|ready| async { ready.await.or_fail(Exit::Software, || "a supervisor has gone")? });
        try_join_all(starting).await.map(drop)
    }

    /// Stops the stages in reverse order; within a stage all at once.
    pub(crate) async fn stop(&mut self) {
        while let Some(stage) = self.stages.pop() {
            let (stops, tasks): (Vec<_>, Vec<_>) =
                stage.into_iter().map(|child| (child.stop, child.task)).unzip();
            drop(stops); // a dropped sender is the request
            for task in tasks {
                if task.await.is_err() {
                    Talk::warn("a supervisor failed");
                }
            }
        }
    }

    fn supervise(&self, program: Program) -> Result<(Supervised, IsReady), Failure> {
        let log = self.logs.join(format!("{}.log", program.name));
        if log.exists() {
            let previous = log.with_extension("log.1");
            std::fs::rename(&log, &previous)
                .or_fail(Exit::Io, || format!("cannot rename `{}`", log.display()))?;
        }
        let notify = self.run.join(format!("{}.notify", program.name));
        let notifications = Notifications::bind(&notify)
            .or_fail(Exit::Io, || format!("cannot bind the socket `{}`", notify.display()))?;
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let pid_file = self.run.join(format!("{}.pid", program.name));
        let supervisor = Supervisor { program, log, pid_file, notifications, stopped, talk: self.talk };
        Ok((Supervised { stop, task: tokio::spawn(supervisor.run(ready)) }, is_ready))
    }
}

/// The handle of one supervisor: dropping `stop` asks it to end its child and itself.
struct Supervised {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Keeps one program running.
struct Supervisor {
    program: Program,
    log: PathBuf,
    /// Written at each start, for tests and people who want to kill exactly this child.
    pid_file: PathBuf,
    notifications: Notifications,
    stopped: oneshot::Receiver<()>,
    talk: Talk,
}

/// Why a child's life was over.
enum End {
    Asked,
    Died(String),
}

impl Supervisor {
    /// Starts the program, says once whether it became ready, and restarts it until asked to stop.
    async fn run(mut self, ready: oneshot::Sender<Result<(), Failure>>) {
        let first = match self.first_start().await {
            Ok(child) => child,
            // A receiver that has gone no longer wants to know.
            Err(failure) => return drop(ready.send(failure.map_or(Ok(()), Err))),
        };
        drop(ready.send(Ok(())));
        let mut life = Some(first);
        let mut pause = FIRST_PAUSE;
        loop {
            let born = Instant::now();
            let died = match life.take().map_or_else(|| self.start(), Ok) {
                Err(failure) => failure.to_string(),
                Ok(child) => match self.live(child).await {
                    End::Asked => return,
                    End::Died(status) => status,
                },
            };
            if born.elapsed() >= HEALTHY_LIFE {
                pause = FIRST_PAUSE;
            }
            self.talk.say(format!("{} ended ({died}): starting it again", self.program.name));
            if tokio::time::timeout(pause, &mut self.stopped).await.is_ok() {
                return;
            }
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// The first start must succeed: a failure here fails the whole, with the child's last words.
    /// `Err(None)` means that a stop was asked for meanwhile.
    async fn first_start(&mut self) -> Result<Child, Option<Failure>> {
        let mut child = self.start()?;
        let name = self.program.name.clone();
        let failure = tokio::select! {
            ready = is_ready(self.program.ready, &self.notifications) => match ready {
                Ok(()) => return Ok(child),
                Err(error) => Failure::new(Exit::Software, format!("cannot hear from `{name}`")).because(error),
            },
            status = child.ended() => Failure::new(
                Exit::Unavailable,
                format!("`{name}` ended before it was ready ({}); {}", describe(status), child.last_words()),
            ),
            () = tokio::time::sleep(READY_DEADLINE) => Failure::new(
                Exit::Unavailable,
                format!("`{name}` was not ready within {} s; {}", READY_DEADLINE.as_secs(), child.last_words()),
            ),
            _ = &mut self.stopped => {
                self.end(child).await;
                return Err(None);
            }
        };
        self.end(child).await;
        Err(Some(failure))
    }

    fn start(&self) -> Result<Child, Failure> {
        let child = Child::start(&self.program, &self.log, self.notifications.path())?;
        let pid = child.id().unwrap_or_default().to_string();
        write_private(&self.pid_file, pid.as_bytes())?;
        Ok(child)
    }

    /// Watches a child until it dies or is to be stopped, and keeps its notifications flowing: a
    /// full socket would block its sender.
    async fn live(&mut self, mut child: Child) -> End {
        loop {
            tokio::select! {
                _ = &mut self.stopped => {
                    self.end(child).await;
                    return End::Asked;
                }
                status = child.ended() => return End::Died(describe(status)),
                notification = self.notifications.next() => {
                    if let Err(error) = notification {
                        Talk::warn(format!("cannot hear from `{}`: {error}", self.program.name));
                        tokio::time::sleep(LONGEST_PAUSE).await;
                    }
                }
            }
        }
    }

    async fn end(&self, child: Child) {
        if !child.stop().await {
            Talk::warn(format!("`{}` did not stop in time and was killed", self.program.name));
        }
    }
}

fn describe(status: std::io::Result<std::process::ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

async fn is_ready(ready: Ready, notifications: &Notifications) -> std::io::Result<()> {
    match ready {
        Ready::Notifies => while !notifications.next().await?.ready {},
        Ready::Connects(address) => {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(TRY_INTERVAL).await;
            }
        }
        Ready::Pongs(address) => {
            while !pongs(address).await.unwrap_or(false) {
                tokio::time::sleep(TRY_INTERVAL).await;
            }
        }
    }
    Ok(())
}

async fn pongs(address: std::net::SocketAddr) -> std::io::Result<bool> {
    const PONG: [u8; 7] = *b"+PONG\r\n";
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; PONG.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer == PONG)
}
