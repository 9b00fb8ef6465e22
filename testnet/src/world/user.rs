//! The user in whose name a run does everything: with a key of their own, so that they are known at every node.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_client::Client;
use shoal_client::document::NEW;
use shoal_protocol::change::{Change, SignedChange};
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::Class;
use shoal_protocol::object::user::Prepared;
use shoal_protocol::{ObjectId, codec};

/// What a data folder holds of its node's operator: the key, and the user.
const KEY_FILE: &str = "operator.key";
const USER_FILE: &str = "operator";

/// A user with a key.
#[derive(Debug)]
pub(crate) struct User {
    id: ObjectId,
    key: SecretKey,
    token: String,
}

impl User {
    /// The operator of the node with this data folder. As a user with a key, not as an operator: a token from this key
    /// counts at every node.
    pub(super) fn operator_of(shoal: &Path, data: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            std::fs::read_to_string(data.join(name)).with_context(|| format!("reading the file {name} of a node"))
        };
        // A seal follows on a line of its own.
        let user = read(USER_FILE)?;
        let id = user.lines().next().and_then(|id| id.parse().ok()).context("the operator's file holds no id")?;
        let key = parse_key(read(KEY_FILE)?.trim()).context("the operator's key is no key")?;
        let token = mint(shoal, id, &data.join(KEY_FILE)).context("making a token")?;
        Ok(Self { id, key, token })
    }

    /// Their id, and that of their namespace of keys.
    pub(crate) fn id(&self) -> ObjectId {
        self.id
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Makes a document at a node, signed here.
    ///
    /// # Errors
    /// The node's.
    pub(crate) async fn found<T: DeserializeOwned>(
        &self,
        client: &Client,
        class: Class,
        body: &(impl Serialize + ?Sized),
    ) -> anyhow::Result<T> {
        self.sign(client, class, NEW, body).await
    }

    /// Changes a document at a node, signed here.
    ///
    /// # Errors
    /// The node's.
    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        client: &Client,
        class: Class,
        document: ObjectId,
        patch: &(impl Serialize + ?Sized),
    ) -> anyhow::Result<T> {
        self.sign(client, class, document, patch).await
    }

    async fn sign<T: DeserializeOwned>(
        &self,
        client: &Client,
        class: Class,
        object: impl ToString,
        body: &(impl Serialize + ?Sized),
    ) -> anyhow::Result<T> {
        let (document, change) = self.prepare(client, class, object, body).await?;
        Ok(client.apply(class, document, change).await?)
    }

    /// A signed change of a document as it is at a node, which does not have it yet.
    ///
    /// # Errors
    /// The node's.
    pub(crate) async fn prepare(
        &self,
        client: &Client,
        class: Class,
        object: impl ToString,
        body: &(impl Serialize + ?Sized),
    ) -> anyhow::Result<(ObjectId, SignedChange)> {
        let Prepared { document, bytes } = client.prepare(class, object, &self.key.public(), body).await?;
        let change: Change = codec::decode(&bytes)?;
        Ok((document, change.sign(&self.key)))
    }
}

fn parse_key(text: &str) -> Option<SecretKey> {
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(SecretKey::from_bytes(bytes))
}

/// A token that stands for the user and is rooted in their own key.
fn mint(shoal: &Path, user: ObjectId, key: &Path) -> anyhow::Result<String> {
    let minted = Command::new(shoal).args(["token", "mint", "--user", &user.to_string(), "--key"]).arg(key).output()?;
    if !minted.status.success() {
        bail!("{}", String::from_utf8_lossy(&minted.stderr).trim());
    }
    Ok(String::from_utf8(minted.stdout)?.trim().to_owned())
}
