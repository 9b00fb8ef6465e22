//! Who may begin which epoch of a job with effects `once`, by the word of this node, as that stands in the store.

use shoal_kernel::{Accepted, Promise};
use shoal_protocol::{Problem, codec};

use super::charges::pages;
use super::{decode, key_of};
use crate::store::{Mutation, Store, Table};

/// The row of a promise: the last of its job.
pub(super) fn granted(promise: Promise, rows: &mut Vec<Mutation>) {
    rows.push(Mutation::put(Table::Grants, key_of(promise.job), codec::encode(&promise)));
}

/// What goes with a job, if there may be any.
pub(super) fn gone(accepted: &Accepted) -> Option<Mutation> {
    accepted.terms.effects.is_once().then(|| Mutation::delete(Table::Grants, key_of(accepted.id)))
}

/// All promises.
pub(in crate::runtime) fn read_grants(store: &Store) -> Result<Vec<Promise>, Problem> {
    let mut promises = Vec::new();
    pages(store, Table::Grants, |_, row| {
        promises.push(decode::<Promise>("promise of a custodian", row)?);
        Ok(())
    })?;
    Ok(promises)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::{NodeId, ObjectId};

    /// They are read after an update.
    #[test]
    fn golden_bytes_of_a_promise() {
        let promise = Promise { job: ObjectId::from_parts(1, 0, [2; 8]), epoch: 3, to: NodeId([4; 32]) };
        let bytes = codec::encode(&promise);
        assert_eq!(codec::decode::<Promise>(&bytes), Ok(promise));
        assert_eq!(shoal_protocol::BlobId::of(&bytes).short(), "e736ca86a9");
    }
}
