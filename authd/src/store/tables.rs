//! The tables, as sea-orm sees them. Digests, keys and signatures are kept as their text, which both
//! databases compare byte for byte; times are Unix milliseconds. Each row has a MAC ([`super::mac`]).
#![expect(unreachable_pub, reason = "the derives of sea-orm write `pub` for what they add")]

/// Versions of accounts.
pub(super) mod account {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "account_records")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub prefix: String,
        pub previous: Option<String>,
        pub sequence_number: i64,
        pub created_at: i64,
        pub identity: String,
        pub recovery_hash: String,
        pub revealed: Option<String>,
        pub state: String,
        pub format: i32,
        pub path: Option<String>,
        pub cause: Option<String>,
        pub payload: Option<String>,
        pub action: Option<String>,
        pub operator: Option<String>,
        pub reason: Option<String>,
        pub signer: Option<String>,
        pub signature: String,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Versions of devices.
pub(super) mod device {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "device_records")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub prefix: String,
        pub previous: Option<String>,
        pub sequence_number: i64,
        pub created_at: i64,
        pub identity: String,
        pub device: String,
        pub public_key: String,
        pub rotation_hash: String,
        pub state: String,
        pub format: i32,
        pub path: Option<String>,
        pub cause: Option<String>,
        pub payload: Option<String>,
        pub action: Option<String>,
        pub operator: Option<String>,
        pub reason: Option<String>,
        pub signer: Option<String>,
        pub signature: String,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Versions of bans.
pub(super) mod ban {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "ban_records")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub prefix: String,
        pub previous: Option<String>,
        pub sequence_number: i64,
        pub created_at: i64,
        pub identity: String,
        pub banned: bool,
        pub until: Option<i64>,
        pub format: i32,
        pub action: String,
        pub operator: String,
        pub reason: String,
        pub signer: String,
        pub signature: String,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Versions of the roles that identities were granted.
pub(super) mod role {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "role_records")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub prefix: String,
        pub previous: Option<String>,
        pub sequence_number: i64,
        pub created_at: i64,
        pub identity: String,
        pub roles: String,
        pub format: i32,
        pub action: String,
        pub operator: String,
        pub reason: String,
        pub signer: String,
        pub signature: String,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Lines of the audit trail.
pub(super) mod audit {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "audit_lines")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub number: i64,
        pub digest: String,
        pub line: String,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Endorsements of the keys that signed operators' records.
pub(super) mod signer {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "signers")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub public_key: String,
        pub endorsement: String,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The HSM's endorsements of authd's own keys; kept until they end.
pub(super) mod endorsement {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "endorsements")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub public_key: String,
        pub endorsement: String,
        pub ends_at: i64,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Refreshes, one for each access key that was ever revealed; kept until their session ends.
pub(super) mod refresh {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "refreshes")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub digest: String,
        pub cause: String,
        pub identity: String,
        pub device: String,
        pub public_key: String,
        pub rotation_hash: String,
        pub issued_at: i64,
        pub expiry: i64,
        pub refresh_expiry: i64,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Nonces that are spent: challenges that were answered, and requests of owners. Kept until they would be out of date anyhow.
pub(super) mod challenge {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "spent_challenges")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub nonce: String,
        pub forgotten_at: i64,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The key of the challenges, one row.
pub(super) mod secret {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "secrets")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub value: String,
        pub mac: Option<String>,
    }

    impl std::fmt::Debug for Model {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("secret")
        }
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Revocations that edges are to hear of, in the order in which they were decided.
pub(super) mod outbox {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "outbox")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub subject: String,
        pub account: String,
        pub cause: String,
        pub lifted: bool,
        pub expires_at: Option<i64>,
        pub sent_at: Option<i64>,
        pub fed_at: Option<i64>,
        pub held_at: Option<i64>,
        pub issued_up_to: Option<i64>,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The denial feed: its newest position, and which authd writes it. One row.
pub(super) mod feed {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "feeds")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub epoch: i64,
        pub position: i64,
        pub fence: i64,
        pub holder: String,
        pub held_until: i64,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What is noted of the whole store.
pub(super) mod mark {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "marks")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub value: String,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What owners call their devices. One row a device, written in its place.
pub(super) mod name {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "device_names")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub identity: String,
        pub device: String,
        pub name: String,
        pub named_at: i64,
        pub named_by: String,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Which sessions of devices were ended by their owner: those whose tokens were issued up to then. One row a device,
/// written in its place; kept until the last of these sessions would have ended anyhow.
pub(super) mod session_end {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "session_ends")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub identity: String,
        pub device: String,
        pub issued_up_to: i64,
        pub ended_at: i64,
        pub ended_by: String,
        pub forgotten_at: i64,
        pub mac: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
