//! `shoal token`.

use std::path::PathBuf;

use serde::Serialize;
use shoal_protocol::ObjectId;
use shoal_protocol::object::Class;

use super::connect::Context;
use super::failure::Failure;
use super::key::Signer;
use super::{output, table};
use crate::config::Length;
use crate::identity::token::{Narrowing, attenuate, mint_for_user};

/// What can be done with the token.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Token {
    /// Print the token that commands speak with
    Show,
    /// Print a token that is rooted in your own key: it counts at every node that knows you
    Mint {
        /// It ends after so long, such as 10m or 7d
        #[arg(long, value_name = "LENGTH")]
        valid: Option<Length>,
        /// It changes nothing
        #[arg(long)]
        read_only: bool,
        /// The user, where no node shall be asked; with --key
        #[arg(long, value_name = "ID", requires = "key")]
        user: Option<ObjectId>,
        /// The file with a key that the user's document lists; else this machine's, which is added to it at need
        #[arg(long, value_name = "FILE", requires = "user")]
        key: Option<PathBuf>,
    },
    /// Print a token with less in it, to be handed on: it can be narrowed further, never widened
    Narrow {
        /// It ends after so long, such as 10m or 7d
        #[arg(long, value_name = "LENGTH")]
        valid: Option<Length>,
        /// It changes nothing
        #[arg(long)]
        read_only: bool,
        /// It counts for objects of this class only
        #[arg(long, value_name = "CLASS", value_parser = parse_class)]
        class: Option<Class>,
    },
}

#[derive(Serialize)]
struct Shown {
    token: String,
}

fn parse_class(text: &str) -> Result<Class, String> {
    text.parse().map_err(|()| format!("the classes are {}", Class::ALL.map(Class::text).join(", ")))
}

pub(crate) async fn run(context: &Context, command: Token) -> Result<(), Failure> {
    let until = |valid: Option<Length>| valid.map(|valid| table::now_ms().saturating_add(valid.millis()));
    let token = match command {
        Token::Show => context.token()?,
        Token::Mint { valid, read_only, user, key } => {
            let signer = match (user, key) {
                (Some(user), Some(path)) => Signer::from_file(user, &path)?,
                // The node knows whose token this is, and adds the key of this machine to their document.
                _ => Signer::of(&context.connect().await?).await?,
            };
            let narrowing = Narrowing { expires_ms: until(valid), read_only, ..Narrowing::default() };
            mint_for_user(&signer.key, signer.user, narrowing).map_err(|error| Failure::new(error.to_string()))?
        }
        Token::Narrow { valid, read_only, class } => {
            let narrowing = Narrowing { expires_ms: until(valid), read_only, class, node: None };
            attenuate(&context.token()?, narrowing).map_err(|error| Failure::new(error.to_string()))?
        }
    };
    if context.json { output::json(&Shown { token }) } else { output::line(&token) }
}
