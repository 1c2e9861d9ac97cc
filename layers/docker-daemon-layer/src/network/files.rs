//! /etc/hosts, /etc/hostname and /etc/resolv.conf of a container, as libnetwork writes them.

use std::{fmt::Write, fs, path::Path};

use hops::Result;

use crate::record::{Endpoint, Record};

const HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// Name servers for a container on a host that has none but its own loopback's (libnetwork's
/// default).
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Writes the three files into `dir`. They are mounted into the container, so they are written in
/// place, not replaced.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write(
    dir: &Path,
    record: &Record,
    endpoint: Option<&Endpoint>,
    hostname: &str,
) -> Result<()> {
    let on_host = record.network_mode() == "host";
    let domain = record.config.domainname.as_deref().filter(|d| !d.is_empty());
    let full = domain.map_or(hostname.to_owned(), |d| format!("{hostname}.{d}"));
    fs::write(dir.join("hostname"), format!("{full}\n"))?;
    let mut hosts = match on_host {
        true => fs::read_to_string("/etc/hosts").unwrap_or_else(|_| HOSTS.to_owned()),
        false => HOSTS.to_owned(),
    };
    for entry in record.host.extra_hosts.iter().flatten() {
        if let Some((name, address)) = entry.split_once(':') {
            let gateway = endpoint.map_or("127.0.0.1", |e| e.gateway.as_str());
            let address = if address == "host-gateway" { gateway } else { address };
            let _ = writeln!(hosts, "{address}\t{name}");
        }
    }
    if let Some(endpoint) = endpoint {
        let names = domain.map_or(hostname.to_owned(), |_| format!("{full} {hostname}"));
        let _ = writeln!(hosts, "{}\t{names}", endpoint.address);
    }
    fs::write(dir.join("hosts"), hosts)?;
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    fs::write(dir.join("resolv.conf"), resolv_conf(&host, record, endpoint.is_some()))?;
    Ok(())
}

/// The host's resolv.conf with what the container says itself in its place. A name server on the
/// host's loopback cannot be reached from another network namespace.
fn resolv_conf(host: &str, record: &Record, elsewhere: bool) -> String {
    let own = |list: &Option<Vec<String>>| list.clone().filter(|l| !l.is_empty());
    let lines = |key: &str| -> Vec<String> {
        host.lines()
            .filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix([' ', '\t']))
            .map(|rest| rest.trim().to_owned())
            .collect()
    };
    let servers = own(&record.host.dns).unwrap_or_else(|| {
        let mut servers = lines("nameserver");
        if elsewhere {
            servers.retain(|s| !s.starts_with("127.") && s != "::1");
            if servers.is_empty() {
                servers = FALLBACK.map(str::to_owned).to_vec();
            }
        }
        servers
    });
    let search = match own(&record.host.dns_search) {
        Some(list) if list == ["."] => Vec::new(),
        Some(list) => list,
        None => lines("search").pop().map(|s| vec![s]).unwrap_or_default(),
    };
    let options = own(&record.host.dns_options)
        .unwrap_or_else(|| lines("options").pop().map(|s| vec![s]).unwrap_or_default());
    let mut text = String::new();
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hops::docker::models::HostConfig;

    #[test]
    fn the_hosts_resolver_is_taken_over_but_not_its_loopback() {
        let plain = Record::default();
        let host = "# c\nnameserver 127.0.0.53\nsearch a b\noptions edns0\n";
        assert_eq!(
            resolv_conf(host, &plain, true),
            "search a b\nnameserver 8.8.8.8\nnameserver 8.8.4.4\noptions edns0\n"
        );
        assert!(resolv_conf(host, &plain, false).contains("127.0.0.53"));
        let own = HostConfig { dns: Some(vec!["1.1.1.1".into()]), ..HostConfig::default() };
        let record = Record { host: own, ..Record::default() };
        assert_eq!(
            resolv_conf(host, &record, true),
            "search a b\nnameserver 1.1.1.1\noptions edns0\n"
        );
    }
}
