//! The pod's name service: Docker's resolv.conf for the sandbox, rewritten
//! (`rewriteResolvFile`, Kubernetes 1.20). Every container of the pod sees the file.

use std::{fs, path::Path};

use hops::{HopError, Result, proto::runtime::v1::DnsConfig};

/// The file's text for `dns`; `None` when it says nothing and Docker's own stays.
pub(crate) fn text(dns: &DnsConfig) -> Option<String> {
    let mut lines: Vec<String> = dns.servers.iter().map(|s| format!("nameserver {s}")).collect();
    if !dns.searches.is_empty() {
        lines.push(format!("search {}", dns.searches.join(" ")));
    }
    if !dns.options.is_empty() {
        lines.push(format!("options {}", dns.options.join(" ")));
    }
    (!lines.is_empty()).then(|| lines.join("\n") + "\n")
}

/// Rewrites the file at `path`.
///
/// # Errors
/// A path that Docker did not tell, or that is gone.
pub(crate) fn rewrite(path: &str, dns: &DnsConfig) -> Result<()> {
    if path.is_empty() {
        return Err(HopError::internal("ResolvConfPath is empty."));
    }
    let Some(text) = text(dns) else { return Ok(()) };
    if !Path::new(path).exists() {
        return Err(HopError::not_found(format!("ResolvConfPath {path:?} does not exist")));
    }
    // In place: the file is bind-mounted, a new one would not be seen.
    fs::write(path, text).map_err(|e| HopError::from(e).context(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_the_pod_asked_for() {
        let of = |s: &str| s.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect();
        let dns = DnsConfig {
            servers: of("1.1.1.1 2.2.2.2"),
            searches: of("a b"),
            options: of("ndots:5"),
        };
        assert_eq!(
            text(&dns).as_deref(),
            Some("nameserver 1.1.1.1\nnameserver 2.2.2.2\nsearch a b\noptions ndots:5\n")
        );
        assert_eq!(text(&DnsConfig::default()), None);
    }
}
