//! `shoal kv`.

use std::path::PathBuf;

use shoal_client::Client;
use shoal_protocol::limits::VALUE_LEN_MAX;
use shoal_protocol::object::kv::{Entry, ListKeys, Scope, Value};
use shoal_protocol::{BlobId, ObjectId};

use super::connect::Context;
use super::failure::{Failure, REFUSED};
use super::input::{is_stdin, unreadable};
use super::output;
use super::table::{Table, size};

/// What can be done with keys and values.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
A NAMESPACE is `user` (your own, and what is meant if none is named), user:NAME, project:NAME,
function:NAME, the bare NAME of a function, or an id.")]
pub(crate) enum Kv {
    /// The value of a key
    Get {
        /// The namespace and the key
        #[arg(value_names = ["NAMESPACE", "KEY"], num_args = 1..=2, required = true)]
        place: Vec<String>,
        #[command(flatten)]
        scope: ScopeFlag,
    },
    /// Set a key
    Set {
        /// The namespace and the key
        #[arg(value_names = ["NAMESPACE", "KEY"], num_args = 1..=2, required = true)]
        place: Vec<String>,
        #[command(flatten)]
        value: ValueFlags,
        #[command(flatten)]
        scope: ScopeFlag,
    },
    /// Remove a key
    Rm {
        /// The namespace and the key
        #[arg(value_names = ["NAMESPACE", "KEY"], num_args = 1..=2, required = true)]
        place: Vec<String>,
        #[command(flatten)]
        scope: ScopeFlag,
    },
    /// The keys and values of a namespace, by key
    Ls {
        /// The namespace
        namespace: Option<String>,
        /// Only keys that start with this
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only keys after this one
        #[arg(long)]
        after: Option<String>,
        /// Entries at most, 1 to 1000; 50 unless said otherwise
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        #[command(flatten)]
        scope: ScopeFlag,
    },
    /// Add to the counter of a key; prints the sum
    Incr {
        /// The namespace and the key
        #[arg(value_names = ["NAMESPACE", "KEY"], num_args = 1..=2, required = true)]
        place: Vec<String>,
        /// How much
        #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
        #[command(flatten)]
        scope: ScopeFlag,
    },
    /// Set a key of this node if it still has a version; prints the new one
    Cas {
        /// The namespace and the key
        #[arg(value_names = ["NAMESPACE", "KEY"], num_args = 1..=2, required = true)]
        place: Vec<String>,
        /// The version that must stand there; 0: none
        #[arg(long, value_name = "N")]
        version: u64,
        #[command(flatten)]
        value: ValueFlags,
    },
}

/// How far a value goes.
#[derive(Debug, clap::Args)]
pub(crate) struct ScopeFlag {
    /// Only at this node, instead of at every node
    #[arg(long)]
    local: bool,
}

impl ScopeFlag {
    fn scope(&self) -> Scope {
        if self.local { Scope::Local } else { Scope::Global }
    }
}

/// A value, in one of its forms.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ValueFlags {
    /// A text
    #[arg(long, short, value_name = "TEXT")]
    text: Option<String>,
    /// A blob; the entry keeps it
    #[arg(long, value_name = "ID")]
    blob: Option<BlobId>,
    /// The bytes of a file, at most 60 KiB; - is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ValueFlags {
    fn value(self) -> Result<Value, Failure> {
        match self {
            Self { text: Some(text), .. } => Ok(Value::Text(text)),
            Self { blob: Some(id), .. } => Ok(Value::Blob(id)),
            Self { file: Some(path), .. } => read(&path).map(|bytes| Value::Bytes(bytes.into())),
            Self { .. } => Err(Failure::usage("a value is missing: --text, --blob or --file")),
        }
    }
}

pub(crate) async fn run(context: &Context, client: &Client, command: Kv) -> Result<(), Failure> {
    let show = |entry: &Entry, human: String| {
        if context.json { output::json(entry) } else { output::line(&human) }
    };
    match command {
        Kv::Get { place, scope } => {
            let (namespace, key) = resolve(client, &place).await?;
            let entry = client.kv_get(namespace, scope.scope(), &key).await?;
            match &entry.value {
                // Bytes as they are, for a pipe.
                Value::Bytes(bytes) if !context.json => output::write(bytes),
                Value::Text(text) => show(&entry, text.clone()),
                Value::Blob(id) => show(&entry, id.to_string()),
                value => show(&entry, short(value)),
            }
        }
        Kv::Set { place, value, scope } => {
            let value = value.value()?;
            let (namespace, key) = resolve(client, &place).await?;
            let entry = client.kv_set(namespace, scope.scope(), &key, value).await?;
            if context.json { output::json(&entry) } else { Ok(()) }
        }
        Kv::Rm { place, scope } => {
            let (namespace, key) = resolve(client, &place).await?;
            Ok(client.kv_delete(namespace, scope.scope(), &key).await?)
        }
        Kv::Incr { place, by, scope } => {
            let (namespace, key) = resolve(client, &place).await?;
            let entry = client.kv_incr(namespace, scope.scope(), &key, by).await?;
            show(&entry, short(&entry.value))
        }
        Kv::Cas { place, version, value } => {
            let value = value.value()?;
            let (namespace, key) = resolve(client, &place).await?;
            let entry = client.kv_cas(namespace, &key, version, value).await?;
            show(&entry, entry.version.to_string())
        }
        Kv::Ls { namespace, prefix, after, limit, scope } => {
            let namespace = namespace_id(client, namespace.as_deref()).await?;
            let page = client.kv_list(namespace, scope.scope(), &ListKeys { prefix, after, limit }).await?;
            if context.json {
                return output::json(&page);
            }
            let mut table = Table::new(&["KEY", "VERSION", "VALUE"]);
            for entry in &page.items {
                table.row([entry.key.clone(), entry.version.to_string(), short(&entry.value)]);
            }
            table.print()?;
            if let Some(next) = &page.next {
                super::wait::eprint(&format!("there is more: --after {next}"));
            }
            Ok(())
        }
    }
}

/// The namespace and the key of one or two arguments.
async fn resolve(client: &Client, place: &[String]) -> Result<(ObjectId, String), Failure> {
    match place {
        [key] => Ok((namespace_id(client, None).await?, key.clone())),
        [namespace, key] => Ok((namespace_id(client, Some(namespace)).await?, key.clone())),
        _ => Err(Failure::usage("it takes a namespace and a key, or a key")),
    }
}

async fn namespace_id(client: &Client, named: Option<&str>) -> Result<ObjectId, Failure> {
    match Named::of(named.unwrap_or("user")) {
        Named::Own => client.welcome().user.ok_or_else(|| {
            Failure::new("you have no namespace of your own without a token")
                .code(REFUSED)
                .next("give a token with SHOAL_TOKEN, or name a namespace")
        }),
        Named::Id(id) => Ok(id),
        Named::User(name) => Ok(client.user(name).await?.id),
        Named::Project(name) => Ok(client.project(name).await?.id),
        Named::Function(name) => Ok(client.function(name).await?.id),
    }
}

/// What a text names.
#[derive(Debug, PartialEq, Eq)]
enum Named<'a> {
    Own,
    Id(ObjectId),
    User(&'a str),
    Project(&'a str),
    Function(&'a str),
}

impl<'a> Named<'a> {
    fn of(text: &'a str) -> Self {
        if text == "user" {
            return Self::Own;
        }
        if let Ok(id) = text.parse() {
            return Self::Id(id);
        }
        match text.split_once(':') {
            Some(("user", name)) => Self::User(name),
            Some(("project", name)) => Self::Project(name),
            Some(("function", name)) => Self::Function(name),
            _ => Self::Function(text),
        }
    }
}

/// A value in a line.
fn short(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => size(bytes.len() as u64),
        Value::Blob(id) => format!("blob {id}"),
        Value::Counter(number) => number.to_string(),
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let failed = |error| unreadable(path, &error);
    let mut bytes = Vec::new();
    let max = VALUE_LEN_MAX as u64;
    if is_stdin(path) {
        std::io::stdin().lock().take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() > VALUE_LEN_MAX {
        return Err(Failure::new(format!(
            "{} is longer than a value may be, which is {VALUE_LEN_MAX} bytes",
            path.display()
        ))
        .next("put it with `shoal blob put FILE` and set the key with --blob ID"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_named_in_several_ways() {
        let id = ObjectId::from_parts(1, 2, [3; 8]);
        assert_eq!(Named::of("user"), Named::Own);
        assert_eq!(Named::of(&id.to_string()), Named::Id(id));
        assert_eq!(Named::of("face-detect"), Named::Function("face-detect"));
        assert_eq!(Named::of("function:user"), Named::Function("user"));
        assert_eq!(Named::of("user:ada"), Named::User("ada"));
        assert_eq!(Named::of("project:p"), Named::Project("p"));
    }

    #[test]
    fn a_file_above_the_limit_is_no_value() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("value");
        std::fs::write(&path, vec![0; VALUE_LEN_MAX + 1]).expect("written");
        assert!(read(&path).is_err());
        std::fs::write(&path, vec![0; VALUE_LEN_MAX]).expect("written");
        assert_eq!(read(&path).expect("a value").len(), VALUE_LEN_MAX);
    }
}
