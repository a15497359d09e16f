//! Database 7: what each instance of a service acknowledged last
//! ([PROTOCOL.md#directory-acknowledgements](../../PROTOCOL.md#directory-acknowledgements)).
//!
//! The names begin with neither `1AAI` nor `E`, so that nobody who follows [`super::Changes`] hears of one.

use std::time::Duration;

use super::{Directory, Error, millis, read};
use crate::acknowledgement::Instance;

impl Directory {
    /// Publishes what an instance acknowledges, in the place of what it acknowledged before. It disappears after `ttl`.
    pub async fn acknowledge(
        &self,
        service: &str,
        instance: &Instance,
        text: &str,
        ttl: Duration,
    ) -> Result<(), Error> {
        let name = name(service, instance);
        read::bounded(&self.lanes.acknowledgements, &name, text)?;
        let mut set = redis::pipe();
        set.cmd("SET").arg(name).arg(text).arg("PX").arg(millis(ttl)).ignore();
        self.lanes.acknowledgements.run("publish an acknowledgement", &set).await
    }

    /// What these instances acknowledged last, in their order, unverified; nothing for one that has no entry, or one
    /// that cannot be read.
    pub async fn acknowledgements(&self, who: &[(&str, &Instance)]) -> Result<Vec<Option<String>>, Error> {
        let names = who.iter().map(|(service, instance)| name(service, instance)).collect();
        read::each(&self.lanes.acknowledgements, "read acknowledgements", names).await
    }
}

fn name(service: &str, instance: &Instance) -> String {
    format!("ack:{service}:{}", instance.as_str())
}
