//! Logs of runs that are here, on their way to the homes: as much as there is more, in turn.

use shoal_protocol::codec;
use shoal_protocol::limits::PEER_FRAME_LEN_MAX;
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::Run;

use super::Session;

/// Bytes of one log in one message.
const CHUNK_LEN: usize = 32 * 1024;
/// Bytes of all logs that are sent at once: the rest follows a moment later, and the end has all of it.
const TURN_LEN: usize = 256 * 1024;

impl Session {
    /// Appends what the peer has not heard yet of the logs of its runs.
    pub(super) fn append_logs(&self, batch: &mut Vec<u8>) {
        let heard: Vec<(Run, usize)> = self.guests().iter().map(|(run, heard)| (*run, *heard)).collect();
        for (run, offset) in heard {
            if batch.len() >= TURN_LEN {
                return;
            }
            let Some(log) = self.parts.logs.of(run.job).filter(|log| log.epoch() == run.epoch) else { continue };
            let more = log.read(offset).0;
            let chunk = more.slice(..more.len().min(CHUNK_LEN));
            if chunk.is_empty() {
                continue;
            }
            let heard = offset + chunk.len();
            let message = PeerMessage::Log { run, offset: offset as u64, bytes: chunk.into() };
            if codec::append_frame(batch, &message, PEER_FRAME_LEN_MAX).is_ok()
                && let Some(entry) = self.guests().get_mut(&run)
            {
                *entry = heard;
            }
        }
    }
}
