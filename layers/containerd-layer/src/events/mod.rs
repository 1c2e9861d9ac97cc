//! Events: what changed, told to everyone who asked, kept for no one.
//!
//! An [`Exchange`] copies each event to every subscriber's bounded queue. Publishing never waits:
//! a subscriber that does not read loses its subscription, and is told so, rather than the daemon
//! its memory.
//!
//! One thing is kept after all: what ended while there was no daemon. Shims tell it to the next one
//! at once, and those who want to know, dockerd for one, come back a second or more later.

mod service;

use crate::{
    Error, Result,
    filters::{Fields, Filters},
    metadata::identifier,
    services::any,
};
use hops::{
    HopError, Kind,
    proto::{Any, Timestamp, containerd::types::Envelope},
};
use prost::{Message, Name};
use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc;

/// How many events may wait for one subscriber.
const QUEUE: usize = 4096;

/// How long a daemon that found tasks tells their ends to whoever subscribes. Go's gRPC clients
/// come back after a second, then two, then at the most three (dockerd's limit).
const HOMECOMING: Duration = Duration::from_secs(10);

/// Where events are published and subscribed to. Clones are the same exchange.
#[derive(Debug, Clone, Default)]
pub struct Exchange(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    subscribers: Vec<Subscriber>,
    homecoming: Option<Homecoming>,
}

/// The ends that a new daemon was told of.
#[derive(Debug)]
struct Homecoming {
    until: Instant,
    ends: Vec<Envelope>,
}

#[derive(Debug)]
struct Subscriber {
    filters: Filters,
    queue: mpsc::Sender<Envelope>,
}

/// The events that one subscriber asked for, in the order in which they happened.
#[derive(Debug)]
pub struct Subscription(mpsc::Receiver<Envelope>);

impl Subscription {
    /// The next event; an error when they came faster than they were read, after which there are
    /// no more.
    pub async fn next(&mut self) -> hops::Result<Envelope> {
        self.0.recv().await.ok_or_else(|| {
            HopError::new(Kind::ResourceExhausted, "subscriber fell behind and lost its events")
        })
    }
}

impl Exchange {
    /// Begins a subscription to the events that `filters` accept.
    pub fn subscribe(&self, filters: Filters) -> Subscription {
        let (queue, events) = mpsc::channel(QUEUE);
        let mut state = self.state();
        for end in state.ends() {
            if filters.matches(&Filtered(end)) {
                // There is room: no more are kept than a queue holds.
                let _ = queue.try_send(end.clone());
            }
        }
        state.subscribers.push(Subscriber { filters, queue });
        Subscription(events)
    }

    /// Begins to keep the ends of tasks for those who come back to a daemon that was away.
    pub(crate) fn await_return(&self) {
        let until = Instant::now() + HOMECOMING;
        self.state().homecoming = Some(Homecoming { until, ends: Vec::new() });
    }

    /// Publishes an event of this daemon's own.
    pub fn emit<M: Message + Name>(&self, ns: &str, topic: &str, event: &M) {
        if self.state().is_idle() {
            return;
        }
        self.send(Envelope {
            timestamp: Some(Timestamp::from(SystemTime::now())),
            namespace: ns.to_owned(),
            topic: topic.to_owned(),
            event: Some(any(event)),
        });
    }

    /// Publishes what a client said.
    ///
    /// # Errors
    /// `InvalidArgument` for a namespace or topic that containerd refuses.
    pub fn publish(&self, ns: &str, topic: &str, event: Any) -> Result<()> {
        let timestamp = Some(Timestamp::from(SystemTime::now()));
        self.forward(Envelope {
            timestamp,
            namespace: ns.to_owned(),
            topic: topic.to_owned(),
            event: Some(event),
        })
    }

    /// Passes on an event that has its namespace and time: a shim's.
    ///
    /// # Errors
    /// `InvalidArgument` for an envelope that containerd refuses.
    pub fn forward(&self, envelope: Envelope) -> Result<()> {
        identifier::validate(&envelope.namespace)
            .map_err(|e| e.during("event envelope has invalid namespace"))?;
        check_topic(&envelope.topic)
            .map_err(|e| e.during(format_args!("envelope topic {:?}", envelope.topic)))?;
        if envelope.timestamp.is_none() {
            return Err(Error::invalid("timestamp must be set on forwarded event"));
        }
        self.send(envelope);
        Ok(())
    }

    fn send(&self, envelope: Envelope) {
        let mut state = self.state();
        if state.ends().len() < QUEUE
            && ENDS.contains(&envelope.topic.as_str())
            && let Some(homecoming) = &mut state.homecoming
        {
            homecoming.ends.push(envelope.clone());
        }
        state.subscribers.retain(|subscriber| {
            if !subscriber.filters.matches(&Filtered(&envelope)) {
                return !subscriber.queue.is_closed();
            }
            let sent = subscriber.queue.try_send(envelope.clone());
            if let Err(mpsc::error::TrySendError::Full(_)) = &sent {
                tracing::warn!(topic = envelope.topic, "an event subscriber fell behind");
            }
            sent.is_ok()
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The lists are whole after every statement, so a panicked holder left them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events by which it is known that a process has ended, and why.
const ENDS: [&str; 2] = ["/tasks/exit", "/tasks/oom"];

impl State {
    /// The ends that are told to who subscribes now.
    fn ends(&mut self) -> &[Envelope] {
        if self.homecoming.as_ref().is_some_and(|homecoming| homecoming.until < Instant::now()) {
            self.homecoming = None;
        }
        self.homecoming.as_ref().map_or(&[], |homecoming| &homecoming.ends)
    }

    /// Whether nobody hears what happens, now or later.
    fn is_idle(&self) -> bool {
        self.subscribers.is_empty() && self.homecoming.is_none()
    }
}

fn check_topic(topic: &str) -> Result<()> {
    if topic.is_empty() {
        return Err(Error::invalid("must not be empty"));
    }
    let Some(rest) = topic.strip_prefix('/') else {
        return Err(Error::invalid("must start with '/'"));
    };
    if rest.is_empty() {
        return Err(Error::invalid("must have at least one component"));
    }
    rest.split('/').try_for_each(|component| {
        identifier::validate(component)
            .map_err(|e| e.during(format_args!("failed validation on component {component:?}")))
    })
}

struct Filtered<'a>(&'a Envelope);

impl Fields for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["namespace"] => Some(Cow::Borrowed(self.0.namespace.as_str())),
            ["topic"] => Some(Cow::Borrowed(self.0.topic.as_str())),
            ["event", field] => subject(self.0.event.as_ref()?, field).map(Cow::Owned),
            _ => None,
        }
    }
}

/// What events call the thing they are about: the first field of every task, container, image and
/// snapshot event is its name.
#[derive(Clone, PartialEq, Eq, Message)]
struct Subject {
    #[prost(string, tag = "1")]
    name: String,
}

fn subject(event: &Any, field: &str) -> Option<String> {
    let kind = event.type_url.rsplit(['/', '.']).next()?;
    let named = match kind.find(char::is_lowercase).map(|_| kind) {
        Some(kind) if kind.starts_with("Task") => "container_id",
        Some(kind) if kind.starts_with("Container") => "id",
        Some(kind) if kind.starts_with("Snapshot") => "key",
        Some(kind) if kind.starts_with("Content") => "digest",
        Some(_) => "name",
        None => return None,
    };
    (field == named).then(|| Subject::decode(event.value.as_slice()).ok())?.map(|s| s.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hops::proto::containerd::events::TaskStart;

    fn start(id: &str) -> TaskStart {
        TaskStart { container_id: id.to_owned(), pid: 1 }
    }

    #[tokio::test]
    async fn filters_choose_and_order_is_kept() {
        let exchange = Exchange::default();
        let of = |filter: &str| exchange.subscribe(Filters::parse(&[filter]).unwrap());
        let mut all = of("");
        let mut b = of("event.container_id==b");
        let mut none = of(r#"topic=="/tasks/exit""#);
        let mut other = of("namespace!=x,topic~=^/tasks/");
        for id in ["a", "b"] {
            exchange.emit("x", "/tasks/start", &start(id));
        }
        exchange.emit("y", "/tasks/exit", &start("c"));
        for id in ["a", "b", "c"] {
            let event = all.next().await.unwrap().event.unwrap();
            assert_eq!(event, any(&start(id)));
        }
        assert_eq!(b.next().await.unwrap().event.unwrap(), any(&start("b")));
        assert_eq!(none.next().await.unwrap().topic, "/tasks/exit");
        assert_eq!(other.next().await.unwrap().namespace, "y");
        assert!(b.0.try_recv().is_err());
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_off_and_told() {
        let exchange = Exchange::default();
        let mut slow = exchange.subscribe(Filters::default());
        for _ in 0..=QUEUE {
            exchange.emit("x", "/tasks/start", &start("a"));
        }
        for _ in 0..QUEUE {
            slow.next().await.unwrap();
        }
        assert_eq!(slow.next().await.unwrap_err().kind, Kind::ResourceExhausted);
        assert!(exchange.state().subscribers.is_empty());
    }

    #[tokio::test]
    async fn who_comes_back_is_told_what_ended() {
        let exchange = Exchange::default();
        exchange.emit("x", "/tasks/exit", &start("unheard"));
        exchange.await_return();
        exchange.emit("x", "/tasks/start", &start("b"));
        exchange.emit("x", "/tasks/exit", &start("a"));
        let mut back = exchange.subscribe(Filters::parse(&["namespace==x"]).unwrap());
        let mut other = exchange.subscribe(Filters::parse(&["namespace==y"]).unwrap());
        exchange.emit("x", "/tasks/exit", &start("c"));
        for id in ["a", "c"] {
            assert_eq!(back.next().await.unwrap().event.unwrap(), any(&start(id)));
        }
        assert!(other.0.try_recv().is_err());
    }

    #[test]
    fn envelopes_are_checked() {
        let exchange = Exchange::default();
        for (ns, topic) in [("", "/a"), ("x", ""), ("x", "a"), ("x", "/"), ("x", "/a//b")] {
            let refused = exchange.publish(ns, topic, Any::default()).unwrap_err();
            assert_eq!(refused.kind, crate::Kind::InvalidArgument, "{ns} {topic}");
        }
        exchange.publish("x", "/a/b", Any::default()).unwrap();
    }
}
