//! Commands on a container in each of its states.

use crate::compare;

/// What is asked of a container whatever it is doing.
const QUESTIONS: &str = "
    ~ state {id}
    ~ list
    ~ list -f json
    list -q
    create {id}
    run {id}
    exec {id} nosuch
    !directory exec {id} /etc
    exec {id} /etc/plain
    exec --cwd /nosuch {id} true
    !field exec --cwd relative {id} true
    exec --user nosuch {id} true
    exec --user 1:x {id} true
    exec --user 12:34 -g 5 {id} id
    !ids exec --user -1 {id} true
    !go exec -g x {id} true
    exec --cap CAP_X {id} true
    !early exec --apparmor nosuch {id} true
    !field exec --process-label x {id} true
    !early exec --cgroup nosuch {id} true
    !early exec --cgroup pids:nosuch {id} true
    exec --cgroup nosuch:x {id} true
    exec -p nosuch.json {id}
    !field exec -p broken.json {id}
    !field exec -p noargs.json {id}
    exec --pid-file /nosuch/pid {id} true
    exec --console-socket /nosuch {id} true
    exec -t -d {id} true
    exec -t --console-socket /nosuch -d {id} true
    !descriptors exec --preserve-fds 9 {id} true
    exec {id} sh -c 'exit 7'
    exec {id} sh -c 'kill -9 $$'
    exec -e A=b -e C {id} sh -c 'echo $A $C $HOME'
    exec {id}
    ps -f json -f xml {id}
    ps {id} -nosuch
    ps {id} -o comm
    ~ ps {id} -o pid
    ~ ps -f json {id}
    kill {id} 99
    kill {id} NOSUCH
    kill {id} -1
    kill {id} 0
    kill {id} SIGRTMIN+1x
    update {id}
    !rollback update --memory 1 {id}
    update --memory 1x {id}
    !rollback update --memory-swap 1 {id}
    !rollback update --cpu-quota 1 {id}
    !field update --cpu-share -1 {id}
    !rollback update --cpu-period 1 {id}
    !rollback update --cpuset-cpus 999 {id}
    !rollback update --cpuset-cpus x {id}
    !go update --pids-limit x {id}
    !weight update --blkio-weight 1 {id}
    update -r nosuch.json {id}
    !field update -r broken.json {id}
    update --l3-cache-schema x {id}
    !stats $ $R events --stats {id} >stats; echo $?; grep -o '\"[a-zA-Z_0-9]*\":' stats | sort -u
    events --stats --interval 0s {id}
";

/// Those of the marked ones that are wrong in themselves.
const LOOKED_AT: [&str; 4] =
    ["exec -g x", "update --pids-limit x", "update -r broken.json", "update --cpu-share -1"];

const FILES: &str = "
    $ echo '{' >broken.json; echo '{\"cwd\":\"/\"}' >noargs.json
";

#[test]
fn created() {
    compare(
        "created",
        &format!(
            "
        {FILES}
        create --pid-file {{dir}}/pid {{id}}
        $ stat -c %a pid
        {QUESTIONS}
        resume {{id}}
        delete {{id}}
        delete {{id}}
    "
        ),
    );
}

#[test]
fn running() {
    compare(
        "running",
        &format!(
            "
        {FILES}
        run -d {{id}}
        {QUESTIONS}
        start {{id}}
        resume {{id}}
        delete {{id}}
        kill {{id}} KILL
        = $ sleep 0.2
        delete {{id}}
        delete {{id}}
    "
        ),
    );
}

#[test]
fn paused() {
    compare(
        "paused",
        "
        run -d {id}
        pause {id}
        ~ state {id}
        ~ list
        exec {id} true
        start {id}
        pause {id}
        delete {id}
        kill {id} 0
        resume {id}
        resume {id}
        pause {id}
        delete -f {id}
    ",
    );
}

#[test]
fn stopped() {
    // It refuses most questions before it looks at them.
    let questions: String = QUESTIONS
        .lines()
        .map(str::trim)
        .map(|line| match line.split_once(' ') {
            Some((mark, rest))
                if mark.starts_with('!') && !LOOKED_AT.iter().any(|l| rest.starts_with(l)) =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    compare(
        "stopped",
        &format!(
            "
        {FILES}
        config /process/args [\"true\"]
        run -d {{id}}
        = $ sleep 0.2
        {questions}
        start {{id}}
        pause {{id}}
        resume {{id}}
        kill -a {{id}} KILL
        events {{id}}
        delete {{id}}
        delete {{id}}
    "
        ),
    );
}

#[test]
fn kept() {
    compare(
        "kept",
        "
        config /process/args [\"true\"]
        run --keep {id}
        ~ state {id}
        run {id}
        delete {id}
        create {id}
        start {id}
        = $ sleep 0.2
        start {id}
        delete {id}
    ",
    );
}
