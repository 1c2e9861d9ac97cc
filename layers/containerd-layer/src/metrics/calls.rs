//! How often each verb was called and how that ended, under the names of go-grpc-prometheus, which
//! containerd counts its calls with.

use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use hops::{
    Cx, Handle, HandleStream, HopError, Inputs, Kind, Outputs,
    rpc::{RpcOp, RpcStreamOp},
};
use std::{
    any::TypeId,
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

/// The counters. Clones are the same counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(Arc<Mutex<BTreeMap<Verb, Counts>>>);

/// A verb by its path and its shape.
type Verb = (&'static str, &'static str);

#[derive(Debug, Default)]
struct Counts {
    started: u64,
    received: u64,
    sent: u64,
    /// By gRPC's code.
    handled: BTreeMap<String, u64>,
}

/// One counter of one verb.
pub(super) struct Sample {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) value: u64,
}

impl Calls {
    fn count(&self, verb: Verb, change: impl FnOnce(&mut Counts)) {
        // Numbers are whole after every statement, so a panicked holder left them usable.
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(verb).or_default());
    }

    /// Counts a call that begins; its end is counted when the answer is dropped.
    fn begin(&self, verb: Verb) -> Open {
        self.count(verb, |counts| counts.started += 1);
        Open { calls: self.clone(), verb, code: code(Kind::Cancelled) }
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for ((path, shape), counts) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let (service, method) =
                path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
            let mut add = |name, help, code: Option<&String>, value| {
                let mut labels: Vec<_> =
                    code.map(|c| ("grpc_code", c.clone())).into_iter().collect();
                labels.push(("grpc_method", method.to_owned()));
                labels.push(("grpc_service", service.to_owned()));
                labels.push(("grpc_type", (*shape).to_owned()));
                samples.push(Sample { name, help, labels, value });
            };
            add(
                "grpc_server_started_total",
                "Total number of RPCs started on the server.",
                None,
                counts.started,
            );
            add(
                "grpc_server_msg_received_total",
                "Total number of RPC stream messages received on the server.",
                None,
                counts.received,
            );
            add(
                "grpc_server_msg_sent_total",
                "Total number of gRPC stream messages sent by the server.",
                None,
                counts.sent,
            );
            for (code, n) in &counts.handled {
                add(
                    "grpc_server_handled_total",
                    "Total number of RPCs completed on the server, regardless of success or failure.",
                    Some(code),
                    *n,
                );
            }
        }
        samples
    }
}

/// gRPC's name of a code.
fn code(kind: Kind) -> String {
    // The one that Go writes in another way.
    if kind == Kind::Cancelled { "Canceled".to_owned() } else { format!("{kind:?}") }
}

/// A call that is not over. Dropped without an end, the caller has hung up.
struct Open {
    calls: Calls,
    verb: Verb,
    code: String,
}

impl Open {
    fn end<T>(&mut self, answer: &Result<T, HopError>) {
        self.code = answer.as_ref().map_or_else(|e| code(e.kind), |_| "OK".to_owned());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let code = std::mem::take(&mut self.code);
        self.calls.count(self.verb, |counts| *counts.handled.entry(code).or_default() += 1);
    }
}

/// Counts every call that passes through it.
#[derive(Clone, Debug)]
pub(crate) struct Counted<L> {
    pub(crate) inner: L,
    pub(crate) calls: Calls,
}

#[async_trait]
impl<L: Handle<O>, O: RpcOp> Handle<O> for Counted<L> {
    async fn handle(&self, cx: &Cx, op: O) -> hops::Result<O::Reply> {
        let verb = (O::PATH, "unary");
        let mut open = self.calls.begin(verb);
        self.calls.count(verb, |counts| counts.received += 1);
        let answer = self.inner.handle(cx, op).await;
        if answer.is_ok() {
            self.calls.count(verb, |counts| counts.sent += 1);
        }
        open.end(&answer);
        answer
    }
}

#[async_trait]
impl<L: HandleStream<O>, O: RpcStreamOp> HandleStream<O> for Counted<L> {
    async fn stream(&self, cx: &Cx, op: O, input: Inputs<O::In>) -> hops::Result<Outputs<O::Out>> {
        let only_answers = TypeId::of::<O::In>() == TypeId::of::<()>();
        let verb = (O::PATH, if only_answers { "server_stream" } else { "bidi_stream" });
        let mut open = self.calls.begin(verb);
        let calls = self.calls.clone();
        if only_answers {
            calls.count(verb, |counts| counts.received += 1);
        }
        let input = input.inspect(move |_| calls.count(verb, |counts| counts.received += 1));
        match self.inner.stream(cx, op, Box::pin(input)).await {
            Ok(inner) => Ok(Box::pin(CountedStream { inner, open })),
            Err(error) => {
                open.code = code(error.kind);
                Err(error)
            }
        }
    }
}

/// A stream of answers, each of which counts, and so does the way it ends.
struct CountedStream<T> {
    inner: Outputs<T>,
    open: Open,
}

impl<T> Stream for CountedStream<T> {
    type Item = hops::Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.inner.as_mut().poll_next(cx);
        match &next {
            Poll::Ready(Some(Ok(_))) => {
                self.open.calls.count(self.open.verb, |counts| counts.sent += 1);
            }
            Poll::Ready(Some(error)) => self.open.end(error),
            Poll::Ready(None) if self.open.code == code(Kind::Cancelled) => {
                self.open.end::<()>(&Ok(()));
            }
            _ => {}
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hops::{containerd::VersionRequest, op::no_input, proto::containerd::services};
    use services::{content::v1::ListContentRequest, version::v1::VersionResponse};

    /// Knows its version, and lists one thing before it fails.
    struct Engine;

    #[async_trait]
    impl Handle<VersionRequest> for Engine {
        async fn handle(&self, cx: &Cx, _: VersionRequest) -> hops::Result<VersionResponse> {
            match cx.namespace() {
                Some(_) => Ok(VersionResponse::default()),
                None => Err(HopError::new(Kind::FailedPrecondition, "namespace is required")),
            }
        }
    }

    #[async_trait]
    impl HandleStream<ListContentRequest> for Engine {
        async fn stream(
            &self,
            _: &Cx,
            _: ListContentRequest,
            _: Inputs<()>,
        ) -> hops::Result<Outputs<services::content::v1::ListContentResponse>> {
            let failed = HopError::new(Kind::DataLoss, "no more");
            let answers = [Ok(Default::default()), Err(failed)];
            Ok(Box::pin(futures_util::stream::iter(answers)))
        }
    }

    #[tokio::test]
    async fn calls_are_counted_with_their_ends() {
        let calls = Calls::default();
        let counted = Counted { inner: Engine, calls: calls.clone() };
        let none = Cx::background();
        assert!(counted.handle(&none, VersionRequest {}).await.is_err());
        let some = none.in_namespace("default");
        counted.handle(&some, VersionRequest {}).await.unwrap();
        let list = || counted.stream(&none, ListContentRequest::default(), no_input());
        let _: Vec<_> = list().await.unwrap().collect().await;
        drop(list().await.unwrap());
        let value = |name: &str, method: &str, code: Option<&str>| {
            let samples = calls.samples();
            let label = |s: &Sample, name| {
                s.labels.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
            };
            let mut of_verb = samples
                .iter()
                .filter(|s| s.name == name && label(s, "grpc_method").as_deref() == Some(method));
            of_verb.find(|s| label(s, "grpc_code").as_deref() == code).map_or(0, |s| s.value)
        };
        let handled = "grpc_server_handled_total";
        assert_eq!(value("grpc_server_started_total", "Version", None), 2);
        assert_eq!(value(handled, "Version", Some("OK")), 1);
        assert_eq!(value(handled, "Version", Some("FailedPrecondition")), 1);
        assert_eq!(value("grpc_server_msg_sent_total", "List", None), 1);
        assert_eq!(value(handled, "List", Some("DataLoss")), 1);
        assert_eq!(value(handled, "List", Some("Canceled")), 1);
    }
}
