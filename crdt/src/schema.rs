//! Which paths a document of each class has, what may stand there, and what bounds the whole document.
//!
//! Two questions are kept apart. Whether an operation fits its class ([`check_operation`]) is asked once, of the
//! change alone: what does not fit is refused. Whether the whole document is within its bounds afterwards
//! ([`check_document`]) depends on what the author had seen: a change that breaks them does not count.

pub mod limits;
mod state;
mod table;
mod value;

pub(crate) use state::{State, Write};
use table::Field;

use shoal_protocol::change::{DocumentClass, Operation, Scalar};
use shoal_protocol::limits::PATH_DEPTH_MAX;

/// From the root of a document to a value.
pub(crate) type Path = Vec<String>;

/// How an operation or a document breaks its schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Error {
    /// A path has no elements, too many, or one that is too long.
    #[error("a path has 1 to {PATH_DEPTH_MAX} elements of 1 to {} bytes each", limits::SEGMENT_LEN_MAX)]
    Path,
    /// The class has no such path.
    #[error("a {class} has no field {path}")]
    UnknownField {
        /// The class, as it stands in a URL.
        class: &'static str,
        /// The path, as a JSON pointer, shortened.
        path: String,
    },
    /// The value is of another type, too long or out of range.
    #[error("{path}: {why}")]
    Value {
        /// The path, as a JSON pointer, shortened.
        path: String,
        /// What would be right.
        why: String,
    },
    /// The field is set by the founding change and stays.
    #[error("{path} is set when the document is founded and stays as it is")]
    Fixed {
        /// The path, as a JSON pointer.
        path: String,
    },
    /// A document of this class always has this field.
    #[error("{path} is missing")]
    Missing {
        /// The path, as a JSON pointer.
        path: String,
    },
    /// `current` names no version.
    #[error("/current names a component that is not among the versions")]
    NoSuchVersion,
    /// A collection has more entries than it may.
    #[error("{path} would have {len} entries, at most {max}")]
    TooMany {
        /// The collection, as a JSON pointer.
        path: String,
        /// How many there would be.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// All paths and texts together are too long.
    #[error("the document would have {len} bytes, at most {}", limits::DOCUMENT_LEN_MAX)]
    TooLong {
        /// How long it would be.
        len: usize,
    },
}

/// Checks one operation against its class. `founding` allows the fields that only a founding change may set.
pub(crate) fn check_operation(class: DocumentClass, operation: &Operation, founding: bool) -> Result<(), Error> {
    let (Operation::Put { path, .. } | Operation::Delete { path } | Operation::Add { path, .. }) = operation;
    let segment_fits = |s: &String| (1..=limits::SEGMENT_LEN_MAX).contains(&s.len());
    if !(1..=PATH_DEPTH_MAX).contains(&path.len()) || !path.iter().all(segment_fits) {
        return Err(Error::Path);
    }
    match operation {
        Operation::Put { value, .. } => check_put(class, path, value, founding),
        Operation::Delete { .. } => check_delete(class, path),
        Operation::Add { .. } => match find(class, path) {
            Some(_) => Err(value_error(path, "is no counter; it can be put and deleted")),
            None => Err(unknown(class, path)),
        },
    }
}

fn check_put(class: DocumentClass, path: &[String], value: &Scalar, founding: bool) -> Result<(), Error> {
    let field = find(class, path).ok_or_else(|| unknown(class, path))?;
    if field.founding_only && !founding {
        return Err(Error::Fixed { path: pointer(path) });
    }
    value::check(field.form, path, value).map_err(|why| value_error(path, &why))
}

fn check_delete(class: DocumentClass, path: &[String]) -> Result<(), Error> {
    let covers = |field: &&Field| {
        path.len() <= field.path.len() && path.iter().zip(field.path).all(|(text, segment)| segment.matches(text))
    };
    let mut covered = table::fields(class).iter().filter(covers).peekable();
    if covered.peek().is_none() {
        return Err(unknown(class, path));
    }
    match covered.find(|field| field.required || field.founding_only) {
        Some(_) => Err(Error::Fixed { path: pointer(path) }),
        None => Ok(()),
    }
}

/// Checks a whole document: what it must have, how much it may have.
pub(crate) fn check_document(class: DocumentClass, state: &State) -> Result<(), Error> {
    let len = state.len();
    if len > limits::DOCUMENT_LEN_MAX {
        return Err(Error::TooLong { len });
    }
    for field in table::fields(class) {
        let Some(max) = field.entries_max() else {
            let path: Path = field.words().map(str::to_owned).collect();
            if field.required && state.get(&path).is_none() {
                return Err(Error::Missing { path: pointer(&path) });
            }
            continue;
        };
        let prefix: Path = field.words().map(str::to_owned).collect();
        let entries = state.children(&prefix).len();
        if entries > max {
            return Err(Error::TooMany { path: pointer(&prefix), len: entries, max });
        }
    }
    if class == DocumentClass::Function { check_versions(state) } else { Ok(()) }
}

/// Every version has its number and its size, and the one that runs is one of them.
fn check_versions(state: &State) -> Result<(), Error> {
    let versions = state.children(&["versions".to_owned()]);
    for &component in &versions {
        for part in ["number", "size"] {
            let path = vec!["versions".to_owned(), component.to_owned(), part.to_owned()];
            if state.get(&path).is_none() {
                return Err(Error::Missing { path: pointer(&path) });
            }
        }
    }
    match state.text(&["current"]) {
        Some(current) if versions.contains(current) => Ok(()),
        _ => Err(Error::NoSuchVersion),
    }
}

fn find(class: DocumentClass, path: &[String]) -> Option<&'static Field> {
    table::fields(class).iter().find(|field| {
        field.path.len() == path.len() && path.iter().zip(field.path).all(|(text, segment)| segment.matches(text))
    })
}

fn unknown(class: DocumentClass, path: &[String]) -> Error {
    Error::UnknownField { class: class_text(class), path: shown(path) }
}

fn value_error(path: &[String], why: &str) -> Error {
    Error::Value { path: shown(path), why: why.to_owned() }
}

pub(crate) const fn class_text(class: DocumentClass) -> &'static str {
    match class {
        DocumentClass::User => "user",
        DocumentClass::Project => "project",
        DocumentClass::Function => "function",
    }
}

/// The path as a JSON pointer (RFC 6901): `/` before each element, `~1` for a `/` inside of one, `~0` for a `~`.
pub(crate) fn pointer(path: &[String]) -> String {
    let mut out = String::with_capacity(path.iter().map(|s| s.len() + 1).sum());
    for segment in path {
        out.push('/');
        for character in segment.chars() {
            match character {
                '~' => out.push_str("~0"),
                '/' => out.push_str("~1"),
                other => out.push(other),
            }
        }
    }
    out
}

/// The path of a JSON pointer that [`pointer`] wrote.
pub(crate) fn path_of(pointer: &str) -> Path {
    pointer.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect()
}

/// A path in an error: what came from outside is cut and its control characters are shown, not sent to a terminal.
fn shown(path: &[String]) -> String {
    pointer(path).chars().take(limits::SHOWN_LEN_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        path_of(text)
    }

    fn put(pointer: &str, value: Scalar) -> Operation {
        Operation::Put { path: path(pointer), value }
    }

    fn text(value: &str) -> Scalar {
        Scalar::Text(value.to_owned())
    }

    const HASH: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    const ID: &str = "01HF7YAT00000NGVVFDNK6YS35";

    #[test]
    fn a_pointer_reads_back() {
        for elements in [vec!["labels", "a/b"], vec!["labels", "~1"], vec!["a", "", "~0/"]] {
            let path: Path = elements.into_iter().map(str::to_owned).collect();
            assert_eq!(path_of(&pointer(&path)), path);
        }
    }

    #[test]
    fn what_fits_is_taken() {
        use DocumentClass::{Function, Project, User};
        let good = [
            (User, put("/name", text("ada"))),
            (User, put(&format!("/keys/{HASH}"), text("laptop"))),
            (User, put(&format!("/nodes/{HASH}"), Scalar::Bool(true))),
            (User, put("/deleted", Scalar::Bool(true))),
            (User, put("/labels/vendor~1gpu", text("no"))),
            (Project, put(&format!("/members/{ID}"), text("developer"))),
            (Project, put("/weight", Scalar::Int(5))),
            (Function, put(&format!("/versions/{HASH}/number"), Scalar::Int(1))),
            (Function, put(&format!("/versions/{HASH}/note"), text("first"))),
            (Function, put("/needs/labels/zone", text("a"))),
            (Function, put("/needs/capabilities/gpu", Scalar::Bool(true))),
            (Function, put("/limits/run_ms", Scalar::Int(1000))),
            (Function, put("/grants/kv", Scalar::Bool(true))),
            (Function, Operation::Delete { path: path(&format!("/versions/{HASH}")) }),
            (Function, Operation::Delete { path: path("/labels") }),
            (Function, Operation::Delete { path: path("/needs") }),
        ];
        for (class, operation) in good {
            assert_eq!(check_operation(class, &operation, false), Ok(()), "{operation:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        use DocumentClass::{Function, Project, User};
        let upper = HASH.to_uppercase();
        let bad = [
            (User, put("/nom", text("ada"))),
            (User, put("/name/first", text("ada"))),
            (User, put("/name", text("Ada Lovelace"))),
            (User, put("/name", Scalar::Int(7))),
            (User, put("/name", Scalar::Bytes(vec![1].into()))),
            (User, put(&format!("/keys/{upper}"), text("laptop"))),
            (User, put("/keys/abc", text("laptop"))),
            (User, put(&format!("/keys/{HASH}"), text(&"x".repeat(limits::NOTE_LEN_MAX + 1)))),
            (User, put("/labels/a", text(&"x".repeat(64)))),
            (User, put("/owner", text(ID))),
            (User, Operation::Delete { path: path("/name") }),
            (User, Operation::Delete { path: vec![] }),
            (User, Operation::Delete { path: path("/nom") }),
            (User, Operation::Add { path: path("/name"), amount: 1 }),
            (User, put("/a/b/c/d/e", text("deep"))),
            (User, put("//", text("empty"))),
            (Project, put(&format!("/members/{}", ID.to_lowercase()), text("developer"))),
            (Project, put("/weight", Scalar::Int(0))),
            (Project, put("/weight", Scalar::Int(i64::MAX))),
            (Project, put("/owner", text(ID))),
            (Function, put("/limits/attempts", Scalar::Int(101))),
            (Function, put("/limits/run_ms", Scalar::Int(-1))),
            (Function, put("/grants/root", Scalar::Bool(true))),
            (Function, put("/needs/memory_mb", Scalar::Int(4097))),
            (Function, put("/current", text("latest"))),
            (Function, put("/description", text(&"x".repeat(9000)))),
            (Function, Operation::Delete { path: path("/current") }),
            (Function, Operation::Delete { path: path("/owner") }),
        ];
        for (class, operation) in bad {
            let error = check_operation(class, &operation, false).expect_err(&format!("{operation:?}"));
            assert!(error.to_string().len() < 400, "{error}");
        }
        assert_eq!(check_operation(Project, &put("/owner", text(ID)), true), Ok(()));
    }

    #[test]
    fn a_document_has_what_it_must_and_no_more_than_it_may() {
        let mut state = State::default();
        assert_eq!(check_document(DocumentClass::User, &state), Err(Error::Missing { path: "/name".to_owned() }));
        state.apply(&[put("/name", text("ada"))]);
        assert_eq!(check_document(DocumentClass::User, &state), Ok(()));
        for n in 0..=shoal_protocol::limits::LABELS_MAX {
            assert_eq!(check_document(DocumentClass::User, &state), Ok(()), "{n}");
            state.apply(&[put(&format!("/labels/l{n}"), text("x"))]);
        }
        assert!(matches!(check_document(DocumentClass::User, &state), Err(Error::TooMany { len: 33, max: 32, .. })));
    }

    #[test]
    fn a_function_runs_one_of_its_versions() {
        let mut state = State::default();
        state.apply(&[put("/name", text("f")), put("/owner", text(ID)), put("/current", text(HASH))]);
        assert_eq!(check_document(DocumentClass::Function, &state), Err(Error::NoSuchVersion));
        state.apply(&[put(&format!("/versions/{HASH}/number"), Scalar::Int(1))]);
        assert!(matches!(check_document(DocumentClass::Function, &state), Err(Error::Missing { .. })));
        state.apply(&[put(&format!("/versions/{HASH}/size"), Scalar::Int(1))]);
        assert_eq!(check_document(DocumentClass::Function, &state), Ok(()));
        state.apply(&[Operation::Delete { path: path("/versions") }]);
        assert_eq!(check_document(DocumentClass::Function, &state), Err(Error::NoSuchVersion));
    }
}
