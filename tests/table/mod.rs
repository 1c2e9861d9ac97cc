//! A table of commands for two daemons that must answer alike.
//!
//! A line of a table is a command line of `ctr`, run first on one daemon and then on the other. In
//! front of it may stand what of the answers is compared, and what goes to standard input:
//!
//! | mark | what must be the same |
//! | --- | --- |
//! | none | the exit code and every word |
//! | `~` | the exit code and every word, with any number as good as any other |
//! | `#` | the exit code, the first line and how many lines there are |
//! | `?` | the exit code |
//! | `@` | every word, once it succeeds: it is tried until then |
//! | `<text> ` | as without it; the text is standard input |
//!
//! Words are split at spaces; single quotes keep them together. `{n}` is the line's number, and
//! `{name}` what the daemon's side has for it. What is another on each side by its nature (paths, namespaces, times) is taken for
//! the same.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod sides;

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use regex::Regex;

use crate::rig::{Client, HANG, Said};

/// One of the two daemons.
pub(crate) struct Side {
    /// How it is reached.
    pub(crate) ctr: Client,
    /// What stands for `{name}` in a table; in answers it is turned back.
    pub(crate) names: BTreeMap<&'static str, String>,
}

impl Side {
    /// Runs a command line of a table.
    pub(crate) fn run(&self, line: &str, input: &str) -> Said {
        let words = words(&self.filled(line));
        // What hangs on one side or both ends with a code of its own.
        let mut child = Command::new("timeout")
            .args(["-k", "1", "120"])
            .arg(&self.ctr.program)
            .args(&self.ctr.args)
            .args(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that does not read its input is no fault.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let out = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| self.normal(&String::from_utf8_lossy(bytes));
        Said {
            code: out.status.code().unwrap_or(-1),
            stdout: text(&out.stdout),
            stderr: text(&out.stderr),
        }
    }

    /// A line with what stands for its names.
    pub(crate) fn filled(&self, line: &str) -> String {
        let fill = |line: String, (name, value): (&&str, &String)| {
            line.replace(&format!("{{{name}}}"), value)
        };
        self.names.iter().fold(line.to_owned(), fill)
    }

    /// A text without what is another on each side by its nature.
    pub(crate) fn normal(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // The longest first: one may be a part of another.
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        for (name, value) in names {
            text = text.replace(value.as_str(), &format!("{{{name}}}"));
        }
        for (pattern, with) in [
            (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
            (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d| ?Z)?( UTC)?", "TIME"),
            (r"(Less than a second|About a minute|\d+ (seconds?|minutes?))( ago)?", "AGE"),
            (r"\b\d+(\.\d+)?(ns|µs|ms|s)\b", "DURATION"),
            (r"\d+(\.\d+)? (B|[KMG]iB)/s", "SPEED"),
            (r"[ \t]+", " "),
            (r" +(\r?\n|$)", "$1"),
        ] {
            text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
        }
        // Labels stand in the order of a Go map, which is none.
        let labels = Regex::new(r"[^ \n,=]+=[^ \n,]*(,[^ \n,=]+=[^ \n,]*)+").unwrap();
        let sorted = labels.replace_all(&text, |found: &regex::Captures<'_>| {
            let mut labels: Vec<&str> = found[0].split(',').collect();
            labels.sort_unstable();
            labels.join(",")
        });
        sorted.into_owned()
    }
}

/// The words of a command line: split at spaces, but not within single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut begun) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Runs a table on both sides; fails with every line that they answer differently.
pub(crate) fn compare(table: &str, sides: &[Side; 2]) {
    let mut wrong = Vec::new();
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    for (n, line) in lines.enumerate() {
        let line = line.replace("{n}", &n.to_string());
        let line = line.as_str();
        let (input, line) = match line.strip_prefix('<').and_then(|rest| rest.split_once("> ")) {
            Some((input, rest)) => (input, rest),
            None => ("", line),
        };
        let (mark, command) = match line.split_at_checked(2) {
            Some((mark @ ("~ " | "# " | "? " | "@ "), rest)) => (mark.trim_end(), rest),
            _ => ("", line),
        };
        let [left, right] = sides.each_ref().map(|side| {
            let begun = Instant::now();
            let mut said = side.run(command, input);
            while mark == "@" && said.code != 0 && begun.elapsed() < HANG {
                std::thread::sleep(Duration::from_millis(50));
                said = side.run(command, input);
            }
            compared(mark, said)
        });
        if left != right {
            wrong.push(format!("ctr {command}\n--- real\n{left}\n--- strata\n{right}\n"));
        }
    }
    assert!(wrong.is_empty(), "{} lines differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What of an answer is compared.
fn compared(mark: &str, said: Said) -> String {
    let Said { code, stdout, stderr } = said;
    let numbers = Regex::new(r"\d+(\.\d+)?( [KMG]i?B)?\b").unwrap();
    let whole = format!("exit {code}\n{stdout}\n{stderr}");
    match mark {
        "~" => numbers.replace_all(&whole, "N").into_owned(),
        "#" => {
            let first = stdout.lines().next().unwrap_or_default();
            format!("exit {code}\n{first}\n{} lines", stdout.lines().count())
        }
        "?" => format!("exit {code}"),
        _ => whole,
    }
}
