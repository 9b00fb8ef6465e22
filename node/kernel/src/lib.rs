//! Every decision about jobs, placement and permissions: one deterministic state machine. No IO.
//!
//! [`Kernel::handle`](machine::Machine::handle) takes what has happened and says what to do. Time and ids come in with
//! the input; it reads no clock, draws no random number, opens nothing, awaits nothing, and iterates in a fixed order:
//! the same inputs give the same effects. Production runs it in one thread of the node, the simulator by the thousand.
//!
//! | module | decides |
//! |---|---|
//! | [`machine`] | what each input does: the way of a job from submission to its end |
//! | [`rights`] | who may do what |
//! | `queue` | which job is next |
//! | `shares` | who has used how much of their share |
//! | `quotas` | whether somebody may have more |
//! | `dependents` | who waits for whom |
//! | `placement` | which worker or peer gets it |
//! | `peers` | what a peer is believed to have left |
//! | `guests` | what is held of other homes' runs |
//! | `custody` | who keeps this home's jobs with it, and which of them wait for that |
//! | `charges` | what is kept of other homes' jobs |
//! | `regents` | who acts for which home |
//! | `grants` | whose word a job waits for that never runs twice |
//! | [`lease`] | how long a silent worker keeps its runs |
//! | `calls` | which URLs are to be called since a job has ended |
//! | `memos` | which results may be given again |
//! | `retention` | how many settled jobs are kept |
//! | `reason` | what is said about a job that does not run |
//! | [`view`] | what readers see of a job |

mod backoff;
mod calls;
mod charges;
pub mod config;
pub mod counters;
mod custody;
mod dependents;
pub mod effect;
pub mod faults;
mod functions;
mod gone;
mod grants;
mod guests;
pub mod input;
mod jobs;
mod keys;
pub mod kv;
pub mod lease;
pub mod machine;
mod memos;
mod peers;
mod placement;
mod queue;
mod quotas;
mod reason;
pub mod record;
mod regents;
mod retention;
pub mod rights;
mod shares;
mod specs;
mod timers;
pub mod view;
mod workers;

pub use config::{Config, Keep, Prefetch, Retention};
pub use counters::Counters;
pub use effect::{Away, Effect, Leaving, Load, Noted, PeerView, Reply, Shared};
pub use input::{
    CallEnd, Command, End, Inheritance, Input, NewJob, Now, PeerAttached, Principal, Recall, RequestId, WorkerAttached,
};
pub use jobs::{JOB_BYTES, stored_bytes};
pub use machine::SWEEP_LEN_MAX;
pub use record::{
    Accepted, Call, Charge, ChargeState, Custodians, Drain, Group, GuestEnd, GuestRun, Promise, Record, Reign,
    Retained, Saving, Spec, Standing, TakenJob, Tally,
};

/// The kernel that production runs: the machine without any of the faults that the simulator can put in.
pub type Kernel = machine::Machine<faults::Sound>;
