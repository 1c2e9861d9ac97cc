//! Where a registry is to be found: `hosts.toml` and directories of certificates, as containerd 1.6
//! reads them (its docs/hosts.md). They are read at every use, so a change needs no restart.

use super::tls::Trust;
use crate::{Error, Result, error::During};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::{Deserialize, de::IgnoredAny};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Content by its digest.
    pub(super) pull: bool,
    /// What a tag names.
    pub(super) resolve: bool,
    /// Taking content.
    pub(super) push: bool,
}

impl Capabilities {
    const ALL: Self = Self { pull: true, resolve: true, push: true };
}

/// One place that serves a registry's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// `http` or `https`.
    pub(super) scheme: String,
    /// Host and port.
    pub(super) authority: String,
    /// The root of the API, `/v2` unless overridden.
    pub(super) path: String,
    pub(super) capabilities: Capabilities,
    /// Whom to trust, where that is not the system's authorities.
    pub(super) trust: Trust,
    /// Sent with every request to this host.
    pub(super) headers: HeaderMap,
    /// How long connecting may take.
    pub(super) dial_timeout: Option<Duration>,
    /// Whether it stands in for the registry rather than being it.
    pub(super) mirror: bool,
}

/// One table of `hosts.toml`. Keys that are not known are ignored, as containerd does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    capabilities: Vec<String>,
    ca: Paths,
    client: Pairs,
    skip_verify: Option<bool>,
    header: BTreeMap<String, Paths>,
    override_path: bool,
    dial_timeout: Option<String>,
}

/// A string or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Paths {
    One(String),
    Many(Vec<String>),
}

impl Default for Paths {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Paths {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// A file with certificate and key, several such, or pairs of files.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Pairs {
    One(String),
    Many(Vec<Pair>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Pair {
    One(String),
    Two([String; 2]),
}

impl Default for Pairs {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    server: String,
    #[serde(default)]
    host: BTreeMap<String, Entry>,
    #[serde(flatten)]
    own: Entry,
}

/// The same file for the order of its hosts, which flattening forgets.
#[derive(Debug, Deserialize)]
struct Order {
    #[serde(default)]
    host: BTreeMap<toml::Spanned<String>, IgnoredAny>,
}

/// The hosts that serve the registry called `name`, in the order in which they are to be asked, from
/// the first of `roots` that has a directory for it; the last of them is the registry itself.
/// `default_scheme` is for a registry that nothing is said about.
///
/// # Errors
/// `InvalidArgument` naming the file and what is wrong with it.
pub(super) fn of(roots: &[PathBuf], name: &str, default_scheme: &str) -> Result<Vec<Host>> {
    let own = default_host(name, default_scheme);
    for dir in roots.iter().flat_map(|root| directories(root, name)) {
        match fs::metadata(&dir) {
            Ok(_) => return read(&dir, own).during(|| dir.display().to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(format_args!("reading {}", dir.display()), &e)),
        }
    }
    Ok(vec![own])
}

/// Where containerd looks for a host's files: with its port in underscores, as it is, and for all.
fn directories(root: &Path, name: &str) -> Vec<PathBuf> {
    let underscored = name.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let underscored = underscored.map(|(host, port)| root.join(format!("{host}_{port}_")));
    underscored.into_iter().chain([root.join(name), root.join("_default")]).collect()
}

fn default_host(name: &str, default_scheme: &str) -> Host {
    let authority = if name == "docker.io" { "registry-1.docker.io" } else { name };
    let local = is_local(name);
    let scheme = match default_scheme {
        _ if name == "docker.io" => "https",
        "" if local && !name.ends_with(":443") => "http",
        "" => "https",
        given => given,
    };
    // This very machine proves nothing by a certificate.
    let skip_verify = local && default_scheme.is_empty() && scheme == "https";
    let trust = Trust { skip_verify, ..Trust::default() };
    Host {
        scheme: scheme.to_owned(),
        authority: authority.to_owned(),
        path: "/v2".to_owned(),
        capabilities: Capabilities::ALL,
        trust,
        headers: HeaderMap::new(),
        dial_timeout: None,
        mirror: false,
    }
}

fn is_local(name: &str) -> bool {
    let host = match name.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => name.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn read(dir: &Path, own: Host) -> Result<Vec<Host>> {
    match fs::read_to_string(dir.join("hosts.toml")) {
        Ok(text) if !text.is_empty() => parse(&text, dir, own).map_err(|e| e.during("hosts.toml")),
        Ok(_) => certificates(dir, own),
        Err(e) if e.kind() == io::ErrorKind::NotFound => certificates(dir, own),
        Err(e) => Err(Error::io("reading hosts.toml", &e)),
    }
}

fn parse(text: &str, dir: &Path, own: Host) -> Result<Vec<Host>> {
    let broken = |e: toml::de::Error| Error::invalid(e.to_string().trim());
    let file: File = toml::from_str(text).map_err(broken)?;
    let order: Order = toml::from_str(text).map_err(broken)?;
    let mut names: Vec<_> = order.host.into_keys().collect();
    names.sort_by_key(|name| name.span().start);
    let mut entries = file.host;
    let mut hosts = Vec::new();
    for name in names {
        let name = name.into_inner();
        let entry = entries.remove(&name).unwrap_or_default();
        let host = host(&name, dir, entry).during(|| format!("host {name:?}"))?;
        hosts.push(Host { mirror: true, ..host });
    }
    let last = if file.server.is_empty() {
        // What stands at the top is then for the registry where its name says it is.
        let overridden = file.own.skip_verify.is_some();
        let given = host(&format!("{}://{}", own.scheme, own.authority), dir, file.own)?;
        let skip_verify = if overridden { given.trust.skip_verify } else { own.trust.skip_verify };
        let trust = Trust { skip_verify, ..given.trust };
        Host { trust, headers: given.headers, dial_timeout: given.dial_timeout, ..own }
    } else {
        host(&file.server, dir, file.own).during(|| format!("server {:?}", file.server))?
    };
    hosts.push(last);
    Ok(hosts)
}

fn host(url: &str, dir: &Path, entry: Entry) -> Result<Host> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: Uri =
        whole.parse().map_err(|e| Error::invalid(format_args!("unable to parse server: {e}")))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err(Error::invalid("unable to parse server: not an http or https URL"));
    };
    let path = uri.path().trim_end_matches('/');
    let path = match (entry.override_path, path) {
        (true, path) => path.to_owned(),
        (false, path) if path.ends_with("/v2") => path.to_owned(),
        (false, path) => format!("{path}/v2"),
    };
    let mut headers = HeaderMap::new();
    for (name, values) in entry.header {
        let bad = |e: &dyn std::fmt::Display| Error::invalid(format_args!("header {name:?}: {e}"));
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(&e))?;
        for value in values.into_vec() {
            headers.append(&key, HeaderValue::from_str(&value).map_err(|e| bad(&e))?);
        }
    }
    let pairs = match entry.client {
        Pairs::One(file) => vec![Pair::One(file)],
        Pairs::Many(pairs) => pairs,
    };
    let clients = pairs.into_iter().map(|pair| match pair {
        Pair::One(both) => (dir.join(both), None),
        Pair::Two([certificate, key]) => (dir.join(certificate), Some(dir.join(key))),
    });
    Ok(Host {
        scheme: scheme.to_owned(),
        authority: authority.to_string(),
        path,
        capabilities: capabilities(&entry.capabilities)?,
        trust: Trust {
            authorities: entry.ca.into_vec().into_iter().map(|file| dir.join(file)).collect(),
            clients: clients.collect(),
            skip_verify: entry.skip_verify.unwrap_or(false),
        },
        headers,
        dial_timeout: entry.dial_timeout.as_deref().map(duration).transpose()?,
        mirror: false,
    })
}

fn capabilities(words: &[String]) -> Result<Capabilities> {
    if words.is_empty() {
        return Ok(Capabilities::ALL);
    }
    let mut can = Capabilities { pull: false, resolve: false, push: false };
    for word in words {
        match word.to_ascii_lowercase().as_str() {
            "pull" => can.pull = true,
            "resolve" => can.resolve = true,
            "push" => can.push = true,
            // containerd 2's, for a verb that is not here.
            "referrers" => {}
            _ => return Err(Error::invalid(format_args!("unknown capability {word}"))),
        }
    }
    Ok(can)
}

/// Docker's layout: `*.crt` are authorities, `*.cert` client certificates with their `*.key`.
fn certificates(dir: &Path, own: Host) -> Result<Vec<Host>> {
    let mut trust = own.trust.clone();
    let entries = fs::read_dir(dir).map_err(|e| Error::io("reading the directory", &e))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.map_err(|e| Error::io("reading the directory", &e))?.path());
    }
    files.sort();
    for file in files.into_iter().filter(|file| !file.is_dir()) {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => trust.authorities.push(file),
            Some("cert") => {
                let key = file.with_extension("key");
                let key = key.exists().then_some(key);
                trust.clients.push((file, key));
            }
            _ => {}
        }
    }
    // Who lays down certificates means them.
    let scheme = if trust.authorities.is_empty() && trust.clients.is_empty() {
        own.scheme
    } else {
        trust.skip_verify = false;
        "https".to_owned()
    };
    Ok(vec![Host { trust, scheme, ..own }])
}

/// Go's durations: `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration> {
    let bad = || Error::invalid(format_args!("dial_timeout: invalid duration {text:?}"));
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        seconds += number.parse::<f64>().map_err(|_| bad())? * unit;
        rest = tail;
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn urls(roots: &[PathBuf], name: &str) -> Vec<String> {
        let hosts = of(roots, name, "").unwrap();
        hosts.iter().map(|h| format!("{}://{}{}", h.scheme, h.authority, h.path)).collect()
    }

    #[test]
    fn nothing_said() {
        for (name, scheme, want) in [
            ("docker.io", "http", "https://registry-1.docker.io/v2"),
            ("r.io", "", "https://r.io/v2"),
            ("r.io:80", "http", "http://r.io:80/v2"),
            ("localhost:5000", "", "http://localhost:5000/v2"),
            ("localhost:443", "", "https://localhost:443/v2"),
            ("127.0.0.1:5000", "https", "https://127.0.0.1:5000/v2"),
            ("[::1]:5000", "", "http://[::1]:5000/v2"),
        ] {
            let hosts = of(&[], name, scheme).unwrap();
            assert_eq!(hosts.len(), 1);
            let host = &hosts[0];
            assert_eq!(format!("{}://{}{}", host.scheme, host.authority, host.path), want);
            assert!(!host.mirror);
        }
    }

    #[test]
    fn directories_in_order() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let roots = [first.path().to_owned(), second.path().to_owned()];
        write(&roots[1], "_default/hosts.toml", "server = \"https://any.io\"");
        assert_eq!(urls(&roots, "r.io:1"), ["https://any.io/v2"]);
        write(&roots[1], "r.io:1/hosts.toml", "server = \"https://plain.io\"");
        assert_eq!(urls(&roots, "r.io:1"), ["https://plain.io/v2"]);
        write(&roots[1], "r.io_1_/hosts.toml", "server = \"https://under.io\"");
        assert_eq!(urls(&roots, "r.io:1"), ["https://under.io/v2"]);
        write(&roots[0], "_default/hosts.toml", "server = \"https://first.io\"");
        assert_eq!(urls(&roots, "r.io:1"), ["https://first.io/v2"]);
    }

    #[test]
    fn every_key() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        write(
            &root,
            "docker.io/hosts.toml",
            r#"
ca = "/abs/top.crt"
skip_verify = true

[host."http://z.io:8080/root"]
  capabilities = ["pull"]
  ca = ["a.crt", "b.crt"]
  client = "both.pem"
  dial_timeout = "1m0.5s"
  future = 3
  [host."http://z.io:8080/root".header]
    x-one = "1"
    x-two = ["2", "3"]
[host."a.io/v2"]
  client = [["c.cert", "c.key"], "d.pem"]
  override_path = true
[host."https://m.io"]
  capabilities = ["resolve", "Push"]
"#,
        );
        let hosts = of(std::slice::from_ref(&root), "docker.io", "").unwrap();
        let at = root.join("docker.io");
        let names: Vec<_> =
            hosts.iter().map(|h| format!("{}://{}{}", h.scheme, h.authority, h.path)).collect();
        assert_eq!(
            names,
            [
                "http://z.io:8080/root/v2",
                "https://a.io/v2",
                "https://m.io/v2",
                "https://registry-1.docker.io/v2"
            ]
        );
        assert_eq!(hosts.iter().map(|h| h.mirror).collect::<Vec<_>>(), [true, true, true, false]);
        let [z, a, m, top] = &hosts[..] else { panic!("{hosts:?}") };
        assert_eq!(z.capabilities, Capabilities { pull: true, resolve: false, push: false });
        assert_eq!(z.trust.authorities, [at.join("a.crt"), at.join("b.crt")]);
        assert_eq!(z.trust.clients, [(at.join("both.pem"), None)]);
        assert_eq!(z.dial_timeout, Some(Duration::from_millis(60_500)));
        assert_eq!(z.headers.get_all("x-two").iter().count(), 2);
        assert_eq!(
            a.trust.clients,
            [(at.join("c.cert"), Some(at.join("c.key"))), (at.join("d.pem"), None)]
        );
        assert_eq!(m.capabilities, Capabilities { pull: false, resolve: true, push: true });
        assert_eq!(top.capabilities, Capabilities::ALL);
        assert_eq!(top.trust.authorities, [PathBuf::from("/abs/top.crt")]);
        assert!(top.trust.skip_verify && !m.trust.skip_verify);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("server = 3", "server"),
            ("server = \"https://a b\"", "server \"https://a b\""),
            ("[host.\"ftp://x\"]", "host \"ftp://x\""),
            ("[host.\"https://x\"]\ncapabilities = [\"fly\"]", "unknown capability fly"),
            ("[host.\"https://x\"]\ndial_timeout = \"5\"", "invalid duration \"5\""),
            ("[host.\"https://x\".header]\n\"a b\" = \"\"", "header \"a b\""),
        ] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), "r.io/hosts.toml", text);
            let refused = of(&[dir.path().to_owned()], "r.io", "").unwrap_err();
            assert!(refused.message.contains(words), "{text}: {refused}");
            assert!(refused.message.contains("r.io: hosts.toml: "), "{refused}");
        }
    }

    #[test]
    fn certificates_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        for file in ["ca.crt", "me.cert", "me.key", "alone.cert", "readme"] {
            write(&root, &format!("localhost_5000_/{file}"), "");
        }
        let hosts = of(std::slice::from_ref(&root), "localhost:5000", "").unwrap();
        let at = root.join("localhost_5000_");
        assert_eq!((hosts.len(), hosts[0].scheme.as_str()), (1, "https"));
        assert_eq!(hosts[0].trust.authorities, [at.join("ca.crt")]);
        assert_eq!(
            hosts[0].trust.clients,
            [(at.join("alone.cert"), None), (at.join("me.cert"), Some(at.join("me.key")))]
        );
    }
}
