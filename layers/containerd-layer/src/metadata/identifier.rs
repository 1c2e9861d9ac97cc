//! What containerd accepts as a namespace, container or lease id, and as a label.

use super::Labels;
use crate::{Error, Result};

const LONGEST_ID: usize = 76;
const LONGEST_LABEL: usize = 4096;

/// Checks an identifier: up to 76 letters, digits and single `.`, `_`, `-` between them.
///
/// # Errors
/// `InvalidArgument` in containerd's words.
pub fn validate(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::invalid("identifier must not be empty"));
    }
    if id.len() > LONGEST_ID {
        return Err(Error::invalid(format_args!(
            "identifier {id:?} greater than maximum length ({LONGEST_ID} characters)"
        )));
    }
    // `--` and `__` are refused as containerd refuses them: a separator stands between alphanumerics.
    let fine = id
        .split(['.', '_', '-'])
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    if !fine {
        return Err(Error::invalid(format_args!(
            "identifier {id:?} must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
        )));
    }
    Ok(())
}

/// Checks that no label is longer than 4096 bytes, key and value together.
///
/// # Errors
/// `InvalidArgument` naming the label.
pub fn validate_labels(labels: &Labels) -> Result<()> {
    for (key, value) in labels {
        let total = key.len() + value.len();
        if total > LONGEST_LABEL {
            let key: String = key.chars().take(64).collect();
            return Err(Error::invalid(format_args!(
                "label key and value length ({total} bytes) greater than maximum size \
                 ({LONGEST_LABEL} bytes), key: {key}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for good in ["default", "k8s.io", "a-b_c.d", "A1", &"a".repeat(76)] {
            validate(good).unwrap();
        }
        for bad in ["", "-a", "a--b", "a/b", "a.", "é", &"a".repeat(77)] {
            assert_eq!(validate(bad).unwrap_err().kind, crate::Kind::InvalidArgument, "{bad}");
        }
    }
}
