//! What travels with a call: the trace, the deadline, the protocol's own metadata. Nothing global.

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, Instant},
};

/// The environment variable that carries [`TraceParent`] to a program that is executed.
pub const TRACEPARENT_ENV: &str = "TRACEPARENT";
/// The header (gRPC, ttrpc, HTTP) that carries [`TraceParent`].
pub const TRACEPARENT_HEADER: &str = "traceparent";
/// containerd's metadata key for the namespace a call is about.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";
/// containerd's metadata key for the lease a call works under.
pub const LEASE_HEADER: &str = "containerd-lease";
/// Docker's header for registry credentials: base64url of an `AuthConfig`.
pub const REGISTRY_AUTH_HEADER: &str = "x-registry-auth";

/// The metadata that a wire carries for a caller besides trace and deadline. Anything else that a
/// real client sends (user agents, content types) is the transport's own business.
pub const CARRIED: [&str; 3] = [NAMESPACE_HEADER, LEASE_HEADER, REGISTRY_AUTH_HEADER];

/// A W3C trace context: which trace, and which span of it is the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace, never zero.
    pub trace: u128,
    /// The calling span, never zero.
    pub span: u64,
}

impl TraceParent {
    /// Reads the `traceparent` form `00-<32 hex>-<16 hex>-<2 hex>`; `None` when it is malformed or
    /// not sampled (W3C Trace Context, section 3.2).
    pub fn parse(text: &str) -> Option<TraceParent> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok()?;
        let span = u64::from_str_radix(span, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (trace != 0 && span != 0 && flags & 1 == 1).then_some(TraceParent { trace, span })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// The context of one call.
#[derive(Clone, Debug, Default)]
pub struct Cx {
    /// The calling span, when this call is traced.
    pub trace: Option<TraceParent>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    metadata: Vec<(&'static str, Cow<'static, str>)>,
}

impl Cx {
    /// A context with nothing in it: not traced, no deadline.
    pub fn background() -> Cx {
        Cx::default()
    }

    /// The context that the caller of this program left in its environment.
    pub fn from_env() -> Cx {
        let trace = std::env::var(TRACEPARENT_ENV).ok().and_then(|text| TraceParent::parse(&text));
        Cx { trace, ..Cx::default() }
    }

    /// The same context without its trace, for work that outlives the call.
    pub fn detached(&self) -> Cx {
        Cx { trace: None, deadline: None, metadata: self.metadata.clone() }
    }

    /// The same context in containerd's namespace `namespace`.
    pub fn in_namespace(&self, namespace: impl Into<Cow<'static, str>>) -> Cx {
        self.with(NAMESPACE_HEADER, namespace)
    }

    /// The containerd namespace of the call, where one was given.
    pub fn namespace(&self) -> Option<&str> {
        self.get(NAMESPACE_HEADER)
    }

    /// The same context with the metadata `key` (one of [`CARRIED`]) set to `value`.
    pub fn with(&self, key: &'static str, value: impl Into<Cow<'static, str>>) -> Cx {
        let mut cx = self.clone();
        cx.metadata.retain(|(k, _)| *k != key);
        cx.metadata.push((key, value.into()));
        cx
    }

    /// The same context, to be answered within `limit` or by the caller's own deadline.
    pub fn within(&self, limit: Duration) -> Cx {
        let mut cx = self.clone();
        let end = Instant::now() + limit;
        cx.deadline = Some(cx.deadline.map_or(end, |d| d.min(end)));
        cx
    }

    /// The metadata under `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| *k == key).map(|(_, v)| &**v)
    }

    /// Everything that a wire has to write beside the message.
    pub fn metadata(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.metadata.iter().map(|(k, v)| (*k, &**v))
    }

    /// What is left until the deadline; zero when it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|d| d.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_reads_what_it_writes_and_nothing_else() {
        let parent = TraceParent { trace: 0xabc, span: 0x12 };
        assert_eq!(TraceParent::parse(&parent.to_string()), Some(parent));
        for bad in [
            "",
            "00-0-0-01",
            "00-00000000000000000000000000000000-0000000000000012-01",
            "00-00000000000000000000000000000abc-0000000000000012-00",
            "ff-00000000000000000000000000000abc-0000000000000012-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_nearer_deadline_wins() {
        let cx = Cx::background().within(Duration::from_secs(1));
        let later = cx.within(Duration::from_secs(60));
        assert_eq!(later.deadline, cx.deadline);
    }
}
