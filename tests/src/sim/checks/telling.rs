//! What must hold of what subscribers are told: it is what is written, and every change of a job's state is told.

use std::collections::BTreeMap;

use shoal_kernel::{Accepted, Effect, Record, Standing};
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Event, State};

use super::Broken;

type Emitted = BTreeMap<ObjectId, (Accepted, Standing)>;

/// What subscribers were told last of each job.
#[derive(Debug, Default)]
pub(super) struct Tellings {
    told: BTreeMap<ObjectId, State>,
}

impl Tellings {
    /// A life of the node begins: subscribers begin anew, with how the jobs stand.
    pub(super) fn restarted(&mut self, emitted: &Emitted) {
        self.told = emitted.iter().map(|(id, (_, standing))| (*id, standing.state)).collect();
    }

    /// Subscribers are told of a change.
    pub(super) fn told(&mut self, event: &Event, standing: Option<&Standing>) -> Result<(), Broken> {
        // That a run has started is not journaled.
        let state = if event.state == State::Running { State::Offered } else { event.state };
        let written = standing.map(|standing| (standing.state, standing.epoch));
        if written != Some((state, event.epoch)) {
            return Err(("what is told of a job is written", format!("{event:?} and {written:?}")));
        }
        self.told.insert(event.job, state);
        Ok(())
    }

    /// The kernel has said all that follows from an input.
    pub(super) fn complete(&self, effects: &[Effect], emitted: &Emitted) -> Result<(), Broken> {
        let written = effects.iter().flat_map(|effect| match effect {
            Effect::Write(Record::Standing(id, _)) => [Some(*id), None],
            Effect::Write(Record::Ended(element, _, array, _)) => [Some(*element), Some(*array)],
            _ => [None, None],
        });
        for id in written.flatten() {
            let (told, stands) = (self.told.get(&id), emitted.get(&id).map(|(_, standing)| &standing.state));
            if stands.is_some() && told != stands {
                return Err(("every change of state is told", format!("{id} stands as {stands:?}, told was {told:?}")));
            }
        }
        Ok(())
    }
}
