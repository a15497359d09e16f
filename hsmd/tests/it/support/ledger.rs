//! A ledger opened by a test itself.

use std::{path::Path, time::Duration};

use hsmd::ledger::{Error, Ledger, Settings};

/// The ledger in that file, its chain copy beside it.
pub async fn open(file: &Path) -> Result<Ledger, Error> {
    Ledger::open(settings(&format!("sqlite://{}", file.display()), file)).await
}

/// The same, to read what is in it while something else may write it.
pub async fn read(file: &Path) -> Ledger {
    let settings = settings(&format!("sqlite://{}", file.display()), file);
    Ledger::open(Settings { patience: Duration::ZERO, ..settings }).await.unwrap()
}

/// As a test opens a ledger: its copies in the folder of `beside`, with a floor that small file systems have.
pub fn settings(url: &str, beside: &Path) -> Settings {
    let copies = beside.parent().unwrap().join("copy");
    Settings { room_floor: 1 << 20, patience: Duration::from_secs(10), ..Settings::new(url, &copies) }
}
