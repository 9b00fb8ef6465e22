//! `shoal user` and `shoal project`.

use std::collections::BTreeMap;

use serde::Serialize;
use shoal_client::Client;
use shoal_crdt::wanted;
use shoal_protocol::change::{DocumentClass, Operation};
use shoal_protocol::key::PublicKey;
use shoal_protocol::limits::{QUOTA_MAX, WEIGHT_MAX};
use shoal_protocol::name::Labels;
use shoal_protocol::object::Class;
use shoal_protocol::object::project::{Member, NewProject, Project as ProjectObject};
use shoal_protocol::object::user::{AddKey, NewUser, User as UserObject};

use super::bench::bytes;
use super::connect::Context;
use super::failure::Failure;
use super::input::PageFlags;
use super::key::Signer;
use super::output;
use super::sign::{self, Intent};
use super::table::{Table, details, labels, more, size};
use crate::config::parse_label;

/// What can be set of any document.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct NamedFlags {
    /// Another name
    #[arg(long)]
    name: Option<String>,
    /// Set a label, as key=value; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Take a label away; may be repeated
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,
}

/// A merge patch of name and labels: `null` takes a label away.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct NamedPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, Option<String>>,
}

impl NamedFlags {
    /// The merge patch, and the operations that it means for a document that has `name` and `labels`.
    pub(crate) fn over(&self, name: &str, labels: &Labels) -> (NamedPatch, Vec<Operation>) {
        let mut patch = NamedPatch { name: self.name.clone(), labels: BTreeMap::new() };
        let mut after = labels.clone();
        for key in &self.unlabels {
            after.remove(key);
            patch.labels.insert(key.clone(), None);
        }
        for (key, value) in &self.labels {
            after.insert(key.clone(), value.clone());
            patch.labels.insert(key.clone(), Some(value.clone()));
        }
        let mut operations = wanted::labels(labels, &after);
        operations.extend(self.name.as_deref().filter(|&new| new != name).map(wanted::name));
        (patch, operations)
    }

    /// The labels that are set.
    pub(crate) fn labels_over(&self, labels: &Labels) -> Labels {
        let mut after = labels.clone();
        after.retain(|key, _| !self.unlabels.contains(key));
        after.extend(self.labels.iter().cloned());
        after
    }

    /// The name, if it is set.
    pub(crate) fn name(&self) -> Option<&String> {
        self.name.as_ref()
    }
}

/// What can be set of a project beyond that.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ShareFlags {
    /// Its share where projects compete for workers, from 1 to 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(WEIGHT_MAX)))]
    weight: Option<u32>,
    /// Jobs that may wait at each node, an array with its elements; or none: any number
    #[arg(long, value_name = "N|none", value_parser = limit)]
    quota_queued: Option<Limit>,
    /// Jobs that may be under way at once from each node; or none
    #[arg(long, value_name = "N|none", value_parser = limit)]
    quota_running: Option<Limit>,
    /// Submissions in a minute at each node, an array as one; or none
    #[arg(long, value_name = "N|none", value_parser = limit)]
    quota_rate: Option<Limit>,
    /// Bytes of inputs, results and logs that each node keeps, as in 10GiB; or none
    #[arg(long, value_name = "SIZE|none", value_parser = storage)]
    quota_storage: Option<Limit>,
}

/// A limit that is to be set; none: that is to be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit(Option<u64>);

fn limit(text: &str) -> Result<Limit, String> {
    let number = text.parse().ok().filter(|number| *number <= QUOTA_MAX);
    match (text, number) {
        ("none", _) => Ok(Limit(None)),
        (_, Some(number)) => Ok(Limit(Some(number))),
        _ => Err(format!("a number from 0 to {QUOTA_MAX}, or none")),
    }
}

fn storage(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let len = bytes(text).filter(|len| *len <= QUOTA_MAX);
    len.map(|len| Limit(Some(len))).ok_or_else(|| {
        "a length up to 1PiB: bytes, or a number with KiB, MiB, GiB or TiB behind it; or none".to_owned()
    })
}

/// A merge patch of a project: `null` takes a label or a limit away.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct ProjectPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    quota: BTreeMap<&'static str, Option<u64>>,
}

impl ShareFlags {
    /// The merge patch of a project with these too, and the operations that all of it means.
    fn over(
        &self,
        (named, mut operations): (NamedPatch, Vec<Operation>),
        project: &ProjectObject,
    ) -> (ProjectPatch, Vec<Operation>) {
        let mut patch =
            ProjectPatch { name: named.name, labels: named.labels, weight: self.weight, ..Default::default() };
        let mut quota = project.quota;
        let limits = [
            ("queued", self.quota_queued, &mut quota.queued),
            ("running", self.quota_running, &mut quota.running),
            ("rate", self.quota_rate, &mut quota.rate),
            ("storage", self.quota_storage, &mut quota.storage),
        ];
        for (what, limit, of) in limits {
            if let Some(Limit(limit)) = limit {
                patch.quota.insert(what, limit);
                *of = limit;
            }
        }
        operations.extend(self.weight.filter(|weight| *weight != project.weight).map(wanted::weight));
        operations.extend(wanted::quota(&project.quota, &quota));
        (patch, operations)
    }
}

/// What can be done with users.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum User {
    /// Make a user for whom the node signs; for operators
    Add {
        /// The name
        name: String,
        /// A label, as key=value; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
    /// The users
    Ls {
        #[command(flatten)]
        page: PageFlags,
    },
    /// A user
    Show {
        /// Name or id; you yourself unless said otherwise
        #[arg(default_value = "me")]
        user: String,
    },
    /// Change a user
    Set {
        /// Name or id; `me` is you yourself
        user: String,
        #[command(flatten)]
        set: NamedFlags,
    },
    /// Let one more key sign for a user
    AddKey {
        /// Name or id; `me` is you yourself
        user: String,
        /// The public key, 64 hexadecimal characters
        key: PublicKey,
        /// Where it lives, for people
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Delete a user
    Rm {
        /// Name or id
        user: String,
    },
}

/// What can be done with projects.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Project {
    /// Make a project
    Add {
        /// The name
        name: String,
        /// A label, as key=value; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
    /// The projects
    Ls {
        #[command(flatten)]
        page: PageFlags,
    },
    /// A project
    Show {
        /// Name or id
        project: String,
    },
    /// Change a project: its name and labels, its weight, and what it may have at most
    Set {
        /// Name or id
        project: String,
        #[command(flatten)]
        set: NamedFlags,
        #[command(flatten)]
        share: ShareFlags,
    },
    /// Make a user a member of a project, or give them another role
    AddMember {
        /// Name or id
        project: String,
        /// The user, name or id
        user: String,
        /// What they are
        #[arg(long, default_value = "developer")]
        role: String,
    },
    /// Take a user out of a project
    RmMember {
        /// Name or id
        project: String,
        /// The user, name or id
        user: String,
    },
    /// Delete a project
    Rm {
        /// Name or id
        project: String,
    },
}

pub(crate) async fn run_user(context: &Context, client: &Client, command: User) -> Result<(), Failure> {
    let show = |user: &UserObject| {
        if context.json { output::json(user) } else { output::write(user_text(user).as_bytes()) }
    };
    match command {
        User::Add { name, labels } => {
            let user = client.create_user(&NewUser { name, labels: labels.into_iter().collect() }).await?;
            if context.json { output::json(&user) } else { output::line(&format!("{} {}", user.id, user.name)) }
        }
        User::Ls { page } => {
            let page = client.users(page.query([])).await?;
            if context.json {
                return output::json(&page);
            }
            let mut table = Table::new(&["ID", "NAME", "KEYS", "LABELS"]);
            for user in &page.items {
                table.row([user.id.to_string(), user.name.clone(), user.keys.len().to_string(), labels(&user.labels)]);
            }
            table.print()?;
            more(page.next.as_deref());
            Ok(())
        }
        User::Show { user } => show(&client.user(user).await?),
        User::Set { user, set } => {
            let before = client.user(user).await?;
            let (patch, operations) = set.over(&before.name, &before.labels);
            if Some(before.id) != client.welcome().user {
                // Another's document lists another's keys: only the node can sign it, if it may.
                return show(&client.set(Class::User, before.id, None, &patch).await?);
            }
            let after = change(client, DocumentClass::User, before.id, operations, &patch).await?;
            show(&after.unwrap_or(before))
        }
        User::AddKey { user, key, note } => {
            let user = client.user(user).await?;
            show(&client.add_key(user.id, &AddKey { key, note }).await?)
        }
        User::Rm { user } => Ok(client.delete(Class::User, user).await?),
    }
}

pub(crate) async fn run_project(context: &Context, client: &Client, command: Project) -> Result<(), Failure> {
    let show = |project: &ProjectObject| {
        if context.json { output::json(project) } else { output::write(project_text(project).as_bytes()) }
    };
    match command {
        Project::Add { name, labels } => {
            let project = add_project(client, NewProject { name, labels: labels.into_iter().collect() }).await?;
            if context.json {
                output::json(&project)
            } else {
                output::line(&format!("{} {}", project.id, project.name))
            }
        }
        Project::Ls { page } => {
            let page = client.projects(page.query([])).await?;
            if context.json {
                return output::json(&page);
            }
            let mut table = Table::new(&["ID", "NAME", "OWNER", "WEIGHT", "MEMBERS", "LABELS"]);
            for project in &page.items {
                let members = project.members.len().to_string();
                let owner = project.owner.to_string();
                let (id, weight) = (project.id.to_string(), project.weight.to_string());
                table.row([id, project.name.clone(), owner, weight, members, labels(&project.labels)]);
            }
            table.print()?;
            more(page.next.as_deref());
            Ok(())
        }
        Project::Show { project } => show(&client.project(project).await?),
        Project::Set { project, set, share } => {
            let before = client.project(project).await?;
            let (patch, operations) = share.over(set.over(&before.name, &before.labels), &before);
            let after = change(client, DocumentClass::Project, before.id, operations, &patch).await?;
            show(&after.unwrap_or(before))
        }
        Project::AddMember { project, user, role } => {
            let user = client.user(user).await?.id;
            show(&client.add_member(project, &Member { user, role }).await?)
        }
        Project::RmMember { project, user } => {
            let user = client.user(user).await?.id;
            show(&client.remove_member(project, &Member { user, role: String::new() }).await?)
        }
        Project::Rm { project } => Ok(client.delete(Class::Project, project).await?),
    }
}

/// Signs a change of a document; none if nothing would change.
pub(crate) async fn change<T: serde::de::DeserializeOwned>(
    client: &Client,
    class: DocumentClass,
    document: shoal_protocol::ObjectId,
    operations: Vec<Operation>,
    patch: &impl Serialize,
) -> Result<Option<T>, Failure> {
    if operations.is_empty() {
        return Ok(None);
    }
    let signer = Signer::of(client).await?;
    let intent = Intent { class, document: Some(document), made: false, operations, filled_in: &[] };
    Ok(Some(sign::write(client, &signer, &intent, patch).await?))
}

async fn add_project(client: &Client, new: NewProject) -> Result<ProjectObject, Failure> {
    let signer = Signer::of(client).await?;
    let mut operations = vec![wanted::name(&new.name), wanted::owner(signer.user)];
    operations.extend(wanted::labels(&Labels::new(), &new.labels));
    let intent = Intent { class: DocumentClass::Project, document: None, made: true, operations, filled_in: &[] };
    Ok(sign::write(client, &signer, &intent, &new).await?)
}

fn user_text(user: &UserObject) -> String {
    let mut text = details(&[
        ("user", user.id.to_string()),
        ("name", user.name.clone()),
        ("labels", labels(&user.labels)),
        ("nodes", user.nodes.iter().map(|node| node.short()).collect::<Vec<_>>().join(", ")),
    ]);
    for (key, note) in &user.keys {
        text.push_str(&format!("  key {key} {}\n", output::safe(note)));
    }
    text
}

fn project_text(project: &ProjectObject) -> String {
    let mut text = details(&[
        ("project", project.id.to_string()),
        ("name", project.name.clone()),
        ("owner", project.owner.to_string()),
        ("labels", labels(&project.labels)),
        ("weight", project.weight.to_string()),
    ]);
    text.push_str(&share_text(project));
    for (user, role) in &project.members {
        text.push_str(&format!("  member {user} {}\n", output::safe(role)));
    }
    text
}

/// What a project has at the node that was asked, and what it may have at most at each.
fn share_text(project: &ProjectObject) -> String {
    let of = |has: Option<String>, limit: Option<String>| match (has, limit) {
        (Some(has), Some(limit)) => Some(format!("{has} of {limit}")),
        (Some(has), None) => Some(has),
        (None, limit) => limit.map(|limit| format!("at most {limit}")),
    };
    let (quota, usage) = (project.quota, project.usage.as_ref());
    let count = |number: u64| number.to_string();
    let permille = |permille: u32| format!("{}.{} %", permille / 10, permille % 10);
    let lines = [
        ("waiting", of(usage.map(|usage| count(usage.queued)), quota.queued.map(count))),
        ("running", of(usage.map(|usage| count(usage.running)), quota.running.map(count))),
        ("stored", of(usage.map(|usage| size(usage.stored)), quota.storage.map(size))),
        ("submissions", quota.rate.map(|rate| format!("at most {rate} in a minute"))),
        ("used", usage.map(|usage| format!("{} of late, {} ever", length(usage.recent_ms), length(usage.total_ms)))),
        ("share", usage.map(|u| format!("{} of {} by weight", permille(u.used_permille), permille(u.due_permille)))),
    ];
    let lines: Vec<(&str, String)> = lines.into_iter().filter_map(|(what, value)| Some((what, value?))).collect();
    details(&lines)
}

/// Time in slots.
fn length(ms: u64) -> String {
    format!("{}.{} slot seconds", ms / 1_000, ms % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_in_a_patch_is_what_its_operations_say() {
        let text = r#"{"id":"01HF7YAT00000NGVVFDNK6YS35","name":"p","owner":"01HF7YAT00000NGVVFDNK6YS35","members":{},"heads":[],
            "quota":{"queued":5,"rate":7}}"#;
        let project: ProjectObject = serde_json::from_str(text).expect("a project of before, without a weight");
        let flags = ShareFlags {
            weight: Some(3),
            quota_queued: Some(Limit(None)),
            quota_storage: Some(storage("10GiB").expect("a length")),
            quota_rate: Some(limit("7").expect("a number")),
            ..ShareFlags::default()
        };
        let (patch, operations) = flags.over((NamedPatch::default(), Vec::new()), &project);
        let json = serde_json::to_value(&patch).expect("json");
        let quota = serde_json::json!({"queued": null, "rate": 7, "storage": 10_u64 << 30});
        assert_eq!(json, serde_json::json!({"weight": 3, "quota": quota}));
        assert_eq!(operations.len(), 3, "{operations:?}");
        assert!(operations.contains(&wanted::weight(3)) && operations.contains(&wanted::delete(&["quota", "queued"])));
        for wrong in ["many", "-1", "99999999999999999999", ""] {
            assert!(limit(wrong).is_err() && storage(wrong).is_err(), "{wrong}");
        }
        let text = project_text(&ProjectObject { usage: Some(Default::default()), ..project });
        assert!(text.contains("0 of 5") && text.contains("at most 7 in a minute"), "{text}");
    }

    #[test]
    fn a_patch_and_its_operations_say_the_same() {
        let labels: Labels = [("a".into(), "1".into()), ("b".into(), "2".into())].into();
        let flags = NamedFlags {
            name: Some("new".into()),
            labels: vec![("c".into(), "3".into()), ("b".into(), "2".into())],
            unlabels: vec!["a".into()],
        };
        let (patch, operations) = flags.over("old", &labels);
        let json = serde_json::to_value(&patch).expect("json");
        assert_eq!(json, serde_json::json!({"name": "new", "labels": {"a": null, "b": "2", "c": "3"}}));
        // What stays as it is takes no operation.
        assert_eq!(operations.len(), 3, "{operations:?}");
        assert!(operations.contains(&wanted::name("new")));
        assert!(operations.contains(&wanted::delete(&["labels", "a"])));
        assert_eq!(flags.labels_over(&labels), [("b".into(), "2".into()), ("c".into(), "3".into())].into());
        let (_, none) = NamedFlags::default().over("old", &labels);
        assert!(none.is_empty());
    }

    #[test]
    fn a_null_in_a_patch_survives_cbor() {
        let (patch, _) = NamedFlags { unlabels: vec!["a".into()], ..NamedFlags::default() }.over("n", &Labels::new());
        let bytes = shoal_protocol::codec::encode(&patch);
        let read: serde_json::Value = shoal_protocol::codec::decode(&bytes).expect("a value");
        assert_eq!(read, serde_json::json!({"labels": {"a": null}}));
    }
}
