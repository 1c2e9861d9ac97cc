//! From a container's `User` to numbers, as runc's `user` package reads it: `name|uid[:name|gid]`,
//! with the groups that the image's `/etc/group` gives the user.

use hops::{HopError, Result};

/// Who the process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Passwd { name, uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        let members = fields.next().unwrap_or("").split(',').filter(|m| !m.is_empty()).collect();
        Some(Group { name, gid: gid.parse().ok()?, members })
    })
}

/// A number that is a possible id: 31 bits, as runc allows.
fn number(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|n| *n <= i32::MAX as u32)
}

/// Resolves `user` in the image's `/etc/passwd` and `/etc/group`, which may be empty; `extra` is
/// `GroupAdd`.
///
/// # Errors
/// runc's words for a user or a group that is neither known nor a number.
pub(crate) fn resolve(
    user: &str,
    extra: &[String],
    passwd_text: &str,
    group_text: &str,
) -> Result<Identity> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let wanted = number(user);
    let entry = passwd(passwd_text).find(|p| p.name == user || Some(p.uid) == wanted);
    let mut identity = match (&entry, wanted) {
        (Some(entry), _) => Identity { uid: entry.uid, gid: entry.gid, groups: Vec::new() },
        (None, Some(uid)) => Identity { uid, ..Identity::default() },
        (None, None) => {
            return Err(HopError::invalid(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let by_name = |name: &str| {
        groups(group_text).find(|g| g.name == name).map(|g| g.gid).or_else(|| number(name))
    };
    let unknown = |name: &str| {
        HopError::invalid(format!("unable to find group {name}: no matching entries in group file"))
    };
    if group.is_empty() {
        if let Some(entry) = &entry {
            identity.groups = groups(group_text)
                .filter(|g| g.members.contains(&entry.name))
                .map(|g| g.gid)
                .collect();
        }
    } else {
        identity.gid = by_name(group).ok_or_else(|| unknown(group))?;
    }
    for name in extra {
        identity.groups.push(by_name(name).ok_or_else(|| unknown(name))?);
    }
    // The kernel checks supplementary groups and the effective one alike, but a negative entry in
    // an access list is only seen when the primary group stands among the others too.
    if !identity.groups.contains(&identity.gid) {
        identity.groups.insert(0, identity.gid);
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/false\n\nbad line\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root\nweb:x:33:\nlog:x:4:web,root\n";

    fn of(user: &str) -> (u32, u32, Vec<u32>) {
        let identity = resolve(user, &[], PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.groups)
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(of(""), (0, 0, vec![0, 10, 4]));
        assert_eq!(of("web"), (33, 33, vec![33, 4]));
        assert_eq!(of("33"), (33, 33, vec![33, 4]));
        assert_eq!(of("web:log"), (33, 4, vec![4]));
        assert_eq!(of("1000"), (1000, 0, vec![0]));
        assert_eq!(of("1000:1000"), (1000, 1000, vec![1000]));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let missing = resolve("nobody", &[], PASSWD, GROUP).unwrap_err();
        assert_eq!(
            missing.message,
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert!(resolve("web:x", &[], PASSWD, GROUP).unwrap_err().message.contains("group x"));
        assert!(resolve("99999999999", &[], PASSWD, GROUP).is_err());
    }
}
