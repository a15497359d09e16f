//! What a server says that it is.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

/// The role of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It takes writes.
    Master,
    /// It repeats a master.
    Replica {
        /// Whether it hears from it now.
        linked: bool,
    },
    /// It does not say: this client may not ask, or does not know the answer.
    Unknown,
}

/// Asks a server for its role. One that does not let this client ask has answered all the same; one that is still
/// loading its data says that it is a master, and is refused by its answer to `PING`.
pub(super) async fn ask(connection: &mut MultiplexedConnection) -> RedisResult<Role> {
    let mut questions = redis::pipe();
    questions.cmd("PING").cmd("ROLE").ignore_errors();
    let answers: Vec<RedisResult<Value>> = questions.query_async(connection).await?;
    judge(answers)
}

fn judge(answers: Vec<RedisResult<Value>>) -> RedisResult<Role> {
    let Ok([ping, role]) = <[_; 2]>::try_from(answers) else { return Ok(Role::Unknown) };
    match (ping, role) {
        (Err(loading), _) if loading.code() == Some("LOADING") => Err(loading),
        (_, Ok(answer)) => Ok(read(&answer)),
        (_, Err(error)) if matches!(error.code(), Some("NOPERM" | "ERR")) => Ok(Role::Unknown),
        (_, Err(error)) => Err(error),
    }
}

fn read(answer: &Value) -> Role {
    let Value::Array(parts) = answer else { return Role::Unknown };
    let word = |place: usize| match parts.get(place) {
        Some(Value::BulkString(bytes)) => bytes.as_slice(),
        Some(Value::SimpleString(text)) => text.as_bytes(),
        _ => b"",
    };
    match word(0) {
        b"master" => Role::Master,
        b"slave" => Role::Replica { linked: word(3) == b"connected" },
        _ => Role::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_replica_that_hears_its_master_is_linked() {
        let words = |words: &[&str]| {
            Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect())
        };
        for (answer, role) in [
            (words(&["master", "0", ""]), Role::Master),
            (words(&["slave", "host", "6379", "connected", "7"]), Role::Replica { linked: true }),
            (words(&["slave", "host", "6379", "connect", "-1"]), Role::Replica { linked: false }),
            (words(&["slave", "host", "6379", "sync", "-1"]), Role::Replica { linked: false }),
            (words(&["slave"]), Role::Replica { linked: false }),
            (words(&["sentinel", ""]), Role::Unknown),
            (words(&[]), Role::Unknown),
            (Value::Okay, Role::Unknown),
        ] {
            assert_eq!(read(&answer), role, "{answer:?}");
        }
    }
}
