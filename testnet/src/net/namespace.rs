//! A network namespace: a machine of its own as far as the network goes.
//!
//! A thread with a runtime stands in each: what is spawned there has its sockets there, so a client reaches a node by
//! the node's own loopback, and nothing of the test travels over the links that are tested.

use std::fs::File;
use std::path::PathBuf;
use std::thread::JoinHandle;

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::{sys, tools};

/// Where `ip` keeps them.
const FOLDER: &str = "/run/netns";

/// A namespace with its loopback up. Dropped, it is gone once no process is in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// A new one. Names are seen by this run only: it stands in a cage of its own.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        tools::ip(None, &format!("netns add {name}\n"))?;
        tools::ip(Some(name), "link set lo up\n")?;
        let file = File::open(PathBuf::from(FOLDER).join(name))?;
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("net-{name}")).spawn(move || {
            let runtime = sys::enter(&file).and_then(|()| Builder::new_current_thread().enable_all().build());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error))),
            };
            drop(tell.send(Ok(runtime.handle().clone())));
            // Ends when the namespace is dropped, whichever way.
            let _ = runtime.block_on(stopped);
        })?;
        let runtime = told.recv()?.with_context(|| format!("entering the network namespace {name}"))?;
        Ok(Self { name: name.to_owned(), runtime, stop: Some(stop), thread: Some(thread) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The runtime whose tasks have their sockets in it.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The words before a program's own that start it in here.
    pub fn launcher(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net={FOLDER}/{}", self.name)]
    }

    /// Changes devices, addresses and routes in here: lines as `ip -batch` takes them.
    ///
    /// # Errors
    /// When `ip` refuses them.
    pub(super) fn ip(&self, lines: &str) -> anyhow::Result<()> {
        tools::ip(Some(&self.name), lines)
    }

    /// Loads rules of `nft` in here.
    pub(super) fn nft(&self, rules: &str) -> anyhow::Result<()> {
        let mut words = self.launcher();
        words.extend(["nft", "-f", "-"].map(String::from));
        let (program, arguments) = words.split_first().context("no launcher")?;
        tools::feed(program, arguments, rules)
    }

    /// Runs a function in here.
    pub(super) fn call<T: Send + 'static>(&self, function: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        drop(self.runtime.spawn(async move { drop(tell.send(function())) }));
        Ok(told.recv()?)
    }

    /// Without IPv6: a second address of every node would only double what is tried. Forwarding, for routers.
    pub(super) fn settings(&self, forward: bool) -> anyhow::Result<()> {
        self.call(move || {
            // A kernel without IPv6 has no such file.
            drop(std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"));
            drop(std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"));
            if forward { std::fs::write("/proc/sys/net/ipv4/ip_forward", "1") } else { Ok(()) }
        })?
        .context("setting up the namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        drop(tools::ip(None, &format!("netns del {}\n", self.name)));
    }
}
