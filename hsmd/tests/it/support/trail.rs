//! An audit trail as an auditor reads it.

use std::collections::BTreeMap;

use keychain::{
    Timestamp,
    audit::{Kind, Trail},
};
use sea_orm::{ConnectionTrait as _, Database, Statement};

/// A line that holds.
#[derive(Clone, Debug)]
pub struct Line {
    pub number: u64,
    pub kind: Kind,
    /// When it was written.
    pub at: Timestamp,
    /// The other members, as they are written.
    pub members: BTreeMap<String, String>,
}

impl Line {
    /// A member that is a text; empty if there is none.
    pub fn text(&self, name: &str) -> String {
        self.members.get(name).map(|raw| serde_json::from_str(raw).unwrap()).unwrap_or_default()
    }

    pub fn raw(&self, name: &str) -> &str {
        self.members.get(name).map_or("", String::as_str)
    }

    /// Whether it is the line of an endorsement or an operation of that name with that outcome.
    pub fn is(&self, kind: Kind, operation: &str) -> bool {
        self.kind == kind && self.text("operation") == operation
    }
}

/// Reads the trail in a ledger's database; fails the test if it does not hold from its first line to its last.
pub fn read(ledger: &str) -> Vec<Line> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let text = runtime.block_on(async {
        let database = Database::connect(ledger).await.unwrap();
        let all = "SELECT line FROM audit_lines ORDER BY number";
        let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), all));
        let lines: Vec<String> =
            rows.await.unwrap().iter().map(|row| row.try_get("", "line").unwrap()).collect();
        database.close().await.unwrap();
        lines.join("\n") + "\n"
    });
    let mut trail = Trail::new();
    let mut lines = Vec::new();
    let walked = trail.walk(&text, |entry| {
        let members = entry.members().iter().map(|(name, raw)| ((*name).to_owned(), (*raw).to_owned()));
        lines.push(Line {
            number: entry.head.number,
            kind: entry.kind,
            at: entry.at,
            members: members.collect(),
        });
    });
    assert!(walked.because.is_none() && walked.rest == 0, "{walked:?}");
    lines
}
