//! A store that cannot write, and what the node says of itself meanwhile.

use shoal_protocol::Kind;
use shoal_protocol::object::job::Input;

use super::*;
use crate::store::{Mutation, Table};

/// More than a frame of the journal takes: as good as a full disk.
const TOO_LONG: usize = 65 * 1024 * 1024;

impl World {
    /// A write that is not the kernel's fails: nobody but the store knows.
    async fn fail_to_write(&self) {
        let row = Mutation::put(Table::Meta, b"big".to_vec(), vec![0u8; TOO_LONG]);
        let refused = self.runtime.store().commit(vec![row]).await.unwrap_err();
        assert_eq!(refused.kind, Kind::StorageUnavailable);
    }

    async fn recovery(&self) {
        within(async {
            while self.service.health().is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_node_that_cannot_write_says_so_until_it_can() {
    let world = World::new().await;
    world.deploy("f").await;
    assert_eq!(world.service.health(), Ok(()));
    world.fail_to_write().await;
    let problem = world.service.health().unwrap_err();
    assert_eq!((problem.kind, problem.status), (Kind::StorageUnavailable, 503));
    assert!(problem.detail.contains("cannot write") && problem.detail.contains("journal"), "{problem}");
    // Nobody writes, nor asks for anything, and it recovers all the same.
    world.recovery().await;
    world.submit(&world.operator, "f", Input::default()).await;

    world.fail_to_write().await;
    world.service.measure().await;
    let text = world.service.metrics().text();
    assert!(text.contains("shoal_journal_failures_total 2") && text.contains("shoal_journal_failing 1"), "{text}");
    world.recovery().await;
    world.service.measure().await;
    assert!(world.service.metrics().text().contains("shoal_journal_failing 0"));
}
