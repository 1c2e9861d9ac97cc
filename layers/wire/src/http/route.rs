//! Docker's paths: an optional version, then a template with at most one name in it.

use hops::{HopError, docker};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What a name may hold unescaped in a path; an image's slashes are the path's own.
const NAME: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/')
    .remove(b':')
    .remove(b'@');

/// The path of a call about `id`.
pub(super) fn fill(template: &str, id: &str) -> String {
    template.replacen("{id}", &utf8_percent_encode(id, NAME).to_string(), 1)
}

/// The name in `path` if it is one of `template`'s; an empty one if the template has none.
///
/// Only an image's name may hold slashes, as in Docker's own routes (`{name:.*}`).
pub(super) fn name_in(template: &str, path: &str) -> Option<String> {
    let Some((before, after)) = template.split_once("{id}") else {
        return (template == path).then(String::new);
    };
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    if name.is_empty() || (name.contains('/') && before != "/images/") {
        return None;
    }
    Some(percent_decode_str(name).decode_utf8().ok()?.into_owned())
}

/// Takes the version off a path, and refuses one that is not spoken, in Docker's words.
pub(super) fn unversioned(path: &str) -> Result<&str, HopError> {
    let Some((version, rest)) = path
        .strip_prefix("/v")
        .and_then(|rest| rest.find('/').map(|slash| rest.split_at(slash)))
        .filter(|(version, _)| version.starts_with(|c: char| c.is_ascii_digit()))
    else {
        return Ok(path);
    };
    let number = |v: &str| -> Option<(u32, u32)> {
        let (major, minor) = v.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let (newest, oldest) = (docker::API_VERSION, docker::MIN_API_VERSION);
    if number(version) < number(oldest) {
        return Err(HopError::invalid(format!(
            "client version {version} is too old. Minimum supported API version is {oldest}, \
             please upgrade your client to a newer version"
        )));
    }
    if number(version) > number(newest) {
        return Err(HopError::invalid(format!(
            "client version {version} is too new. Maximum supported API version is {newest}"
        )));
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_the_template_has_them() {
        assert_eq!(name_in("/containers/json", "/containers/json").as_deref(), Some(""));
        assert_eq!(
            name_in("/containers/{id}/json", "/containers/c%31/json").as_deref(),
            Some("c1")
        );
        assert_eq!(name_in("/containers/{id}/json", "/containers/a/b/json"), None);
        assert_eq!(name_in("/containers/{id}", "/containers/"), None);
        let image = "127.0.0.1:5001/lab/x:1";
        assert_eq!(
            name_in("/images/{id}/json", &fill("/images/{id}/json", image)).as_deref(),
            Some(image)
        );
    }

    #[test]
    fn versions_are_taken_off_and_negotiated() {
        assert_eq!(unversioned("/v1.41/info").unwrap(), "/info");
        assert_eq!(unversioned("/version").unwrap(), "/version");
        assert_eq!(unversioned("/volumes/x").unwrap(), "/volumes/x");
        assert!(unversioned("/v1.99/info").unwrap_err().message.contains("too new"));
        assert!(unversioned("/v1.9/info").unwrap_err().message.contains("too old"));
    }
}
