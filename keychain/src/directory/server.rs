//! What a server says of itself (`INFO`), as far as this client may ask.

use std::fmt;

use super::{Directory, Error, NAMES_PER_PAGE};
use crate::cesr::Digest;

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// What it has been through; none of a replica, which does not say what its master evicted.
    pub history: Option<History>,
    /// What it does when its memory is full.
    pub retention: Retention,
    /// Whether it is a replica that hears nothing from its master.
    pub is_detached: bool,
}

/// What a server has been through. If two are equal, nothing came between them by which a database loses entries that
/// nobody deleted: no restart, no other data set, no eviction, no flush and no exchange of databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The process, and the data set that it serves.
    run: [String; 2],
    /// Entries that it evicted.
    evicted: u64,
    /// Commands that empty or exchange databases, or set these counters back.
    emptied: u64,
}

/// Whether a directory keeps what it is given when its memory is full, as far as its server says. It must: a denial that was
/// evicted is gone for every verifier that starts later, and for public peers at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// It deletes entries, by the policy of that name.
    Evicts(&'static str),
    /// It deletes none.
    Keeps,
    /// The server does not let this client ask, or its answer says nothing of it.
    #[default]
    Unsaid,
}

/// Says it with the cure.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evicts(policy) => write!(
                f,
                "{policy}: with its memory full the directory deletes entries, denials among them; set `maxmemory-policy \
                 noeviction` in its configuration"
            ),
            Self::Keeps => f.write_str("noeviction"),
            Self::Unsaid => f.write_str(
                "not known, so denials may be deleted when the directory's memory is full; permit `INFO`, or see that its \
                 `maxmemory-policy` is noeviction",
            ),
        }
    }
}

/// How long an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// Until it is deleted.
    Forever,
    /// For so many milliseconds.
    Millis(u64),
}

/// Policies that delete.
const EVICTING: [&str; 7] = [
    "allkeys-lfu",
    "allkeys-lru",
    "allkeys-random",
    "volatile-lfu",
    "volatile-lru",
    "volatile-random",
    "volatile-ttl",
];

/// Commands after which entries may be gone that nobody deleted, and the one that sets the counters back.
const EMPTYING: [&str; 7] =
    ["config|resetstat", "debug", "flushall", "flushdb", "replicaof", "slaveof", "swapdb"];

/// The longest name of a run.
const RUN_MAX: usize = 64;

/// What is asked for.
const SECTIONS: [&str; 5] = ["server", "memory", "stats", "replication", "commandstats"];

impl Directory {
    /// What the server says of itself; nothing if this client may not ask.
    pub async fn server(&self) -> Result<Option<Server>, Error> {
        let mut info = redis::pipe();
        ask(&mut info);
        match self.lanes.revoked.run::<(String,)>("read what the server says of itself", &info).await {
            Ok((text,)) => Ok(Some(Server::read(&text))),
            Err(error) if error.is_forbidden() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the server keeps what it is given when its memory is full.
    pub async fn retention(&self) -> Result<Retention, Error> {
        Ok(self.server().await?.map_or(Retention::Unsaid, |server| server.retention))
    }

    /// How long the denials of these devices and identities stand, in their order; nothing for one that is not denied.
    pub async fn denials(&self, who: &[Digest]) -> Result<Vec<Option<Stands>>, Error> {
        let mut found = Vec::with_capacity(who.len());
        for page in who.chunks(NAMES_PER_PAGE) {
            let answers: Vec<i64> = self.lanes.revoked.run("look up revocations", &lasting(page)).await?;
            found.extend(answers.into_iter().map(stands));
        }
        Ok(found)
    }

    /// The same, and what the server that answered has been through by then; nothing if it does not say.
    pub async fn denials_and_history(
        &self,
        who: &[Digest],
    ) -> Result<(Vec<Option<Stands>>, Option<History>), Error> {
        let (mut found, mut histories) = (Vec::with_capacity(who.len()), Vec::new());
        for page in who.chunks(NAMES_PER_PAGE) {
            let mut questions = lasting(page);
            ask(&mut questions);
            // What INFO answers must not hide the rest.
            questions.ignore_errors();
            let operation = "look up revocations";
            let mut answers: Vec<redis::RedisResult<redis::Value>> =
                self.lanes.revoked.run(operation, &questions).await?;
            let info = answers.pop().and_then(Result::ok).and_then(|info| redis::from_redis_value(info).ok());
            histories.push(info.and_then(|text: String| Server::read(&text).history));
            for answer in answers {
                let answer = answer.and_then(|answer| Ok(redis::from_redis_value::<i64>(answer)?));
                match answer {
                    Ok(answer) => found.push(stands(answer)),
                    Err(error) => return Err(self.lanes.revoked.failed(operation, error).await),
                }
            }
        }
        let first = histories.first().cloned().flatten();
        let history = first.filter(|first| histories.iter().all(|one| one.as_ref() == Some(first)));
        Ok((found, history))
    }
}

fn ask(questions: &mut redis::Pipeline) {
    questions.cmd("INFO").arg(&SECTIONS);
}

fn lasting(who: &[Digest]) -> redis::Pipeline {
    let mut questions = redis::pipe();
    for one in who {
        questions.cmd("PTTL").arg(one.to_string());
    }
    questions
}

/// What `PTTL` answers.
fn stands(answer: i64) -> Option<Stands> {
    match u64::try_from(answer) {
        Ok(left) => Some(Stands::Millis(left)),
        Err(_) if answer == -1 => Some(Stands::Forever),
        Err(_) => None,
    }
}

impl Server {
    fn read(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        let is_replica = field("role") != Some("master");
        let retention = field("maxmemory_policy").map_or(Retention::Unsaid, |policy| {
            let known = EVICTING.into_iter().find(|known| *known == policy);
            let evicts = known.map_or(Retention::Unsaid, Retention::Evicts);
            if policy == "noeviction" { Retention::Keeps } else { evicts }
        });
        let run = |name| field(name).filter(|run| !run.is_empty() && run.len() <= RUN_MAX).map(str::to_owned);
        let history = || {
            let run = [run("run_id")?, run("master_replid")?];
            let evicted = field("evicted_keys")?.parse().ok()?;
            Some(History { run, evicted, emptied: emptied(text) })
        };
        Self {
            history: if is_replica { None } else { history() },
            retention,
            is_detached: is_replica && field("master_link_status").is_some_and(|status| status != "up"),
        }
    }
}

/// How often commands were called that empty databases.
fn emptied(text: &str) -> u64 {
    let calls = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let is_one = EMPTYING.contains(&name);
        is_one.then(|| rest.split(',').next().and_then(|calls| calls.parse::<u64>().ok()))?
    };
    text.lines().filter_map(calls).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server prints, with some lines otherwise.
    fn info(changes: &[(&str, &str)]) -> String {
        let mut fields = vec![
            ("run_id", "aa"),
            ("maxmemory_policy", "noeviction"),
            ("evicted_keys", "3"),
            ("role", "master"),
            ("master_replid", "bb"),
            ("cmdstat_flushall", "calls=1,usec=9"),
            ("cmdstat_set", "calls=7,usec=9"),
        ];
        for (name, value) in changes {
            fields.retain(|(known, _)| known != name);
            fields.push((name, value));
        }
        fields.iter().map(|(name, value)| [*name, ":", *value, "\r\n"].concat()).collect()
    }

    #[test]
    fn what_may_have_lost_entries_changes_the_history() {
        let before = Server::read(&info(&[])).history.unwrap();
        for (name, value, is_same) in [
            ("cmdstat_set", "calls=8,usec=9", true),
            ("cmdstat_del", "calls=8,usec=9", true),
            ("used_memory", "9", true),
            ("run_id", "cc", false),
            ("master_replid", "cc", false),
            ("evicted_keys", "4", false),
            ("cmdstat_flushall", "calls=2,usec=9", false),
            ("cmdstat_flushdb", "calls=1,usec=9", false),
            ("cmdstat_swapdb", "calls=1,usec=9", false),
            ("cmdstat_replicaof", "calls=1,usec=9", false),
            ("cmdstat_debug", "calls=1,usec=9", false),
            ("cmdstat_config|resetstat", "calls=1,usec=9", false),
        ] {
            let after = Server::read(&info(&[(name, value)])).history;
            assert_eq!(after.as_ref() == Some(&before), is_same, "{name} {value}");
        }
        for (name, value) in
            [("role", "slave"), ("run_id", ""), ("evicted_keys", "many"), ("master_replid", &"x".repeat(65))]
        {
            assert_eq!(Server::read(&info(&[(name, value)])).history, None, "{name} {value}");
        }
        assert_eq!(Server::read(""), Server::default());
    }

    #[test]
    fn policies_and_links_are_read() {
        for (changes, retention, is_detached) in [
            (&[][..], Retention::Keeps, false),
            (&[("maxmemory_policy", "allkeys-lru")], Retention::Evicts("allkeys-lru"), false),
            (&[("maxmemory_policy", "something else")], Retention::Unsaid, false),
            (&[("role", "slave"), ("master_link_status", "up")], Retention::Keeps, false),
            (&[("role", "slave"), ("master_link_status", "down")], Retention::Keeps, true),
        ] {
            let server = Server::read(&info(changes));
            assert_eq!((server.retention, server.is_detached), (retention, is_detached), "{changes:?}");
        }
    }
}
