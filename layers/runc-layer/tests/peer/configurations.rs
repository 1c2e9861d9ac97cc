//! Configurations that cannot be run.

use crate::compare;

#[test]
fn documents() {
    compare(
        "docs",
        "
        $ mkdir empty; $R run -b empty {id}
        $ $R run -b nosuch {id}
        !field $ mkdir broken; echo '{' >broken/config.json; $R run -b broken {id}
        !field $ echo '[]' >broken/config.json; $R run -b broken {id}
        !field $ echo '{}' >broken/config.json; $R run -b broken {id}
        !field $ echo '{\"ociVersion\":7}' >broken/config.json; $R run -b broken {id}
        !field $ echo >broken/config.json; $R run -b broken {id}
        !field $ echo 'x' >broken/config.json; $R run -b broken {id}
        !field $ rm broken/config.json; mkdir broken/config.json; $R run -b broken {id}
        config /root null
        !field run {id}
        config /root/path \"nosuch\"
        !field run {id}
        config /root/path \"\"
        !field run {id}
        config /root/path \"config.json\"
        !field run {id}
        config /root/path \"/\"
        !field run {id}
        config /process null
        !field run {id}
        !field create {id}
        config /process/args []
        !field run {id}
        config /process/cwd \"relative\"
        !field run {id}
        config /process/cwd \"\"
        !field run {id}
        config /process/rlimits/0/type \"RLIMIT_X\"
        !field run {id}
        config /process/capabilities/bounding [\"CAP_X\"] /process/args [\"true\"]
        run {id}
        config /ociVersion \"2.0.0\" /process/args [\"true\"]
        !newer run {id}
        config /ociVersion \"\" /process/args [\"true\"]
        !newer run {id}
        config /ociVersion \"x\" /process/args [\"true\"]
        !newer run {id}
    ",
    );
}

#[test]
fn sections() {
    compare(
        "sections",
        "
        config /linux/namespaces/0/type \"nets\"
        !field run {id}
        config /linux/namespaces/1/type \"pid\"
        !field run {id}
        config /linux/namespaces/0/path \"/nosuch\"
        !leftovers run {id}
        config /linux/namespaces/0/path \"/etc/passwd\"
        !leftovers run {id}
        config /linux/namespaces/0/path \"/proc/self/ns/net\"
        !leftovers run {id}
        config /linux/uidMappings [{\"containerID\":0,\"hostID\":0,\"size\":1}] /process/args [\"true\"]
        !newer run {id}
        config /linux/sysctl {\"vm.swappiness\":\"1\"}
        !field run {id}
        config /linux/sysctl {\"kernel.hostname\":\"x\"}
        !field run {id}
        config /linux/sysctl {\"net.nosuch\":\"x\"}
        !early run {id}
        config /linux/seccomp {\"defaultAction\":\"NO\"}
        !field run {id}
        config /linux/seccomp {\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"X\"]}
        !field run {id}
        config /linux/seccomp {\"defaultAction\":\"SCMP_ACT_NOTIFY\"}
        !field run {id}
        config /linux/resources/devices [{\"allow\":true,\"type\":\"x\"}]
        !field run {id}
        config /linux/resources/memory {\"limit\":1}
        !oom run {id}
        config /linux/resources/memory {\"limit\":1000}
        !oom run {id}
        config /linux/resources/cpu {\"quota\":1}
        !early run {id}
        config /linux/resources/cpu {\"cpus\":\"999\"}
        !early run {id}
        config /linux/resources/pids {\"limit\":0} /process/args [\"true\"]
        run {id}
        config /linux/rootfsPropagation \"sideways\"
        !field run {id}
        config /linux/intelRdt {\"closID\":\"x\"} /process/args [\"true\"]
        run {id}
        config /linux/intelRdt {} /process/args [\"true\"]
        run {id}
        config /linux/devices [{\"path\":\"relative\",\"type\":\"c\",\"major\":1,\"minor\":3}] /process/args [\"true\"]
        !strict run {id}
        config /linux/devices [{\"path\":\"/dev/x\",\"type\":\"q\",\"major\":1,\"minor\":3}]
        !field run {id}
        config /process/apparmorProfile \"nosuch\"
        !early run {id}
        config /process/selinuxLabel \"a:b:c:d\"
        !field run {id}
        config /linux/mountLabel \"x\" /process/args [\"true\"]
        !mount run {id}
        config /linux/maskedPaths [] /linux/readonlyPaths [] /linux/namespaces [{\"type\":\"pid\"}]
        !field run {id}
        config /linux/namespaces [{\"type\":\"pid\"}]
        !field run {id}
        config /linux/cgroupsPath \"/\"
        ? create {id}
        = delete -f {id}
    ",
    );
}

#[test]
fn mounts() {
    compare("mounts", "
        config /mounts/6 {\"destination\":\"/x\",\"type\":\"bind\",\"source\":\"/nosuch\",\"options\":[\"bind\"]}
        run {id}
        config /mounts/6 {\"destination\":\"/x\",\"type\":\"bind\",\"source\":\"nosuch\",\"options\":[\"rbind\"]}
        run {id}
        config /mounts/6 {\"destination\":\"/x\",\"type\":\"nosuch\",\"source\":\"x\"}
        !mount run {id}
        config /mounts/6 {\"destination\":\"/x\",\"type\":\"tmpfs\",\"source\":\"x\",\"options\":[\"size=x\"]}
        !mount run {id}
        config /mounts/6 {\"destination\":\"/x\",\"type\":\"tmpfs\",\"source\":\"x\",\"options\":[\"nosuch\"]}
        !mount run {id}
        config /mounts/6 {\"destination\":\"/proc/x\",\"type\":\"tmpfs\",\"source\":\"x\"}
        !early run {id}
        config /mounts/6 {\"destination\":\"/proc\",\"type\":\"tmpfs\",\"source\":\"x\"}
        !early run {id}
        config /mounts/6 {\"destination\":\"/proc\",\"type\":\"bind\",\"source\":\"/tmp\",\"options\":[\"bind\"]}
        !early run {id}
        config /mounts/6 {\"destination\":\"\",\"type\":\"tmpfs\",\"source\":\"x\"}
        !early run {id}
        config /mounts/6 {\"destination\":\"/etc/plain\",\"type\":\"tmpfs\",\"source\":\"x\"}
        !mount run {id}
        config /mounts/6 {\"destination\":\"/x\",\"type\":\"bind\"}
        !early run {id}
        config /mounts/6 {\"destination\":\"/x\",\"type\":\"bind\",\"source\":\"/tmp\"} /process/args [\"true\"]
        !bind run {id}
    ");
}

#[test]
fn programs() {
    compare(
        "programs",
        "
        config /process/args [\"nosuch\"]
        run {id}
        config /process/args [\"/nosuch\"]
        run {id}
        config /process/args [\"/etc\"]
        !directory run {id}
        config /process/args [\"/etc/plain\"]
        run {id}
        config /process/args [\"../bin/nosuch\"]
        run {id}
        config /process/args [\"\"]
        run {id}
        create {id}
        config /process/cwd \"/nosuch\" /process/args [\"true\"]
        run {id}
        config /process/cwd \"/etc/plain\" /process/args [\"true\"]
        !early run {id}
        config /process/user {\"uid\":4294967295,\"gid\":0} /process/args [\"true\"]
        !ids run {id}
        config /process/args [\"sh\",\"-c\",\"exit\\u00207\"]
        run {id}
        config /process/args [\"sh\",\"-c\",\"kill\\u0020-9\\u0020$$\"]
        run {id}
        config /process/args [\"sh\",\"-c\",\"echo\\u0020out;echo\\u0020err>&2\"]
        run {id}
        # create --pid-file /nosuch/pid {id}
        run --console-socket /nosuch {id}
        run -d --console-socket /nosuch {id}
        create --console-socket /nosuch {id}
        !descriptors run --preserve-fds 5 {id}
        run --preserve-fds -1 {id}
        config /process/terminal true /process/args [\"true\"]
        !terminal run {id}
        = delete -f {id}
        run -d {id}
        create {id}
        create --console-socket /nosuch {id}
        create --console-socket config.json {id}
    ",
    );
}

#[test]
fn hooks() {
    let mut table = String::new();
    for moment in
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    {
        for hook in [
            r#"{"path":"/bin/sh","args":["sh","-c","exit\u00203"]}"#,
            r#"{"path":"/bin/sh","args":["sh","-c","echo\u0020bad\u0020>&2;exit\u00203"]}"#,
            r#"{"path":"/bin/sh","args":["sh","-c","kill\u0020-9\u0020$$"]}"#,
            r#"{"path":"/nosuch"}"#,
            r#"{"path":"relative"}"#,
            r#"{"path":"/bin/sh","timeout":0}"#,
            r#"{"path":"/bin/sh","args":["sh","-c","sleep\u00209"],"timeout":1}"#,
        ] {
            let strict = hook.contains("relative") || hook.contains(":0");
            let mark = if strict { "strict" } else { "hooks" };
            table.push_str(&format!(
                "config /process/args [\"true\"] /hooks {{}} /hooks/{moment} [{hook}]\n!{mark} run {{id}}\n"
            ));
        }
    }
    compare("hooks", &table);
}
