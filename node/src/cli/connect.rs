//! Which node to speak to, and with which token.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use shoal_client::{Client, NodeAddr, Options};
use shoal_protocol::Traceparent;
use shoal_protocol::trace::TRACEPARENT_ENV;

use super::failure::{Failure, UNREACHABLE};
use crate::config;

/// What a running node says about itself, in its data folder.
const NODE_FILE: &str = "node.json";
/// The operator's token, in the node's data folder.
const TOKEN_FILE: &str = "token";
/// A file that is read here, in bytes: a token is a few hundred long.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// What the global flags say.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Print JSON.
    pub(crate) json: bool,
    /// The node, if one is named.
    pub(crate) node: Option<NodeAddr>,
    /// The token, if one is given.
    pub(crate) token: Option<String>,
    /// The local node's data folder, if one is named.
    pub(crate) data: Option<PathBuf>,
}

/// The part of `node.json` that is of use here.
#[derive(Debug, Deserialize)]
struct Running {
    gateway: NodeAddr,
    pid: u32,
}

impl Context {
    /// Connects to the node that is named, else to the one that runs in the data folder.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let folder = config::data_folder(self.data.clone())?;
        let address = match &self.node {
            Some(address) => address.clone(),
            None => local_node(&folder)?,
        };
        let options = Options { token: self.token_for(&address, &folder), ..Options::default() };
        let client = Client::connect_with(&address, options).await?;
        // A program that traces hands its place on to those that it starts.
        let traceparent = Traceparent::sent(std::env::var(TRACEPARENT_ENV).ok().as_deref());
        Ok(traceparent.map_or_else(|| client.clone(), |traceparent| client.traced(traceparent)))
    }

    /// The token that would be used.
    pub(crate) fn token(&self) -> Result<String, Failure> {
        if let Some(token) = &self.token {
            return Ok(token.trim().to_owned());
        }
        let path = config::data_folder(self.data.clone())?.join(TOKEN_FILE);
        let token = read(&path).map_err(|error| {
            Failure::new(format!("there is no token: {}: {error}", path.display()))
                .code(super::failure::NOT_FOUND)
                .next("the first `shoal up` writes one; for another node set SHOAL_TOKEN")
        })?;
        Ok(token.trim().to_owned())
    }

    /// The local token counts at the local node only, so it is not shown to others.
    fn token_for(&self, address: &NodeAddr, folder: &Path) -> Option<String> {
        if let Some(token) = &self.token {
            return Some(token.trim().to_owned());
        }
        let local = running(folder).is_some_and(|running| running.gateway.node == address.node);
        if local { read(&folder.join(TOKEN_FILE)).ok().map(|token| token.trim().to_owned()) } else { None }
    }
}

fn local_node(folder: &Path) -> Result<NodeAddr, Failure> {
    let next = "start one with `shoal up`, or name one with SHOAL_NODE";
    let none = |why: String| Failure::new(why).code(UNREACHABLE).next(next);
    let Some(running) = running(folder) else {
        return Err(none(format!("no node runs in {}", folder.display())));
    };
    // A node that was killed leaves its file behind; without this the command would wait for an answer in vain.
    if Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{}", running.pid)).exists() {
        return Err(none(format!("the node in {} (process {}) runs no more", folder.display(), running.pid)));
    }
    Ok(running.gateway)
}

fn running(folder: &Path) -> Option<Running> {
    serde_json::from_str(&read(&folder.join(NODE_FILE)).ok()?).ok()
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(folder: &Path) -> Context {
        Context { json: false, node: None, token: None, data: Some(folder.into()) }
    }

    fn node_file(folder: &Path, pid: u32) -> NodeAddr {
        let address: NodeAddr = format!("quic://{}@127.0.0.1:7450", "ab".repeat(32)).parse().expect("an address");
        let text =
            format!(r#"{{"id":"x","name":"n","gateway":"{address}","http":"http://x","pid":{pid},"started_ms":1}}"#);
        std::fs::write(folder.join(NODE_FILE), text).expect("written");
        address
    }

    #[test]
    fn the_local_node_is_found_by_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(local_node(folder.path()).is_err());
        let address = node_file(folder.path(), std::process::id());
        assert_eq!(local_node(folder.path()).ok(), Some(address));
        // Above what Linux ever gives out.
        node_file(folder.path(), 0x7fff_ffff);
        assert!(local_node(folder.path()).is_err());
    }

    #[test]
    fn the_local_token_is_shown_to_the_local_node_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = node_file(folder.path(), std::process::id());
        std::fs::write(folder.path().join(TOKEN_FILE), "secret\n").expect("written");
        let context = context(folder.path());
        assert_eq!(context.token_for(&address, folder.path()).as_deref(), Some("secret"));
        let mut other = address.clone();
        other.node = shoal_protocol::NodeId([1; 32]);
        assert_eq!(context.token_for(&other, folder.path()), None);
        let named = Context { token: Some("mine ".into()), ..context };
        assert_eq!(named.token_for(&other, folder.path()).as_deref(), Some("mine"));
    }
}
