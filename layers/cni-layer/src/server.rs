//! The plugin wire from the plugin's side: environment and standard input in, a result or an error
//! on standard output (CNI specification 1.1.0, section 2).

use std::{
    env,
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
};

use hops::{
    Cx, Hop,
    cni::Attachment,
    trace::{Side, Spans},
};
use serde::Serialize;
use serde_json::{Value, json};
use wire::cni::{
    error::{CniError, Result, code},
    result,
};

use crate::{
    call::Call,
    engine::{self, Verb},
};

/// What one call prints on success; most print nothing.
type Printed = Option<Value>;

/// Serves the one call that the environment describes. The plugin is the one that the program is
/// called by (`bridge` for a link of that name), or else the one that the configuration's `type`
/// names.
pub fn serve() -> ExitCode {
    let Some(command) = variable("CNI_COMMAND") else {
        let names: Vec<_> = engine::built_in().collect();
        eprintln!(
            "CNI plugins {} {}\nCNI protocol versions supported: {}",
            names.join(", "),
            env!("CARGO_PKG_VERSION"),
            result::VERSIONS.join(", ")
        );
        return ExitCode::SUCCESS;
    };
    let spans = Spans::from_env("cni-layer");
    let (_, mut span) = spans.begin(&Cx::from_env(), Hop::Cni.name(), &command, Side::Callee);
    let mut version = result::NEWEST.to_owned();
    let answer = answer(&command, &mut version);
    let (json, exit) = match answer {
        Ok(printed) => (printed, ExitCode::SUCCESS),
        Err(error) => {
            span.fail();
            (Some(complaint(&error, &version)), ExitCode::FAILURE)
        }
    };
    match json.map(|json| print(&json)) {
        Some(Err(error)) => {
            eprintln!("strata-cni: standard output: {error}");
            ExitCode::FAILURE
        }
        _ => exit,
    }
}

fn complaint(error: &CniError, version: &str) -> Value {
    let mut json = json!(error);
    json["cniVersion"] = version.into();
    json
}

/// Prints as the reference plugins do, indented by four.
fn print(json: &Value) -> io::Result<()> {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut text, format))?;
    text.push(b'\n');
    io::stdout().write_all(&text)
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Each command with the variables that it cannot do without (reference library 1.1).
const COMMANDS: [(&str, Verb, &[&str]); 3] = [
    ("ADD", Verb::Add, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
    ("CHECK", Verb::Check, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
    ("DEL", Verb::Del, &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
];

/// Answers `command`; `version` becomes the configuration's as soon as it is known.
fn answer(command: &str, version: &mut String) -> Result<Printed> {
    let verb = COMMANDS.iter().find(|(name, ..)| *name == command);
    if verb.is_none() && !["VERSION", "STATUS"].contains(&command) {
        return Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            format!("unknown CNI_COMMAND: {command}"),
        ));
    }
    let needed = verb.map_or(&[][..], |(.., needed)| needed);
    let missing: Vec<_> = needed.iter().copied().filter(|name| variable(name).is_none()).collect();
    if !missing.is_empty() {
        return Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            format!("required env variables [{}] missing", missing.join(",")),
        ));
    }
    let mut input = String::new();
    io::stdin()
        .read_to_string(&mut input)
        .map_err(|e| CniError::new(code::IO, format!("error reading from stdin: {e}")))?;
    if command == "VERSION" {
        return Ok(Some(json!({
            "cniVersion": result::NEWEST,
            "supportedVersions": result::VERSIONS,
        })));
    }
    let config: Value = serde_json::from_str(&input).map_err(|e| {
        CniError::new(code::DECODING, format!("error unmarshall network config: {e}"))
    })?;
    if let Some(named) = config["cniVersion"].as_str().filter(|named| !named.is_empty()) {
        named.clone_into(version);
    } else {
        result::UNNAMED.clone_into(version);
    }
    let kind = kind(&config)?;
    let Some((_, verb, _)) = verb else {
        // A plugin that is built in is always ready.
        return result::rank(version).map(|_| None);
    };
    let path: Vec<_> =
        env::var_os("CNI_PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    let attachment = Attachment {
        container_id: variable("CNI_CONTAINERID").unwrap_or_default(),
        netns: variable("CNI_NETNS").map(Into::into),
        ifname: variable("CNI_IFNAME").unwrap_or_default(),
        args: arguments(&variable("CNI_ARGS").unwrap_or_default())?,
        config,
    };
    let call = Call::read(&attachment, &path)?;
    let attached = engine::run(&call, &kind, *verb)?;
    match verb {
        Verb::Add => result::write(&attached, &call.version).map(Some),
        Verb::Del | Verb::Check => Ok(None),
    }
}

/// Which plugin is called.
fn kind(config: &Value) -> Result<String> {
    let program = env::args_os().next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    let named = config["type"].as_str().unwrap_or_default();
    [&*program, named]
        .into_iter()
        .find(|name| engine::built_in().any(|kind| kind == *name))
        .map(str::to_owned)
        .ok_or_else(|| {
            let known: Vec<_> = engine::built_in().collect();
            CniError::invalid(format!(
                "no plugin of type {named:?}: there are {}",
                known.join(", ")
            ))
        })
}

/// Reads `KEY=value;KEY=value`.
pub(crate) fn arguments(text: &str) -> Result<Vec<(String, String)>> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(CniError::new(
                code::INVALID_ENVIRONMENT,
                format!("ARGS: invalid pair {pair:?}"),
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_pairs() {
        let pairs = arguments("IgnoreUnknown=1;K8S_POD_NAME=a=b;").unwrap();
        assert_eq!(pairs[1], ("K8S_POD_NAME".to_owned(), "a=b".to_owned()));
        assert_eq!(arguments("x").unwrap_err().msg, "ARGS: invalid pair \"x\"");
    }

    #[test]
    fn a_complaint_has_the_specifications_shape() {
        let error = CniError::invalid("m").detailed("d");
        let want = json!({ "cniVersion": "1.0.0", "code": 7, "msg": "m", "details": "d" });
        assert_eq!(complaint(&error, "1.0.0"), want);
    }
}
