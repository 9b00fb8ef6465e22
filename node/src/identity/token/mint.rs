//! Makes tokens and narrows them.

use biscuit_auth::builder::{Binary, Check, CheckKind, Expression, Op, Predicate, Rule, var};
use biscuit_auth::builder::{BlockBuilder, Term, fact, string};
use biscuit_auth::{Biscuit, UnverifiedBiscuit, error};
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::Class;
use shoal_protocol::{NodeId, ObjectId};

use super::{Operation, TOKEN_LEN_MAX, key_pair};
use crate::identity::Error;

/// What a holder takes away from a token before handing it on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Narrowing {
    /// It ends, in milliseconds since the Unix epoch; checked to the second.
    pub(crate) expires_ms: Option<u64>,
    /// It changes nothing any more.
    pub(crate) read_only: bool,
    /// It counts for objects of this class only.
    pub(crate) class: Option<Class>,
    /// It counts at this node only.
    pub(crate) node: Option<NodeId>,
}

/// A session certificate: what the node says about the holder.
pub(in crate::identity) struct Session {
    pub(in crate::identity) user: ObjectId,
    pub(in crate::identity) node: NodeId,
    pub(in crate::identity) operator: bool,
}

/// A token rooted in the node's key.
pub(in crate::identity) fn mint_session(
    key: &SecretKey,
    session: &Session,
    narrowing: Narrowing,
) -> Result<String, Error> {
    let mut block = BlockBuilder::new()
        .fact(fact("user", &[string(&session.user.to_string())]))
        .and_then(|block| block.fact(fact("node", &[string(&session.node.to_string())])))
        .map_err(failed)?;
    if session.operator {
        block = block.fact(fact("operator", &[Term::Bool(true)])).map_err(failed)?;
    }
    build(key, narrow(block, narrowing).map_err(failed)?)
}

/// A token rooted in a user's own key: it counts at every node that knows this user, and never makes an operator.
pub(crate) fn mint_for_user(key: &SecretKey, user: ObjectId, narrowing: Narrowing) -> Result<String, Error> {
    let block = BlockBuilder::new().fact(fact("user", &[string(&user.to_string())])).map_err(failed)?;
    build(key, narrow(block, narrowing).map_err(failed)?)
}

/// The same token with less in it. Needs no key, and cannot be undone.
pub(crate) fn attenuate(token: &str, narrowing: Narrowing) -> Result<String, Error> {
    let token = token.trim();
    if token.len() > TOKEN_LEN_MAX {
        return Err(Error::Token(format!("a token has at most {TOKEN_LEN_MAX} characters, this has {}", token.len())));
    }
    let token = UnverifiedBiscuit::from_base64(token).map_err(failed)?;
    let narrowed = token.append(narrow(BlockBuilder::new(), narrowing).map_err(failed)?).map_err(failed)?;
    bounded(narrowed.to_base64().map_err(failed)?)
}

fn build(key: &SecretKey, block: BlockBuilder) -> Result<String, Error> {
    let token = Biscuit::builder().merge(block).build(&key_pair(key).map_err(failed)?).map_err(failed)?;
    bounded(token.to_base64().map_err(failed)?)
}

fn bounded(text: String) -> Result<String, Error> {
    if text.len() > TOKEN_LEN_MAX {
        return Err(Error::Token(format!("the token would have {} characters, {TOKEN_LEN_MAX} at most", text.len())));
    }
    Ok(text)
}

fn narrow(mut block: BlockBuilder, narrowing: Narrowing) -> Result<BlockBuilder, error::Token> {
    if let Some(expires_ms) = narrowing.expires_ms {
        let before = Expression {
            ops: vec![Op::Value(var("now")), Op::Value(Term::Date(expires_ms / 1000)), Op::Binary(Binary::LessThan)],
        };
        block = block.check(one("time", var("now"), vec![before]))?;
    }
    if narrowing.read_only {
        block = block.check(one("operation", string(Operation::Read.text()), vec![]))?;
    }
    if let Some(class) = narrowing.class {
        block = block.check(one("class", string(class.text()), vec![]))?;
    }
    if let Some(node) = narrowing.node {
        block = block.check(one("node", string(&node.to_string()), vec![]))?;
    }
    Ok(block)
}

/// `check if name(term), expressions`.
fn one(name: &str, term: Term, expressions: Vec<Expression>) -> Check {
    let head = Predicate::new("query".into(), vec![]);
    let query = Rule::new(head, vec![Predicate::new(name.into(), vec![term])], expressions, vec![]);
    Check { queries: vec![query], kind: CheckKind::One }
}

fn failed(error: error::Token) -> Error {
    Error::Token(error.to_string())
}
