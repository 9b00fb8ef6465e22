//! The fields of each class, as tables.

use shoal_protocol::change::DocumentClass;
use shoal_protocol::limits::{self, LABELS_MAX, NAME_LEN_MAX, TEXT_LEN_MAX};
use shoal_protocol::object::function::Grant;
use shoal_protocol::{BlobId, ObjectId};

use super::limits::{KEYS_MAX, MEMBERS_MAX, NODES_MAX, NOTE_LEN_MAX, VERSION_NUMBER_MAX, VERSIONS_MAX};

/// One element of a field's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment {
    /// This word.
    Word(&'static str),
    /// An entry of a collection: a key of this form, at most so many of them.
    Each(Entry, usize),
}

/// What names an entry of a collection. Each has one text only, so that no two paths mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A name as in [`shoal_protocol::name`].
    Name,
    /// A label's key.
    Label,
    /// A public key or a hash: 64 hexadecimal characters, in lower case.
    Hex,
    /// An object's id, in upper case.
    Id,
    /// A [`Grant`].
    Grant,
}

/// What may stand at a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A name as in [`shoal_protocol::name`].
    Name,
    /// A label's value.
    Label,
    /// A text of at most so many bytes.
    Text(usize),
    /// True or false.
    Bool,
    /// A whole number within these bounds.
    Int(i64, i64),
    /// A hash in lower-case hexadecimal.
    Hex,
    /// An object's id, in upper case.
    Id,
}

/// One field of a class.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    /// Where it stands.
    pub(crate) path: &'static [Segment],
    /// What stands there.
    pub(crate) form: Form,
    /// Whether every document of the class has it. Only of fields outside of collections.
    pub(crate) required: bool,
    /// Whether only the change that founds the document may set it.
    pub(crate) founding_only: bool,
}

impl Segment {
    /// Whether the text may stand in this place.
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Word(word) => *word == text,
            Self::Each(entry, _) => entry.matches(text),
        }
    }
}

impl Entry {
    fn matches(self, text: &str) -> bool {
        match self {
            Self::Name => shoal_protocol::name::check("", text).is_ok(),
            Self::Label => {
                text.len() <= NAME_LEN_MAX && text.split('/').all(|part| shoal_protocol::name::check("", part).is_ok())
            }
            Self::Hex => is_hex(text),
            Self::Id => is_id(text),
            Self::Grant => Grant::ALL.iter().any(|grant| grant.text() == text),
        }
    }
}

/// Whether this is the text of 32 bytes, and the only one.
pub(super) fn is_hex(text: &str) -> bool {
    text.parse::<BlobId>().is_ok_and(|hash| hash.to_string() == text)
}

/// Whether this is the text of an id, and the only one.
pub(super) fn is_id(text: &str) -> bool {
    text.parse::<ObjectId>().is_ok_and(|id| id.to_string() == text)
}

impl Field {
    /// The words before the first entry: the field itself, or the collection that it is part of.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'static str> {
        self.path.iter().map_while(|segment| match segment {
            Segment::Word(word) => Some(*word),
            Segment::Each(..) => None,
        })
    }

    /// How many entries the collection may have, if the field is part of one.
    pub(crate) fn entries_max(&self) -> Option<usize> {
        self.path.iter().find_map(|segment| match segment {
            Segment::Each(_, max) => Some(*max),
            Segment::Word(_) => None,
        })
    }
}

/// The fields of a class.
pub(crate) const fn fields(class: DocumentClass) -> &'static [Field] {
    match class {
        DocumentClass::User => USER,
        DocumentClass::Project => PROJECT,
        DocumentClass::Function => FUNCTION,
    }
}

use Segment::{Each, Word};

const NAME: Field = required(&[Word("name")], Form::Name);
const OWNER: Field = Field { path: &[Word("owner")], form: Form::Id, required: true, founding_only: true };
const DELETED: Field = field(&[Word("deleted")], Form::Bool);
const LABELS: Field = field(&[Word("labels"), Each(Entry::Label, LABELS_MAX)], Form::Label);

const QUOTA: Form = Form::Int(0, limits::QUOTA_MAX as i64);

const USER: &[Field] = &[
    NAME,
    field(&[Word("keys"), Each(Entry::Hex, KEYS_MAX)], Form::Text(NOTE_LEN_MAX)),
    field(&[Word("nodes"), Each(Entry::Hex, NODES_MAX)], Form::Bool),
    DELETED,
    LABELS,
];

const PROJECT: &[Field] = &[
    NAME,
    OWNER,
    field(&[Word("members"), Each(Entry::Id, MEMBERS_MAX)], Form::Name),
    field(&[Word("weight")], Form::Int(1, limits::WEIGHT_MAX as i64)),
    field(&[Word("quota"), Word("queued")], QUOTA),
    field(&[Word("quota"), Word("running")], QUOTA),
    field(&[Word("quota"), Word("rate")], QUOTA),
    field(&[Word("quota"), Word("storage")], QUOTA),
    DELETED,
    LABELS,
];

const FUNCTION: &[Field] = &[
    NAME,
    OWNER,
    field(&[Word("project")], Form::Id),
    field(&[Word("description")], Form::Text(TEXT_LEN_MAX)),
    field(&[Word("versions"), Each(Entry::Hex, VERSIONS_MAX), Word("number")], Form::Int(1, VERSION_NUMBER_MAX)),
    field(
        &[Word("versions"), Each(Entry::Hex, VERSIONS_MAX), Word("size")],
        Form::Int(0, limits::COMPONENT_LEN_MAX as i64),
    ),
    field(&[Word("versions"), Each(Entry::Hex, VERSIONS_MAX), Word("note")], Form::Text(NOTE_LEN_MAX)),
    required(&[Word("current")], Form::Hex),
    field(&[Word("needs"), Word("memory_mb")], Form::Int(1, limits::MEMORY_MB_MAX as i64)),
    field(&[Word("needs"), Word("labels"), Each(Entry::Label, LABELS_MAX)], Form::Label),
    field(&[Word("needs"), Word("capabilities"), Each(Entry::Name, LABELS_MAX)], Form::Bool),
    field(&[Word("limits"), Word("run_ms")], Form::Int(1, limits::RUN_MS_MAX as i64)),
    field(&[Word("limits"), Word("output_bytes")], Form::Int(0, limits::OUTPUT_LEN_MAX as i64)),
    field(&[Word("limits"), Word("attempts")], Form::Int(1, limits::ATTEMPTS_MAX as i64)),
    field(&[Word("limits"), Word("queue_ms")], Form::Int(1, limits::JOB_MS_MAX as i64)),
    field(&[Word("limits"), Word("total_ms")], Form::Int(1, limits::JOB_MS_MAX as i64)),
    field(&[Word("grants"), Each(Entry::Grant, Grant::ALL.len())], Form::Bool),
    DELETED,
    LABELS,
];

const fn field(path: &'static [Segment], form: Form) -> Field {
    Field { path, form, required: false, founding_only: false }
}

const fn required(path: &'static [Segment], form: Form) -> Field {
    Field { path, form, required: true, founding_only: false }
}
