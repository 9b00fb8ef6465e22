//! Texts inside of messages that are read as something else: ids, addresses, traces, names.

use shoal_protocol::name::{self, Labels};
use shoal_protocol::{BlobId, NodeId, ObjectId, Traceparent, codec};

use super::mutate::{below, mutated};
use super::{Stopwatch, Target, cbor};
use crate::sim::random::Random;

/// What is valid somewhere.
const VALID: [&str; 8] = [
    "01HF7YAT00000NGVVFDNK6YS35",
    "01hf7yat00000ngvvfdnk6ys35",
    "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    "gpu-1",
    "zone",
    "a-name-of-63-characters-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

struct Texts(Vec<Vec<u8>>);

/// Texts of all kinds, each read as each.
pub fn make(_: &mut Random) -> Box<dyn Target> {
    Box::new(Texts(VALID.map(|text| cbor::Item::Text(text.into()).write()).into()))
}

impl Target for Texts {
    /// Past the first check is what is a text.
    fn feed(&mut self, random: &mut Random, stopwatch: &mut Stopwatch) -> bool {
        let Some(valid) = self.0.get(below(self.0.len(), random)) else { return false };
        let bytes = mutated(valid, &self.0, random);
        let Ok(text) = codec::decode::<String>(&bytes) else { return false };
        let text = text.as_str();
        stopwatch.time(|| {
            drop((text.parse::<ObjectId>(), text.parse::<BlobId>(), text.parse::<NodeId>()));
            let _ = (text.parse::<Traceparent>(), Traceparent::sent(Some(text)));
            drop((
                name::check("name", text),
                name::check_labels("labels", &Labels::from([(text.into(), text.into())])),
            ));
        });
        true
    }
}
