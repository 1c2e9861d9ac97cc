//! Command lines that need no container.

use crate::compare;

#[test]
fn usage() {
    compare(
        "usage",
        "
        !help --help
        # --help
        # help
        # nosuch
        # --nosuch
        # --log-format xml list
        !rootless --rootless maybe list
        # create --help
        # create
        # create a b
        # create --nosuch x
        # create --preserve-fds x y
        # create --bundle
        # run
        # run -h
        # run a b
        # start
        # start a b
        # start --nosuch
        # state
        # state a b
        # state --help
        # kill
        # kill a b c
        # kill --help
        # delete
        # delete a b
        # delete --help
        # exec
        # exec --help
        # exec --umask 7 x y
        # exec -d=maybe x y
        # exec x
        # exec --preserve-fds x y z
        # list a
        # list --help
        # list -f xml
        # ps
        # ps --help
        # ps -f xml {id}
        # pause
        # resume
        # pause --help
        # resume --help
        # update
        # update --help
        # update --nosuch x
        # update --pids-limit x {id}
        # events
        # events a b
        !go events --interval x a
        # events --interval 0s a
        # events --help
        # spec a
        # spec --help
        # features a
        # features --help
        # checkpoint --help
        # restore --help
        # checkpoint
        # restore
    ",
    );
}

#[test]
fn without_a_container() {
    compare(
        "none",
        "
        state {id}
        start {id}
        kill {id}
        kill {id} 99
        kill {id} NOSUCH
        kill {id} -1
        delete {id}
        delete -f {id}
        exec {id} true
        exec {id}
        exec -p nosuch.json {id}
        ps {id}
        ps -f json {id}
        pause {id}
        checkpoint {id}
        resume {id}
        update --memory 1 {id}
        update --memory x {id}
        update -r nosuch.json {id}
        events {id}
        events --stats {id}
        state a/b
        state ''
        state ..
        state 'a b'
        create a/b
        create ''
        create ..
        start a/b
        kill a/b
        delete a/b
        delete -f a/b
        exec a/b true
        list
        list -q
        list -f json
        list -f table
        list -f xml
        list -q -f xml
    ",
    );
}

#[test]
fn specifications() {
    compare("spec", "
        spec
        spec -b nosuch
        $ mkdir new && $R spec -b new && grep -v ociVersion new/config.json
        $ $R spec -b new
        $ mkdir rootless && cd rootless && $R spec --rootless && grep -v ociVersion config.json && stat -c %a config.json
        !features $ $R features | grep -o '^ *\"[a-zA-Z]*\":' | sort -u
    ");
}

#[test]
fn logs() {
    compare(
        "log",
        "
        --log {dir}/log state {id}
        $ cat log
        --log {dir}/log --log-format json state {id}
        $ cat log
        --log-format json state {id}
        --log {dir}/nosuch/log state {id}
        --log /dev/stdout state {id}
        --log {dir}/new list
        $ cat new
        --log {dir}/log2 create a/b
        $ stat -c %a log2
        --log {dir}/log3 --log-format json exec {id} true
        $ cat log3
        --log {dir}/log4 --log-format json state 'quo\"te'
        $ cat log4
        --log {dir}/log5 state nosuch
        $ cat log5
        # --log {dir}/log6 nosuch
        $ ls log6
        # --log {dir}/log7 state
        $ ls log7
    ",
    );
}
