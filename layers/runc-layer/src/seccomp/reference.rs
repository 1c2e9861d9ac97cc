//! Our filters against those that libseccomp makes of the same profile, verdict by verdict.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use super::{
    arch::{Arch, X32_BIT},
    interpreter::run,
    *,
};

/// What runc does with a profile, through the C library: the program of the filter on its output.
const REFERENCE: &str = r#"
import ctypes, json, sys
lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p
class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int),
                ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
OPS = ["", "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
ACTIONS = {"KILL": 0, "KILL_THREAD": 0, "KILL_PROCESS": 0x80000000, "TRAP": 0x30000,
           "TRACE": 0x7ff00000, "ALLOW": 0x7fff0000, "LOG": 0x7ffc0000, "ERRNO": 0x50000}
def action(name, value):
    name = name.removeprefix("SCMP_ACT_")
    return ACTIONS[name] | (1 if value is None else value) * (name in ("ERRNO", "TRACE"))
profile = json.load(sys.stdin)
default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(default)))
def check(code, what):
    if code not in (0, -17): sys.exit(f"{what}: {code}")
for name in profile.get("architectures") or []:
    token = lib.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
    check(lib.seccomp_arch_add(context, ctypes.c_uint32(token)), name)
for rule in profile.get("syscalls") or []:
    act = action(rule["action"], rule.get("errnoRet"))
    if act == default: continue
    for name in rule["names"]:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number == -1: continue
        tests = [Compare(a["index"], OPS.index(a["op"].removeprefix("SCMP_CMP_")), a["value"],
                         a.get("valueTwo") or 0) for a in rule.get("args") or []]
        several = len({t.arg for t in tests}) < len(tests)
        for group in ([t] for t in tests) if several else [tests]:
            array = (Compare * len(group))(*group)
            code = lib.seccomp_rule_add_array(context, ctypes.c_uint32(act), number, len(group), array)
            check(code, name)
sys.stdout.flush()
check(lib.seccomp_export_bpf(context, 1), "export")
"#;

fn reference(json: &str) -> Option<Vec<Instruction>> {
    let mut child = Command::new("python3")
        .args(["-c", REFERENCE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().expect("a pipe").write_all(json.as_bytes()).expect("python reads");
    let output = child.wait_with_output().expect("python ends");
    let err = String::from_utf8_lossy(&output.stderr);
    if err.contains("libseccomp.so.2: cannot open") {
        return None;
    }
    assert!(output.status.success(), "{err}");
    Some(
        output
            .stdout
            .chunks_exact(8)
            .map(|c| Instruction {
                code: u16::from_ne_bytes([c[0], c[1]]),
                yes: c[2],
                no: c[3],
                value: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
            })
            .collect(),
    )
}

/// Values on both sides of all that the profile compares with.
fn interesting(profile: &Seccomp) -> Vec<u64> {
    let mut values = BTreeSet::from([0, 1, 2, u64::MAX, 1 << 32]);
    for arg in profile.syscalls.iter().flat_map(|rule| &rule.args) {
        for value in [arg.value, arg.value_two] {
            values.extend([value, value.wrapping_add(1), value.wrapping_sub(1), value | 1 << 33]);
        }
    }
    values.into_iter().collect()
}

/// Where the two disagree, but for calls that came after the profile, which we answer with ENOSYS
/// as runc does on top of the library.
fn differences(name: &str, json: &str) -> Option<Vec<String>> {
    let theirs = reference(json)?;
    let profile: Seccomp = serde_json::from_str(json).expect("a profile");
    let ours = compile(&profile).expect("compiles").expect("a filter").instructions;
    let values = interesting(&profile);
    let mut found = Vec::new();
    let mut archs = vec![Arch::NATIVE];
    for arch in &profile.architectures {
        archs.extend(Arch::from_name(arch).expect("known"));
    }
    for arch in archs {
        let known = profile.syscalls.iter().flat_map(|r| &r.names).filter_map(|n| arch.number(n));
        let newest = known.max().unwrap_or(0);
        // mips's numbers start at a round number for each of its conventions.
        let base = match arch.number("read").expect("everyone reads") {
            X32_BIT.. => X32_BIT,
            read => read / 1000 * 1000,
        };
        for number in base..base + 700 {
            for index in 0..6 {
                for value in &values {
                    let mut args = [0u64; 6];
                    args[index] = *value;
                    let one = run(&ours, arch.token(), number, args);
                    let other = run(&theirs, arch.token(), number, args);
                    if one != other && !(number > newest && one == RET_ERRNO | 38) {
                        found.push(format!(
                            "{name}: {arch:?} {number} arg{index}={value:#x}: {one:#x}, not {other:#x}"
                        ));
                    }
                }
            }
        }
    }
    found.dedup_by_key(|line| line.split(" arg").next().unwrap_or("").to_owned());
    Some(found)
}

#[test]
fn verdicts_are_libseccomps() {
    let archs = serde_json::json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    let rule = |names: &[&str], action: &str, args: serde_json::Value| serde_json::json!({"names": names, "action": action, "args": args});
    let test = |index: u32, value: u64, two: u64, op: &str| serde_json::json!({"index": index, "value": value, "valueTwo": two, "op": op});
    let mut profiles = vec![(
        "own".to_owned(),
        serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": archs,
            "syscalls": [
                rule(&["read", "write", "openat", "futex", "clock_gettime64", "nothing"], "SCMP_ACT_ALLOW", serde_json::json!([])),
                rule(&["clone"], "SCMP_ACT_ALLOW", serde_json::json!([test(0, 0x7e02_0000, 0, "SCMP_CMP_MASKED_EQ")])),
                rule(&["personality"], "SCMP_ACT_ALLOW", serde_json::json!([test(0, 0, 0, "SCMP_CMP_EQ"), test(0, 8, 0, "SCMP_CMP_EQ")])),
                rule(&["ioctl"], "SCMP_ACT_TRAP", serde_json::json!([test(1, 0x5412, 0, "SCMP_CMP_EQ"), test(2, 7, 0, "SCMP_CMP_GT")])),
                rule(&["prctl"], "SCMP_ACT_LOG", serde_json::json!([test(0, 40, 0, "SCMP_CMP_LE")])),
                rule(&["lseek"], "SCMP_ACT_KILL_PROCESS", serde_json::json!([test(1, 1 << 40, 0, "SCMP_CMP_GE")])),
                rule(&["fcntl"], "SCMP_ACT_ALLOW", serde_json::json!([test(1, 4, 0, "SCMP_CMP_NE")])),
                // Of these x86 has some twice, some only inside socketcall and ipc.
                rule(&["socket"], "SCMP_ACT_ALLOW", serde_json::json!([test(0, 40, 0, "SCMP_CMP_NE")])),
                rule(&["accept", "send", "recvmmsg", "shmat", "semop"], "SCMP_ACT_ALLOW", serde_json::json!([])),
                rule(&["setsockopt"], "SCMP_ACT_LOG", serde_json::json!([test(1, 6, 0, "SCMP_CMP_EQ"), test(2, 1, 0, "SCMP_CMP_GT")])),
                rule(&["bind"], "SCMP_ACT_TRAP", serde_json::json!([test(0, 3, 0, "SCMP_CMP_EQ"), test(0, 5, 0, "SCMP_CMP_EQ")])),
            ]
        })
        .to_string(),
    )];
    // Every architecture by itself, as far as the library knows it.
    // (Those of the other byte order it refuses to put beside the machine's.)
    let foreign =
        ["X86", "AARCH64", "ARM", "RISCV64", "PPC64LE", "MIPSEL", "MIPSEL64", "MIPSEL64N32"];
    // Calls that the library knows.
    let known = |name: &&str| {
        Arch::X8664.number(name).is_none_or(|number| number < 447)
            && *name != "sys_setaltroot"
            && Arch::X86.number(name).is_none_or(|n| n < 447)
    };
    let names: Vec<&str> =
        numbers::TABLE.iter().map(|(name, _)| *name).filter(known).step_by(2).collect();
    for arch in foreign {
        let profile = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": [format!("SCMP_ARCH_{arch}")],
            "syscalls": [
                rule(&names, "SCMP_ACT_ALLOW", serde_json::json!([])),
                rule(&["personality"], "SCMP_ACT_LOG", serde_json::json!([test(0, 8, 0, "SCMP_CMP_EQ")])),
            ]
        });
        profiles.push((arch.to_owned(), profile.to_string()));
    }
    // The profiles of real engines are theirs; a directory of them can be given.
    if let Some(dir) = std::env::var_os("STRATA_SECCOMP_PROFILES") {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let text = std::fs::read_to_string(entry.path()).expect("a file");
            profiles.push((entry.file_name().to_string_lossy().into_owned(), text));
        }
    }
    let mut found = Vec::new();
    for (name, json) in &profiles {
        match differences(name, json) {
            None => return println!("SKIP: needs python3 and libseccomp.so.2"),
            Some(list) => found.extend(list),
        }
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
