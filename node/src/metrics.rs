//! Counters and their Prometheus text.
//!
//! Owns the registry and every metric in it. The edges, the runtime and the store call the typed methods; the HTTP API
//! serves [`Metrics::text`]. Created once for a node, shared by reference counting.
//!
//! Invariant: labels come from closed sets (classes, statuses, endings, kinds of problem, names of operations), never
//! from a request, so that nobody outside can make the registry grow.

mod mesh;
mod process;

pub(crate) use process::resident_bytes;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use shoal_kernel::Record;
use shoal_protocol::Kind;
use shoal_protocol::object::job::State;

/// A gauge of fractions.
type Ratio = Gauge<f64, std::sync::atomic::AtomicU64>;

/// A gauge of whole numbers that are never negative.
type Level = Gauge<u64, std::sync::atomic::AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    class: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndingLabel {
    ending: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: &'static str,
}

/// Of the few projects that have used the most: those of before are forgotten when it is asked anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProjectLabel {
    project: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BlobWayLabels {
    path: &'static str,
    direction: &'static str,
}

/// The path of a blob between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlobPath {
    /// A stream of the mesh, relayed or not.
    Mesh,
    /// A connection of its own, over UDP.
    Direct,
}

impl BlobPath {
    fn text(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Direct => "direct",
        }
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From another node.
    Received,
    /// To another node.
    Sent,
}

impl Direction {
    fn text(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Sent => "sent",
        }
    }
}

/// What waits and runs, as gauges show it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Jobs that wait.
    pub(crate) waiting: u64,
    /// Jobs at a worker.
    pub(crate) running: u64,
    /// Attached workers.
    pub(crate) workers: u64,
    /// Slots of all attached workers.
    pub(crate) slots: u64,
}

impl Projects {
    fn register(&self, to: &mut Registry) {
        to.register("project_jobs_waiting", "Jobs of a project that wait here", self.waiting.clone());
        to.register("project_jobs_running", "Jobs of a project that a worker has", self.running.clone());
        let help = "Inputs, results and logs of its jobs that are kept here";
        to.register_with_unit("project_stored", help, Unit::Bytes, self.stored.clone());
        let help =
            "What a project has used of late, in slots times seconds; what was used one half-life ago counts half";
        to.register_with_unit("project_recent_use", help, Unit::Seconds, self.recent.clone());
        let help = "Its part of what all projects have used of late";
        to.register("project_share", help, self.share.clone());
        let help = "Its part by weight, among those that have used anything of late";
        to.register("project_share_due", help, self.due.clone());
    }

    fn set(&self, shares: &[shoal_kernel::Shared]) {
        for family in [&self.waiting, &self.running, &self.stored] {
            family.clear();
        }
        for family in [&self.recent, &self.share, &self.due] {
            family.clear();
        }
        for shared in shares {
            let (label, usage) = (ProjectLabel { project: shared.group.to_string() }, shared.usage);
            self.waiting.get_or_create(&label).set(usage.queued);
            self.running.get_or_create(&label).set(usage.running);
            self.stored.get_or_create(&label).set(usage.stored);
            self.recent.get_or_create(&label).set(usage.recent_ms as f64 / 1_000.0);
            self.share.get_or_create(&label).set(f64::from(usage.used_permille) / 1_000.0);
            self.due.get_or_create(&label).set(f64::from(usage.due_permille) / 1_000.0);
        }
    }
}

/// Makes the histograms of a family.
#[derive(Debug, Clone, Copy)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        durations()
    }
}

/// 0.1 ms to 105 s, each bucket twice the one before: from an answer out of memory to a job of a minute.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 21))
}

/// Every metric of a node.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    http_requests: Family<HttpLabels, Counter>,
    http_seconds: Family<ClassLabel, Histogram, Durations>,
    http_connections: Level,
    gateway_connections: Family<PeerLabel, Level>,
    gateway_faults: Family<PeerLabel, Counter>,
    jobs_accepted: Counter,
    jobs_refused: Family<KindLabel, Counter>,
    jobs_settled: Family<EndingLabel, Counter>,
    jobs_swept: Counter,
    guests_taken: Counter,
    checkpoints: Counter,
    records_kept: Counter,
    jobs_taken_over: Counter,
    guests_ended: Counter,
    settle_seconds: Histogram,
    journal_batches: Counter,
    journal_records: Counter,
    journal_bytes: Counter,
    journal_sync_seconds: Histogram,
    journal_failures: Counter,
    journal_failing: Level,
    blobs_put: Counter,
    blob_put_bytes: Counter,
    blobs_got: Counter,
    blob_got_bytes: Counter,
    blob_fetched_bytes: Counter,
    blob_streams: Family<BlobWayLabels, Counter>,
    mesh: mesh::Mesh,
    kv_operations: Family<OperationLabel, Counter>,
    jobs_waiting: Level,
    jobs_running: Level,
    workers: Level,
    slots: Level,
    projects: Projects,
}

/// What projects have and have used, by id; of functions that are in none it is their owner's.
#[derive(Debug, Default)]
struct Projects {
    waiting: Family<ProjectLabel, Level>,
    running: Family<ProjectLabel, Level>,
    stored: Family<ProjectLabel, Level>,
    recent: Family<ProjectLabel, Ratio>,
    share: Family<ProjectLabel, Ratio>,
    due: Family<ProjectLabel, Ratio>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero. `process_…` metrics are read from the system whenever the text is asked for.
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            http_requests: Family::default(),
            http_seconds: Family::new_with_constructor(Durations),
            http_connections: Level::default(),
            gateway_connections: Family::default(),
            gateway_faults: Family::default(),
            jobs_accepted: Counter::default(),
            jobs_refused: Family::default(),
            jobs_settled: Family::default(),
            jobs_swept: Counter::default(),
            guests_taken: Counter::default(),
            checkpoints: Counter::default(),
            records_kept: Counter::default(),
            jobs_taken_over: Counter::default(),
            guests_ended: Counter::default(),
            settle_seconds: durations(),
            journal_batches: Counter::default(),
            journal_records: Counter::default(),
            journal_bytes: Counter::default(),
            journal_sync_seconds: durations(),
            journal_failures: Counter::default(),
            journal_failing: Level::default(),
            blobs_put: Counter::default(),
            blob_put_bytes: Counter::default(),
            blobs_got: Counter::default(),
            blob_got_bytes: Counter::default(),
            blob_fetched_bytes: Counter::default(),
            blob_streams: Family::default(),
            mesh: mesh::Mesh::default(),
            kv_operations: Family::default(),
            jobs_waiting: Level::default(),
            jobs_running: Level::default(),
            workers: Level::default(),
            slots: Level::default(),
            projects: Projects::default(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process));
        metrics.register(registry.sub_registry_with_prefix("shoal"));
        metrics.registry = registry;
        metrics
    }

    fn register(&self, to: &mut Registry) {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        to.register("build", "The program that runs", Info::new(version));
        to.register("http_requests", "Answered HTTP requests", self.http_requests.clone());
        let help = "From a request's head to its answer's head";
        to.register_with_unit("http_request_duration", help, Unit::Seconds, self.http_seconds.clone());
        to.register("http_connections", "Open HTTP connections", self.http_connections.clone());
        to.register("gateway_connections", "Open QUIC connections", self.gateway_connections.clone());
        let help = "QUIC connections ended because the peer broke the protocol or showed nothing that lets it in";
        to.register("gateway_faults", help, self.gateway_faults.clone());
        to.register("jobs_accepted", "Jobs acknowledged by this process", self.jobs_accepted.clone());
        to.register("jobs_refused", "Jobs not accepted, by the kind of problem", self.jobs_refused.clone());
        to.register("jobs_settled", "Jobs that have ended, by how", self.jobs_settled.clone());
        to.register("jobs_swept", "Settled jobs that were forgotten", self.jobs_swept.clone());
        let help = "Records of jobs of other homes that this node has written as their custodian";
        to.register("records_kept", help, self.records_kept.clone());
        let help = "Jobs of other homes that this node has gone on with while they were away";
        to.register("jobs_taken_over", help, self.jobs_taken_over.clone());
        to.register("guests_taken", "Runs of other homes that this node has taken", self.guests_taken.clone());
        to.register("guests_ended", "Runs of other homes that have ended here", self.guests_ended.clone());
        to.register("checkpoints", "Checkpoints that runs have saved at this node", self.checkpoints.clone());
        let help = "From a job's acceptance to its end";
        to.register_with_unit("job_settle_duration", help, Unit::Seconds, self.settle_seconds.clone());
        to.register("jobs_waiting", "Jobs that wait for a place to run", self.jobs_waiting.clone());
        to.register("jobs_running", "Jobs at a worker", self.jobs_running.clone());
        to.register("workers", "Attached workers", self.workers.clone());
        to.register("slots", "Runs that can go on at once, over all workers", self.slots.clone());
        self.projects.register(to);
        to.register("journal_batches", "Batches of the journal made durable", self.journal_batches.clone());
        to.register("journal_records", "Records in these batches", self.journal_records.clone());
        to.register_with_unit("journal_written", "Length of these batches", Unit::Bytes, self.journal_bytes.clone());
        let help = "Writing and syncing one batch";
        to.register_with_unit("journal_sync_duration", help, Unit::Seconds, self.journal_sync_seconds.clone());
        let help = "Batches that could not be written: the disk was full or failing";
        to.register("journal_failures", help, self.journal_failures.clone());
        let help = "1 while the last batch could not be written: nothing is accepted";
        to.register("journal_failing", help, self.journal_failing.clone());
        to.register("blobs_stored", "Blobs received and stored", self.blobs_put.clone());
        to.register_with_unit("blob_received", "Length of these blobs", Unit::Bytes, self.blob_put_bytes.clone());
        to.register("blobs_read", "Blobs opened for reading", self.blobs_got.clone());
        to.register_with_unit("blob_sent", "Bytes of blobs that were read", Unit::Bytes, self.blob_got_bytes.clone());
        self.mesh.register(to);
        let help = "Bytes of blobs that came from other nodes";
        to.register_with_unit("blob_fetched", help, Unit::Bytes, self.blob_fetched_bytes.clone());
        let help = "Bytes of blobs and of what proves them, between this node and others, by path";
        to.register_with_unit("blob_moved", help, Unit::Bytes, self.blob_streams.clone());
        to.register("kv_operations", "Operations on keys", self.kv_operations.clone());
    }

    /// An HTTP request was answered. `class` is a class of Table 1 or `other`.
    pub(crate) fn http(&self, class: &'static str, status: u16, elapsed: Duration) {
        self.http_requests.get_or_create(&HttpLabels { class, status }).inc();
        self.http_seconds.get_or_create(&ClassLabel { class }).observe(elapsed.as_secs_f64());
    }

    /// How many HTTP connections are open.
    pub(crate) fn http_connections(&self, open: usize) {
        self.http_connections.set(open as u64);
    }

    /// A QUIC connection of a `client` or `worker` has begun or ended.
    pub(crate) fn gateway_connection(&self, peer: &'static str, begins: bool) {
        let open = self.gateway_connections.get_or_create(&PeerLabel { peer });
        if begins {
            open.inc();
        } else {
            open.dec();
        }
    }

    /// A `client` or `worker` broke the protocol of the gateway.
    pub(crate) fn gateway_fault(&self, peer: &'static str) {
        self.gateway_faults.get_or_create(&PeerLabel { peer }).inc();
    }

    /// A record of the kernel is about to be journaled: it counts jobs that are accepted, settled and forgotten.
    pub(crate) fn record(&self, record: &Record) {
        match record {
            Record::Accepted(accepted) => {
                self.jobs_accepted.inc_by(accepted.size().into());
            }
            Record::Standing(job, standing) | Record::Ended(job, standing, ..) if standing.state.is_settled() => {
                // The id was minted when the job was accepted, by the same clock.
                let ms = standing.settled_ms.unwrap_or_default().saturating_sub(job.millis());
                let jobs = standing.elements.map_or(1, |elements| elements.cut);
                self.jobs_settled(standing.state, jobs, Duration::from_millis(ms));
            }
            Record::Standing(..) | Record::Began(..) | Record::Ended(..) | Record::Supplied(_) => {}
            Record::Swept(_) => {
                self.jobs_swept.inc();
            }
            Record::GuestAccepted(_) => {
                self.guests_taken.inc();
            }
            Record::GuestEnded(..) => {
                self.guests_ended.inc();
            }
            Record::Retained(_) => {}
            Record::Checkpoint(_, saving) | Record::GuestCheckpoint(_, saving) => {
                self.checkpoints.inc_by(u64::from(saving.checkpoint.is_some()));
            }
            Record::Charge(_) => {
                self.records_kept.inc();
            }
            Record::Taken(_) => {
                self.jobs_taken_over.inc();
            }
            Record::GuestGone(_)
            | Record::Custodians(_)
            | Record::ChargeGone(_)
            | Record::HandedBack(_)
            | Record::Withdrawn(_)
            | Record::Elsewhere(..)
            | Record::Reign(_)
            | Record::Drain(_)
            | Record::Granted(_)
            | Record::Merged(..)
            | Record::Memo(..)
            | Record::Call(..)
            | Record::Tally(_) => {}
        }
    }

    /// A job was not accepted.
    pub(crate) fn job_refused(&self, kind: Kind) {
        self.jobs_refused.get_or_create(&KindLabel { kind: kind.text() }).inc();
    }

    /// So many jobs have settled: one, or the elements of an array that never began.
    fn jobs_settled(&self, state: State, jobs: u32, since_accepted: Duration) {
        self.jobs_settled.get_or_create(&EndingLabel { ending: state.text() }).inc_by(jobs.into());
        if jobs > 0 {
            self.settle_seconds.observe(since_accepted.as_secs_f64());
        }
    }

    /// A batch of the journal is durable: so many records of so many bytes, written and synced in `elapsed`.
    pub(crate) fn fsync(&self, elapsed: Duration, records: u64, bytes: u64) {
        self.journal_batches.inc();
        self.journal_records.inc_by(records);
        self.journal_bytes.inc_by(bytes);
        self.journal_sync_seconds.observe(elapsed.as_secs_f64());
    }

    /// How many batches could not be written since the start, and whether the last one was among them.
    pub(crate) fn journal_failures(&self, all: u64, failing: bool) {
        self.journal_failures.inner().store(all, std::sync::atomic::Ordering::Relaxed);
        self.journal_failing.set(u64::from(failing));
    }

    /// A blob of this length was received and stored.
    pub(crate) fn blob_put(&self, bytes: u64) {
        self.blobs_put.inc();
        self.blob_put_bytes.inc_by(bytes);
    }

    /// So many bytes of a blob came from other nodes.
    pub(crate) fn blob_fetched(&self, bytes: u64) {
        self.blob_fetched_bytes.inc_by(bytes);
    }

    /// Counts what comes from other nodes, or goes to them, by a path, in bytes.
    pub(crate) fn blob_moved(&self, path: BlobPath, direction: Direction) -> Counter {
        let labels = BlobWayLabels { path: path.text(), direction: direction.text() };
        self.blob_streams.get_or_create(&labels).clone()
    }

    /// So many bytes of a blob are about to be read.
    pub(crate) fn blob_got(&self, bytes: u64) {
        self.blobs_got.inc();
        self.blob_got_bytes.inc_by(bytes);
    }

    /// An operation on keys, by its name in the API: `get`, `set`, …
    pub(crate) fn kv(&self, operation: &'static str) {
        self.kv_operations.get_or_create(&OperationLabel { operation }).inc();
    }

    /// What the mesh has counted, and what is replicated.
    pub(crate) fn mesh(&self, mesh: &shoal_mesh::Counters, replica: crate::replication::Counts) {
        self.mesh.set(mesh, replica);
    }

    /// What waits and runs now.
    pub(crate) fn load(&self, load: Load) {
        self.jobs_waiting.set(load.waiting);
        self.jobs_running.set(load.running);
        self.workers.set(load.workers);
        self.slots.set(load.slots);
    }

    /// What the projects have that have used the most.
    pub(crate) fn projects(&self, shares: &[shoal_kernel::Shared]) {
        self.projects.set(shares);
    }

    /// Everything, in the OpenMetrics text format that Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing into a String cannot fail; a metric that could not be written would only be missing.
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            tracing::debug!("a metric has no text form");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_kernel::Standing;
    use shoal_protocol::ObjectId;

    fn standing(state: State, settled_ms: Option<u64>) -> Standing {
        Standing {
            version: 1,
            state,
            name: String::new(),
            labels: Default::default(),
            epoch: 1,
            attempts: Vec::new(),
            attempts_total: 1,
            refusals: None,
            cancelled: false,
            out_of_time: false,
            priority: 0,
            ready_ms: None,
            retry_ms: None,
            disconnected_ms: None,
            unmet: Default::default(),
            elements: None,
            duplicate_of: None,
            memo_of: None,
            saved: None,
            settled_ms,
            outcome: None,
            revision: 0,
            alone: false,
            regent: None,
            unconfirmed: false,
            superseded: None,
        }
    }

    #[test]
    fn what_is_counted_stands_in_the_text_under_a_conventional_name() {
        let metrics = Metrics::new();
        metrics.http("job", 202, Duration::from_millis(2));
        metrics.http_connections(3);
        metrics.gateway_connection("client", true);
        metrics.gateway_connection("worker", true);
        metrics.gateway_connection("worker", false);
        metrics.gateway_fault("worker");
        let id = ObjectId::from_parts(1_000, 0, [0; 8]);
        metrics.record(&Record::Swept(id));
        metrics.job_refused(Kind::Full);
        metrics.record(&Record::Standing(id, Box::new(standing(State::TimedOut, Some(2_000)))));
        metrics.record(&Record::Standing(id, Box::new(standing(State::Queued, None))));
        metrics.fsync(Duration::from_millis(1), 7, 700);
        metrics.journal_failures(5, true);
        metrics.blob_put(11);
        metrics.blob_got(13);
        metrics.kv("incr");
        metrics.blob_moved(BlobPath::Direct, Direction::Sent).inc_by(31);
        metrics.load(Load { waiting: 17, running: 19, workers: 23, slots: 29 });
        let usage = shoal_protocol::object::project::Usage { queued: 37, recent_ms: 1_500, ..Default::default() };
        metrics.projects(&[shoal_kernel::Shared { group: ObjectId::from_parts(9, 0, [1; 8]), usage }]);
        metrics.projects(&[shoal_kernel::Shared { group: id, usage }]);
        let text = metrics.text();
        assert_eq!(text.matches("shoal_project_jobs_waiting{").count(), 1, "those of before are gone:\n{text}");
        for line in [
            "shoal_project_jobs_waiting{project=\"",
            "shoal_project_recent_use_seconds{project=\"",
            "shoal_build_info{version=",
            "shoal_http_requests_total{class=\"job\",status=\"202\"} 1",
            "shoal_http_request_duration_seconds_count{class=\"job\"} 1",
            "shoal_http_connections 3",
            "shoal_gateway_connections{peer=\"client\"} 1",
            "shoal_gateway_connections{peer=\"worker\"} 0",
            "shoal_gateway_faults_total{peer=\"worker\"} 1",
            "shoal_jobs_accepted_total 0",
            "shoal_jobs_swept_total 1",
            "shoal_jobs_refused_total{kind=\"full\"} 1",
            "shoal_jobs_settled_total{ending=\"timed_out\"} 1",
            "shoal_job_settle_duration_seconds_sum 1.0",
            "shoal_journal_batches_total 1",
            "shoal_journal_records_total 7",
            "shoal_journal_written_bytes_total 700",
            "shoal_journal_sync_duration_seconds_count 1",
            "shoal_journal_failures_total 5",
            "shoal_journal_failing 1",
            "shoal_blob_received_bytes_total 11",
            "shoal_blob_sent_bytes_total 13",
            "shoal_blob_moved_bytes_total{path=\"direct\",direction=\"sent\"} 31",
            "shoal_kv_operations_total{operation=\"incr\"} 1",
            "shoal_jobs_waiting 17",
            "shoal_jobs_running 19",
            "shoal_workers 23",
            "shoal_slots 29",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
