//! OCI seccomp profiles compiled to classic BPF.
//!
//! The meaning is that of runc with libseccomp (runtime-spec, "Seccomp"): a rule without argument
//! tests beats one with; a rule whose verdict is the default's is no rule; calls newer than any
//! that the profile names get ENOSYS instead of a refusing default, so that programs fall back.
//! Numbers are merged to ranges and found by a balanced tree, not by a list.

mod arch;
mod assembler;
#[cfg(test)]
mod interpreter;
mod multiplexed;
mod numbers;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use arch::{Arch, X32_BIT};
use assembler::{Assembler, Label, Test};

use crate::{
    Error, Result,
    spec::{Seccomp, SeccompArg, SeccompRule},
    sys::seccomp::{Instruction, NEW_LISTENER},
};

/// A filter ready to be loaded.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) instructions: Vec<Instruction>,
    /// SECCOMP_FILTER_FLAG_*, the listener's included when a rule notifies.
    pub(crate) flags: u64,
}

impl Filter {
    /// Whether loading answers a listener descriptor.
    pub(crate) fn notifies(&self) -> bool {
        self.flags & NEW_LISTENER != 0
    }
}

/// The kernel's limit (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// The actions by their names in profiles.
pub(crate) const ACTIONS: [(&str, u32); 9] = [
    ("SCMP_ACT_KILL", RET_KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", RET_KILL_PROCESS),
    ("SCMP_ACT_KILL_THREAD", RET_KILL_THREAD),
    ("SCMP_ACT_TRAP", RET_TRAP),
    ("SCMP_ACT_ERRNO", RET_ERRNO),
    ("SCMP_ACT_TRACE", RET_TRACE),
    ("SCMP_ACT_ALLOW", RET_ALLOW),
    ("SCMP_ACT_LOG", RET_LOG),
    ("SCMP_ACT_NOTIFY", RET_NOTIFY),
];

/// The flags by their names in profiles.
pub(crate) const FLAGS: [(&str, u64); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 1),
    ("SECCOMP_FILTER_FLAG_LOG", 2),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 32),
];

/// The comparisons by their names in profiles.
pub(crate) const OPERATORS: [(&str, Operator); 7] = [
    ("SCMP_CMP_NE", Operator::NotEqual),
    ("SCMP_CMP_LT", Operator::Less),
    ("SCMP_CMP_LE", Operator::LessEqual),
    ("SCMP_CMP_EQ", Operator::Equal),
    ("SCMP_CMP_GE", Operator::GreaterEqual),
    ("SCMP_CMP_GT", Operator::Greater),
    ("SCMP_CMP_MASKED_EQ", Operator::MaskedEqual),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    NotEqual,
    Less,
    LessEqual,
    Equal,
    GreaterEqual,
    Greater,
    MaskedEqual,
}

/// The architectures that a profile may name.
pub(crate) fn architectures() -> impl Iterator<Item = &'static str> {
    Arch::names()
}

fn refuse(field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Spec {
        field: format!("config.json: linux.seccomp.{}", field.into()),
        reason: reason.into(),
    }
}

fn verdict(field: &str, action: &str, errno: Option<u32>) -> Result<u32> {
    let ret =
        ACTIONS.iter().find(|(name, _)| *name == action).map(|(_, ret)| *ret).ok_or_else(|| {
            refuse(field, format!("string {action} is not a valid action for seccomp"))
        })?;
    Ok(match ret {
        RET_ERRNO | RET_TRACE => ret | errno.unwrap_or(libc::EPERM as u32) & 0xffff,
        ret => ret,
    })
}

/// One argument test.
#[derive(Clone, Copy, Debug)]
struct Check {
    index: u32,
    operator: Operator,
    value: u64,
    second: u64,
}

impl Check {
    fn new(field: &str, arg: &SeccompArg) -> Result<Check> {
        let operator =
            OPERATORS.iter().find(|(name, _)| *name == arg.op).map(|(_, op)| *op).ok_or_else(
                || refuse(field, format!("string {} is not a valid operator for seccomp", arg.op)),
            )?;
        if arg.index > 5 {
            return Err(refuse(field, format!("argument index {} is above 5", arg.index)));
        }
        Ok(Check { index: arg.index, operator, value: arg.value, second: arg.value_two })
    }
}

/// All that a profile says of one call.
#[derive(Clone, Debug, Default)]
struct Verdicts {
    unconditional: Option<u32>,
    conditional: Vec<(Vec<Check>, u32)>,
}

/// Compiles `profile`; `None` when it filters nothing.
///
/// # Errors
///
/// An unknown action, operator, architecture or flag, or a profile that needs more instructions
/// than the kernel takes.
pub(crate) fn compile(profile: &Seccomp) -> Result<Option<Filter>> {
    let default = verdict("defaultAction", &profile.default_action, profile.default_errno_ret)?;
    if default == RET_NOTIFY {
        return Err(refuse("defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action"));
    }
    let mut flags = 0;
    for name in &profile.flags {
        flags |= FLAGS
            .iter()
            .find(|(flag, _)| flag == name)
            .map(|(_, bit)| *bit)
            .ok_or_else(|| refuse("flags", format!("seccomp flag {name} is not known")))?;
    }
    let mut arches = vec![Arch::NATIVE];
    for name in &profile.architectures {
        let arch = Arch::from_name(name).map_err(|()| {
            refuse("architectures", format!("string {name} is not a valid arch for seccomp"))
        })?;
        if let Some(arch) = arch.filter(|arch| !arches.contains(arch)) {
            arches.push(arch);
        }
    }
    let rules = profile
        .syscalls
        .iter()
        .enumerate()
        .map(|(i, rule)| Rule::new(i, rule))
        .collect::<Result<Vec<_>>>()?;
    if rules.iter().any(|rule| rule.verdict == RET_NOTIFY) {
        flags |= NEW_LISTENER;
        // The kernel refuses a listener together with TSYNC.
        flags &= !1;
    }
    let unknown_is_enosys = !matches!(default, RET_ALLOW | RET_LOG)
        && profile.default_errno_ret != Some(libc::ENOSYS as u32);
    let mut code = Assembler::default();
    let mut tokens: Vec<(u32, Label)> = Vec::new();
    for arch in arches.iter().filter(|a| **a != Arch::X32) {
        let mut block = compile_arch(&mut code, *arch, &rules, default, unknown_is_enosys);
        if *arch == Arch::X8664 {
            let above = if arches.contains(&Arch::X32) {
                compile_arch(&mut code, Arch::X32, &rules, default, unknown_is_enosys)
            } else {
                // -1 is what a tracer writes to skip a call; anything else is another ABI.
                let (skip, kill) = (code.ret(default), code.ret(RET_KILL_THREAD));
                code.branch(Test::Equal, u32::MAX, skip, kill)
            };
            block = code.branch(Test::GreaterEqual, X32_BIT, above, block);
        }
        let entry = code.load(OFFSET_NUMBER, block);
        tokens.push((arch.token(), entry));
    }
    let mut next = code.ret(RET_KILL_THREAD);
    for (token, entry) in tokens.into_iter().rev() {
        next = code.branch(Test::Equal, token, entry, next);
    }
    let entry = code.load(OFFSET_ARCH, next);
    let instructions = code.finish(entry);
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(refuse(
            "syscalls",
            format!(
                "need {} instructions, the kernel takes {MAX_INSTRUCTIONS}",
                instructions.len()
            ),
        ));
    }
    Ok(Some(Filter { instructions, flags }))
}

/// A rule of the profile with its strings understood.
struct Rule<'a> {
    names: &'a [String],
    verdict: u32,
    /// Alternatives; each is a conjunction. Empty means unconditional.
    tests: Vec<Vec<Check>>,
}

impl<'a> Rule<'a> {
    fn new(i: usize, rule: &'a SeccompRule) -> Result<Rule<'a>> {
        let verdict = verdict(&format!("syscalls[{i}].action"), &rule.action, rule.errno_ret)?;
        if verdict == RET_NOTIFY && rule.names.iter().any(|n| n == "write") {
            return Err(refuse(
                format!("syscalls[{i}]"),
                "SCMP_ACT_NOTIFY cannot be used for the write syscall",
            ));
        }
        let field = format!("syscalls[{i}].args");
        let checks =
            rule.args.iter().map(|arg| Check::new(&field, arg)).collect::<Result<Vec<_>>>()?;
        let repeated =
            checks.iter().enumerate().any(|(n, c)| checks[..n].iter().any(|d| d.index == c.index));
        let tests = match checks.len() {
            0 => Vec::new(),
            // Two tests of one argument are alternatives, as libseccomp knows only one each.
            _ if repeated => checks.into_iter().map(|c| vec![c]).collect(),
            _ => vec![checks],
        };
        Ok(Rule { names: &rule.names, verdict, tests })
    }
}

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// What a range of numbers leads to.
#[derive(Clone, PartialEq, Eq)]
enum Target {
    Return(u32),
    Tests(usize),
}

/// A rule for one call of an architecture.
struct Named<'a> {
    number: u32,
    rule: &'a Rule<'a>,
    /// The number is that of a call that has the named one inside, where its first argument is this.
    inner: Option<u32>,
}

impl Named<'_> {
    fn add_to(&self, verdicts: &mut Verdicts) {
        let Rule { verdict, tests, .. } = self.rule;
        let Some(which) = self.inner else {
            if tests.is_empty() {
                verdicts.unconditional.get_or_insert(*verdict);
            }
            verdicts.conditional.extend(tests.iter().map(|t| (t.clone(), *verdict)));
            return;
        };
        // libseccomp puts this test in the place of the first argument's, and keeps the others.
        let first = Check { index: 0, operator: Operator::Equal, value: which.into(), second: 0 };
        let none = [Vec::new()];
        let alternatives = if tests.is_empty() { &none[..] } else { tests };
        for tests in alternatives {
            let others = tests.iter().filter(|check| check.index != 0).copied();
            let tests: Vec<Check> = [first].into_iter().chain(others).collect();
            verdicts.conditional.push((tests, *verdict));
        }
    }
}

fn compile_arch(
    code: &mut Assembler,
    arch: Arch,
    rules: &[Rule<'_>],
    default: u32,
    unknown_is_enosys: bool,
) -> Label {
    let mut newest = 0;
    let mut named: Vec<Named<'_>> = Vec::new();
    for rule in rules {
        for name in rule.names {
            if let Some(number) = arch.number(name) {
                newest = newest.max(number);
                named.push(Named { number, rule, inner: None });
            }
            if let Some((number, which)) = multiplexed::inside(arch, name) {
                named.push(Named { number, rule, inner: Some(which) });
            }
        }
    }
    // What has the default's verdict is no rule.
    named.retain(|named| named.rule.verdict != default);
    // Stable: the rules of one call stay in the profile's order.
    named.sort_by_key(|named| named.number);
    let calls: Vec<(u32, Verdicts)> = named
        .chunk_by(|a, b| a.number == b.number)
        .map(|list| {
            let mut verdicts = Verdicts::default();
            list.iter().for_each(|named| named.add_to(&mut verdicts));
            (list[0].number, verdicts)
        })
        .collect();
    let mut ranges: Vec<(u32, Target)> = Vec::new();
    let mut add = |start: u32, target: Target| {
        if ranges.last().is_none_or(|(_, last)| *last != target) {
            ranges.push((start, target));
        }
    };
    let mut next = 0;
    add(0, Target::Return(default));
    for (i, (number, verdicts)) in calls.iter().enumerate() {
        if *number > next {
            add(next, Target::Return(default));
        }
        add(*number, verdicts.unconditional.map_or(Target::Tests(i), Target::Return));
        next = *number + 1;
    }
    add(next, Target::Return(default));
    if unknown_is_enosys {
        add(newest + 1, Target::Return(RET_ERRNO | libc::ENOSYS as u32));
    }
    // A call with number 0 replaces the range that was opened for it.
    ranges.dedup_by(|later, earlier| {
        later.0 == earlier.0 && {
            earlier.1 = later.1.clone();
            true
        }
    });
    tree(code, arch, &ranges, &calls, default)
}

fn tree(
    code: &mut Assembler,
    arch: Arch,
    ranges: &[(u32, Target)],
    calls: &[(u32, Verdicts)],
    default: u32,
) -> Label {
    match ranges {
        [] => code.ret(default),
        [(_, Target::Return(verdict))] => code.ret(*verdict),
        [(_, Target::Tests(i))] => tests(code, arch, &calls[*i].1, default),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let above = tree(code, arch, high, calls, default);
            let below = tree(code, arch, low, calls, default);
            code.branch(Test::GreaterEqual, high[0].0, above, below)
        }
    }
}

fn tests(code: &mut Assembler, arch: Arch, verdicts: &Verdicts, default: u32) -> Label {
    let mut next = code.ret(default);
    for (checks, verdict) in verdicts.conditional.iter().rev() {
        let mut yes = code.ret(*verdict);
        for check in checks.iter().rev() {
            yes = compare(code, arch, check, yes, next);
        }
        next = yes;
    }
    next
}

/// Tests one argument: the high half and, where that does not decide, the low one.
fn compare(code: &mut Assembler, arch: Arch, check: &Check, yes: Label, no: Label) -> Label {
    let (low_at, high_at) = if cfg!(target_endian = "little") { (0, 4) } else { (4, 0) };
    let at = OFFSET_ARGS + 8 * check.index;
    let halves = |v: u64| ((v >> 32) as u32, v as u32);
    let (high, low) = halves(check.value);
    if check.operator == Operator::MaskedEqual {
        let (high_value, low_value) = halves(check.second & check.value);
        let equal = code.branch(Test::Equal, low_value, yes, no);
        let mask = code.and(low, equal);
        let low_half = code.load(at + low_at, mask);
        if !arch.wide() {
            return low_half;
        }
        let equal = code.branch(Test::Equal, high_value, low_half, no);
        let mask = code.and(high, equal);
        return code.load(at + high_at, mask);
    }
    let (test, yes, no) = match check.operator {
        Operator::Equal => (Test::Equal, yes, no),
        Operator::NotEqual => (Test::Equal, no, yes),
        Operator::Greater => (Test::Greater, yes, no),
        Operator::LessEqual => (Test::Greater, no, yes),
        Operator::GreaterEqual => (Test::GreaterEqual, yes, no),
        Operator::Less | Operator::MaskedEqual => (Test::GreaterEqual, no, yes),
    };
    let low_test = code.branch(test, low, yes, no);
    let low_half = code.load(at + low_at, low_test);
    if !arch.wide() {
        return low_half;
    }
    let undecided = code.branch(Test::Equal, high, low_half, no);
    let high_test = match test {
        Test::Equal => undecided,
        Test::Greater | Test::GreaterEqual => code.branch(Test::Greater, high, yes, undecided),
    };
    code.load(at + high_at, high_test)
}
