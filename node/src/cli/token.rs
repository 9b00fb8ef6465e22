//! `shoal token`.

use serde::Serialize;
use shoal_protocol::object::Class;

use super::connect::Context;
use super::failure::Failure;
use super::{output, table};
use crate::config::Length;
use crate::identity::token::{Narrowing, attenuate};

/// What can be done with the token.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Token {
    /// Print the token that commands speak with
    Show,
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

pub(crate) fn run(context: &Context, command: Token) -> Result<(), Failure> {
    let token = context.token()?;
    let token = match command {
        Token::Show => token,
        Token::Narrow { valid, read_only, class } => {
            let expires_ms = valid.map(|valid| table::now_ms().saturating_add(valid.millis()));
            let narrowing = Narrowing { expires_ms, read_only, class, node: None };
            attenuate(&token, narrowing).map_err(|error| Failure::new(error.to_string()))?
        }
    };
    if context.json { output::json(&Shown { token }) } else { output::line(&token) }
}
