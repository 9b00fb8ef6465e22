//! Signed changes that do not count: forged, altered, truncated, misplaced, replayed.

use serde_json::{Value, json};
use shoal_protocol::change::{Change, ChangeHash, Operation, Scalar, SignedChange};
use shoal_protocol::key::{PublicKey, Purpose, SecretKey};
use shoal_protocol::object::Class;
use shoal_protocol::object::project::{NewProject, Project};
use shoal_protocol::object::user::{AddKey, Apply};
use shoal_protocol::{BlobId, ObjectId, Octets, codec};

use super::{Answer, Bench, expect};

/// Somebody who signs their changes themselves, and the document that they change.
pub struct Author {
    key: SecretKey,
    project: ObjectId,
    /// Not the one that the changes are of.
    other: ObjectId,
}

impl Author {
    pub async fn new(bench: &Bench) -> Self {
        let user = bench.client.welcome().user.unwrap();
        let key = SecretKey::from_bytes([7; 32]);
        let add = AddKey { key: key.public(), note: "of this test".into() };
        bench.client.add_key(user, &add).await.unwrap();
        let project = async |name: &str| {
            let new = NewProject { name: name.into(), ..NewProject::default() };
            bench.client.create_project(&new).await.unwrap().id
        };
        Self { key, project: project("changed").await, other: project("other").await }
    }

    /// The bytes of a good change, unsigned.
    async fn prepared(&self, bench: &Bench, label: &str) -> Octets {
        let patch = json!({ "labels": { "signed": label } });
        bench.client.prepare(Class::Project, self.project, &self.key.public(), &patch).await.unwrap().bytes
    }

    fn sign(&self, key: &SecretKey, bytes: &[u8]) -> SignedChange {
        SignedChange { bytes: bytes.into(), signature: key.sign(Purpose::Change, bytes) }
    }

    pub async fn rows(&self, bench: &mut Bench) {
        let before: Project = bench.client.project(self.project).await.unwrap();
        self.forged(bench).await;
        self.misplaced(bench).await;
        let after: Project = bench.client.project(self.project).await.unwrap();
        assert_eq!(after.labels, before.labels, "what was refused has changed something");
        self.replayed(bench).await;
    }

    async fn forged(&self, bench: &mut Bench) {
        let bytes = self.prepared(bench, "forged").await;
        let good = self.sign(&self.key, &bytes);
        let refused = |says| expect("422", "change-refused", says);

        let stranger = SecretKey::from_bytes([8; 32]);
        let forged = self.sign(&stranger, &bytes);
        let answer = self.apply(bench, self.project, &forged).await;
        bench.row("a change signed by another key", answer, refused("the signature is not")).await;

        let mut change: Change = codec::decode(&bytes).unwrap();
        for operation in &mut change.operations {
            if let Operation::Put { value: Scalar::Text(text), .. } = operation {
                "stolen".clone_into(text);
            }
        }
        let altered = SignedChange { bytes: codec::encode(&change).into(), signature: good.signature };
        let answer = self.apply(bench, self.project, &altered).await;
        bench.row("a change altered behind its signature", answer, refused("the signature is not")).await;

        let change = Change { author: stranger.public(), sequence: 1, ..codec::decode(&bytes).unwrap() };
        let answer = self.apply(bench, self.project, &change.sign(&stranger)).await;
        bench.row("a change by a key that is not the user's", answer, refused("does not count")).await;

        for len in [0, bytes.len() / 2, bytes.len() - 1] {
            let cut = SignedChange { bytes: bytes[..len].into(), signature: good.signature };
            let answer = self.apply(bench, self.project, &cut).await;
            bench.row(&format!("a change truncated to {len} bytes"), answer, refused("cannot be read")).await;
        }
        let cut = self.sign(&self.key, &bytes[..bytes.len() / 2]);
        let answer = self.apply(bench, self.project, &cut).await;
        bench.row("half a change, signed as such", answer, refused("cannot be read")).await;
    }

    async fn misplaced(&self, bench: &mut Bench) {
        let bytes = self.prepared(bench, "misplaced").await;
        let change = || codec::decode::<Change>(&bytes).unwrap();
        let refused = |says| expect("422", "change-refused", says);

        let elsewhere = Change { mesh: PublicKey([9; 32]), ..change() };
        let answer = self.apply(bench, self.project, &elsewhere.sign(&self.key)).await;
        bench.row("a change for another mesh", answer, refused("is for the mesh")).await;

        let answer = self.apply(bench, self.other, &change().sign(&self.key)).await;
        bench.row("a change under another document's id", answer, refused("is of document")).await;

        let skipping = Change { sequence: change().sequence + 1, ..change() };
        let answer = self.apply(bench, self.project, &skipping.sign(&self.key)).await;
        bench.row("a change whose number is one too high", answer, refused("breaks its chain")).await;

        let ahead = Change { deps: vec![ChangeHash(BlobId([5; 32]))], ..change() };
        let answer = self.apply(bench, self.project, &ahead.sign(&self.key)).await;
        bench.row("a change after one that nobody has", answer, expect("409", "conflict", "not known here")).await;
    }

    /// The same change again, over both edges: it is said that it was taken, and nothing is done.
    async fn replayed(&self, bench: &mut Bench) {
        let label = format!("{}", bench.normal_jobs);
        let signed = self.sign(&self.key, &self.prepared(bench, &label).await);
        let answer = self.apply(bench, self.project, &signed).await;
        assert_eq!(answer.status, "200", "{answer:?}");
        let before: Project = bench.client.project(self.project).await.unwrap();
        assert_eq!(before.labels.get("signed"), Some(&label));
        let expected = || expect("409", "conflict", "already part of its document: nothing was done");
        let answer = self.apply(bench, self.project, &signed).await;
        bench.row("a change replayed", answer, expected()).await;
        let over_quic = bench.client.apply::<Project>(Class::Project, self.project, signed).await;
        let expected = expect("QUIC 409", "conflict", "already part of its document: nothing was done");
        bench.row("a change replayed over QUIC", Answer::of(over_quic), expected).await;
        let after: Project = bench.client.project(self.project).await.unwrap();
        assert_eq!((after.labels, after.heads), (before.labels, before.heads));
    }

    async fn apply(&self, bench: &Bench, document: ObjectId, change: &SignedChange) -> Answer {
        let body: Value = json!(Apply { change: change.clone() });
        bench.http("POST", &format!("/project/{document}/apply"), body.to_string().as_bytes(), None).await
    }
}
