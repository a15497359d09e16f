//! The tables of records: each chain from its first record to its newest.

use keychain::chain::windows;
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::feed::{Cause, Place};
use keychain::{Digest, PublicKey, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::{Judge, PAGE, Stands, Visitor, Walk};
use crate::issuer::SERVICE;
use crate::record::proof::{self, Broken, Open, Witness};
use crate::record::{
    AccountRecord, AccountState, BanRecord, DeviceRecord, DeviceState, Order, RoleRecord, Version,
};
use crate::store::mac::{MacKeys, Row, name_of, table_of};
use crate::store::outbox::{LIFT_REMEMBERED, effective, readable};
use crate::store::tables::{account, ban, device, outbox, role, signer};
use crate::store::{Fault, rows};

/// A version of something that has a chain of its own.
trait Chained: Sized {
    /// As its table has it.
    type Row: Row;

    /// The rows after a place, by chain and number.
    async fn page(on: &DatabaseConnection, after: Option<&(String, i64)>) -> Result<Vec<Self::Row>, Fault>;

    /// The newest row of a chain.
    async fn newest(on: &DatabaseConnection, prefix: &str) -> Result<Option<Self::Row>, Fault>;

    /// The place of a row.
    fn place(row: &Self::Row) -> (String, i64);

    /// The record that a row has, if its MAC holds.
    fn read(macs: &MacKeys, row: Self::Row) -> Result<Self, Fault>;

    /// Whether a record follows from the one before.
    fn judge<'a>(before: Option<&Self>, record: &'a Self) -> Result<Open<'a>, Broken>;

    fn version(&self) -> &Version;

    fn identity(&self) -> Digest;

    /// What the outbox must say while this is the newest version.
    fn due(&self, judge: &Judge<'_>) -> Due;
}

/// What the outbox must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Nothing that can be told from the record.
    Nothing,
    /// A denial of this place, until then at least; for ever if nothing is said.
    Denial(Place, Option<Timestamp>),
    /// That a denial of this place was lifted.
    Lift(Place),
    /// A denial of each active device of a deleted account.
    Devices,
}

macro_rules! chained {
    ($record:ty, $table:ident, $read:expr, $judge:path, $due:expr) => {
        impl Chained for $record {
            type Row = $table::Model;

            async fn page(
                on: &DatabaseConnection,
                after: Option<&(String, i64)>,
            ) -> Result<Vec<Self::Row>, Fault> {
                use $table::Column::{Prefix, SequenceNumber};
                let mut rows = $table::Entity::find();
                if let Some((prefix, number)) = after {
                    let place = Expr::tuple([Expr::col(Prefix), Expr::col(SequenceNumber)]);
                    let last = Expr::tuple([Expr::val(prefix.as_str()), Expr::val(*number)]);
                    rows = rows.filter(place.gt(last));
                }
                let rows = rows.order_by_asc(Prefix).order_by_asc(SequenceNumber).limit(PAGE);
                Ok(rows.all(on).await?)
            }

            async fn newest(on: &DatabaseConnection, prefix: &str) -> Result<Option<Self::Row>, Fault> {
                let rows = $table::Entity::find().filter($table::Column::Prefix.eq(prefix));
                Ok(rows.order_by_desc($table::Column::SequenceNumber).one(on).await?)
            }

            fn place(row: &Self::Row) -> (String, i64) {
                (row.prefix.clone(), row.sequence_number)
            }

            fn read(macs: &MacKeys, row: Self::Row) -> Result<Self, Fault> {
                $read(macs, row)
            }

            fn judge<'a>(before: Option<&Self>, record: &'a Self) -> Result<Open<'a>, Broken> {
                $judge(before, record)
            }

            fn version(&self) -> &Version {
                &self.version
            }

            fn identity(&self) -> Digest {
                self.identity
            }

            fn due(&self, judge: &Judge<'_>) -> Due {
                $due(self, judge)
            }
        }
    };
}

chained!(AccountRecord, account, rows::account_record, proof::account, due_of_account);
chained!(DeviceRecord, device, rows::device_record, proof::device, due_of_device);
chained!(BanRecord, ban, |macs, row: ban::Model| rows::ban_record(macs, &row), proof::ban, due_of_ban);
chained!(
    RoleRecord,
    role,
    |macs, row: role::Model| rows::role_record(macs, &row),
    proof::roles,
    |_: &RoleRecord, _: &Judge<'_>| Due::Nothing
);

/// A chain that is being walked.
struct Progress<C> {
    prefix: String,
    before: Option<C>,
    is_broken: bool,
}

impl<V: Visitor> Walk<'_, V> {
    pub(super) async fn chains(&mut self) -> Result<(), Fault> {
        self.table::<AccountRecord>().await?;
        self.table::<DeviceRecord>().await?;
        self.table::<BanRecord>().await?;
        self.table::<RoleRecord>().await?;
        self.doubles().await
    }

    async fn table<C: Chained>(&mut self) -> Result<(), Fault> {
        let (mut after, mut chain) = (None, None::<Progress<C>>);
        loop {
            let page = C::page(&self.store.reader, after.as_ref()).await?;
            if page.is_empty() {
                break;
            }
            for row in page {
                self.count(table_of::<C::Row>());
                let place = C::place(&row);
                chain = Some(match chain.take() {
                    Some(chain @ Progress { .. }) if chain.prefix == place.0 => chain,
                    other => {
                        self.end(other).await?;
                        Progress { prefix: place.0.clone(), before: None, is_broken: false }
                    }
                });
                after = Some(place);
                if let Some(chain) = chain.as_mut().filter(|chain| !chain.is_broken) {
                    self.step(chain, row).await?;
                }
            }
        }
        self.end(chain).await
    }

    /// Takes the next row of a chain.
    async fn step<C: Chained>(&mut self, chain: &mut Progress<C>, row: C::Row) -> Result<(), Fault> {
        let id = name_of(&row);
        let read = C::read(&self.store.macs, row);
        let Some(record) = self.note(read)? else {
            chain.is_broken = true;
            return Ok(());
        };
        let because = match C::judge(chain.before.as_ref(), &record) {
            Ok(open) => self.settle(&record, open).await?,
            Err(Broken(because)) => Some(because),
        };
        if let Some(because) = because {
            chain.is_broken = true;
            self.found(table_of::<C::Row>(), id, because);
        }
        chain.before = Some(record);
        Ok(())
    }

    /// Ends a chain with its newest record.
    async fn end<C: Chained>(&mut self, chain: Option<Progress<C>>) -> Result<(), Fault> {
        let Some(Progress { before: Some(newest), is_broken: false, .. }) = chain else { return Ok(()) };
        let table = table_of::<C::Row>();
        let version = newest.version();
        let (prefix, id) = (version.prefix, version.id);
        if let Some(because) = self.untold(&newest).await? {
            // What was decided since may have changed both; if nothing was, the row is missing.
            let now = C::newest(&self.store.reader, &prefix.to_string()).await?;
            if now.is_some_and(|row| name_of(&row) == id.to_string()) {
                self.found(table, id.to_string(), because);
            }
        }
        let number = version.sequence_number;
        self.visitor.stands(Stands::Record { table: table.to_owned(), prefix, number, id });
        Ok(())
    }

    /// Looks up what a record leaves open; what is wrong, if something is.
    async fn settle<C: Chained>(
        &mut self,
        record: &C,
        open: Open<'_>,
    ) -> Result<Option<&'static str>, Fault> {
        let identity = record.identity().to_string();
        match open {
            Open::Nothing => Ok(None),
            Open::Endorsed(order) => self.endorsed(order, record.version().created_at).await,
            Open::Made(Witness::Account, cause) => {
                let made = account::Entity::find()
                    .filter(account::Column::Identity.eq(identity))
                    .filter(account::Column::Cause.eq(cause.to_string()));
                let is_made = made.count(&self.store.reader).await? > 0;
                Ok((!is_made).then_some("the account has no row of the request that made it"))
            }
            Open::Made(Witness::Device(device), cause) => {
                let made = device::Entity::find()
                    .filter(device::Column::Device.eq(device.to_string()))
                    .filter(device::Column::Identity.eq(identity))
                    .filter(device::Column::Cause.eq(cause.to_string()));
                let is_made = made.count(&self.store.reader).await? > 0;
                Ok((!is_made).then_some("the device that asked for it has no row of that request"))
            }
        }
    }

    /// Whether the HSM had endorsed the key that signed an order, when it did.
    async fn endorsed(&self, order: &Order, then: Timestamp) -> Result<Option<&'static str>, Fault> {
        let key: &PublicKey = &order.signer;
        let row = signer::Entity::find_by_id(key.to_string()).one(&self.store.reader).await?;
        let Some(row) = row else {
            return Ok(Some("the endorsement of the key that signed its order is missing"));
        };
        if self.store.macs.judge(&row).is_err() {
            return Ok(Some("the endorsement of the key that signed its order is not as authd wrote it"));
        }
        let expected = Expected { purpose: Purpose::Access, public_key: key, service: Some(SERVICE) };
        let verified = Endorsement::parse(&row.endorsement).and_then(|endorsement| {
            endorsement.verify_as_of(self.judge.chain, expected, windows::AUTHD, then)
        });
        Ok(verified.err().map(|_| "the HSM had not endorsed the key that signed its order"))
    }

    /// What the outbox does not say of a newest record, and must.
    async fn untold<C: Chained>(&self, record: &C) -> Result<Option<&'static str>, Fault> {
        const MISSING: &str = "its denial is missing in the outbox, so edges may not hear of it";
        match record.due(&self.judge) {
            Due::Nothing => Ok(None),
            Due::Denial(place, until) => {
                let told = self.told(place, false).await?;
                let lasts = |end: &Option<Timestamp>| match (end, until) {
                    (None, _) => true,
                    (Some(end), Some(until)) => *end >= until,
                    (Some(_), None) => false,
                };
                Ok((!told.iter().any(lasts)).then_some(MISSING))
            }
            Due::Lift(place) => {
                let is_told = !self.told(place, true).await?.is_empty();
                Ok((!is_told).then_some("its lift is missing in the outbox, so edges may not hear of it"))
            }
            Due::Devices => {
                let account = record.identity();
                let standing = self.store.standing(&account).await?;
                for device in standing.devices.iter().filter(|device| device.state == DeviceState::Active) {
                    let place = Place { subject: device.device, account, cause: Cause::Deletion };
                    if self.told(place, false).await?.is_empty() {
                        return Ok(Some(MISSING));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Until when the outbox says it of a place.
    async fn told(&self, place: Place, lifted: bool) -> Result<Vec<Option<Timestamp>>, Fault> {
        let rows = outbox::Entity::find()
            .filter(outbox::Column::Subject.eq(place.subject.to_string()))
            .filter(outbox::Column::Account.eq(place.account.to_string()))
            .filter(outbox::Column::Cause.eq(place.cause.as_str()))
            .filter(outbox::Column::Lifted.eq(lifted))
            .filter(effective(self.judge.now))
            .all(&self.store.reader)
            .await?;
        let (rows, _) = readable(&self.store.macs, rows)?;
        Ok(rows.iter().map(|(row, _)| row.expires_at.map(Timestamp::from_unix_millis)).collect())
    }

    /// Finds those that have two chains.
    async fn doubles(&mut self) -> Result<(), Fault> {
        macro_rules! twice {
            ($table:ident, $($column:ident),+) => {
                let twice: Vec<String> = $table::Entity::find()
                    .select_only()
                    .column($table::Column::Identity)
                    .filter($table::Column::SequenceNumber.eq(0))
                    $(.group_by($table::Column::$column))+
                    .having($table::Column::SequenceNumber.count().gt(1))
                    .limit(PAGE)
                    .into_tuple()
                    .all(&self.store.reader)
                    .await?;
                for identity in twice {
                    self.found(table_of::<$table::Model>(), identity, "there are two chains of it");
                }
            };
        }
        twice!(account, Identity);
        twice!(device, Identity, Device);
        twice!(ban, Identity);
        twice!(role, Identity);
        Ok(())
    }
}

fn due_of_account(record: &AccountRecord, judge: &Judge<'_>) -> Due {
    let is_recent = record.version.created_at.plus(judge.denial) > judge.now;
    if record.state == AccountState::Deleted && is_recent { Due::Devices } else { Due::Nothing }
}

fn due_of_device(record: &DeviceRecord, judge: &Judge<'_>) -> Due {
    let is_recent = record.version.created_at.plus(judge.denial) > judge.now;
    if record.state != DeviceState::Revoked || !is_recent {
        return Due::Nothing;
    }
    let place = Place { subject: record.device, account: record.identity, cause: Cause::Revocation };
    Due::Denial(place, Some(judge.now))
}

fn due_of_ban(record: &BanRecord, judge: &Judge<'_>) -> Due {
    let place = Place { subject: record.identity, account: record.identity, cause: Cause::Ban };
    let is_recent = record.version.created_at.plus(LIFT_REMEMBERED) > judge.now;
    if record.is_in_force(judge.now) {
        Due::Denial(place, record.until)
    } else if !record.banned && is_recent {
        Due::Lift(place)
    } else {
        Due::Nothing
    }
}
