//! gossipsub's handler, except that it keeps no connection alive.
//!
//! gossipsub holds two streams open on each connection, and libp2p lets no connection with a stream end. A peer that a
//! look-up has once reached would stay for ever, until everybody is connected with everybody. Who stays is decided by the
//! view alone.

use std::task::{Context, Poll};

use futures_util::future::Either;
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, NetworkBehaviour, SubstreamProtocol};

/// gossipsub's own handler.
type Inner = <super::Inner as NetworkBehaviour>::ConnectionHandler;

/// The handler.
pub(crate) struct Quiet(Inner);

impl Quiet {
    pub(super) fn new(inner: Inner) -> Self {
        Self(inner)
    }
}

impl ConnectionHandler for Quiet {
    type FromBehaviour = <Inner as ConnectionHandler>::FromBehaviour;
    type ToBehaviour = <Inner as ConnectionHandler>::ToBehaviour;
    type InboundProtocol = <Inner as ConnectionHandler>::InboundProtocol;
    type OutboundProtocol = <Inner as ConnectionHandler>::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        self.0.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        false
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        self.0.poll(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.0.on_behaviour_event(event);
    }

    fn on_connection_event(&mut self, mut event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match &mut event {
            ConnectionEvent::FullyNegotiatedInbound(new) => match &mut new.protocol {
                Either::Left((stream, _)) => stream.ignore_for_keep_alive(),
                Either::Right(_) => {}
            },
            ConnectionEvent::FullyNegotiatedOutbound(new) => new.protocol.0.ignore_for_keep_alive(),
            _ => {}
        }
        self.0.on_connection_event(event);
    }
}
