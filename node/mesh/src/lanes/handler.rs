//! The streams of one connection.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::StreamProtocol;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, Stream, SubstreamProtocol};
use shoal_protocol::NodeId;
use tokio::sync::mpsc;

use super::{Inbound, Lane, Names, OPEN_MAX, OpenError, Order, Reply};
use crate::counters::{Tally, count};

/// Streams that one connection is about to open. Beyond it an opening is refused at once.
const OPENING_MAX: usize = 64;

/// The handler.
pub(crate) struct Handler {
    peer: NodeId,
    names: Names,
    arrived: mpsc::Sender<Inbound>,
    opening: VecDeque<(Lane, Reply)>,
    keep: bool,
    tally: Arc<Tally>,
}

impl Handler {
    pub(super) fn new(peer: NodeId, names: Names, arrived: mpsc::Sender<Inbound>, tally: Arc<Tally>) -> Self {
        Self { peer, names, arrived, opening: VecDeque::new(), keep: false, tally }
    }

    fn lane_of(&self, name: &StreamProtocol) -> Option<Lane> {
        self.names.iter().find(|(_, known)| known == name).map(|(lane, _)| *lane)
    }

    fn name_of(&self, lane: Lane) -> Option<StreamProtocol> {
        self.names.iter().find(|(known, _)| *known == lane).map(|(_, name)| name.clone())
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Order;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade, ()> {
        SubstreamProtocol::new(Upgrade(self.names.iter().map(|(_, name)| name.clone()).collect()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.keep
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, Reply, Infallible>> {
        while let Some((lane, reply)) = self.opening.pop_front() {
            // Who has given up meanwhile gets no stream, nor does the peer see one.
            if reply.is_closed() {
                continue;
            }
            let Some(name) = self.name_of(lane) else { continue };
            let protocol = SubstreamProtocol::new(Upgrade(vec![name]), reply).with_timeout(OPEN_MAX);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, order: Order) {
        match order {
            Order::Open(_, reply) if self.opening.len() >= OPENING_MAX => {
                drop(reply.send(Err(OpenError::Refused("too many streams are being opened".into()))));
            }
            Order::Open(lane, reply) => self.opening.push_back((lane, reply)),
            Order::Keep(keep) => self.keep = keep,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), Reply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, name), info: () }) => {
                let Some(lane) = self.lane_of(&name) else { return };
                let stream = crate::stream::Stream::new(stream);
                if self.arrived.try_send(Inbound { from: self.peer, lane, stream }).is_err() {
                    count(&self.tally.dropped_streams);
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: reply,
            }) => {
                drop(reply.send(Ok(crate::stream::Stream::new(stream))));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                drop(reply.send(Err(OpenError::Refused(error.to_string()))));
            }
            _ => {}
        }
    }
}

/// An upgrade to the stream itself, under any of these names.
pub(crate) struct Upgrade(Vec<StreamProtocol>);

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}
