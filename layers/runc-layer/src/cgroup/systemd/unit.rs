//! Which unit a container is: runc's rules for `linux.cgroupsPath` with `--systemd-cgroup`.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The unit of a container, as its record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// `prefix-name.scope`, or a slice's own name.
    pub(crate) name: String,
    /// The slice that it is in.
    pub(super) slice: String,
    /// What systemd is to call it.
    pub(super) description: String,
    /// Of the user's systemd, not of the machine's.
    pub(super) user: bool,
    /// Whether systemd has been asked to start it: until then a unit of this name is another's.
    pub(super) started: bool,
}

impl Unit {
    /// The unit that `cgroups_path`, `slice:prefix:name` or nothing, names for the container `id`.
    ///
    /// # Errors
    ///
    /// runc's texts for another form and for a slice that is none.
    pub(crate) fn named(cgroups_path: &str, id: &str, user: bool) -> Result<Unit> {
        let parts: Vec<&str> = match cgroups_path {
            "" => vec!["", "runc", id],
            path => path.split(':').collect(),
        };
        let [slice, prefix, name] = parts[..] else {
            return Err(Error::Invalid(format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, \
                 got {cgroups_path:?} instead"
            )));
        };
        let slice = match (slice, user) {
            ("", false) => "system.slice",
            ("", true) => "user.slice",
            (slice, _) => slice,
        };
        let unit = match name.ends_with(".slice") {
            true => name.to_owned(),
            false => format!("{prefix}-{name}.scope"),
        };
        // systemd refuses such a name; a path is made of it before systemd is asked.
        if unit.contains(['/', '\0']) {
            return Err(Error::Invalid(format!("invalid unit name: {unit}")));
        }
        expand(slice)?;
        Ok(Unit {
            description: format!("libcontainer container {name}"),
            name: unit,
            slice: slice.to_owned(),
            user,
            started: false,
        })
    }

    /// Whether it is a slice itself, which holds no processes for systemd.
    pub(super) fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// The cgroup's path below systemd's own, with a slash in front.
    pub(super) fn path(&self) -> Result<String> {
        Ok(format!("{}/{}", expand(&self.slice)?.trim_end_matches('/'), self.name))
    }
}

/// The path of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5)); `-.slice` is the root.
fn expand(slice: &str) -> Result<String> {
    let invalid = || Error::Invalid(format!("invalid slice name: {slice}"));
    let name = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if slice.contains(['/', '\0']) {
        return Err(invalid());
    }
    if name == "-" {
        return Ok("/".to_owned());
    }
    let (mut path, mut prefix) = (String::new(), String::new());
    for component in name.split('-') {
        if component.is_empty() {
            return Err(invalid());
        }
        path.push_str(&format!("/{prefix}{component}.slice"));
        prefix.push_str(component);
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_scopes_and_slices() {
        for (path, user, unit, cgroup) in [
            ("", false, "runc-box.scope", "/system.slice/runc-box.scope"),
            ("", true, "runc-box.scope", "/user.slice/runc-box.scope"),
            (":docker:1", false, "docker-1.scope", "/system.slice/docker-1.scope"),
            ("a-b-c.slice:p:n", false, "p-n.scope", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
            ("-.slice:p:n", false, "p-n.scope", "/p-n.scope"),
            ("a.slice:p:a-x.slice", false, "a-x.slice", "/a.slice/a-x.slice"),
            ("a.slice::n", false, "-n.scope", "/a.slice/-n.scope"),
        ] {
            let named = Unit::named(path, "box", user).expect(path);
            assert_eq!((named.name.as_str(), named.path().expect(path).as_str()), (unit, cgroup));
        }
    }

    #[test]
    fn what_is_no_path_is_refused_in_runcs_words() {
        let said = |path: &str| Unit::named(path, "box", false).expect_err(path).to_string();
        assert_eq!(
            said("/bad/one"),
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \
             \"/bad/one\" instead"
        );
        for slice in ["system", ".slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice"] {
            assert_eq!(said(&format!("{slice}:p:n")), format!("invalid slice name: {slice}"));
        }
        assert_eq!(said("a.slice:p:../../x"), "invalid unit name: p-../../x.scope");
        assert!(said("a:b:c:d").contains("\"a:b:c:d\""));
    }
}
