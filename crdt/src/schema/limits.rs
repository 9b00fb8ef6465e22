//! The bounds of documents. Each says why it is what it is.

/// An element of a path, in bytes. Why 64: a key or a hash in hexadecimal; names are shorter.
pub const SEGMENT_LEN_MAX: usize = 64;

/// Keys of a user. Why 32: a person's machines and tokens, several times.
pub const KEYS_MAX: usize = 32;

/// Nodes that may sign for a user. Why 64: the default size of a node's view of its neighbours.
pub const NODES_MAX: usize = 64;

/// Members of a project. Why 256: a department; larger groups are several projects.
pub const MEMBERS_MAX: usize = 256;

/// Versions that a function keeps. Why 128: a year of weekly releases twice over; deploying drops the oldest.
pub const VERSIONS_MAX: usize = 128;

/// A version's number. Why a million: it fits every integer type that a client may use, with room to add.
pub const VERSION_NUMBER_MAX: i64 = 1_000_000;

/// A note on a key or a version, in bytes. Why 256: a line for people.
pub const NOTE_LEN_MAX: usize = 256;

/// All paths and values of a document, in bytes. Why 128 KiB: 128 versions with notes and a long description;
/// automerge needs 60 to 80 times as much while the document is open.
pub const DOCUMENT_LEN_MAX: usize = 128 * 1024;

/// Characters of a foreign path that an error repeats. Why 100: enough to find it, too little to fill a log.
pub const SHOWN_LEN_MAX: usize = 100;

/// Changes that a document's history keeps. Why 1,024: deriving the worst such history anew, with a fork for each
/// change, takes about a second (`examples/foundings.rs`); checkpoints will cut histories before they get there.
pub const HISTORY_LEN_MAX: usize = 1024;

/// Changes without a right that a document's history keeps. Why 256: strangers can fill no more than this with
/// their keys, and nothing that counts ever depends on them.
pub const WITHOUT_RIGHT_MAX: usize = 256;

/// Changes beyond the first for the same number that one author may leave in a document. Why 64: a key that is used on
/// two islands at once makes such pairs without ill will; each may make the document be derived anew.
pub const EQUIVOCATIONS_MAX: usize = 64;

/// Changes that wait for others. Why 1,024: several reordered batches; what falls out comes back by reconciliation.
pub const HELD_CHANGES_MAX: usize = 1024;

/// Bytes of changes that wait for others. Why 4 MiB: 1,024 changes of usual size many times over.
pub const HELD_LEN_MAX: usize = 4 * 1024 * 1024;

/// Open automerge documents. Why 32: those that change at the moment; others are derived again when they do.
pub const OPEN_DOCUMENTS_MAX: usize = 32;

/// Forks in a document from which on it is put away when it is closed, instead of being derived again. Why 16: with so
/// many, reading back what automerge has written costs less.
pub const FORKS_PUT_AWAY_MIN: u64 = 16;

/// Bytes of documents that are put away. Why 8 MiB: some hundred of the worst.
pub const PUT_AWAY_LEN_MAX: usize = 8 * 1024 * 1024;

/// Documents of a replica. Why 200,000: about 2 KiB each for a small one, and every node holds all of them.
pub const DOCUMENTS_MAX: usize = 200_000;
