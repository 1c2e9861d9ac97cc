use super::{arch::Arch, interpreter::run, *};

fn profile(json: serde_json::Value) -> Seccomp {
    serde_json::from_value(json).expect("a profile")
}

fn filter(json: serde_json::Value) -> Vec<Instruction> {
    compile(&profile(json)).expect("compiles").expect("a filter").instructions
}

fn verdict_of(filter: &[Instruction], arch: Arch, name: &str, args: [u64; 6]) -> u32 {
    run(filter, arch.token(), arch.number(name).expect("a call"), args)
}

const NONE: [u64; 6] = [0; 6];

#[test]
fn names_are_sorted_so_that_they_are_found() {
    assert!(numbers::TABLE.is_sorted_by(|a, b| a.0 < b.0));
    assert_eq!(Arch::X8664.number("openat"), Some(257));
    assert_eq!(Arch::X86.number("socketcall"), Some(102));
    assert_eq!(Arch::X32.number("execve"), Some(X32_BIT | 520));
    assert_eq!(Arch::Aarch64.number("open"), None);
}

#[test]
fn allowed_calls_pass_others_get_the_default_and_newer_ones_enosys() {
    let f = filter(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["read", "write", "openat", "no_such_call"], "action": "SCMP_ACT_ALLOW"}]
    }));
    for arch in [Arch::X8664, Arch::X86, Arch::X32] {
        for (name, expected) in [
            ("read", RET_ALLOW),
            ("write", RET_ALLOW),
            ("openat", RET_ALLOW),
            ("getpid", RET_ERRNO | 1),
            ("statx", RET_ERRNO | 38),
        ] {
            assert_eq!(verdict_of(&f, arch, name, NONE), expected, "{arch:?} {name}");
        }
    }
    assert_eq!(run(&f, Arch::Aarch64.token(), 63, NONE), RET_KILL_THREAD, "a foreign token");
}

#[test]
fn without_x32_its_numbers_kill_but_a_tracers_skip_does_not() {
    let f = filter(serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRAP"}]
    }));
    assert_eq!(run(&f, Arch::X8664.token(), X32_BIT, NONE), RET_KILL_THREAD);
    assert_eq!(run(&f, Arch::X8664.token(), u32::MAX, NONE), RET_ALLOW);
    assert_eq!(verdict_of(&f, Arch::X8664, "read", NONE), RET_TRAP);
    assert_eq!(verdict_of(&f, Arch::X8664, "mseal", NONE), RET_ALLOW);
}

#[test]
fn every_operator_compares_all_64_bits() {
    let big = 0x1_0000_0005u64;
    type Expect = fn(u64, u64) -> bool;
    let cases: [(&str, Expect); 6] = [
        ("SCMP_CMP_EQ", |a, v| a == v),
        ("SCMP_CMP_NE", |a, v| a != v),
        ("SCMP_CMP_LT", |a, v| a < v),
        ("SCMP_CMP_LE", |a, v| a <= v),
        ("SCMP_CMP_GT", |a, v| a > v),
        ("SCMP_CMP_GE", |a, v| a >= v),
    ];
    for (op, expected) in cases {
        for value in [0, 5, big, u64::MAX] {
            let f = filter(serde_json::json!({
                "defaultAction": "SCMP_ACT_KILL_PROCESS",
                "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                              "args": [{"index": 3, "value": value, "op": op}]}]
            }));
            for arg in [0, 4, 5, 6, big - 1, big, big + 1, 0x1_0000_0000, 0x2_0000_0000, u64::MAX] {
                let got = verdict_of(&f, Arch::X8664, "clone", [9, 9, 9, arg, 9, 9]);
                let want = if expected(arg, value) { RET_ALLOW } else { RET_KILL_PROCESS };
                assert_eq!(got, want, "{arg:#x} {op} {value:#x}");
            }
        }
    }
}

#[test]
fn masked_equality_as_in_dockers_clone_rule() {
    let f = filter(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2114060288u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]
    }));
    let with = |flags: u64| verdict_of(&f, Arch::X8664, "clone", [flags, 0, 0, 0, 0, 0]);
    assert_eq!(with(0x11), RET_ALLOW);
    assert_eq!(with(0x1000_0000), RET_ERRNO | 38, "CLONE_NEWUSER");
}

#[test]
fn tests_of_one_rule_are_and_rules_are_or_and_unconditional_wins() {
    let f = filter(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["mount"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW"}
        ]
    }));
    let of = |name, a, b| verdict_of(&f, Arch::X8664, name, [a, b, 0, 0, 0, 0]);
    assert_eq!(of("socket", 1, 2), RET_ALLOW);
    assert_eq!(of("socket", 1, 3), RET_ERRNO | 1);
    assert_eq!(of("socket", 2, 3), RET_LOG);
    assert_eq!(of("personality", 0, 0), RET_ALLOW);
    assert_eq!(of("personality", 8, 0), RET_ALLOW);
    assert_eq!(of("personality", 9, 0), RET_ERRNO | 1);
    assert_eq!(of("mount", 1, 0), RET_ALLOW);
}

#[test]
fn a_profile_with_every_call_and_many_tests_still_jumps_right() {
    let names: Vec<&str> = numbers::TABLE.iter().map(|(n, _)| *n).step_by(2).collect();
    let f = filter(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW",
                      "args": [{"index": 5, "value": 7, "op": "SCMP_CMP_GT"}]}]
    }));
    for (i, (name, _)) in numbers::TABLE.iter().enumerate() {
        for arch in [Arch::X8664, Arch::X86, Arch::X32] {
            if arch.number(name).is_none() {
                continue;
            }
            // Names that share a number (arm's and x86's aliases) share its verdict.
            let number = arch.number(name);
            let ruled = names.iter().any(|n| arch.number(n) == number);
            assert!(i % 2 != 0 || ruled);
            let got = verdict_of(&f, arch, name, [0, 0, 0, 0, 0, 8]);
            assert_eq!(got, if ruled { RET_ALLOW } else { RET_ERRNO | 38 }, "{arch:?} {name}");
            assert_eq!(verdict_of(&f, arch, name, NONE), RET_ERRNO | 38, "{arch:?} {name}");
        }
    }
}

#[test]
fn x86_has_sockets_and_ipc_twice() {
    let f = filter(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["socket", "accept", "shmget"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["listen"], "action": "SCMP_ACT_TRAP",
             "args": [{"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 4, "op": "SCMP_CMP_EQ"}]}
        ]
    }));
    let of = |name, a, b| verdict_of(&f, Arch::X86, name, [a, b, 0, 0, 0, 0]);
    assert_eq!(of("socket", 2, 1), RET_ALLOW);
    assert_eq!(of("socketcall", 1, 0), RET_ALLOW, "socket");
    assert_eq!(of("socketcall", 5, 0), RET_ALLOW, "accept, which is only there");
    assert_eq!(of("socketcall", 2, 0), RET_ERRNO | 38, "bind");
    assert_eq!(of("socketcall", 4, 4), RET_TRAP, "listen: its first argument is not to be seen");
    assert_eq!(of("socketcall", 4, 5), RET_ERRNO | 38);
    assert_eq!((of("ipc", 23, 0), of("ipc", 24, 0)), (RET_ALLOW, RET_ERRNO | 38));
    assert_eq!(verdict_of(&f, Arch::X8664, "socket", NONE), RET_ALLOW);
    assert_eq!(run(&f, Arch::X8664.token(), 102, [1, 0, 0, 0, 0, 0]), RET_ERRNO | 38);
}

#[test]
fn what_is_not_understood_is_refused_with_its_field() {
    for (json, field) in [
        (serde_json::json!({"defaultAction": "SCMP_ACT_MAYBE"}), "defaultAction"),
        (serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "defaultAction"),
        (
            serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["Z80"]}),
            "architectures",
        ),
        (serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["F"]}), "flags"),
        (
            serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
            "syscalls[0].args",
        ),
        (
            serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}),
            "syscalls[0]",
        ),
    ] {
        let error = compile(&profile(json)).expect_err(field).to_string();
        assert!(error.contains(&format!("linux.seccomp.{field}")), "{error}");
    }
}
