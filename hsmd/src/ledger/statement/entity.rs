//! The tables of what is stated.

#![expect(unreachable_pub, reason = "sea-orm's derive puts its own public items beside them")]

/// One row a denied generation.
pub(super) mod denial {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "denials")]
    pub struct Model {
        /// The id of the generation's event.
        #[sea_orm(primary_key, auto_increment = false)]
        pub generation_id: String,
        /// When it was denied, in milliseconds since 1970.
        pub denied_at: i64,
        /// When no verifier's window reaches it any more, in milliseconds since 1970.
        pub ends_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// One row a revoked key of a service.
pub(super) mod revoked_key {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "revoked_keys")]
    pub struct Model {
        /// The key.
        #[sea_orm(primary_key, auto_increment = false)]
        pub public_key: String,
        /// When it was revoked, in milliseconds since 1970.
        pub revoked_at: i64,
        /// When no endorsement of it can count any more, in milliseconds since 1970.
        pub ends_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
