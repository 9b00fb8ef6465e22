//! What a token says, and what its checks allow.
//!
//! A Biscuit may hold whole datalog programs, and its engine looks at its time limit only between queries: a rule that
//! feeds itself, or a query that joins a hundred facts with themselves five times, would hold a thread for minutes. So
//! only what narrowing needs is evaluated: facts, and checks of small queries, without rules, regular expressions and
//! closures. Anything else is refused by name.

use std::time::Duration;

use biscuit_auth::builder::{Binary, Op, Rule, Term, Unary, fact, string};
use biscuit_auth::builder_ext::AuthorizerExt as _;
use biscuit_auth::{AuthorizerBuilder, AuthorizerLimits, Biscuit, error};
use shoal_protocol::object::Class;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem};

use super::{Operation, Rights, refused, unreadable};

/// Blocks of a token. Why 16: as many holders in a row as narrow it.
const BLOCKS_MAX: usize = 16;
/// Facts in all blocks together.
const FACTS_MAX: usize = 32;
/// Checks in all blocks together, and alternatives in each.
const CHECKS_MAX: usize = 32;
const QUERIES_MAX: usize = 8;
/// Predicates in one query. Why 3: time, operation and class; three facts joined are at most 40³ steps.
const PREDICATES_MAX: usize = 3;
/// Steps of all expressions in one query.
const OPS_MAX: usize = 32;
/// The engine's own limit: a wall clock, so it must bear with a thread that waits for its turn.
const EVALUATION_MAX: Duration = Duration::from_millis(250);
/// What is shown of checks that failed, in characters.
const SHOWN_MAX: usize = 400;

/// Which of the facts that change from request to request a token's checks look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) time: bool,
    pub(super) operation: bool,
    pub(super) class: bool,
}

/// What the authority of a token says.
pub(super) struct Facts {
    pub(super) user: ObjectId,
    pub(super) node: Option<NodeId>,
    pub(super) operator: bool,
}

/// Refuses a token whose datalog is more than facts and small checks.
pub(super) fn shape(biscuit: &Biscuit) -> Result<Shape, Problem> {
    let over = |what: &str, max: usize| refused(format!("the token has too many {what}: {max} at most"));
    if biscuit.block_count() > BLOCKS_MAX {
        return Err(over("blocks", BLOCKS_MAX));
    }
    let authorizer = biscuit.authorizer().map_err(|error| unreadable(&error))?;
    let (facts, rules, checks, _) = authorizer.dump();
    if !rules.is_empty() {
        return Err(refused("the token holds rules; Shoal evaluates facts and checks only"));
    }
    if facts.len() > FACTS_MAX {
        return Err(over("facts", FACTS_MAX));
    }
    if checks.len() > CHECKS_MAX {
        return Err(over("checks", CHECKS_MAX));
    }
    let mut shape = Shape::default();
    for check in &checks {
        if check.queries.len() > QUERIES_MAX {
            return Err(over("alternatives in a check", QUERIES_MAX));
        }
        for query in &check.queries {
            bound_query(query)?;
            for predicate in &query.body {
                match predicate.name.as_str() {
                    "time" => shape.time = true,
                    "operation" => shape.operation = true,
                    "class" => shape.class = true,
                    _ => {}
                }
            }
        }
    }
    Ok(shape)
}

fn bound_query(query: &Rule) -> Result<(), Problem> {
    if query.body.len() > PREDICATES_MAX {
        return Err(refused(format!("a check of the token joins too many facts: {PREDICATES_MAX} at most")));
    }
    let ops = || query.expressions.iter().flat_map(|expression| &expression.ops);
    if ops().count() > OPS_MAX {
        return Err(refused(format!("a check of the token is too long: {OPS_MAX} steps at most")));
    }
    let costly = |op: &Op| {
        matches!(
            op,
            Op::Closure(..)
                | Op::Binary(Binary::Regex | Binary::Ffi(_) | Binary::All | Binary::Any)
                | Op::Unary(Unary::Ffi(_))
        )
    };
    if ops().any(costly) {
        return Err(refused("a check of the token uses a regular expression, a closure or an external function"));
    }
    Ok(())
}

/// What the authority block says. What later blocks say is theirs alone.
pub(super) fn facts(biscuit: &Biscuit) -> Result<Facts, Problem> {
    let failed = |error: error::Token| unreadable(&error);
    let mut authorizer = AuthorizerBuilder::new().set_limits(limits()).build(biscuit).map_err(failed)?;
    let users: Vec<(String,)> = authorizer.query("data($x) <- user($x)").map_err(failed)?;
    let nodes: Vec<(String,)> = authorizer.query("data($x) <- node($x)").map_err(failed)?;
    let operators: Vec<(bool,)> = authorizer.query("data($x) <- operator($x)").map_err(failed)?;
    let [(user,)] = users.as_slice() else { return Err(refused("a token names exactly one user")) };
    let user = user.parse().map_err(|error| refused(format!("the token's user is no id: {error}")))?;
    let node = match nodes.as_slice() {
        [] => None,
        [(node,)] => Some(node.parse().map_err(|_| refused("the token's node is no id"))?),
        _ => return Err(refused("a token names one node at most")),
    };
    Ok(Facts { user, node, operator: operators == [(true,)] })
}

/// What the token's checks allow at this node and this time. A token that allows nothing is refused with the checks that
/// failed.
pub(super) fn rights(biscuit: &Biscuit, node: NodeId, now_ms: u64, shape: Shape) -> Result<Rights, Problem> {
    let judge = |operation, class| judge(biscuit, node, now_ms, operation, class);
    if !shape.operation && !shape.class {
        return judge(Operation::Read, Class::Job).map(|()| Rights::ALL);
    }
    let mut rights = Rights::NONE;
    let mut failure = None;
    for operation in Operation::ALL {
        for class in Class::ALL {
            match judge(operation, class) {
                Ok(()) => rights.grant(operation, class),
                Err(problem) => failure = failure.or(Some(problem)),
            }
        }
    }
    match failure {
        Some(problem) if rights == Rights::NONE => Err(problem),
        _ => Ok(rights),
    }
}

fn judge(biscuit: &Biscuit, node: NodeId, now_ms: u64, operation: Operation, class: Class) -> Result<(), Problem> {
    let known = [
        fact("time", &[Term::Date(now_ms / 1000)]),
        fact("node", &[string(&node.to_string())]),
        fact("operation", &[string(operation.text())]),
        fact("class", &[string(class.text())]),
    ];
    let mut builder = AuthorizerBuilder::new().set_limits(limits()).allow_all();
    for fact in known {
        builder = builder.fact(fact).map_err(|error| unreadable(&error))?;
    }
    let mut authorizer = builder.build(biscuit).map_err(|error| unreadable(&error))?;
    match authorizer.authorize() {
        Ok(_) => Ok(()),
        Err(error::Token::FailedLogic(
            error::Logic::Unauthorized { checks, .. } | error::Logic::NoMatchingPolicy { checks },
        )) => {
            let failed: Vec<String> = checks.iter().map(ToString::to_string).collect();
            let shown: String = failed.join("; ").chars().take(SHOWN_MAX).collect();
            Err(refused(format!("the token does not count, or not any more: {shown}")))
        }
        Err(error::Token::RunLimit(_)) => {
            let problem = Problem::new(Kind::Unavailable, "the token's checks could not be evaluated in time");
            Err(problem.retry_after(1_000))
        }
        Err(error) => Err(unreadable(&error)),
    }
}

fn limits() -> AuthorizerLimits {
    AuthorizerLimits { max_facts: 2 * FACTS_MAX as u64, max_iterations: 4, max_time: EVALUATION_MAX }
}
