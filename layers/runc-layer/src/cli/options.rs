//! Command line options, read as runc's (urfave/cli) reads them.

use std::ffi::OsString;

/// One option of a command.
pub(super) struct Option_ {
    /// With dashes; the first is the one to ask for.
    pub(super) names: &'static [&'static str],
    /// Whether it takes a value.
    pub(super) value: bool,
    /// Whether the value is a number.
    number: bool,
}

/// A switch.
pub(super) const fn flag(names: &'static [&'static str]) -> Option_ {
    Option_ { names, value: false, number: false }
}

/// An option with a value.
pub(super) const fn value(names: &'static [&'static str]) -> Option_ {
    Option_ { names, value: true, number: false }
}

/// An option whose value is a number.
pub(super) const fn number(names: &'static [&'static str]) -> Option_ {
    Option_ { names, value: true, number: true }
}

/// A command line, taken apart.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    options: Vec<(&'static str, String)>,
    /// What is no option.
    pub(super) rest: Vec<String>,
}

/// Reads `args` by `table`. With `stop_at_first` all after the first argument that is no option
/// belongs to it, as the command of `exec` does; otherwise options may follow.
pub(super) fn parse(
    table: &[Option_],
    args: &[OsString],
    stop_at_first: bool,
) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut args = args.iter().map(|a| a.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        if arg == "--" {
            parsed.rest.extend(args);
            break;
        }
        if !arg.starts_with('-') || arg == "-" || is_negative_number(&arg) {
            parsed.rest.push(arg);
            if stop_at_first {
                parsed.rest.extend(args);
                break;
            }
            continue;
        }
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let bare = name.trim_start_matches('-');
        if matches!(bare, "help" | "h") {
            parsed.options.push(("--help", "true".to_owned()));
            continue;
        }
        let option = table
            .iter()
            .find(|o| o.names.iter().any(|n| n.trim_start_matches('-') == bare))
            .ok_or_else(|| format!("flag provided but not defined: -{bare}"))?;
        let value = match (option.value, inline) {
            (true, Some(value)) => value,
            (true, None) => {
                args.next().ok_or_else(|| format!("flag needs an argument: -{bare}"))?
            }
            (false, Some(value)) => match value.as_str() {
                "true" | "1" | "t" | "T" | "TRUE" | "True" => "true".to_owned(),
                "false" | "0" | "f" | "F" | "FALSE" | "False" => "false".to_owned(),
                other => {
                    return Err(format!(
                        "invalid boolean value {other:?} for -{bare}: parse error"
                    ));
                }
            },
            (false, None) => "true".to_owned(),
        };
        if option.number && value.parse::<i64>().is_err() {
            return Err(format!("invalid value {value:?} for flag -{bare}: parse error"));
        }
        parsed.options.push((option.names[0], value));
    }
    Ok(parsed)
}

fn is_negative_number(arg: &str) -> bool {
    arg.len() > 1 && arg[1..].bytes().all(|b| b.is_ascii_digit())
}

impl Parsed {
    /// The last value of the option.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }

    /// All values of the option.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.options.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.clone()).collect()
    }

    /// Whether the switch is on.
    pub(super) fn on(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// The option's value as a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    let bare = name.trim_start_matches('-');
                    format!("invalid value {text:?} for flag -{bare}: parse error")
                })
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [Option_; 3] =
        [value(&["--bundle", "-b"]), flag(&["--detach", "-d"]), value(&["--env", "-e"])];

    fn of(args: &[&str], stop: bool) -> Result<Parsed, String> {
        parse(&TABLE, &args.iter().map(OsString::from).collect::<Vec<_>>(), stop)
    }

    #[test]
    fn values_switches_and_the_rest() {
        let p = of(&["-b", "/x", "--env=A=1", "id", "-d", "-e", "B=2"], false).expect("parses");
        assert_eq!(p.get("--bundle"), Some("/x"));
        assert_eq!(p.all("--env"), ["A=1", "B=2"]);
        assert!(p.on("--detach"));
        assert_eq!(p.rest, ["id"]);
    }

    #[test]
    fn the_command_of_exec_keeps_its_options() {
        let p = of(&["--detach=false", "id", "ls", "-d"], true).expect("parses");
        assert!(!p.on("--detach"));
        assert_eq!(p.rest, ["id", "ls", "-d"]);
        assert_eq!(of(&["--", "-d"], false).expect("parses").rest, ["-d"]);
    }

    #[test]
    fn what_is_unknown_or_incomplete_is_refused() {
        assert_eq!(
            of(&["--nope"], false).expect_err("unknown"),
            "flag provided but not defined: -nope"
        );
        assert_eq!(of(&["-b"], false).expect_err("no value"), "flag needs an argument: -b");
        assert!(of(&["-d=maybe"], false).is_err());
    }
}
