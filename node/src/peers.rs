//! This node among its peers: what is said between two nodes, and what each does for the other.
//!
//! [`shoal_mesh`] finds nodes and opens streams to them; here is what goes over these. To the kernel a peer is one more
//! worker, and a home one more client: a [`session`] with each neighbour carries offers, leases and endings. Calls about
//! jobs of other homes go on to these ([`calls`]), blobs are fetched from who has them ([`bytes`]), documents and global
//! KV are kept equal ([`replicas`]).
//!
//! What always holds: what a peer says is bounded before it is read, checked before it is believed, and a peer that
//! breaks the protocol is closed, kept out for a while, and counted.

mod answers;
mod bytes;
mod calls;
mod direct;
mod keepers;
mod known;
mod places;
mod provide;
mod rates;
mod replicas;
mod seek;
mod serve;
mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use shoal_mesh::Mesh;
use shoal_protocol::NodeId;

use crate::metrics::Metrics;
pub(crate) use calls::{Granted, Home};
pub(crate) use direct::DirectPaths;
pub(crate) use known::Known;
pub(crate) use serve::{Parts, serve};

/// The mesh as the rest of the node uses it, cheap to clone: who is there, and the ways to them.
#[derive(Clone)]
pub(crate) struct Peers(Arc<Inner>);

struct Inner {
    mesh: Mesh,
    known: Known,
    direct: Option<DirectPaths>,
    metrics: Arc<Metrics>,
    told: provide::Told,
    rates: serve::Rates,
    /// Nodes that were not reached, and when that was.
    missed: Mutex<HashMap<NodeId, Instant>>,
    keepers: keepers::Keepers,
}

impl Peers {
    /// Over a mesh that has been started, with the node's end of direct paths if it is to have one.
    pub(crate) fn new(mesh: Mesh, direct: Option<DirectPaths>, metrics: Arc<Metrics>) -> Self {
        let (known, told, rates) = (Known::default(), provide::Told::default(), serve::Rates::default());
        let (missed, keepers) = (Mutex::default(), keepers::Keepers::default());
        Self(Arc::new(Inner { mesh, known, direct, metrics, told, rates, missed, keepers }))
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.0.mesh.node()
    }

    /// What neighbours have said of themselves.
    pub(crate) fn known(&self) -> &Known {
        &self.0.known
    }

    /// How fast peers may speak.
    fn rates(&self) -> &serve::Rates {
        &self.0.rates
    }

    /// Discovery, streams, gossip and the DHT.
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.0.mesh
    }
}
