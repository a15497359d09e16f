//! hsmd killed, again and again, at random points around rotations.

use std::time::{Duration, Instant};

use crate::faults;
use crate::support::{
    daemon::{Daemon, try_request},
    eventually, in_parallel,
    world::{Database, World},
};

#[test]
fn killed_around_rotations_on_sqlite() {
    killed(Database::Sqlite, if faults::everything() { 40 } else { 15 });
}

#[test]
fn killed_around_rotations_on_postgres() {
    killed(Database::Postgres, if faults::everything() { 15 } else { 6 });
}

/// Kills hsmd while it rotates and taints, starts it again, and looks: the chain is valid, nothing answered
/// is lost, and the token holds the live key and the next.
fn killed(database: Database, rounds: u32) {
    let world = World::new(database);
    // Numerical Recipes' generator: the points are spread out, and the same in every run.
    let mut random = 20_260_102_u32;
    let mut hsmd = world.start();
    let start = Instant::now();
    world.rotate("{}");
    let one = start.elapsed();
    let mut length = world.chain().len();
    let mut round = 0;
    // Until rotations were answered too: on a busy machine most rounds may end before the first.
    while round < rounds || (length <= 4 && round < rounds * 10) {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Up to the time of three rotations, in steps that fall anywhere within one.
        let delay = one * 3 * (random >> 16) / 65_536;
        let answered = rotate_until_killed(&world, &mut hsmd, delay);
        hsmd = world.start();
        let chain = world.chain();
        assert!(chain.len() >= length + answered, "round {round}: an answered rotation is lost");
        assert!(chain.len() <= length + answered + 1, "round {round}");
        assert_eq!(world.softhsm.objects(), 4, "round {round}: {}", hsmd.log());
        length = chain.len();
        round += 1;
    }
    assert!(length > 4, "{length}");
    world.rotate("{}");
    hsmd.stop();
}

fn rotate_until_killed(world: &World, hsmd: &mut Daemon, delay: Duration) -> usize {
    let admin = world.socket("admin");
    std::thread::scope(|scope| {
        let rotating = scope.spawn(|| {
            let paths = ["/rotate", "/taint"].iter().cycle();
            paths
                .take_while(|path| {
                    try_request(&admin, "POST", path, b"{}").is_ok_and(|answer| answer.status == 200)
                })
                .count()
        });
        let start = Instant::now();
        eventually("the moment", delay + Duration::from_secs(1), || start.elapsed() >= delay);
        hsmd.kill();
        rotating.join().unwrap()
    })
}

/// Killed in its very first start, at points further and further on.
///
/// Not before the token is open: SoftHSM rewrites the token's own file at each login, in place, and one that
/// is killed in that moment has lost the token for good.
#[test]
fn killed_in_the_first_start() {
    in_parallel([0_u64, 1, 2, 4, 6, 8, 12, 16, 20, 25, 30, 40, 60, 80], |millis| {
        let world = World::new(Database::Sqlite);
        let mut hsmd = world.spawn();
        let ledger = world.path().join("ledger.db");
        eventually("the ledger", Duration::from_secs(20), || ledger.exists());
        let start = Instant::now();
        eventually("the moment", Duration::from_secs(1), || start.elapsed() >= Duration::from_millis(millis));
        hsmd.kill();
        let _hsmd = world.start();
        assert_eq!(world.chain().len(), 1);
        assert_eq!(world.softhsm.objects(), 4, "killed after {millis} ms");
    });
}
