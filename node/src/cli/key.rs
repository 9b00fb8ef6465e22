//! The user's own key: made at first use, kept at `$XDG_CONFIG_HOME/shoal/key`, readable by its owner alone.

use std::path::{Path, PathBuf};

use shoal_client::Client;
use shoal_protocol::Kind;
use shoal_protocol::ObjectId;
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::user::AddKey;

use super::failure::{Failure, NOT_FOUND, REFUSED};
use super::wait::eprint;
use crate::identity::files;

/// The user, and a key of theirs that their document lists.
pub(crate) struct Signer {
    /// The user.
    pub(crate) user: ObjectId,
    /// The key.
    pub(crate) key: SecretKey,
}

impl Signer {
    /// A user whose key is in a file that is there already.
    pub(crate) fn from_file(user: ObjectId, path: &Path) -> Result<Self, Failure> {
        if !path.is_file() {
            return Err(Failure::new(format!("there is no key in {}", path.display())).code(NOT_FOUND));
        }
        Ok(Self { user, key: open(path)? })
    }

    /// The user that the token stands for, with the key of this machine. A key that their document does not list yet is
    /// added to it.
    pub(crate) async fn of(client: &Client) -> Result<Self, Failure> {
        let user = client.welcome().user.ok_or_else(|| {
            Failure::new("without a token nothing can be signed in anybody's name")
                .code(REFUSED)
                .next("give a token with SHOAL_TOKEN; the operator's is the file `token` in the node's data folder")
        })?;
        let path = path()?;
        let key = open(&path)?;
        let listed = client.user(user).await?.keys.contains_key(&key.public());
        if !listed {
            let added = client.add_key(user, &AddKey { key: key.public(), note: note() }).await;
            added.map_err(|error| {
                let refused = error.kind() == Some(Kind::Forbidden);
                let failure = Failure::from(error);
                if refused {
                    failure.next(format!("have the key in {} added to your user by a machine of yours", path.display()))
                } else {
                    failure
                }
            })?;
            eprint(&format!("key {} now signs for you; it is in {}", key.public().short(), path.display()));
        }
        Ok(Self { user, key })
    }
}

/// Where the key lives: `$XDG_CONFIG_HOME/shoal/key`, else `~/.config/shoal/key`.
fn path() -> Result<PathBuf, Failure> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")));
    let config = config.ok_or_else(|| {
        Failure::new("there is no folder for your key").next("set HOME or XDG_CONFIG_HOME to a folder of yours")
    })?;
    Ok(config.join("shoal").join("key"))
}

fn open(path: &Path) -> Result<SecretKey, Failure> {
    let failed = |error: crate::identity::Error| Failure::new(format!("your key: {error}"));
    if let Some(folder) = path.parent() {
        files::make_folder(folder).map_err(failed)?;
    }
    files::read_or_create_key(path).map_err(failed)
}

/// Where the key lives, for people who read the user's document.
fn note() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    format!("command line on {}", if host.is_empty() { "a machine" } else { &host })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_and_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shoal/key");
        let first = open(&path).expect("a key");
        assert_eq!(open(&path).expect("the key").public(), first.public());
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        assert!(open(&path).is_err(), "a key that others can read is none");
    }
}
