//! The operations on documents: users, projects, functions.

use shoal_protocol::object::Class;
use shoal_protocol::object::Page;
use shoal_protocol::object::function::{Activate, Function, NewFunction};
use shoal_protocol::object::project::{Member, NewProject, Project};
use shoal_protocol::object::user::{AddKey, Apply, NewUser, Prepared, User};

use super::shapes::{FunctionPatch, PrepareFunction, PrepareProject, PrepareUser, ProjectPatch, UserPatch};
use super::{Content, Operation, Parameter, Request, Row, Shape, Success, Values, shape};

/// A page's length and place: every list takes them.
pub(super) const LIMIT: Parameter = Parameter {
    name: "limit",
    what: "Entries on the page; 50 unless said otherwise",
    values: Values::Number { min: 1, max: shoal_protocol::limits::PAGE_LEN_MAX },
    required: false,
};
/// See [`LIMIT`].
pub(super) const CURSOR: Parameter =
    Parameter { name: "cursor", what: "`next` of the page before", values: Values::Text, required: false };
/// A filter by name.
pub(super) const NAME: Parameter =
    Parameter { name: "name", what: "Only those with this name", values: Values::Text, required: false };
/// A filter by owner.
pub(super) const OWNER: Parameter =
    Parameter { name: "owner", what: "Only those of this user, by id", values: Values::Text, required: false };

/// Who will sign.
const AUTHOR: &[Parameter] = &[Parameter {
    name: "author",
    what: "The public key that will sign, as 64 hexadecimal characters",
    values: Values::Text,
    required: true,
}];

const PROJECT: Parameter =
    Parameter { name: "project", what: "Only those of this project, by id", values: Values::Text, required: false };

/// One answer of JSON.
pub(super) const fn json(what: &'static str, shape: Shape) -> Success {
    Success { status: 200, what, content: Content::Json(shape) }
}

/// What was made.
pub(super) const fn created(what: &'static str, shape: Shape) -> Success {
    Success { status: 201, what, content: Content::Json(shape) }
}

/// Done, and nothing to say.
pub(super) const fn done(what: &'static str) -> Success {
    Success { status: 204, what, content: Content::Nothing }
}

const A_USER: &[Success] = &[json("The user", shape::<User>)];
const A_PROJECT: &[Success] = &[json("The project", shape::<Project>)];
const A_FUNCTION: &[Success] = &[json("The function", shape::<Function>)];
const A_CHANGE: &[Success] = &[json("The change, to be signed and sent to `apply`", shape::<Prepared>)];

/// The operations.
pub(super) static OPERATIONS: &[Operation] = &[
    Operation::new(Class::User, Row::List, "The users that this node knows")
        .query(&[LIMIT, CURSOR, NAME])
        .answers(&[json("A page of users", shape::<Page<User>>)]),
    Operation::new(Class::User, Row::Create, "Make a user for whom this node signs")
        .takes(Request::Json(shape::<NewUser>))
        .answers(&[created("The user", shape::<User>)]),
    Operation::new(Class::User, Row::Get, "A user").answers(A_USER),
    Operation::new(Class::User, Row::Set, "Change a user by a merge patch")
        .takes(Request::Json(shape::<UserPatch>))
        .answers(A_USER),
    Operation::new(Class::User, Row::Delete, "Delete a user").answers(&[done("The user is deleted")]),
    Operation::new(
        Class::User,
        Row::Method("prepare"),
        "Prepare a change of a user, or of a `new` one, for the caller to sign",
    )
    .query(AUTHOR)
    .takes(Request::Json(shape::<PrepareUser>))
    .answers(A_CHANGE),
    Operation::new(Class::User, Row::Method("apply"), "Take a signed change of a user")
        .takes(Request::Json(shape::<Apply>))
        .answers(A_USER),
    Operation::new(Class::User, Row::Method("add_key"), "Add a key to a user")
        .takes(Request::Json(shape::<AddKey>))
        .answers(A_USER),
    Operation::new(Class::Project, Row::List, "The projects that this node knows")
        .query(&[LIMIT, CURSOR, NAME])
        .answers(&[json("A page of projects", shape::<Page<Project>>)]),
    Operation::new(Class::Project, Row::Create, "Make a project")
        .takes(Request::Json(shape::<NewProject>))
        .answers(&[created("The project", shape::<Project>)]),
    Operation::new(Class::Project, Row::Get, "A project").answers(A_PROJECT),
    Operation::new(Class::Project, Row::Set, "Change a project by a merge patch")
        .takes(Request::Json(shape::<ProjectPatch>))
        .answers(A_PROJECT),
    Operation::new(Class::Project, Row::Delete, "Delete a project").answers(&[done("The project is deleted")]),
    Operation::new(
        Class::Project,
        Row::Method("prepare"),
        "Prepare a change of a project, or of a `new` one, for the caller to sign",
    )
    .query(AUTHOR)
    .takes(Request::Json(shape::<PrepareProject>))
    .answers(A_CHANGE),
    Operation::new(Class::Project, Row::Method("apply"), "Take a signed change of a project")
        .takes(Request::Json(shape::<Apply>))
        .answers(A_PROJECT),
    Operation::new(Class::Project, Row::Method("add_member"), "Add a member to a project")
        .takes(Request::Json(shape::<Member>))
        .answers(A_PROJECT),
    Operation::new(Class::Project, Row::Method("remove_member"), "Remove a member from a project")
        .takes(Request::Json(shape::<Member>))
        .answers(A_PROJECT),
    Operation::new(Class::Function, Row::List, "The functions that this node knows")
        .query(&[LIMIT, CURSOR, NAME, OWNER, PROJECT])
        .answers(&[json("A page of functions", shape::<Page<Function>>)]),
    Operation::new(Class::Function, Row::Create, "Deploy a function, or a new version of the one with this name")
        .takes(Request::Json(shape::<NewFunction>))
        .answers(&[
            created("The new function", shape::<Function>),
            json("The function with its new version", shape::<Function>),
        ]),
    Operation::new(Class::Function, Row::Get, "A function").answers(A_FUNCTION),
    Operation::new(Class::Function, Row::Set, "Change a function by a merge patch")
        .takes(Request::Json(shape::<FunctionPatch>))
        .answers(A_FUNCTION),
    Operation::new(Class::Function, Row::Delete, "Delete a function").answers(&[done("The function is deleted")]),
    Operation::new(
        Class::Function,
        Row::Method("prepare"),
        "Prepare a change of a function, or of a `new` one, for the caller to sign",
    )
    .query(AUTHOR)
    .takes(Request::Json(shape::<PrepareFunction>))
    .answers(A_CHANGE),
    Operation::new(Class::Function, Row::Method("apply"), "Take a signed change of a function")
        .takes(Request::Json(shape::<Apply>))
        .answers(A_FUNCTION),
    Operation::new(Class::Function, Row::Method("activate"), "Choose the version that runs")
        .takes(Request::Json(shape::<Activate>))
        .answers(A_FUNCTION),
];
