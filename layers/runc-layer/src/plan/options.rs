//! Mount options: what is a flag, a propagation, a change of a subtree, or the file system's own.

use crate::sys::mount::{
    ATTR_ATIME, ATTR_NOATIME, ATTR_NODEV, ATTR_NODIRATIME, ATTR_NOEXEC, ATTR_NOSUID,
    ATTR_NOSYMFOLLOW, ATTR_RDONLY, ATTR_RELATIME, ATTR_STRICTATIME, Attributes,
};

use libc::{
    MS_BIND, MS_DIRSYNC, MS_I_VERSION, MS_LAZYTIME, MS_MANDLOCK, MS_NOATIME, MS_NODEV,
    MS_NODIRATIME, MS_NOEXEC, MS_NOSUID, MS_POSIXACL, MS_PRIVATE, MS_RDONLY, MS_REC, MS_RELATIME,
    MS_REMOUNT, MS_SHARED, MS_SILENT, MS_SLAVE, MS_STRICTATIME, MS_SYNCHRONOUS, MS_UNBINDABLE,
};

const MS_NOSYMFOLLOW: u64 = 256;

/// A mount's options, sorted out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// MS_* for a new file system.
    pub(crate) flags: u64,
    /// The same for a bind mount, which keeps what is not named.
    pub(crate) attributes: Attributes,
    /// For the mount and all below it.
    pub(crate) recursive: Attributes,
    /// MS_SHARED and its family, in order.
    pub(crate) propagation: Vec<u64>,
    /// Copy what the directory has into the tmpfs that covers it.
    pub(crate) copy_up: bool,
    /// `idmap`, or `ridmap` for the whole tree.
    pub(crate) idmap: Option<bool>,
    /// What the file system itself understands.
    pub(crate) data: Vec<String>,
}

#[derive(Clone, Copy)]
enum Meaning {
    /// MS_* bit and MOUNT_ATTR_* bit.
    Set(u64, u64),
    Clear(u64, u64),
    /// An access time mode: MS_* bit and its value in MOUNT_ATTR__ATIME.
    Atime(u64, u64),
    Propagation(u64),
    CopyUp,
    Idmap,
    Nothing,
}
use Meaning::{Atime, Clear, CopyUp, Idmap, Nothing, Propagation, Set};

/// The options of mount(8) that are not the file system's, and the specification's own. With an r
/// before it, one that has an attribute is for the whole subtree.
const TABLE: [(&str, Meaning); 46] = [
    ("defaults", Nothing),
    ("ro", Set(MS_RDONLY, ATTR_RDONLY)),
    ("rw", Clear(MS_RDONLY, ATTR_RDONLY)),
    ("nosuid", Set(MS_NOSUID, ATTR_NOSUID)),
    ("suid", Clear(MS_NOSUID, ATTR_NOSUID)),
    ("nodev", Set(MS_NODEV, ATTR_NODEV)),
    ("dev", Clear(MS_NODEV, ATTR_NODEV)),
    ("noexec", Set(MS_NOEXEC, ATTR_NOEXEC)),
    ("exec", Clear(MS_NOEXEC, ATTR_NOEXEC)),
    ("nodiratime", Set(MS_NODIRATIME, ATTR_NODIRATIME)),
    ("diratime", Clear(MS_NODIRATIME, ATTR_NODIRATIME)),
    ("nosymfollow", Set(MS_NOSYMFOLLOW, ATTR_NOSYMFOLLOW)),
    ("symfollow", Clear(MS_NOSYMFOLLOW, ATTR_NOSYMFOLLOW)),
    ("noatime", Atime(MS_NOATIME, ATTR_NOATIME)),
    ("strictatime", Atime(MS_STRICTATIME, ATTR_STRICTATIME)),
    ("relatime", Atime(MS_RELATIME, ATTR_RELATIME)),
    ("atime", Clear(MS_NOATIME, ATTR_NOATIME)),
    ("norelatime", Clear(MS_RELATIME, 0)),
    ("nostrictatime", Clear(MS_STRICTATIME, ATTR_STRICTATIME)),
    ("sync", Set(MS_SYNCHRONOUS, 0)),
    ("async", Clear(MS_SYNCHRONOUS, 0)),
    ("dirsync", Set(MS_DIRSYNC, 0)),
    ("mand", Set(MS_MANDLOCK, 0)),
    ("nomand", Clear(MS_MANDLOCK, 0)),
    ("lazytime", Set(MS_LAZYTIME, 0)),
    ("nolazytime", Clear(MS_LAZYTIME, 0)),
    ("iversion", Set(MS_I_VERSION, 0)),
    ("noiversion", Clear(MS_I_VERSION, 0)),
    ("silent", Set(MS_SILENT, 0)),
    ("loud", Clear(MS_SILENT, 0)),
    ("acl", Set(MS_POSIXACL, 0)),
    ("noacl", Clear(MS_POSIXACL, 0)),
    ("remount", Set(MS_REMOUNT, 0)),
    ("bind", Set(MS_BIND, 0)),
    ("rbind", Set(MS_BIND | MS_REC, 0)),
    ("private", Propagation(MS_PRIVATE)),
    ("rprivate", Propagation(MS_PRIVATE | MS_REC)),
    ("shared", Propagation(MS_SHARED)),
    ("rshared", Propagation(MS_SHARED | MS_REC)),
    ("slave", Propagation(MS_SLAVE)),
    ("rslave", Propagation(MS_SLAVE | MS_REC)),
    ("unbindable", Propagation(MS_UNBINDABLE)),
    ("runbindable", Propagation(MS_UNBINDABLE | MS_REC)),
    ("tmpcopyup", CopyUp),
    ("idmap", Idmap),
    ("ridmap", Idmap),
];

/// The option names, for `features`.
pub(crate) fn names() -> impl Iterator<Item = String> {
    let recursive = TABLE
        .iter()
        .filter(|(_, m)| matches!(m, Set(_, a) | Clear(_, a) if *a != 0) || matches!(m, Atime(..)))
        .map(|(name, _)| format!("r{name}"));
    TABLE.iter().map(|(name, _)| (*name).to_owned()).chain(recursive)
}

fn find(name: &str) -> Option<Meaning> {
    TABLE.iter().find(|(n, _)| *n == name).map(|(_, meaning)| *meaning)
}

impl Attributes {
    fn apply(&mut self, meaning: Meaning) -> bool {
        match meaning {
            Set(_, bit) if bit != 0 => {
                self.set |= bit;
                self.clear &= !bit;
            }
            Clear(_, bit) if bit & ATTR_ATIME != 0 => {
                self.clear |= ATTR_ATIME;
                self.set &= !bit;
            }
            Clear(_, bit) if bit != 0 => {
                self.clear |= bit;
                self.set &= !bit;
            }
            Atime(_, bits) => {
                // The kernel wants the whole mode cleared when one is set.
                self.clear |= ATTR_ATIME;
                self.set = self.set & !ATTR_ATIME | bits;
            }
            _ => return false,
        }
        true
    }
}

impl Options {
    /// Sorts `list`; what is in no table goes to the file system.
    pub(crate) fn parse(list: &[String]) -> Options {
        let mut options = Options::default();
        for name in list {
            match find(name) {
                Some(meaning @ (Set(bit, _) | Atime(bit, _))) => {
                    options.flags |= bit;
                    options.attributes.apply(meaning);
                }
                Some(meaning @ Clear(bit, _)) => {
                    options.flags &= !bit;
                    options.attributes.apply(meaning);
                }
                Some(Propagation(bits)) => options.propagation.push(bits),
                Some(CopyUp) => options.copy_up = true,
                Some(Idmap) => options.idmap = Some(name == "ridmap"),
                Some(Nothing) => {}
                None => {
                    let recursive = name.strip_prefix('r').and_then(find);
                    if !recursive.is_some_and(|meaning| options.recursive.apply(meaning)) {
                        options.data.push(name.clone());
                    }
                }
            }
        }
        options
    }

    /// Whether it is a bind mount, whatever the type says.
    pub(crate) fn is_bind(&self) -> bool {
        self.flags & MS_BIND != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &[&str]) -> Options {
        Options::parse(&list.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let o =
            parse(&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "ro", "rw"]);
        assert_eq!(o.flags, MS_NOSUID | MS_NOEXEC);
        assert_eq!(o.data, ["newinstance", "ptmxmode=0666", "mode=0620"]);
    }

    #[test]
    fn a_bind_keeps_what_is_not_named() {
        let o = parse(&["rbind", "ro", "rprivate"]);
        assert!(o.is_bind() && o.flags & MS_REC != 0);
        assert_eq!(o.attributes, Attributes { set: ATTR_RDONLY, clear: 0 });
        assert_eq!(o.propagation, [MS_PRIVATE | MS_REC]);
        assert_eq!(parse(&["bind", "rw"]).attributes, Attributes { set: 0, clear: ATTR_RDONLY });
    }

    #[test]
    fn access_time_modes_replace_each_other() {
        assert_eq!(
            parse(&["bind", "noatime", "strictatime"]).attributes,
            Attributes { set: ATTR_STRICTATIME, clear: ATTR_ATIME }
        );
        assert_eq!(parse(&["relatime"]).flags, MS_RELATIME);
    }

    #[test]
    fn an_r_in_front_is_for_the_whole_subtree() {
        let o = parse(&["rbind", "rro", "rnosuid", "rnoatime", "relatime"]);
        assert_eq!(o.recursive.set, ATTR_RDONLY | ATTR_NOSUID | ATTR_NOATIME);
        assert!(o.data.is_empty());
    }
}
