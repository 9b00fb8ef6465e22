//! The steps of scenarios. A step that says `within` makes a promise; without, its figure is only of interest.

use serde::Deserialize;

use super::Select;
use super::operands::{
    Account, Churn, Cut, Deploy, Edit, Equal, Live, Lookups, Meet, Nodes, Nothing, PathIs, Pause, Put, Read, Rest,
    Spread, Stop, Submit, Unchanged, Wait,
};

/// One step.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Starts nodes and waits until they are up.
    Start(Nodes),
    /// Stops nodes in order.
    Stop(Stop),
    /// Kills nodes and their workers with SIGKILL, without a warning.
    Kill(Stop),
    /// Cuts all links between two sets of nodes.
    Cut(Cut),
    /// Heals all links.
    Heal(Nothing),
    /// From now on no packet passes between sites.
    CloseSites(Nothing),
    /// Lets time pass.
    Pause(Pause),
    /// All nodes that run see each other.
    Meet(Meet),
    /// Deploys a function.
    Deploy(Deploy),
    /// Changes a function's description.
    Edit(Edit),
    /// Writes a global key of the user's.
    Put(Put),
    /// Submits jobs, and remembers them under a name.
    Submit(Submit),
    /// Waits for jobs.
    Wait(Wait),
    /// Reads jobs anywhere.
    Read(Read),
    /// All documents and keys are the same everywhere.
    Equal(Equal),
    /// How one node reaches another.
    Path(PathIs),
    /// How long look-ups in the DHT took.
    Lookups(Lookups),
    /// A metric, summed over all nodes, is the same after some steps.
    Unchanged(Unchanged),
    /// Nodes come and go under load.
    Churn(Churn),
    /// Jobs are submitted and read all the time.
    Live(Live),
    /// What has become of them.
    Account(Account),
    /// How fast one change is everywhere, beside gossipsub alone.
    Spread(Spread),
    /// What it costs to be there.
    Rest(Rest),
}

impl Step {
    /// Every set of nodes that it names.
    pub(super) fn selects(&self) -> Vec<&Select> {
        match self {
            Self::Start(step) => vec![&step.nodes],
            Self::Stop(step) | Self::Kill(step) => vec![&step.nodes],
            Self::Cut(step) => vec![&step.a, &step.b],
            Self::Heal(_) | Self::CloseSites(_) | Self::Pause(_) | Self::Meet(_) => vec![],
            Self::Lookups(_) | Self::Spread(_) | Self::Rest(_) | Self::Account(_) => vec![],
            Self::Live(step) => step.sides.iter().collect(),
            Self::Wait(step) => step.ran_at.iter().collect(),
            Self::Deploy(step) => vec![&step.at],
            Self::Edit(step) => vec![&step.at],
            Self::Put(step) => vec![&step.at],
            Self::Submit(step) => std::iter::once(&step.at).chain(&step.to).collect(),
            Self::Read(step) => vec![&step.at],
            Self::Equal(step) => vec![&step.nodes],
            Self::Path(step) => vec![&step.from, &step.to],
            Self::Unchanged(step) => step.steps.iter().flat_map(Self::selects).collect(),
            Self::Churn(step) => step.spare.iter().collect(),
        }
    }

    /// Its name, as it stands in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Stop(_) => "stop",
            Self::Kill(_) => "kill",
            Self::Cut(_) => "cut",
            Self::Heal(_) => "heal",
            Self::CloseSites(_) => "close_sites",
            Self::Pause(_) => "pause",
            Self::Meet(_) => "meet",
            Self::Deploy(_) => "deploy",
            Self::Edit(_) => "edit",
            Self::Put(_) => "put",
            Self::Submit(_) => "submit",
            Self::Wait(_) => "wait",
            Self::Read(_) => "read",
            Self::Equal(_) => "equal",
            Self::Path(_) => "path",
            Self::Lookups(_) => "lookups",
            Self::Unchanged(_) => "unchanged",
            Self::Churn(_) => "churn",
            Self::Live(_) => "live",
            Self::Account(_) => "account",
            Self::Spread(_) => "spread",
            Self::Rest(_) => "rest",
        }
    }
}
