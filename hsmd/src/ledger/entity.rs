//! The tables.

#![expect(unreachable_pub, reason = "sea-orm's derive puts its own public items beside them")]

/// One row an event.
pub(super) mod event {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "events")]
    pub struct Model {
        /// The event's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The chain's prefix; unique together with the sequence number.
        pub prefix: String,
        /// The event's place in the chain.
        pub sequence_number: i64,
        /// The published form, verbatim: event and signature.
        #[sea_orm(column_type = "Text")]
        pub published: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// One row, which is locked by whoever makes an event.
pub(super) mod keeper {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "keeper")]
    pub struct Model {
        /// Always 1.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        /// The highest sequence number that a key may have been made for; -1 before the first.
        pub key_intent: i64,
        /// The last trusted time, in milliseconds since 1970.
        pub trusted_time: Option<i64>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// One row a key that its device has certified.
pub(super) mod attestation {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "attestations")]
    pub struct Model {
        /// The key.
        #[sea_orm(primary_key, auto_increment = false)]
        pub public_key: String,
        /// The device's certificate, DER.
        pub certificate: Vec<u8>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
