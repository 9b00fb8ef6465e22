//! The bounds of what is said between processes. Each says why it is what it is.

/// Inputs, results and logs up to this length live inside the job record; larger ones are blobs.
/// Why 16 KiB: two of them and a record fit well inside a frame, and a blob's file and tag cost more than 16 KiB of journal.
pub const INLINE_LEN_MAX: usize = 16 * 1024;

/// A frame between client and node, in bytes. Why 1 MiB: a batch of submits; whatever is larger is a blob.
pub const CLIENT_FRAME_LEN_MAX: usize = 1024 * 1024;

/// A frame between worker and node, in bytes. Why 256 KiB: a KV value (64 KiB) or a run with an inline input, with room.
pub const WORKER_FRAME_LEN_MAX: usize = 256 * 1024;

/// A frame between two nodes, in bytes. Why 256 KiB: a job with an inline input, or an ending with inline result and log, with
/// room; whatever is larger is a blob.
pub const PEER_FRAME_LEN_MAX: usize = 256 * 1024;

/// A message of gossip, in bytes. Why 64 KiB less 512 bytes: gossipsub refuses frames above 64 KiB, and topic, source and
/// signature stand in the same frame.
pub const GOSSIP_LEN_MAX: usize = 64 * 1024 - 512;

/// Workers that a node tells its neighbours of. Why 16: a hint is sent on every change and fits a packet or two; whoever has
/// more workers tells of the freest.
pub const PEER_OFFERS_MAX: usize = 16;

/// Projects of whose use a node tells its neighbours. Why 32: those that have used the most; what the others have used changes
/// nobody's turn.
pub const PEER_TALLIES_MAX: usize = 32;

/// The highest weight of a project. Why 1,000: three digits tell any two projects apart.
pub const WEIGHT_MAX: u32 = 1000;

/// The highest limit of a quota. Why: it fits every integer type that a client may use, and bytes up to a PiB.
pub const QUOTA_MAX: u64 = 1 << 50;

/// Addresses that a node tells of its direct path. Why 8: as many as of the mesh; each of them is dialled at once.
pub const DIRECT_ADDRESSES_MAX: usize = 8;

/// Runs of one home that one peer holds at once, under way or ended and not yet settled. Why 512: every heartbeat lists all of
/// them, in some 16 KiB.
pub const PEER_RUNS_MAX: usize = 512;

/// One chunk of a blob on a stream, in bytes. Why 64 KiB: large enough to amortise a write, small enough to keep many in flight.
pub const BLOB_CHUNK_LEN_MAX: usize = 64 * 1024;

/// Requests that one client connection may have unanswered. Why 1,024: enough to fill a batch of the journal; beyond it the node stops reading.
pub const CLIENT_REQUESTS_IN_FLIGHT_MAX: usize = 1024;

/// Jobs in one batch of submits. Why 1,000: about 300 KiB of typical jobs in one frame.
pub const SUBMIT_BATCH_LEN_MAX: usize = 1000;

/// A JSON body of the HTTP API, in bytes: as a frame of the client protocol.
pub const HTTP_BODY_LEN_MAX: usize = CLIENT_FRAME_LEN_MAX;

/// A signed change, in bytes. Why 60 KiB: with its signature and what is around it it fits into [`GOSSIP_LEN_MAX`].
pub const CHANGE_LEN_MAX: usize = 60 * 1024;

/// Operations in one change. Why 256: every field of a document at once, several times.
pub const CHANGE_OPERATIONS_MAX: usize = 256;

/// Heads that one change may follow. Why 16: more concurrent authors than that merge first.
pub const CHANGE_DEPS_MAX: usize = 16;

/// Elements of a path in a document. Why 4: no schema is deeper.
pub const PATH_DEPTH_MAX: usize = 4;

/// A text value in a document, in bytes.
pub const TEXT_LEN_MAX: usize = 8 * 1024;

/// A name of a user, project, function, job, node or worker, in bytes. Why 63: a DNS label.
pub const NAME_LEN_MAX: usize = 63;

/// A KV key, in bytes.
pub const KEY_LEN_MAX: usize = 512;

/// A KV value, in bytes. Why 60 KiB: a signed entry travels by gossip, which refuses frames above 64 KiB.
pub const VALUE_LEN_MAX: usize = 60 * 1024;

/// Labels or capabilities of a node, worker, function or job.
pub const LABELS_MAX: usize = 32;

/// Arguments of a job, and the bytes of all of them together.
pub const ARGS_MAX: usize = 64;
/// Bytes of all arguments and environment variables of a job together.
pub const ARGS_LEN_MAX: usize = 8 * 1024;

/// A page of a list: what a caller gets unless it says otherwise.
pub const PAGE_LEN_DEFAULT: u32 = 50;
/// A page of a list: the most that a caller may ask for.
pub const PAGE_LEN_MAX: u32 = 1000;

/// A job's log, in bytes: what comes after is counted and dropped. Why 1 MiB: what a person reads; data is a result.
pub const LOG_LEN_MAX: usize = 1024 * 1024;

/// A log line's or a progress message's length, in bytes.
pub const MESSAGE_LEN_MAX: usize = 1024;

/// A checkpoint of a run, in bytes. Why 16 MiB: state that a guest copies out in one call, and that a node writes while the
/// guest waits; what is larger is a blob, which the checkpoint names.
pub const CHECKPOINT_LEN_MAX: u64 = 16 * 1024 * 1024;

/// Attempts that a job's record remembers; the oldest are dropped, their number stays.
pub const ATTEMPTS_KEPT_MAX: usize = 16;

/// Refusals that a job's record remembers; the oldest are dropped, their number stays.
pub const REFUSALS_KEPT_MAX: usize = 16;

/// A component, in bytes. Why 128 MiB: interpreters compiled to WebAssembly are 10 to 40 MiB.
pub const COMPONENT_LEN_MAX: u64 = 128 * 1024 * 1024;

/// The longest a caller may wait for a job's end in one request, in milliseconds; it asks again after that.
pub const WAIT_MS_MAX: u64 = 60_000;

/// A result of a run, in bytes, unless the function says otherwise.
pub const OUTPUT_LEN_DEFAULT: u64 = 64 * 1024 * 1024;
/// A result of a run, in bytes, that no function may exceed.
pub const OUTPUT_LEN_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// Memory of a run, in MiB, unless the function says otherwise.
pub const MEMORY_MB_DEFAULT: u32 = 256;
/// Memory of a run, in MiB: the address space of 32-bit WebAssembly.
pub const MEMORY_MB_MAX: u32 = 4096;

/// A run's length, in milliseconds, unless the function says otherwise: one hour.
pub const RUN_MS_DEFAULT: u64 = 3_600_000;
/// A run's length, in milliseconds, that nothing may exceed: 30 days.
pub const RUN_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Runs of one job, the first included, unless the function says otherwise.
pub const ATTEMPTS_DEFAULT: u32 = 3;
/// Runs of one job that nothing may exceed.
pub const ATTEMPTS_MAX: u32 = 100;

/// How long a job may wait or take in all, in milliseconds, that no limit may exceed: a year.
pub const JOB_MS_MAX: u64 = 365 * 24 * 3_600_000;

/// The highest priority of a job; the lowest is as far below 0. Why 100: each step is worth a minute of age.
pub const PRIORITY_MAX: i8 = 100;

/// Jobs that a job may wait for. Why 64: what a person writes down; more of them meet in a job of their own.
pub const AFTER_MAX: usize = 64;

/// An idempotency key, in bytes. Why 128: a hash or a UUID in any form, with a word before it.
pub const IDEMPOTENCY_KEY_LEN_MAX: usize = 128;

/// The first pause before a job is tried again, in milliseconds, unless the job says otherwise.
pub const PAUSE_MS_DEFAULT: u64 = 100;
/// The longest of these pauses, in milliseconds, unless the job says otherwise. Why 10 s: a job that waits should notice soon
/// that things are well again.
pub const PAUSE_TOP_MS_DEFAULT: u64 = 10_000;
/// The longest pause that a job may ask for, in milliseconds: a day.
pub const PAUSE_MS_MAX: u64 = 24 * 3_600_000;

/// The highest index of an array's element. Why ten million: so many ids are set aside for its elements, 153 ms of those that a
/// node can mint.
pub const ARRAY_INDEX_MAX: u32 = 9_999_999;

/// Elements of an array.
pub const ARRAY_LEN_MAX: u32 = 1_000_000;

/// Jobs in one message between a home and a custodian. Why 512: a page of what is kept is then 30 KiB, and few pages follow
/// each other however many jobs a home has.
pub const KEEP_JOBS_MAX: usize = 512;
