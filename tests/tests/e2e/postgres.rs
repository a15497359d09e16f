//! The same life on PostgreSQL as on SQLite.

use tests::World;
use tests::postgres::PostgreSql;

use super::operations::walk;

#[tokio::test]
async fn an_account_lives_its_whole_life_on_postgresql() {
    let database = PostgreSql::start_with(&["fsync=on"]).await;
    let world = World::start_on(&database.url()).await;
    walk(&world.auth(), &world.app("rust")).await;
}
