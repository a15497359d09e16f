//! `opsctl account export`: everything that authd keeps of one identity.

use keychain::Digest;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ask::Site;
use crate::failure::{Exit, Failure, OrFail};
use crate::out;

/// Options of `opsctl account export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The identity
    #[arg(value_name = "E…")]
    identity: Digest,
    #[command(flatten)]
    site: Site,
}

/// Some rows, and where the next ones begin.
#[derive(Deserialize)]
struct Page {
    rows: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// Prints one JSON object; exit code 1 if authd keeps nothing of the identity.
pub(crate) async fn export(Export { identity, site }: &Export) -> Result<(), Failure> {
    let authd = site.door()?;
    let (mut after, mut count) = (None, 0_usize);
    out::text(format_args!(r#"{{"identity":"{identity}","rows":["#));
    loop {
        let after_this = after.map_or_else(String::new, |after: String| format!("&after={after}"));
        let path = format!("/account/export?identity={identity}{after_this}");
        let answer = authd.get(&path).await?.ok(&authd)?;
        let page: Page =
            serde_json::from_str(&answer).or_fail(Exit::Data, || "authd's answer is no page of rows")?;
        for row in &page.rows {
            out::text(format_args!("{}\n{row}", if count == 0 { "" } else { "," }));
            count += 1;
        }
        out::check()?;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    out::line("]}");
    if count == 0 { Err(Failure::new(Exit::No, "authd keeps nothing of that identity")) } else { Ok(()) }
}
