//! API tokens: Biscuits, verified offline.
//!
//! A token is rooted in this node's key, then it is a session certificate {user, node, operator} that counts here only;
//! or in a key of the user that it stands for, then it counts at every node that knows this user. Its holder can narrow
//! it by checks on `time`, `node`, `operation` (`read` or `write`) and `class`.
//!
//! What always holds: nothing is decoded before its length is known to be small; of the datalog that a token may hold
//! only facts and checks of bounded size are evaluated, see [`evaluate`]; a token counts at most [`TIMED_MS_MAX`] longer
//! than its checks say, and not at all once its root is no key of its user.

mod cache;
mod evaluate;
mod mint;

use std::sync::{Arc, Mutex, PoisonError};

use biscuit_auth::{Algorithm, Biscuit, UnverifiedBiscuit, error};
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::object::Class;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem};

pub(crate) use mint::{Narrowing, attenuate, mint_for_user};
pub(super) use mint::{Session, mint_session};

/// A token's text, in bytes. Why 4 KiB: a dozen narrowings; an HTTP header takes twice that.
pub(crate) const TOKEN_LEN_MAX: usize = 4 * 1024;
/// How long the verdict about a token with checks on time is kept, in milliseconds. Why a second: nobody minds a token
/// that counts a second longer, and a busy client's token is evaluated once a second instead of thousands of times.
const TIMED_MS_MAX: u64 = 1_000;

/// Whom a token stands for, and what it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// The user.
    pub(crate) user: ObjectId,
    /// Whether it holds the rights of this node's operator.
    pub(crate) operator: bool,
    /// What its checks leave of the user's rights.
    pub(crate) rights: Rights,
    /// It is rooted in a key of the user's own: other nodes take it, too.
    pub(crate) counts_elsewhere: bool,
}

/// What is to be done with an object, as checks in tokens name it: `operation("read")`, `operation("write")`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Nothing changes.
    Read,
    /// Something changes.
    Write,
}

impl Operation {
    pub(super) const ALL: [Self; 2] = [Self::Read, Self::Write];

    /// As checks name it.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Which operations on which classes a token's checks allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights(u16);

impl Rights {
    /// Everything.
    pub(crate) const ALL: Self = Self(u16::MAX);
    /// Nothing.
    pub(crate) const NONE: Self = Self(0);

    /// Whether this operation on objects of this class is allowed.
    pub(crate) const fn allow(self, operation: Operation, class: Class) -> bool {
        self.0 & Self::bit(operation, class) != 0
    }

    fn grant(&mut self, operation: Operation, class: Class) {
        self.0 |= Self::bit(operation, class);
    }

    const fn bit(operation: Operation, class: Class) -> u16 {
        1 << (2 * class as u16 + operation as u16)
    }
}

/// Verifies the tokens of one node, and remembers what it found.
pub(super) struct Verifier {
    node: NodeId,
    cache: Mutex<cache::Cache>,
}

/// The key that a token is rooted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Node,
    User(PublicKey),
}

/// A token whose signatures were found to be right.
struct Verified {
    biscuit: Biscuit,
    root: Root,
    user: ObjectId,
    operator: bool,
    bounds: evaluate::Shape,
}

impl Verifier {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node, cache: Mutex::new(cache::Cache::default()) }
    }

    /// Whom the token stands for now. `keys_of` gives a user's own keys; none for one that is unknown.
    pub(super) fn verify(
        &self,
        text: &str,
        now_ms: u64,
        keys_of: impl Fn(ObjectId) -> Vec<PublicKey>,
    ) -> Result<Token, Problem> {
        let text = text.trim();
        if text.is_empty() || text.len() > TOKEN_LEN_MAX {
            return Err(refused(format!("a token has 1 to {TOKEN_LEN_MAX} characters, this has {}", text.len())));
        }
        let hash = *blake3::hash(text.as_bytes()).as_bytes();
        let known = self.cache().get(&hash);
        let (verified, judged) = match known {
            Some(entry) => {
                if let Root::User(key) = entry.verified.root
                    && !keys_of(entry.verified.user).contains(&key)
                {
                    return Err(refused("the key that this token is rooted in is no longer a key of its user"));
                }
                let fresh = !entry.verified.bounds.time || now_ms.abs_diff(entry.judged_ms) < TIMED_MS_MAX;
                (entry.verified, fresh.then_some(entry.rights))
            }
            None => (Arc::new(self.verify_signatures(text, keys_of)?), None),
        };
        let rights = match judged {
            Some(rights) => rights,
            None => {
                let rights = evaluate::rights(&verified.biscuit, self.node, now_ms, verified.bounds)?;
                self.cache().put(hash, cache::Entry { verified: Arc::clone(&verified), rights, judged_ms: now_ms });
                rights
            }
        };
        let counts_elsewhere = matches!(verified.root, Root::User(_));
        Ok(Token { user: verified.user, operator: verified.operator, rights, counts_elsewhere })
    }

    fn verify_signatures(&self, text: &str, keys_of: impl Fn(ObjectId) -> Vec<PublicKey>) -> Result<Verified, Problem> {
        let (biscuit, root) = match Biscuit::from_base64(text, root_key(self.node.into())?) {
            Ok(biscuit) => (biscuit, Root::Node),
            Err(error::Token::Format(error::Format::Signature(_))) => verify_user_rooted(text, keys_of)?,
            Err(error) => return Err(unreadable(&error)),
        };
        let bounds = evaluate::shape(&biscuit)?;
        let facts = evaluate::facts(&biscuit)?;
        let operator = match root {
            Root::Node if facts.node == Some(self.node) => facts.operator,
            Root::Node => return Err(refused("the session certificate is for another node")),
            // What a user says about being an operator counts for nothing.
            Root::User(_) => false,
        };
        Ok(Verified { biscuit, root, user: facts.user, operator, bounds })
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, cache::Cache> {
        // What a panic elsewhere left behind is still a cache.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the key among those of the user whom the token names. What is read before the signature is checked only chooses
/// the keys to check it with.
fn verify_user_rooted(text: &str, keys_of: impl Fn(ObjectId) -> Vec<PublicKey>) -> Result<(Biscuit, Root), Problem> {
    let unverified = UnverifiedBiscuit::from_base64(text).map_err(|error| unreadable(&error))?;
    let source = unverified.print_block_source(0).map_err(|error| unreadable(&error))?;
    let claimed =
        source.lines().find_map(|line| line.trim().strip_prefix("user(\"")?.strip_suffix("\");")?.parse().ok());
    let Some(user) = claimed else {
        return Err(refused("this node did not sign the token, and it names no user whose key could have"));
    };
    for key in keys_of(user) {
        if let Ok(biscuit) = unverified.clone().verify(root_key(key)?) {
            let named = evaluate::facts(&biscuit)?.user;
            return if named == user {
                Ok((biscuit, Root::User(key)))
            } else {
                Err(refused("the token names two users"))
            };
        }
    }
    Err(refused(format!("the token is signed neither by this node nor by a key of user {user}")))
}

fn root_key(key: PublicKey) -> Result<biscuit_auth::PublicKey, Problem> {
    let key = biscuit_auth::PublicKey::from_bytes(key.as_bytes(), Algorithm::Ed25519);
    key.map_err(|error| refused(format!("the root is no ed25519 key: {error}")))
}

fn key_pair(key: &SecretKey) -> Result<biscuit_auth::KeyPair, error::Token> {
    let key = biscuit_auth::PrivateKey::from_bytes(&key.to_bytes(), Algorithm::Ed25519)?;
    Ok(biscuit_auth::KeyPair::from(&key))
}

fn unreadable(error: &error::Token) -> Problem {
    refused(format!("the token is cut off or was changed: {error}"))
}

fn refused(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Unauthenticated, detail)
}

#[cfg(test)]
mod tests;
