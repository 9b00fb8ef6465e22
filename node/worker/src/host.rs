//! What a guest can reach: WASI 0.2 without files and network, and `shoal:function`.
//!
//! One [`Guest`] is the data of one store, made for one run and dropped with it. Everything that a guest can make the
//! host hold is bounded: memory by [`memory`], standard output by [`output`], the log by [`crate::live`], values by the
//! fuel of a host call.

mod checkpoint;
mod function;
mod input;
mod logging;
mod memory;
pub(crate) mod output;

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_protocol::BlobId;
use shoal_protocol::object::function::Grant;
use shoal_protocol::object::job::Payload;
use shoal_protocol::wire::worker::Start;
use wasmtime::Store;
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

use crate::engine::Engine;
use crate::live::Live;
use crate::node::Node;
use memory::Memory;
use output::Output;

pub(crate) use function::bindings::shoal::function::types::Payload as GuestPayload;

/// Bytes that one call may carry from guest to host at least: what the interfaces allow in one call, and their names.
const CALL_LEN_MIN: u64 = 2 * 1024 * 1024;
/// Bytes of a message of a trap or an error of the guest. Why 4 KiB: a sentence and a backtrace that a person reads.
const MESSAGE_LEN_MAX: usize = 4096;

/// A component, linked and ready for any number of instances.
pub(crate) enum Runnable {
    /// It exports `wasi:cli/run`.
    Command(CommandPre<Guest>),
    /// It exports `run` of `shoal:function`.
    Function(function::bindings::FunctionPre<Guest>),
}

impl Runnable {
    /// Finds out which of the two it is. The error is a sentence.
    pub(crate) fn link(linker: &Linker<Guest>, component: &Component) -> Result<Self, String> {
        let linked = linker.instantiate_pre(component).map_err(|error| sentence(&error))?;
        if let Ok(command) = CommandPre::new(linked.clone()) {
            return Ok(Self::Command(command));
        }
        function::bindings::FunctionPre::new(linked).map(Self::Function).map_err(|error| sentence(&error))
    }
}

/// A linker with everything that a guest can reach; what it may is checked at each call.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    function::bindings::Function::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| guest)?;
    Ok(linker)
}

/// What the host holds for one run.
pub(crate) struct Guest {
    table: ResourceTable,
    wasi: WasiCtx,
    memory: Memory,
    node: Node,
    live: Arc<Live>,
    start: Arc<Start>,
    grants: BTreeSet<Grant>,
    /// Standard input, where it is a blob.
    stdin: Option<input::FromBlob>,
    open_blobs: usize,
    saved: checkpoint::Saved,
}

/// How a guest ended by itself.
#[derive(Debug)]
pub(crate) enum Ended {
    /// A command, with this exit code.
    Exited(i32),
    /// A function, with its result or the sentence that says why there is none.
    Returned(Result<GuestPayload, String>),
    /// It trapped.
    Trapped(String),
    /// It trapped after it was refused memory.
    OutOfMemory,
    /// It trapped because its standard input could not be read.
    InputLost(String),
    /// It could not be instantiated.
    NotInstantiated(String),
}

/// A store for one run.
pub(crate) fn store(
    engine: &Engine,
    start: &Arc<Start>,
    node: &Node,
    live: &Arc<Live>,
    output: &Arc<Output>,
    function: bool,
) -> Store<Guest> {
    let mut wasi = WasiCtx::builder();
    wasi.arg(&start.name).args(&start.args).stderr(logging::ToLog::new(live));
    for (name, value) in &start.env {
        wasi.env(name, value);
    }
    let mut stdin = None;
    if function {
        // Its result is what it returns; what it prints is for people.
        wasi.stdout(logging::ToLog::new(live));
    } else {
        wasi.stdout(output::ToOutput::new(output));
        match &start.input {
            Payload::Inline(bytes) => wasi.stdin(wasmtime_wasi::p2::pipe::MemoryInputPipe::new(bytes.0.clone())),
            Payload::Blob { id, .. } => wasi.stdin(stdin.insert(input::FromBlob::new(node, *id)).clone()),
        };
    }
    let memory_max = u64::from(start.memory_mb) * 1024 * 1024;
    let guest = Guest {
        table: ResourceTable::new(),
        wasi: wasi.build(),
        memory: Memory::new(memory_max),
        node: node.clone(),
        live: Arc::clone(live),
        start: Arc::clone(start),
        grants: start.grants.iter().copied().collect(),
        stdin,
        open_blobs: 0,
        saved: checkpoint::Saved::new(start.checkpoint.clone()),
    };
    let mut store = Store::new(engine.wasm(), guest);
    store.limiter(|guest| &mut guest.memory);
    // A call cannot bring more bytes than the guest has; that a result is too long is told apart from a trap later.
    let call_len_max = memory_max.max(CALL_LEN_MIN);
    store.set_hostcall_fuel(usize::try_from(call_len_max).unwrap_or(usize::MAX));
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    store
}

/// Makes an instance and calls it. `started` is called between the two. If the future is dropped the store is of no
/// more use and must be dropped too.
pub(crate) async fn call(
    store: &mut Store<Guest>,
    runnable: &Runnable,
    input: GuestPayload,
    started: impl FnOnce(),
) -> Ended {
    let ended = match runnable {
        Runnable::Command(command) => {
            let command = match command.instantiate_async(&mut *store).await {
                Ok(command) => command,
                Err(error) => return not_instantiated(store, &error),
            };
            started();
            let run = command.wasi_cli_run().call_run(&mut *store).await;
            run.map(|result| Ended::Exited(i32::from(result.is_err())))
        }
        Runnable::Function(function) => {
            let function = match function.instantiate_async(&mut *store).await {
                Ok(function) => function,
                Err(error) => return not_instantiated(store, &error),
            };
            started();
            function.call_run(&mut *store, &input).await.map(Ended::Returned)
        }
    };
    match ended {
        Ok(ended) => ended,
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => Ended::Exited(exit.0),
            None => trapped(store.data(), &error),
        },
    }
}

fn not_instantiated(store: &Store<Guest>, error: &wasmtime::Error) -> Ended {
    let guest = store.data();
    if error.is::<wasmtime::Trap>() || guest.memory.was_refused() {
        return trapped(guest, error);
    }
    Ended::NotInstantiated(sentence(error))
}

fn trapped(guest: &Guest, error: &wasmtime::Error) -> Ended {
    if let Some(why) = guest.stdin.as_ref().and_then(input::FromBlob::failure) {
        Ended::InputLost(why)
    } else if guest.memory.was_refused() {
        Ended::OutOfMemory
    } else {
        Ended::Trapped(trap(error))
    }
}

impl Guest {
    /// The most memory that it had, in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        self.memory.peak()
    }

    fn granted(&self, grant: Grant) -> bool {
        self.grants.contains(&grant)
    }

    fn is_input(&self, id: BlobId) -> bool {
        self.start.input.blob() == Some(id)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// The causes of an error in one bounded line.
fn sentence(error: &wasmtime::Error) -> String {
    crate::live::cut(&format!("{error:#}"), MESSAGE_LEN_MAX).to_string()
}

/// Why it trapped, and where: the cause first, then the guest's backtrace.
fn trap(error: &wasmtime::Error) -> String {
    let mut message = error.root_cause().to_string();
    if let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>()
        && !backtrace.frames().is_empty()
    {
        message = format!("{message}\n{backtrace}");
    }
    crate::live::cut(message.trim_end(), MESSAGE_LEN_MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component;
    use crate::tests::{EXIT_WELL, wat};

    /// One item of each interface, so that a linker without the interface refuses it. `own X`: a function that gives
    /// what another interface defines.
    const ITEMS: [(&str, &str); 29] = [
        ("wasi:cli/environment", r#"(export "get-arguments" (func (result (list string))))"#),
        ("wasi:cli/exit", r#"(export "exit" (func (param "status" (result))))"#),
        ("wasi:cli/stdin", "get-stdin: wasi:io/streams input-stream (own $r)"),
        ("wasi:cli/stdout", "get-stdout: wasi:io/streams output-stream (own $r)"),
        ("wasi:cli/stderr", "get-stderr: wasi:io/streams output-stream (own $r)"),
        ("wasi:cli/terminal-input", r#"(export "terminal-input" (type (sub resource)))"#),
        ("wasi:cli/terminal-output", r#"(export "terminal-output" (type (sub resource)))"#),
        ("wasi:cli/terminal-stdin", "get-terminal-stdin: wasi:cli/terminal-input terminal-input (option (own $r))"),
        ("wasi:cli/terminal-stdout", "get-terminal-stdout: wasi:cli/terminal-output terminal-output (option (own $r))"),
        ("wasi:cli/terminal-stderr", "get-terminal-stderr: wasi:cli/terminal-output terminal-output (option (own $r))"),
        ("wasi:clocks/monotonic-clock", r#"(export "now" (func (result u64)))"#),
        ("wasi:clocks/wall-clock", CLOCK),
        (
            "wasi:filesystem/preopens",
            "get-directories: wasi:filesystem/types descriptor (list (tuple (own $r) string))",
        ),
        ("wasi:filesystem/types", r#"(export "descriptor" (type (sub resource)))"#),
        ("wasi:io/error", r#"(export "error" (type (sub resource)))"#),
        ("wasi:io/poll", r#"(export "pollable" (type (sub resource)))"#),
        ("wasi:io/streams", r#"(export "input-stream" (type (sub resource)))"#),
        ("wasi:random/insecure", r#"(export "get-insecure-random-u64" (func (result u64)))"#),
        ("wasi:random/insecure-seed", r#"(export "insecure-seed" (func (result (tuple u64 u64))))"#),
        ("wasi:random/random", r#"(export "get-random-u64" (func (result u64)))"#),
        ("wasi:sockets/instance-network", "instance-network: wasi:sockets/network network (own $r)"),
        ("wasi:sockets/ip-name-lookup", r#"(export "resolve-address-stream" (type (sub resource)))"#),
        ("wasi:sockets/network", r#"(export "network" (type (sub resource)))"#),
        ("wasi:sockets/tcp", r#"(export "tcp-socket" (type (sub resource)))"#),
        ("wasi:sockets/udp", r#"(export "udp-socket" (type (sub resource)))"#),
        ("shoal:function/job", r#"(export "id" (func (result string)))"#),
        ("shoal:function/blob", r#"(export "reader" (type (sub resource)))"#),
        ("wasi:http/types", r#"(export "fields" (type (sub resource)))"#),
        ("shoal:function/gpu", r#"(export "count" (func (result u32)))"#),
    ];
    const CLOCK: &str = r#"(type $time' (record (field "seconds" u64) (field "nanoseconds" u32)))
        (export "datetime" (type $time (eq $time'))) (export "now" (func (result $time)))"#;
    /// Offered as well; every function of theirs takes types of other interfaces. The probe of the tests uses the latter two.
    const REACHED_ELSEWHERE: [&str; 5] = [
        "wasi:sockets/tcp-create-socket",
        "wasi:sockets/udp-create-socket",
        "shoal:function/types",
        "shoal:function/checkpoint",
        "shoal:function/kv",
    ];

    fn importing(interface: &str, item: &str) -> String {
        let version = if interface.starts_with("wasi") { "0.2.0" } else { "0.1.0" };
        let import = match item.split_once(": ") {
            Some((function, rest)) => {
                let mut words = rest.splitn(3, ' ');
                let (from, resource, result) = (words.next(), words.next(), words.next());
                let (from, resource, result) = (from.unwrap_or(""), resource.unwrap_or(""), result.unwrap_or(""));
                format!(
                    r#"(import "{from}@{version}" (instance $i (export "{resource}" (type (sub resource)))))
                    (alias export $i "{resource}" (type $outer))
                    (import "{interface}@{version}" (instance (alias outer 1 $outer (type $o))
                        (export "{resource}" (type $r (eq $o))) (export "{function}" (func (result {result})))))"#
                )
            }
            None => format!(r#"(import "{interface}@{version}" (instance {item}))"#),
        };
        EXIT_WELL.replacen("(component", &format!("(component {import}"), 1)
    }

    #[test]
    fn what_a_deployment_believes_to_be_offered_is_offered() {
        let engine = Engine::new(1).expect("an engine");
        let linker = linker(engine.wasm()).expect("a linker");
        let mut offered = BTreeSet::from(REACHED_ELSEWHERE.map(String::from));
        for (interface, item) in ITEMS {
            let bytes = wat(&importing(interface, item));
            let component = Component::new(engine.wasm(), &bytes).expect("a component");
            let unknown = component::required(&bytes).expect("requirements").unknown_imports;
            let linked = Runnable::link(&linker, &component);
            assert_eq!(unknown.is_empty(), linked.is_ok(), "{interface}: {unknown:?} {:?}", linked.err());
            if unknown.is_empty() {
                offered.insert(interface.into());
            }
        }
        let listed =
            component::offered_names().into_iter().filter_map(|name| Some(name.split_once('@')?.0.to_string()));
        assert_eq!(listed.collect::<BTreeSet<_>>(), offered, "each has its item");
    }
}
