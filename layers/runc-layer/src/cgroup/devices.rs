//! Device rules: what the profile says, folded, then as v1's lines or as v2's eBPF program.

use std::path::Path;

use super::{c_path, write};
use crate::{Error, Result, error::Context, spec::DeviceRule, sys::file};

const READ: u32 = 2;
const WRITE: u32 = 4;
const MKNOD: u32 = 1;

/// One rule that is not about everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `c` or `b`; `None` is both.
    kind: Option<char>,
    /// `None` is every number.
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// A default and the exceptions from it, later ones winning.
#[derive(Debug)]
pub(super) struct Policy {
    allow_by_default: bool,
    rules: Vec<Rule>,
}

/// The devices that every container may use (runc's AllowedDevices): any node may be made, the
/// specification's default devices and terminals may be opened.
const DEFAULTS: [(char, Option<u32>, Option<u32>, u32); 11] = [
    ('c', None, None, MKNOD),
    ('b', None, None, MKNOD),
    ('c', Some(1), Some(3), READ | WRITE | MKNOD),
    ('c', Some(1), Some(8), READ | WRITE | MKNOD),
    ('c', Some(1), Some(7), READ | WRITE | MKNOD),
    ('c', Some(5), Some(0), READ | WRITE | MKNOD),
    ('c', Some(1), Some(5), READ | WRITE | MKNOD),
    ('c', Some(1), Some(9), READ | WRITE | MKNOD),
    ('c', Some(136), None, READ | WRITE | MKNOD),
    ('c', Some(5), Some(1), READ | WRITE | MKNOD),
    ('c', Some(5), Some(2), READ | WRITE | MKNOD),
];

impl Policy {
    /// Folds `rules` on a default of refusing everything.
    ///
    /// # Errors
    ///
    /// A type other than a, b, c and nothing, or an access other than r, w and m.
    pub(super) fn new(rules: &[DeviceRule]) -> Result<Policy> {
        let mut policy = Policy { allow_by_default: false, rules: Vec::new() };
        for (i, rule) in rules.iter().enumerate() {
            let refuse = |what: &str, value: &str| Error::Spec {
                field: format!("config.json: linux.resources.devices[{i}].{what}"),
                reason: format!("{value:?} is not valid"),
            };
            let mut access = 0;
            for c in rule.access.chars() {
                access |= match c {
                    'r' => READ,
                    'w' => WRITE,
                    'm' => MKNOD,
                    _ => return Err(refuse("access", &rule.access)),
                };
            }
            let kind = match rule.kind.as_str() {
                "" | "a" => {
                    policy = Policy { allow_by_default: rule.allow, rules: Vec::new() };
                    continue;
                }
                "c" | "u" => 'c',
                "b" => 'b',
                other => return Err(refuse("type", other)),
            };
            // -1 is the wildcard of callers that cannot leave a number out.
            let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
            policy.rules.push(Rule {
                allow: rule.allow,
                kind: Some(kind),
                major: number(rule.major),
                minor: number(rule.minor),
                access,
            });
        }
        if !policy.allow_by_default {
            policy.rules.extend(DEFAULTS.iter().map(|&(kind, major, minor, access)| Rule {
                allow: true,
                kind: Some(kind),
                major,
                minor,
                access,
            }));
        }
        Ok(policy)
    }

    /// Whether nothing is refused.
    pub(super) fn allows_all(&self) -> bool {
        self.allow_by_default && self.rules.is_empty()
    }

    /// What a policy that refuses by default allows, as systemd names it (DeviceAllow= in
    /// systemd.resource-control(5)), with the access. Left out is what it has no name for: every
    /// major with one minor, and exceptions from a wildcard.
    pub(super) fn allowed(&self) -> Option<Vec<(String, String)>> {
        if self.allow_by_default {
            return None;
        }
        let mut list: Vec<Rule> = Vec::new();
        for rule in &self.rules {
            let same = |r: &Rule| (r.kind, r.major, r.minor) == (rule.kind, rule.major, rule.minor);
            match list.iter_mut().find(|r| same(r)) {
                Some(found) if rule.allow => found.access |= rule.access,
                Some(found) => found.access &= !rule.access,
                None if rule.allow => list.push(*rule),
                None => {}
            }
        }
        let named = |rule: &Rule| {
            let kind = if rule.kind? == 'b' { "block" } else { "char" };
            let path = match (rule.major, rule.minor) {
                (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
                (Some(major), None) => format!("{kind}-{major}"),
                (None, None) => format!("{kind}-*"),
                (None, Some(_)) => return None,
            };
            Some((path, rule.letters()))
        };
        Some(list.iter().filter(|rule| rule.access != 0).filter_map(named).collect())
    }

    /// The policy as a program of type BPF_PROG_TYPE_CGROUP_DEVICE.
    ///
    /// The context (struct bpf_cgroup_dev_ctx) has access << 16 | type, major and minor; the
    /// program answers 1 to allow. Rules are tried from the last to the first.
    pub(super) fn program(&self) -> Vec<u64> {
        const LOAD32: u8 = 0x61;
        const MOVE: u8 = 0xbf;
        const AND_IMMEDIATE: u8 = 0x57;
        const SHIFT_RIGHT: u8 = 0x77;
        const MOVE_IMMEDIATE: u8 = 0xb7;
        const JUMP_NOT_EQUAL: u8 = 0x55;
        const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
        const EXIT: u8 = 0x95;
        fn op(code: u8, dst: u8, src: u8, off: i16, imm: u32) -> u64 {
            u64::from(code)
                | u64::from(src << 4 | dst) << 8
                | u64::from(off as u16) << 16
                | u64::from(imm) << 32
        }
        // r2 type, r3 access, r4 major, r5 minor; r1 is scratch after the loads.
        let mut code = vec![
            op(LOAD32, 2, 1, 0, 0),
            op(MOVE, 3, 2, 0, 0),
            op(AND_IMMEDIATE, 2, 0, 0, 0xffff),
            op(SHIFT_RIGHT, 3, 0, 0, 16),
            op(LOAD32, 4, 1, 4, 0),
            op(LOAD32, 5, 1, 8, 0),
        ];
        for rule in self.rules.iter().rev() {
            let mut block: Vec<(u8, u8, u8, u32)> = Vec::new();
            if let Some(kind) = rule.kind {
                block.push((JUMP_NOT_EQUAL, 2, 0, if kind == 'b' { 1 } else { 2 }));
            }
            if rule.access != READ | WRITE | MKNOD {
                block.push((MOVE, 1, 3, 0));
                block.push((AND_IMMEDIATE, 1, 0, rule.access));
                block.push(if rule.allow {
                    // Allowed when nothing else is asked.
                    (JUMP_NOT_EQUAL_REGISTER, 1, 3, 0)
                } else {
                    // Refused when any of it is asked: skip when none is. (JEQ imm 0)
                    (0x15, 1, 0, 0)
                });
            }
            if let Some(major) = rule.major {
                block.push((JUMP_NOT_EQUAL, 4, 0, major));
            }
            if let Some(minor) = rule.minor {
                block.push((JUMP_NOT_EQUAL, 5, 0, minor));
            }
            block.push((MOVE_IMMEDIATE, 0, 0, rule.allow.into()));
            block.push((EXIT, 0, 0, 0));
            let len = block.len();
            for (i, (c, dst, src, imm)) in block.into_iter().enumerate() {
                let jumps = matches!(c, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER | 0x15);
                let off = if jumps { (len - i - 1) as i16 } else { 0 };
                code.push(op(c, dst, src, off, imm));
            }
        }
        code.push(op(MOVE_IMMEDIATE, 0, 0, 0, self.allow_by_default.into()));
        code.push(op(EXIT, 0, 0, 0, 0));
        code
    }
}

impl Rule {
    /// The line of devices.allow and devices.deny (kernel documentation, cgroup-v1/devices).
    fn line(&self) -> String {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let kind = self.kind.unwrap_or('a');
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.letters())
    }

    fn letters(&self) -> String {
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].into_iter();
        letters.filter(|(bit, _)| self.access & bit != 0).map(|(_, letter)| letter).collect()
    }
}

/// Writes `policy` to the v1 devices cgroup `dir`.
pub(super) fn write_v1(dir: &Path, policy: &Policy) -> Result<()> {
    use std::os::fd::AsFd;
    if policy.allow_by_default {
        write(dir, "devices.allow", "a")?;
    } else {
        write(dir, "devices.deny", "a")?;
    }
    let open = |name: &str| {
        let path = dir.join(name);
        file::open(&c_path(&path)?, libc::O_WRONLY).context(|| format!("open {}", path.display()))
    };
    let mut files = [None, None];
    for rule in policy.rules.iter().filter(|r| r.access != 0) {
        let name = if rule.allow { "devices.allow" } else { "devices.deny" };
        let slot = &mut files[usize::from(rule.allow)];
        if slot.is_none() {
            *slot = Some(open(name)?);
        }
        if let Some(fd) = slot {
            let line = rule.line();
            file::write(fd.as_fd(), line.as_bytes())
                .context(|| format!("failed to write {line:?} to {name} of {}", dir.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: &str, major: Option<i64>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind: kind.into(), major, minor: None, access: access.into() }
    }

    #[test]
    fn a_rule_about_everything_forgets_what_was_before() {
        let policy = Policy::new(&[
            rule(true, "c", Some(10), "rwm"),
            rule(false, "", None, "rwm"),
            rule(true, "b", Some(8), "r"),
        ])
        .expect("a policy");
        assert_eq!(policy.rules[0].line(), "b 8:* r");
        assert_eq!(policy.rules.len(), 1 + DEFAULTS.len());
        let privileged = Policy::new(&[rule(true, "a", None, "rwm")]).expect("a policy");
        assert!(privileged.allow_by_default && privileged.rules.is_empty());
    }

    #[test]
    fn systemd_is_told_what_is_allowed() {
        let device = |allow, kind: &str, major, minor, access: &str| DeviceRule {
            minor,
            ..rule(allow, kind, major, access)
        };
        let policy = Policy::new(&[
            device(true, "b", Some(8), None, "rwm"),
            device(false, "b", Some(8), None, "w"),
            device(true, "c", Some(10), Some(200), "r"),
            device(true, "c", Some(10), Some(200), "w"),
            device(true, "c", None, Some(7), "r"),
            device(true, "c", Some(4), Some(1), "r"),
            device(false, "c", Some(4), Some(1), "rw"),
        ]);
        let allowed = policy.expect("a policy").allowed().expect("a list");
        let texts: Vec<String> = allowed.iter().map(|(path, a)| format!("{path} {a}")).collect();
        assert_eq!(texts[..4], ["block-8 rm", "/dev/char/10:200 rw", "char-* m", "block-* m"]);
        assert!(texts.contains(&"/dev/char/1:3 rwm".to_owned()));
        assert!(texts.contains(&"char-136 rwm".to_owned()), "terminals");
        let open = Policy::new(&[rule(true, "a", None, "rwm")]).expect("a policy");
        assert!(open.allowed().is_none() && open.allows_all());
    }

    #[test]
    fn what_is_no_type_and_no_access_is_refused() {
        assert!(Policy::new(&[rule(true, "x", None, "r")]).is_err());
        assert!(Policy::new(&[rule(true, "c", None, "rx")]).is_err());
    }

    /// Runs the few instructions that `program` uses.
    fn allowed(code: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let mut r = [0u64; 11];
        let context = [access << 16 | kind, major, minor];
        let mut at = 0usize;
        loop {
            let i = code[at];
            at += 1;
            let (dst, src) = ((i >> 8 & 15) as usize, (i >> 12 & 15) as usize);
            let (off, imm) = ((i >> 16) as u16 as usize, i >> 32);
            match i as u8 {
                0x61 => r[dst] = context[off / 4].into(),
                0xbf => r[dst] = r[src],
                0x57 => r[dst] &= imm,
                0x77 => r[dst] >>= imm,
                0xb7 => r[dst] = imm,
                0x55 => at += if r[dst] != imm { off } else { 0 },
                0x15 => at += if r[dst] == imm { off } else { 0 },
                0x5d => at += if r[dst] != r[src] { off } else { 0 },
                0x95 => return r[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_answers_as_the_rules_say() {
        let code = Policy::new(&[
            rule(false, "a", None, "rwm"),
            rule(true, "b", Some(8), "r"),
            rule(false, "c", Some(1), "w"),
        ])
        .expect("a policy")
        .program();
        assert!(allowed(&code, 1, READ, 8, 3));
        assert!(!allowed(&code, 1, READ | WRITE, 8, 3));
        assert!(!allowed(&code, 1, READ, 9, 0));
        assert!(allowed(&code, 2, MKNOD, 77, 1), "any node may be made");
        assert!(allowed(&code, 2, READ | WRITE, 1, 3), "/dev/null is a default");
        assert!(!allowed(&code, 2, WRITE, 1, 11));
    }
}
