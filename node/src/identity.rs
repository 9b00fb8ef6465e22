//! Who this node is, and who may speak to it: keys, tokens, tickets, invitations.
//!
//! Owns, in the data folder: `node.key`, the one key that is the node; `operator.key`, with which the operator's user
//! document is signed; `operator`, that user's id; `token`, the operator's token for the local API; and `workers.json`.
//! The edges ask it who a caller is; nobody else reads these files, except that the command line reads `token`.
//!
//! What always holds: a secret is in a file that its owner alone can read, or the node does not start; whatever is
//! verified here is verified offline.

pub(crate) mod files;
pub(crate) mod invitation;
pub(crate) mod ticket;
pub(crate) mod token;
pub(crate) mod worker_registry;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::{NodeId, ObjectId, Problem, WorkerId};

pub(crate) use ticket::Ticket;
pub(crate) use token::{Narrowing, Token};
pub(crate) use worker_registry::WorkerRegistry;

/// The name of the open mesh that a node is in unless it is told otherwise.
const OPEN_MESH: &str = "default";
/// The file with the operator's token, in the data folder.
pub(crate) const TOKEN_FILE: &str = "token";

const NODE_KEY_FILE: &str = "node.key";
const OPERATOR_KEY_FILE: &str = "operator.key";
const OPERATOR_FILE: &str = "operator";

/// Why an identity cannot be read or a token not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others can read a secret.
    #[error("{} holds a secret, but others can read it (mode {mode:03o}); make it private with: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{} cannot be used: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
    /// A token could not be made or narrowed.
    #[error("the token cannot be made: {0}")]
    Token(String),
}

/// The node's identity.
pub(crate) struct Identity {
    /// The node's key.
    pub(crate) node: SecretKey,
    /// The workers that were let in.
    pub(crate) workers: WorkerRegistry,
    folder: PathBuf,
    operator_key: SecretKey,
    operator: RwLock<Option<ObjectId>>,
    tokens: token::Verifier,
}

impl Identity {
    /// Reads the identity from the data folder. At first use it is made, together with the folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        files::make_folder(folder)?;
        let node = files::read_or_create_sealed_key(&folder.join(NODE_KEY_FILE))?;
        let operator_key = files::read_or_create_sealed_key(&folder.join(OPERATOR_KEY_FILE))?;
        // Another user's id is a damaged one: who the operator is their key says, too.
        let operator =
            read_operator(&folder.join(OPERATOR_FILE))?.filter(|user| user.minted_by(&operator_key.public()));
        // The last of this millisecond's sequence: the ids of jobs begin at its start.
        let local = WorkerId::from_parts(wall_ms(), u16::MAX, node.public().tag());
        let workers = WorkerRegistry::open(folder, local)?;
        let tokens = token::Verifier::new(node.public().into());
        Ok(Self { node, workers, folder: folder.into(), operator_key, operator: RwLock::new(operator), tokens })
    }

    /// The node's id.
    pub(crate) fn node_id(&self) -> NodeId {
        self.node.public().into()
    }

    /// The node's key.
    pub(crate) fn node_key(&self) -> &SecretKey {
        &self.node
    }

    /// The key of the mesh that this node is in, and whether anybody is admitted to it.
    pub(crate) fn mesh(&self) -> (&'static str, PublicKey) {
        (OPEN_MESH, SecretKey::of_open_mesh(OPEN_MESH).public())
    }

    /// The key that signs what the operator says.
    pub(crate) fn operator_key(&self) -> &SecretKey {
        &self.operator_key
    }

    /// The operator's user; none before it is founded.
    pub(crate) fn operator(&self) -> Option<ObjectId> {
        *self.operator.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the operator's user, once its document is durable.
    pub(crate) fn set_operator(&self, user: ObjectId) -> Result<(), Error> {
        let path = self.folder.join(OPERATOR_FILE);
        files::write_sealed(&path, format!("{user}\n").as_bytes()).map_err(|source| Error::Io { path, source })?;
        *self.operator.write().unwrap_or_else(PoisonError::into_inner) = Some(user);
        Ok(())
    }

    /// Makes sure that `token` in the data folder is a token of the operator `user`, and says where it is. One that
    /// counts already is kept.
    pub(crate) fn write_operator_token(&self, user: ObjectId) -> Result<PathBuf, Error> {
        let path = self.folder.join(TOKEN_FILE);
        let kept = files::read_private(&path)?.and_then(|bytes| String::from_utf8(bytes).ok());
        let wanted = Token { user, operator: true, rights: token::Rights::ALL, counts_elsewhere: false };
        let counts = kept.is_some_and(|kept| self.verify_token(&kept, wall_ms(), |_| Vec::new()) == Ok(wanted));
        if !counts {
            let text = format!("{}\n", self.mint_token(user, true, None, false)?);
            files::write_private(&path, text.as_bytes()).map_err(|source| Error::Io { path: path.clone(), source })?;
        }
        Ok(path)
    }

    /// A session certificate of this node: a token for `user` that counts here only. `expires_ms` is in milliseconds since
    /// the Unix epoch.
    pub(crate) fn mint_token(
        &self,
        user: ObjectId,
        operator: bool,
        expires_ms: Option<u64>,
        read_only: bool,
    ) -> Result<String, Error> {
        let session = token::Session { user, node: self.node_id(), operator };
        token::mint_session(&self.node, &session, Narrowing { expires_ms, read_only, ..Narrowing::default() })
    }

    /// Whom a token stands for at `now_ms`, in milliseconds since the Unix epoch, and what it allows. `keys_of` gives the
    /// keys of a user, none for one that is unknown: a token may be rooted in one of them.
    pub(crate) fn verify_token(
        &self,
        token: &str,
        now_ms: u64,
        keys_of: impl Fn(ObjectId) -> Vec<PublicKey>,
    ) -> Result<Token, Problem> {
        self.tokens.verify(token, now_ms, keys_of)
    }

    /// A ticket with which one worker can attach until `expires_ms`. `address` is this node's, as the worker reaches it.
    pub(crate) fn worker_ticket(
        &self,
        worker: WorkerId,
        name: &str,
        expires_ms: u64,
        address: &str,
    ) -> Result<String, Error> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| Error::Random(error.to_string()))?;
        let ticket = Ticket {
            worker,
            name: name.into(),
            node: self.node_id(),
            address: address.into(),
            expires_ms,
            nonce: nonce[..].into(),
        };
        Ok(ticket::sign(&self.node, &ticket))
    }

    /// Lets the holder of `key` in with its ticket. The first key owns the ticket; a key that was let in before comes back
    /// after the expiry. Writes to disk the first time: not to be called where nothing may block.
    pub(crate) fn admit_worker(&self, ticket: &str, key: PublicKey, now_ms: u64) -> Result<Ticket, Problem> {
        let ticket = ticket::verify(self.node_id(), ticket)?;
        self.workers.admit(&ticket, key, now_ms)?;
        Ok(ticket)
    }
}

/// Looks at the keys in a data folder: what was looked at, or what is wrong.
pub(crate) fn check(folder: &Path) -> Result<String, String> {
    let names = [NODE_KEY_FILE, OPERATOR_KEY_FILE, OPERATOR_FILE, worker_registry::FILE];
    let there: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).filter(|path| path.exists()).collect();
    for path in &there {
        files::check_sealed(path)?;
    }
    Ok(format!("{} files", there.len()))
}

/// The operator's user, if the file names one: whoever has damaged it, the documents know it.
fn read_operator(path: &Path) -> Result<Option<ObjectId>, Error> {
    let bytes = files::read_sealed(path, files::PRIVATE_LEN_MAX)?;
    Ok(bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok()))
}

/// Milliseconds since the Unix epoch.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_node_stays_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let first = Identity::open(&data).expect("an identity");
        assert_eq!(first.operator(), None);
        let user = ObjectId::from_parts(1, 2, first.operator_key().public().tag());
        first.set_operator(user).expect("remembered");
        let again = Identity::open(&data).expect("an identity");
        assert_eq!(again.node_id(), first.node_id());
        assert_eq!(again.operator_key().public(), first.operator_key().public());
        assert_ne!(again.operator_key().public(), first.node.public());
        assert_eq!((again.operator(), again.workers.local()), (Some(user), first.workers.local()));
        assert_eq!(fs::metadata(&data).expect("a folder").permissions().mode() & 0o777, 0o700);
        // A bit that flips makes another id of the same tag.
        let mut bytes = fs::read(data.join(OPERATOR_FILE)).expect("bytes");
        bytes[8] ^= 4;
        fs::write(data.join(OPERATOR_FILE), bytes).expect("damaged");
        assert_eq!(Identity::open(&data).expect("an identity").operator(), Some(user));
    }

    #[test]
    fn the_operators_token_is_private_and_kept_while_it_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let identity = Identity::open(folder.path()).expect("an identity");
        let user = ObjectId::from_parts(1, 2, identity.operator_key().public().tag());
        let path = identity.write_operator_token(user).expect("written");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).expect("text");
        let token = identity.verify_token(&text, wall_ms(), |_| vec![]).expect("it counts");
        assert_eq!((token.user, token.operator), (user, true));
        identity.write_operator_token(user).expect("kept");
        assert_eq!(fs::read_to_string(&path).expect("text"), text);
        let other = ObjectId::from_parts(3, 4, [0; 8]);
        identity.write_operator_token(other).expect("written anew");
        assert_ne!(fs::read_to_string(&path).expect("text"), text);
    }

    #[test]
    fn a_worker_ticket_lets_one_key_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let identity = Identity::open(folder.path()).expect("an identity");
        let worker = WorkerId::from_parts(1, 2, [3; 8]);
        let text = identity.worker_ticket(worker, "gpu", 1_000, "quic://x@h:1").expect("a ticket");
        let key = PublicKey([1; 32]);
        let ticket = identity.admit_worker(&text, key, 999).expect("let in");
        assert_eq!((ticket.worker, ticket.name.as_str()), (worker, "gpu"));
        assert!(identity.admit_worker(&text, PublicKey([2; 32]), 999).is_err());
        let elsewhere = tempfile::tempdir().expect("a folder");
        let other = Identity::open(elsewhere.path()).expect("an identity");
        assert!(other.admit_worker(&text, key, 999).is_err());
    }
}
