//! strata-runc beside the real runc 1.1, command line by command line, in equal bundles: exit codes,
//! standard output and standard error must be the same.
//!
//! In front of a line may stand what of the answers is compared:
//!
//! | mark | what must be the same |
//! | --- | --- |
//! | none | the exit code and every word |
//! | `~` | the exit code and every word, with any number as good as any other |
//! | `#` | the exit code and the first line of both streams |
//! | `?` | the exit code |
//! | `!NAME` | the exit code, for a reason that `differences.rs` has under that name |
//! | `=` | nothing: the line prepares the next one |
//!
//! A line `config POINTER JSON …` writes both `config.json`s anew with those changes.

#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod differences;
mod sides;

mod commands;
mod configurations;
mod lifecycle;

use serde_json::Value;

use sides::{Said, Sides, numberless};

/// Runs the table on both sides, and fails with every line that differs, and with every one that is
/// said to differ and does not.
fn compare(name: &str, table: &str) {
    let Some(sides) = Sides::new(name) else { return };
    let (mut wrong, mut configured) = (Vec::new(), "");
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(changes) = line.strip_prefix("config") {
            configured = line;
            let changes = changes_of(changes);
            for side in &sides.both {
                // runc leaves some that failed.
                side.run("delete -f {id}");
                side.configure(&changes);
            }
            continue;
        }
        let (mark, command) = match line.split_once(' ') {
            Some((mark @ ("~" | "#" | "?" | "="), rest)) => (mark, rest),
            Some((mark, rest)) if mark.starts_with('!') => (mark, rest),
            _ => ("", line),
        };
        let [left, right] = sides.both.each_ref().map(|side| side.run(command));
        let exact = left == right;
        let allowed = mark.strip_prefix('!').map(|name| {
            let entry = differences::ALLOWED.iter().find(|(n, ..)| *n == name);
            entry.unwrap_or_else(|| panic!("{name} has no reason"))
        });
        let mark = if allowed.is_some_and(|(_, code, _)| *code) { "=" } else { mark };
        let [left, right] = [left, right].map(|said| compared(mark, said));
        if left != right {
            wrong.push(format!(
                "{configured}\n{command}\n--- runc\n{left}\n--- strata-runc\n{right}\n"
            ));
        } else if allowed.is_some() && exact {
            wrong.push(format!(
                "{configured}\n{command}\nis the same on both, and said to differ\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{} lines differ:\n{}", wrong.len(), wrong.join("\n"));
    sides.end();
}

/// Pairs of a pointer and a value without blanks.
fn changes_of(text: &str) -> Vec<(&str, Value)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.chunks(2).map(|pair| (pair[0], serde_json::from_str(pair[1]).unwrap())).collect()
}

/// What of an answer is compared.
fn compared(mark: &str, said: Said) -> String {
    let Said { code, out, err } = said;
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    match mark {
        "=" => String::new(),
        "~" => numberless(&format!("exit {code}\n{out}\n{err}")),
        "#" => format!("exit {code}\n{}\n{}", first(&out), first(&err)),
        "" => format!("exit {code}\n{out}\n{err}"),
        _ => format!("exit {code}"),
    }
}
