//! Names that people give, checked once.

use crate::limits::{LABELS_MAX, NAME_LEN_MAX};
use crate::problem::{Kind, Problem};

/// Labels or tags: `key = value`.
pub type Labels = std::collections::BTreeMap<String, String>;

/// Checks a name: 1 to 63 characters of `a-z 0-9 - _ .`, the first and last a letter or digit.
pub fn check(what: &str, name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: char| plain(c) || matches!(c, '-' | '_' | '.');
    let good = (1..=NAME_LEN_MAX).contains(&name.len())
        && name.chars().all(inner)
        && name.chars().next().is_some_and(plain)
        && name.chars().next_back().is_some_and(plain);
    if good {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_LEN_MAX + 1).collect();
    Err(Problem::new(
        Kind::InvalidField,
        format!(
            "{what} {shown:?} is no name: 1 to {NAME_LEN_MAX} of a-z, 0-9, '-', '_' and '.', starting and ending with a letter or digit"
        ),
    ))
}

/// Checks labels: at most 32, keys are names (`/` allowed, as in `vendor/gpu`), values up to 63 printable characters.
pub fn check_labels(what: &str, labels: &Labels) -> Result<(), Problem> {
    if labels.len() > LABELS_MAX {
        return Err(Problem::new(Kind::InvalidField, format!("{what}: {} labels, at most {LABELS_MAX}", labels.len())));
    }
    for (key, value) in labels {
        for part in key.split('/') {
            check(&format!("{what}: label key"), part)?;
        }
        if key.len() > NAME_LEN_MAX || value.len() > NAME_LEN_MAX || value.chars().any(char::is_control) {
            return Err(Problem::new(
                Kind::InvalidField,
                format!("{what}: label {key}: at most {NAME_LEN_MAX} printable characters"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_like() {
        for good in ["a", "face-detect", "v1.2_x", "0"] {
            assert!(check("name", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "ä", &"x".repeat(64)] {
            assert!(check("name", bad).is_err(), "{bad}");
        }
    }
}
