//! What was used: one row for each project, and one for each of its users, as long as anything of it counts.

use shoal_kernel::Tally;
use shoal_protocol::{Problem, codec};

use super::decode;
use crate::store::{Mutation, Store, Table};

/// Rows that are read at once after a start.
const PAGE_LEN: usize = 1_000;

/// The row of a tally; none is left where nothing counts any more.
pub(super) fn row(tally: &Tally) -> Mutation {
    let user = tally.user.map(|user| user.to_bytes());
    let key = [tally.group.to_bytes().as_slice(), user.as_ref().map_or(&[], |user| user.as_slice())].concat();
    match tally.recent_us {
        0 => Mutation::delete(Table::Tallies, key),
        _ => Mutation::put(Table::Tallies, key, codec::encode(tally)),
    }
}

/// All of them.
pub(in crate::runtime) fn read_tallies(store: &Store) -> Result<Vec<Tally>, Problem> {
    let mut tallies = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan_prefix(Table::Tallies, &[], after.as_deref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(tallies) };
        after = Some(last.to_vec());
        for (_, row) in &page {
            tallies.push(decode("tally of use", row)?);
        }
    }
}
