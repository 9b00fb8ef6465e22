//! Nodes and workers.

use shoal_protocol::object::node::{Drain, Draining, Node, NodePatch};
use shoal_protocol::object::worker::{NewWorker, Ticket, Worker, WorkerPatch};
use shoal_protocol::object::{Class, ListQuery, Page};
use shoal_protocol::{NodeId, WorkerId};

use crate::{Client, Error};

impl Client {
    /// The node that the client is connected to.
    pub async fn node(&self) -> Result<Node, Error> {
        self.get(Class::Node, self.address().node).await
    }

    /// The nodes that it knows, itself included.
    pub async fn nodes(&self, query: ListQuery) -> Result<Page<Node>, Error> {
        self.list(Class::Node, query).await
    }

    /// Changes a node's name or labels.
    pub async fn set_node(&self, id: NodeId, patch: &NodePatch) -> Result<Node, Error> {
        self.set(Class::Node, id, None, patch).await
    }

    /// Lets a node hand over all that it has to another one, and stop then.
    pub async fn drain(&self, id: NodeId, drain: &Drain) -> Result<Draining, Error> {
        self.method(Class::Node, id, "drain", &[], drain).await
    }

    /// Workers that are or were attached to the node.
    pub async fn workers(&self, query: ListQuery) -> Result<Page<Worker>, Error> {
        self.list(Class::Worker, query).await
    }

    /// One worker.
    pub async fn worker(&self, id: WorkerId) -> Result<Worker, Error> {
        self.get(Class::Worker, id).await
    }

    /// A ticket with which one more worker can attach.
    pub async fn new_worker(&self, worker: &NewWorker) -> Result<Ticket, Error> {
        self.create(Class::Worker, worker).await
    }

    /// Changes a worker: whether it takes new jobs.
    pub async fn set_worker(&self, id: WorkerId, patch: &WorkerPatch) -> Result<Worker, Error> {
        self.set(Class::Worker, id, None, patch).await
    }

    /// Sends a worker away.
    pub async fn delete_worker(&self, id: WorkerId) -> Result<(), Error> {
        self.delete(Class::Worker, id).await
    }
}
