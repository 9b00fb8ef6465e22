//! Who may do what. Pure functions: edges and the kernel call the same ones.
//!
//! The rule for now: an owner may change what they own; an operator sees and cancels every job of their node. Roles
//! come with the mesh; this is the place for them.

use std::collections::BTreeMap;

use shoal_protocol::object::function::Function;
use shoal_protocol::object::project::Project;
use shoal_protocol::{Kind, ObjectId, Problem};

use crate::input::Principal;

/// The members of a project and their roles, as they stand in [`Project::members`].
pub type Members = BTreeMap<ObjectId, String>;

/// Whether they may run this function. One outside of any project is there for every user; one of a project is for its
/// owner and the project's members. `members` is `None` where the project is not known here.
pub fn may_run(principal: &Principal, function: &Function, members: Option<&Members>) -> bool {
    let Some(user) = principal.user else { return false };
    match function.project {
        None => true,
        Some(_) => {
            user == function.owner || principal.operator || members.is_some_and(|members| members.contains_key(&user))
        }
    }
}

/// Whether they may see a job with its input, result and log: who submitted it, who owns the function that ran (their
/// code has seen all of it), and the operators of its home.
pub fn may_read_job(principal: &Principal, owner: ObjectId, function_owner: ObjectId) -> bool {
    principal.operator || principal.user.is_some_and(|user| user == owner || user == function_owner)
}

/// Whether they may cancel, rename or forget a job: who submitted it, and the operators of its home.
pub fn may_change_job(principal: &Principal, owner: ObjectId) -> bool {
    principal.operator || principal.user == Some(owner)
}

/// Checks that they may give a job this priority: below the usual one anybody, above it the operators of its home. Why: it
/// is everybody's queue.
pub fn check_priority(principal: &Principal, priority: i8) -> Result<(), Problem> {
    if priority > 0 && !principal.operator {
        return Err(refusal(principal, "give a job a priority above 0: that is for operators of the node"));
    }
    Ok(())
}

/// Whether they may see the workers, and who does what at all: any user.
pub fn may_see_workers(principal: &Principal) -> bool {
    principal.operator || principal.user.is_some()
}

/// Whether they may cordon workers, send them away, or have a ticket for a new one.
pub fn may_operate(principal: &Principal) -> bool {
    principal.operator
}

/// Whether a user may change a document of this owner. A user document's owner is that user.
pub fn may_change_document(user: ObjectId, owner: ObjectId) -> bool {
    user == owner
}

/// Whose key-value namespace.
#[derive(Debug, Clone, Copy)]
pub enum Namespace<'a> {
    /// A user's.
    User(ObjectId),
    /// A project's.
    Project(&'a Project),
    /// A function's.
    Function(&'a Function),
}

/// Whether they may read a namespace: its owner, and the members of a project.
pub fn may_read_kv(principal: &Principal, namespace: Namespace<'_>) -> bool {
    let Some(user) = principal.user else { return false };
    match namespace {
        Namespace::User(owner) => user == owner,
        Namespace::Project(project) => user == project.owner || project.members.contains_key(&user),
        Namespace::Function(function) => user == function.owner,
    }
}

/// Whether they may write a namespace: its owner.
pub fn may_write_kv(principal: &Principal, namespace: Namespace<'_>) -> bool {
    let Some(user) = principal.user else { return false };
    match namespace {
        Namespace::User(owner) => user == owner,
        Namespace::Project(project) => user == project.owner,
        Namespace::Function(function) => user == function.owner,
    }
}

/// The problem of those who may not: nobody has to say who they are, somebody has to be another.
pub fn refusal(principal: &Principal, what: &str) -> Problem {
    if principal.user.is_none() && !principal.operator {
        Problem::new(Kind::Unauthenticated, format!("to {what} needs a token of a user"))
    } else {
        Problem::new(Kind::Forbidden, format!("you may not {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ObjectId {
        ObjectId::from_parts(n, 0, [0; 8])
    }

    fn user(n: u64) -> Principal {
        Principal { user: Some(id(n)), operator: false }
    }

    const NOBODY: Principal = Principal { user: None, operator: false };

    fn function(owner: u64, project: Option<u64>) -> Function {
        Function {
            id: id(100),
            name: "f".into(),
            owner: id(owner),
            project: project.map(id),
            description: String::new(),
            versions: Vec::new(),
            current: shoal_protocol::BlobId([0; 32]),
            needs: Default::default(),
            limits: Default::default(),
            grants: Default::default(),
            labels: Default::default(),
            heads: Vec::new(),
        }
    }

    #[test]
    fn a_projects_functions_are_for_its_members() {
        let members = Members::from([(id(2), "developer".to_owned())]);
        let free = function(1, None);
        let owned = function(1, Some(9));
        assert!(may_run(&user(3), &free, None));
        assert!(!may_run(&NOBODY, &free, None));
        assert!(may_run(&user(1), &owned, None));
        assert!(may_run(&user(2), &owned, Some(&members)));
        assert!(!may_run(&user(3), &owned, Some(&members)));
        assert!(!may_run(&user(2), &owned, None));
    }

    #[test]
    fn jobs_are_seen_by_those_concerned_and_changed_by_their_owner() {
        let operator = Principal { user: Some(id(8)), operator: true };
        for (who, read, change) in [
            (user(1), true, true),
            (user(2), true, false),
            (user(3), false, false),
            (operator, true, true),
            (NOBODY, false, false),
        ] {
            assert_eq!(may_read_job(&who, id(1), id(2)), read);
            assert_eq!(may_change_job(&who, id(1)), change);
        }
    }

    #[test]
    fn namespaces_are_their_owners() {
        let project = Project {
            id: id(9),
            name: "p".into(),
            owner: id(1),
            members: Members::from([(id(2), "developer".to_owned())]),
            labels: Default::default(),
            weight: 1,
            quota: Default::default(),
            usage: None,
            heads: Vec::new(),
        };
        let function = function(1, None);
        assert!(
            may_read_kv(&user(2), Namespace::Project(&project))
                && !may_write_kv(&user(2), Namespace::Project(&project))
        );
        assert!(
            may_write_kv(&user(1), Namespace::Project(&project))
                && may_write_kv(&user(1), Namespace::Function(&function))
        );
        assert!(
            !may_read_kv(&user(2), Namespace::Function(&function)) && !may_read_kv(&NOBODY, Namespace::User(id(1)))
        );
        assert!(may_write_kv(&user(1), Namespace::User(id(1))) && !may_write_kv(&user(2), Namespace::User(id(1))));
    }
}
