//! The newest head of an earlier process, which is served until this one has made its own: a start without a token heals
//! the directory from it.

use std::sync::Arc;

use keychain::statement::Head;

use super::{Issued, Statements};

impl Statements {
    /// The newest head: this process's, or before that the kept one.
    pub fn newest_or_kept(&self) -> Arc<Issued> {
        self.or_kept(&self.newest())
    }

    /// `newest`, or before this process has made a head the kept one.
    pub fn or_kept(&self, newest: &Arc<Issued>) -> Arc<Issued> {
        let kept = self.kept.as_ref().filter(|_| newest.head.is_none());
        Arc::clone(kept.unwrap_or(newest))
    }

    /// The head that stands beside the chain copy, if the newest event's key signed it and it holds. It is only served, as
    /// any copy of it may be; what it lists is compared with the ledger before this process signs a head.
    pub(super) async fn read_kept(&mut self) {
        let kept = self.keeper.ledger().kept().await.and_then(|kept| kept.head);
        let Some(head) = kept.and_then(|text| Head::parse(&text).ok()) else { return };
        let Some(view) = self.keeper.seen() else { return };
        let is_newest = head.event_id() == view.live().id() && head.verify_signature(view.live()).is_ok();
        if is_newest && head.expiration() > self.keeper.now() {
            let version = u64::try_from(head.issued_at().unix_millis()).unwrap_or(0);
            self.kept = Some(Arc::new(Issued { version, head: Some(head) }));
        }
    }
}
