//! Whether a value fits its field.

use shoal_protocol::change::Scalar;
use shoal_protocol::name;

use super::table::{self, Form};

/// Says what would be right when the value does not fit.
pub(super) fn check(form: Form, path: &[String], value: &Scalar) -> Result<(), String> {
    match (form, value) {
        (Form::Name, Scalar::Text(text)) => name::check("this", text).map_err(|problem| problem.detail),
        (Form::Label, Scalar::Text(text)) => {
            let key = path.last().cloned().unwrap_or_default();
            name::check_labels("this", &[(key, text.clone())].into()).map_err(|problem| problem.detail)
        }
        (Form::Text(max), Scalar::Text(text)) if text.len() > max => {
            Err(format!("a text of {} bytes, at most {max}", text.len()))
        }
        (Form::Hex, Scalar::Text(text)) if !table::is_hex(text) => {
            Err("expected 64 hexadecimal characters in lower case".to_owned())
        }
        (Form::Id, Scalar::Text(text)) if !table::is_id(text) => {
            Err("expected an id: 26 characters of Crockford base32 in upper case".to_owned())
        }
        (Form::Int(min, max), Scalar::Int(number)) if !(min..=max).contains(number) => {
            Err(format!("{number} is out of range; it goes from {min} to {max}"))
        }
        (Form::Text(_) | Form::Hex | Form::Id, Scalar::Text(_))
        | (Form::Bool, Scalar::Bool(_))
        | (Form::Int(..), Scalar::Int(_)) => Ok(()),
        (Form::Bool, _) => Err("expected true or false".to_owned()),
        (Form::Int(..), _) => Err("expected a whole number".to_owned()),
        (Form::Name | Form::Label | Form::Text(_) | Form::Hex | Form::Id, _) => Err("expected a text".to_owned()),
    }
}
