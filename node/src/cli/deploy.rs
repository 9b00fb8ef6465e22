//! `shoal deploy`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use shoal_client::Client;
use shoal_crdt::wanted;
use shoal_protocol::change::{DocumentClass, Operation};
use shoal_protocol::limits::NAME_LEN_MAX;
use shoal_protocol::object::function::{Function, Grant, NewFunction};
use shoal_protocol::{BlobId, Kind};

use super::connect::Context;
use super::failure::Failure;
use super::input::{self, LimitFlags, NeedFlags, parse_grant, unreadable};
use super::key::Signer;
use super::output;
use super::sign::{self, Intent};
use crate::config::parse_label;

/// The first 8 bytes of a component: `\0asm`, version 13, layer 1.
const COMPONENT_MAGIC: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

/// Ships a function.
#[derive(Debug, clap::Args)]
pub(crate) struct Deploy {
    /// The component, or a core module for wasm32-wasip1 or wasm32-unknown-unknown
    path: PathBuf,
    /// The function's name; the file's without its ending unless said otherwise
    #[arg(long)]
    name: Option<String>,
    /// What it does, for people
    #[arg(long)]
    description: Option<String>,
    /// What it may do: blob, kv; may be repeated
    #[arg(long = "grant", value_name = "GRANT", value_delimiter = ',', value_parser = parse_grant)]
    grants: Vec<Grant>,
    #[command(flatten)]
    needs: NeedFlags,
    #[command(flatten)]
    limits: LimitFlags,
    /// A label of the function, as key=value; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// The project that it belongs to, name or id
    #[arg(long)]
    project: Option<String>,
}

pub(crate) async fn run(context: &Context, client: &Client, command: Deploy) -> Result<(), Failure> {
    let function = deploy(client, command).await?;
    if context.json {
        return output::json(&function);
    }
    let number = function.versions.iter().find(|version| version.component == function.current);
    let number = number.map(|version| version.number).unwrap_or_default();
    output::line(&format!("{} {} {number}", function.id, function.name))
}

/// Ships a function. What is not said of one that exists stays as it is.
pub(crate) async fn deploy(client: &Client, command: Deploy) -> Result<Function, Failure> {
    let name = match &command.name {
        Some(name) => name.clone(),
        None => name_of(&command.path)?,
    };
    let is_component = starts_as_component(&command.path)?;
    let signer = Signer::of(client).await?;
    let project = match &command.project {
        Some(project) => Some(client.project(project).await?.id),
        None => None,
    };
    let existing = existing(client, &signer, &name).await?;
    let stored = input::put_file(client, &command.path, false, &name).await?;
    let new = merged(command, name, stored.id, project, existing.as_ref());
    let intent = intent(&new, existing.as_ref(), &signer, is_component);
    match (sign::write(client, &signer, &intent, &new).await, existing) {
        // What was deployed runs already.
        (Err(error), Some(existing)) if error.kind() == Some(Kind::NothingToChange) => Ok(existing),
        (written, _) => Ok(written?),
    }
}

/// The signer's own function of this name.
async fn existing(client: &Client, signer: &Signer, name: &str) -> Result<Option<Function>, Failure> {
    match client.function(format!("{}/{name}", signer.user)).await {
        Ok(function) => Ok(Some(function)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn merged(
    command: Deploy,
    name: String,
    component: BlobId,
    project: Option<shoal_protocol::ObjectId>,
    existing: Option<&Function>,
) -> NewFunction {
    let before = existing.map(|function| (&function.needs, &function.limits, &function.grants, &function.labels));
    let (needs, limits, grants, labels) = before.map_or_else(Default::default, |(needs, limits, grants, labels)| {
        (needs.clone(), *limits, grants.clone(), labels.clone())
    });
    let described = || existing.map(|function| function.description.clone()).unwrap_or_default();
    let granted = command.grants.into_iter().collect::<BTreeSet<_>>();
    let mut labels = labels;
    labels.extend(command.labels);
    NewFunction {
        name,
        component,
        project: project.or(existing.and_then(|function| function.project)),
        description: command.description.unwrap_or_else(described),
        needs: command.needs.over(&needs),
        limits: command.limits.over(&limits),
        grants: if granted.is_empty() { grants } else { granted },
        labels,
    }
}

/// What the change must do. The numbers of versions are the node's to say, and the component is, if it is made from a
/// core module.
fn intent(new: &NewFunction, existing: Option<&Function>, signer: &Signer, is_component: bool) -> Intent {
    let own = |operation: &Operation| match sign::path(operation).first().map(String::as_str) {
        Some("versions") => false,
        Some("current") => is_component,
        _ => true,
    };
    let operations = match existing {
        None => {
            let mut operations = wanted::function(new, new.component, 0);
            operations.push(wanted::owner(signer.user));
            operations
        }
        Some(function) => changed(new, function),
    };
    Intent {
        class: DocumentClass::Function,
        document: existing.map(|function| function.id),
        made: true,
        operations: operations.into_iter().filter(own).collect(),
        filled_in: if is_component { &["versions"] } else { &["versions", "current"] },
    }
}

fn changed(new: &NewFunction, function: &Function) -> Vec<Operation> {
    let mut operations = Vec::new();
    operations.extend((new.component != function.current).then(|| wanted::current(new.component)));
    operations.extend(wanted::needs(&function.needs, &new.needs));
    operations.extend(wanted::run_limits(&function.limits, &new.limits));
    operations.extend(wanted::grants(&function.grants, &new.grants));
    operations.extend(wanted::labels(&function.labels, &new.labels));
    operations.extend((new.description != function.description).then(|| wanted::description(&new.description)));
    operations.extend((new.project != function.project).then(|| wanted::project(new.project)));
    operations
}

/// Whether the file is a component already. What is no WebAssembly at all is the node's to refuse.
fn starts_as_component(path: &Path) -> Result<bool, Failure> {
    use std::io::Read as _;
    let failed = |error| unreadable(path, &error);
    let mut start = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(8).read_to_end(&mut start).map_err(failed)?;
    Ok(start == COMPONENT_MAGIC)
}

/// A function's name from a file's: what is not allowed in one becomes '-'.
fn name_of(path: &Path) -> Result<String, Failure> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c) { c } else { '-' };
    let name: String = stem.chars().map(plain).take(NAME_LEN_MAX).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
    if name.is_empty() {
        return Err(
            Failure::usage(format!("{} makes no name for a function", path.display())).next("name it with --name")
        );
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use shoal_protocol::ObjectId;
    use shoal_protocol::key::SecretKey;
    use shoal_protocol::object::function::{Needs, RunLimits, Version};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        deploy: Deploy,
    }

    fn flags(line: &str) -> Deploy {
        Line::try_parse_from(["deploy"].into_iter().chain(line.split_whitespace())).expect("flags").deploy
    }

    fn function() -> Function {
        let component = BlobId([1; 32]);
        Function {
            id: ObjectId::from_parts(1, 1, [1; 8]),
            name: "f".into(),
            owner: ObjectId::from_parts(2, 2, [2; 8]),
            project: None,
            description: "what it does".into(),
            versions: vec![Version { number: 1, component, size: 1 }],
            current: component,
            needs: Needs { memory_mb: Some(64), ..Needs::default() },
            limits: RunLimits { attempts: Some(2), ..RunLimits::default() },
            grants: [Grant::Kv].into(),
            labels: [("a".into(), "1".into())].into(),
            heads: vec![],
        }
    }

    #[test]
    fn a_name_comes_from_the_file() {
        for (path, name) in [("a/Face_Detect.wasm", "face-detect"), ("x.component.wasm", "x.component"), ("-a-", "a")] {
            assert_eq!(name_of(Path::new(path)).expect("a name"), name);
        }
        assert!(name_of(Path::new("...")).is_err());
    }

    #[test]
    fn what_is_not_said_stays() {
        let before = function();
        let new = merged(flags("f.wasm --memory-mb 32"), "f".into(), BlobId([2; 32]), None, Some(&before));
        assert_eq!((new.description.as_str(), new.needs.memory_mb), ("what it does", Some(32)));
        assert_eq!((new.limits.attempts, new.grants.len(), new.labels.len()), (Some(2), 1, 1));
        let new = merged(flags("f.wasm --grant blob,kv"), "f".into(), BlobId([2; 32]), None, Some(&before));
        assert_eq!(new.grants.len(), 2);
    }

    #[test]
    fn only_what_the_node_must_fill_in_is_left_to_it() {
        let signer = Signer { user: ObjectId::from_parts(2, 2, [2; 8]), key: SecretKey::from_bytes([1; 32]) };
        let new = merged(flags("f.wasm"), "f".into(), BlobId([2; 32]), None, None);
        let component = intent(&new, None, &signer, true);
        assert!(component.operations.contains(&wanted::current(BlobId([2; 32]))));
        assert_eq!(component.filled_in, ["versions"]);
        let module = intent(&new, None, &signer, false);
        assert!(!module.operations.contains(&wanted::current(BlobId([2; 32]))));
        assert!(module.operations.contains(&wanted::owner(signer.user)));
        let again = merged(flags("f.wasm"), "f".into(), function().current, None, Some(&function()));
        assert!(intent(&again, Some(&function()), &signer, true).operations.is_empty());
    }
}
