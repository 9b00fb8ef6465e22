//! `shoal function`.

use serde::Serialize;
use shoal_client::Client;
use shoal_crdt::wanted;
use shoal_protocol::change::{DocumentClass, Operation};
use shoal_protocol::object::Class;
use shoal_protocol::object::function::{Function as FunctionObject, Grant, Needs, RunLimits};

use super::connect::Context;
use super::deploy::{self, Deploy};
use super::document::{NamedFlags, NamedPatch, change};
use super::failure::Failure;
use super::input::{LimitFlags, NeedFlags, PageFlags, parse_grant};
use super::output;
use super::table::{Table, details, labels, length, more, size};

/// What can be done with functions.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Function {
    /// The same as `shoal deploy`
    Add(Deploy),
    /// The functions that you may run
    Ls {
        /// Only those with this name
        #[arg(long)]
        name: Option<String>,
        /// Only those of this user, by id
        #[arg(long)]
        owner: Option<String>,
        /// Only those of this project, by id
        #[arg(long)]
        project: Option<String>,
        #[command(flatten)]
        page: PageFlags,
    },
    /// A function
    Show {
        /// Name, owner/name or id
        function: String,
    },
    /// Change what a function needs and may do; its code is changed by deploying
    Set {
        /// Name, owner/name or id
        function: String,
        #[command(flatten)]
        set: NamedFlags,
        /// What it does, for people
        #[arg(long)]
        description: Option<String>,
        /// What it may do, all of it: blob, kv; may be repeated
        #[arg(long = "grant", value_name = "GRANT", value_delimiter = ',', value_parser = parse_grant)]
        grants: Vec<Grant>,
        /// It may do nothing special any more
        #[arg(long, conflicts_with = "grants")]
        no_grants: bool,
        #[command(flatten)]
        needs: NeedFlags,
        #[command(flatten)]
        limits: LimitFlags,
    },
    /// Choose the version that runs
    Activate {
        /// Name, owner/name or id
        function: String,
        /// The number of the version
        version: u32,
    },
    /// Delete a function; jobs that wait for it fail
    Rm {
        /// Name, owner/name or id
        function: String,
    },
}

/// A merge patch of a function.
#[derive(Debug, Serialize)]
struct Patch {
    #[serde(flatten)]
    named: NamedPatch,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    needs: Needs,
    limits: RunLimits,
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<std::collections::BTreeSet<Grant>>,
}

pub(crate) async fn run(context: &Context, client: &Client, command: Function) -> Result<(), Failure> {
    let show = |function: &FunctionObject| {
        if context.json { output::json(function) } else { output::write(text(function).as_bytes()) }
    };
    match command {
        Function::Add(command) => deploy::run(context, client, command).await,
        Function::Ls { name, owner, project, page } => {
            let query = page.query([("name", name), ("owner", owner), ("project", project)]);
            let page = client.functions(query).await?;
            if context.json {
                return output::json(&page);
            }
            table(&page.items).print()?;
            more(page.next.as_deref());
            Ok(())
        }
        Function::Show { function } => show(&client.function(function).await?),
        Function::Set { function, set, description, grants, no_grants, needs, limits } => {
            let before = client.function(function).await?;
            let grants = (no_grants || !grants.is_empty()).then(|| grants.into_iter().collect());
            let (named, mut operations) = set.over(&before.name, &before.labels);
            let patch = Patch {
                named,
                description,
                needs: needs.over(&before.needs),
                limits: limits.over(&before.limits),
                grants,
            };
            operations.extend(patch.operations(&before));
            let after = change(client, DocumentClass::Function, before.id, operations, &patch).await?;
            show(&after.unwrap_or(before))
        }
        Function::Activate { function, version } => show(&client.activate(function, version).await?),
        Function::Rm { function } => Ok(client.delete(Class::Function, function).await?),
    }
}

impl Patch {
    /// What the patch means beyond name and labels.
    fn operations(&self, before: &FunctionObject) -> Vec<Operation> {
        let mut operations = wanted::needs(&before.needs, &self.needs);
        operations.extend(wanted::run_limits(&before.limits, &self.limits));
        if let Some(grants) = &self.grants {
            operations.extend(wanted::grants(&before.grants, grants));
        }
        let described = self.description.as_ref().filter(|&text| *text != before.description);
        operations.extend(described.map(|text| wanted::description(text)));
        operations
    }
}

fn number(function: &FunctionObject) -> u32 {
    function.versions.iter().find(|version| version.component == function.current).map_or(0, |version| version.number)
}

fn table(functions: &[FunctionObject]) -> Table {
    let mut table = Table::new(&["ID", "NAME", "VERSION", "MEMORY", "GRANTS", "DESCRIPTION"]);
    for function in functions {
        table.row([
            function.id.to_string(),
            function.name.clone(),
            number(function).to_string(),
            format!("{} MiB", function.needs.memory()),
            grants(function),
            function.description.clone(),
        ]);
    }
    table
}

fn grants(function: &FunctionObject) -> String {
    function.grants.iter().map(|grant| grant.text()).collect::<Vec<_>>().join(",")
}

fn text(function: &FunctionObject) -> String {
    let needs = &function.needs;
    let mut text = details(&[
        ("function", function.id.to_string()),
        ("name", function.name.clone()),
        ("description", function.description.clone()),
        ("owner", function.owner.to_string()),
        ("project", function.project.map(|id| id.to_string()).unwrap_or_default()),
        ("version", number(function).to_string()),
        ("memory", format!("{} MiB", needs.memory())),
        ("needs labels", labels(&needs.labels)),
        ("needs capabilities", needs.capabilities.iter().cloned().collect::<Vec<_>>().join(",")),
        ("timeout", length(function.limits.run_ms())),
        ("result", format!("{} at most", size(function.limits.output_bytes()))),
        ("attempts", function.limits.attempts().to_string()),
        ("grants", grants(function)),
        ("labels", labels(&function.labels)),
    ]);
    for version in &function.versions {
        let current = if version.component == function.current { "  runs" } else { "" };
        text.push_str(&format!(
            "  version {}  {}  {}{current}\n",
            version.number,
            version.component,
            size(version.size)
        ));
    }
    text
}
