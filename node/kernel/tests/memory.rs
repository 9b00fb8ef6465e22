//! What a waiting job takes in memory: a million of them may wait at one node, at no more than 1 KiB each.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use shoal_kernel::{Command, Config, Effect, Input, Kernel, NewJob, Now, Principal};
use shoal_protocol::object::function::{Function, Needs, RunLimits, Version};
use shoal_protocol::object::job::Payload;
use shoal_protocol::{BlobId, NodeId, ObjectId, TraceId};

/// Counts what is allocated as the C library does: 8 bytes more each, in steps of 16, at least 32.
struct Counting;

static ALLOCATED: AtomicI64 = AtomicI64::new(0);

fn block(size: usize) -> i64 {
    ((size + 8).next_multiple_of(16)).max(32) as i64
}

#[expect(unsafe_code, reason = "a global allocator is unsafe to write; this one only counts")]
// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(block(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(block(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const NOW: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };

fn id(n: u64) -> ObjectId {
    ObjectId::from_parts(n, 0, *b"testnode")
}

fn kernel() -> Kernel {
    let node = NodeId([7; 32]);
    let mut kernel = Kernel::new(Config::new(node));
    let function = Function {
        id: id(1),
        name: "digest".into(),
        owner: id(2),
        project: None,
        description: String::new(),
        versions: vec![Version { number: 1, component: BlobId([1; 32]), size: 1 }],
        current: BlobId([1; 32]),
        needs: Needs::default(),
        limits: RunLimits::default(),
        grants: Default::default(),
        labels: Default::default(),
        heads: Vec::new(),
    };
    kernel.handle(NOW, Input::Function(Box::new(function)), &mut Vec::new());
    kernel
}

fn plain(n: u64) -> NewJob {
    NewJob {
        id: id(1_000 + n),
        trace: TraceId(u128::from(n).to_be_bytes()),
        traceparent: None,
        function: id(1),
        version: None,
        input: Payload::Inline(n.to_be_bytes().repeat(4).into()),
        args: Vec::new(),
        env: BTreeMap::new(),
        needs: Needs::default(),
        limits: RunLimits::default(),
        name: String::new(),
        labels: Default::default(),
        terms: Default::default(),
        array: None,
        key: None,
        rerun_of: None,
        after: Vec::new(),
        input_of: None,
        durability: None,
    }
}

/// Bytes for each of many jobs that wait, made like this.
fn bytes_each(job: impl Fn(u64) -> NewJob) -> i64 {
    const JOBS: u64 = 10_000;
    let mut kernel = kernel();
    let mut submit = |n| {
        let mut effects = Vec::new();
        let command = Command::Submit(vec![job(n)]);
        let principal = Principal { user: Some(id(2)), operator: false };
        kernel.handle(NOW, Input::Request { request: n, principal, command }, &mut effects);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Write(_))), "{effects:?}");
    };
    submit(0);
    let before = ALLOCATED.load(Ordering::Relaxed);
    (1..=JOBS).for_each(submit);
    let each = (ALLOCATED.load(Ordering::Relaxed) - before) / JOBS as i64;
    assert_eq!(kernel.load().waiting, JOBS + 1);
    each
}

#[test]
fn a_million_jobs_may_wait() {
    let plain_bytes = bytes_each(plain);
    let named = bytes_each(|n| NewJob { name: format!("frame-{n}"), args: vec![format!("--frame={n}")], ..plain(n) });
    let limits = RunLimits { queue_ms: Some(60_000), total_ms: Some(120_000), ..RunLimits::default() };
    let limited = bytes_each(|n| NewJob { limits, ..plain(n) });
    println!("bytes a job: {plain_bytes}; with a name and arguments {named}; with limits {limited}");
    assert!(plain_bytes <= 400 && named <= 720 && limited <= 736, "{plain_bytes}, {named}, {limited}");
}
