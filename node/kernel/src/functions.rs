//! The functions and projects that are known here, and how long runs of each function take.

use std::collections::BTreeMap;

use shoal_protocol::ObjectId;
use shoal_protocol::object::function::Function;
use shoal_protocol::object::project::Project;

use crate::rights::Members;

/// One run counts an eighth of the average: eight runs after a change the old time is mostly forgotten.
const WEIGHT: u64 = 8;

/// A known function.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) function: Function,
    /// The moving average of its runs, in microseconds; none before the first.
    pub(crate) run_us: Option<u64>,
}

/// All that are known.
#[derive(Debug, Default)]
pub(crate) struct Functions {
    functions: BTreeMap<ObjectId, Known>,
    projects: BTreeMap<ObjectId, Members>,
}

impl Functions {
    pub(crate) fn put(&mut self, function: Function) {
        let run_us = self.functions.get(&function.id).and_then(|known| known.run_us);
        self.functions.insert(function.id, Known { function, run_us });
    }

    pub(crate) fn remove(&mut self, id: ObjectId) {
        self.functions.remove(&id);
    }

    pub(crate) fn get(&self, id: ObjectId) -> Option<&Function> {
        self.functions.get(&id).map(|known| &known.function)
    }

    pub(crate) fn put_project(&mut self, project: Project) {
        self.projects.insert(project.id, project.members);
    }

    pub(crate) fn knows_project(&self, id: ObjectId) -> bool {
        self.projects.contains_key(&id)
    }

    pub(crate) fn remove_project(&mut self, id: ObjectId) {
        self.projects.remove(&id);
    }

    /// The members of a function's project.
    pub(crate) fn members(&self, function: &Function) -> Option<&Members> {
        function.project.and_then(|project| self.projects.get(&project))
    }

    /// How long a run of it takes on average, in microseconds.
    pub(crate) fn run_us(&self, id: ObjectId) -> Option<u64> {
        self.functions.get(&id).and_then(|known| known.run_us)
    }

    /// A run of it has taken so long.
    pub(crate) fn learn(&mut self, id: ObjectId, run_us: u64) {
        let Some(known) = self.functions.get_mut(&id) else { return };
        known.run_us = Some(match known.run_us {
            None => run_us,
            Some(average) => average - average / WEIGHT + run_us / WEIGHT,
        });
    }
}
