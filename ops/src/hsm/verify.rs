//! `opsctl hsm verify`: whether the chain goes on past the loss of a token, or from a backup.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::backup;
use crate::chain::print_json;
use crate::deployment::Deployment;
use crate::failure::{Exit, Failure, OrFail};
use crate::talk::Talk;

/// The version of what `--json` prints.
const JSON_VERSION: u32 = 1;

/// Options of `opsctl hsm verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    deployment: Deployment,
    /// A backup of a YubiHSM 2 to look at instead of the tokens
    #[arg(long, value_name = "FILE", requires = "chain", conflicts_with = "json")]
    backup: Option<PathBuf>,
    /// The published chain that the backup is to go on with, as `opsctl chain show --json` prints it
    #[arg(long, value_name = "FILE", requires = "backup")]
    chain: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Health {
    #[serde(default)]
    tokens: Vec<Token>,
}

/// One of two tokens, as hsmd tells it.
#[derive(Debug, Deserialize, Serialize)]
struct Token {
    name: String,
    answers: bool,
    live: bool,
    next: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
}

#[derive(Serialize)]
struct Verdict<'a> {
    version: u32,
    good: bool,
    reason: Option<&'a str>,
    tokens: &'a [Token],
}

/// `opsctl hsm verify`.
pub(crate) async fn verify(options: &Verify, talk: Talk) -> Result<(), Failure> {
    if let (Some(file), Some(chain)) = (&options.backup, &options.chain) {
        let arguments = ["--backup".as_ref(), file.as_os_str(), "--chain".as_ref(), chain.as_os_str()];
        return Err(backup::hand_on("verify", &arguments));
    }
    let hsmd = options.deployment.admin()?;
    let answer = hsmd.get("/health").await?;
    // What is not ready answers 503, with the same body.
    let health = if answer.status == 503 { answer.body } else { answer.ok(&hsmd)? };
    let Health { tokens } =
        serde_json::from_str(&health).or_fail(Exit::Data, || "hsmd's answer is not that of its health")?;
    let verdict = judge(&tokens);
    if options.json {
        let reason = verdict.as_ref().err().map(String::as_str);
        print_json(&Verdict { version: JSON_VERSION, good: reason.is_none(), reason, tokens: &tokens })?;
    }
    let good = verdict.map_err(|reason| Failure::new(Exit::No, reason))?;
    talk.say(good);
    Ok(())
}

/// Whether either token may be lost; what is so, or what has to be done.
fn judge(tokens: &[Token]) -> Result<String, String> {
    let [first, second] = tokens else {
        return Err(
            "hsmd has one token, and the chain ends with it: add a `[second_hsm]`, or back up a YubiHSM \
                    2 (`opsctl hsm backup`) and verify that with `--backup`"
                .to_owned(),
        );
    };
    let silent: Vec<_> = tokens.iter().filter(|token| !token.answers).collect();
    if let Some(Token { name, because, .. }) = silent.first() {
        let because = because.as_deref().unwrap_or("it does not say why");
        return Err(format!(
            "the token `{name}` does not answer ({because}): bring it back, or see \"Two tokens\" in hsmd/RECOVERY.md"
        ));
    }
    match [first, second].map(|token| (token.live, token.next)) {
        [(true, true), (true, true)] => {
            Ok("the live key and the next are on both tokens: either may be lost".to_owned())
        }
        [(false, false), (false, false)] => {
            Err("hsmd does not know yet where the live key and the next are: see its status".to_owned())
        }
        _ => Err("a key is on one token only: see the warning `tokens` of `opsctl status`; once the tokens are paired \
                  (`opsctl hsm pair`), two rotations put both keys on both"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_that_answer_with_both_keys_each_are_good() {
        let token = |name: &str, answers, live, next| Token {
            name: name.to_owned(),
            answers,
            live,
            next,
            because: None,
        };
        let pair = |one: (bool, bool, bool), two: (bool, bool, bool)| {
            vec![token("first", one.0, one.1, one.2), token("second", two.0, two.1, two.2)]
        };
        for (tokens, told) in [
            (pair((true, true, true), (true, true, true)), Ok("either may be lost")),
            (pair((true, true, false), (true, false, true)), Err("on one token")),
            (pair((true, true, true), (true, false, true)), Err("on one token")),
            (vec![], Err("one token")),
            (pair((false, true, false), (true, false, true)), Err("`first` does not answer")),
            (pair((true, true, false), (false, false, true)), Err("`second` does not answer")),
            (pair((true, true, true), (true, false, false)), Err("on one token")),
            (pair((true, false, false), (true, true, true)), Err("on one token")),
            (pair((true, true, false), (true, false, false)), Err("on one token")),
            (pair((true, false, false), (true, false, false)), Err("does not know")),
        ] {
            let verdict = judge(&tokens);
            assert_eq!(verdict.is_ok(), told.is_ok(), "{tokens:?}");
            let (Ok(text) | Err(text), Ok(part) | Err(part)) = (&verdict, told);
            assert!(text.contains(part), "{text}");
        }
    }
}
