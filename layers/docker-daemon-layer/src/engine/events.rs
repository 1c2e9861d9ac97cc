//! `GET /events`: what happened, for whoever asks now and for the last moments before.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use hops::{
    Cx, HandleStream, HopError, Inputs, Outputs, Result,
    docker::{
        Event, Events as EventsVerb, Json, Request,
        models::{EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum},
    },
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{Engine, container::Container, filters::Filters, lock};
use crate::time;

/// How many events are kept for those who ask later (moby's `eventsLimit`).
const KEPT: usize = 256;

/// What happened.
pub(crate) struct Events {
    past: Mutex<VecDeque<Event>>,
    now: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Events {
        Events { past: Mutex::default(), now: broadcast::Sender::new(KEPT) }
    }
}

impl Events {
    /// How many listen.
    pub(crate) fn listeners(&self) -> usize {
        self.now.receiver_count()
    }

    /// Tells that something happened to `id`.
    pub(crate) fn tell(
        &self,
        typ: EventMessageTypeEnum,
        action: &str,
        id: &str,
        attributes: HashMap<String, String>,
    ) {
        let at = time::now();
        let legacy = matches!(typ, EventMessageTypeEnum::CONTAINER | EventMessageTypeEnum::IMAGE);
        let event = Event {
            status: legacy.then(|| action.to_owned()),
            id: legacy.then(|| id.to_owned()),
            from: attributes.get("image").cloned().filter(|_| legacy),
            base: EventMessage {
                typ: Some(typ),
                action: Some(action.to_owned()),
                actor: Some(EventActor { id: Some(id.to_owned()), attributes: Some(attributes) }),
                scope: Some(EventMessageScopeEnum::LOCAL),
                time: Some(at / 1_000_000_000),
                time_nano: Some(at),
            },
        };
        let mut past = lock(&self.past);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Nobody may be listening.
        let _ = self.now.send(event);
    }
}

impl Engine {
    /// Tells that something happened to a container.
    pub(super) fn tell(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let attributes = container.look(|r| {
            let mut all: HashMap<String, String> = r.config.labels.clone().unwrap_or_default();
            all.insert("image".to_owned(), r.config.image.clone().unwrap_or_default());
            all.insert("name".to_owned(), r.name.clone());
            all.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
            all
        });
        self.events.tell(EventMessageTypeEnum::CONTAINER, action, &container.id, attributes);
    }
}

/// Whether `event` is one that was asked for.
fn wanted(event: &Event, filters: &Filters) -> bool {
    let typ = event.base.typ.map(|t| t.to_string()).unwrap_or_default();
    let action = event.base.action.as_deref().unwrap_or_default();
    let actor = event.base.actor.as_ref();
    let id = actor.and_then(|a| a.id.as_deref()).unwrap_or_default();
    let attribute =
        |key: &str| actor.and_then(|a| a.attributes.as_ref()?.get(key)).map(String::as_str);
    let about = |kind: &str| {
        let name = attribute("name");
        filters.any(kind, |v| {
            typ == kind && (id == v || name == Some(v) || (!v.is_empty() && id.starts_with(v)))
        })
    };
    filters.any("type", |v| v == typ)
        && filters.any("event", |v| {
            v == action || action.split_once(':').is_some_and(|(verb, _)| verb == v)
        })
        && about("container")
        && about("image")
        && about("network")
        && about("volume")
        && filters.all("label", |v| match v.split_once('=') {
            Some((key, value)) => attribute(key) == Some(value),
            None => attribute(v).is_some(),
        })
}

#[async_trait]
impl HandleStream<Request<EventsVerb>> for Engine {
    async fn stream(
        &self,
        _cx: &Cx,
        call: Request<EventsVerb>,
        _input: Inputs<Bytes>,
    ) -> Result<Outputs<Json<Event>>> {
        let filters = Filters::parse(
            call.query.filters.as_deref(),
            &[
                "config",
                "container",
                "daemon",
                "event",
                "image",
                "label",
                "network",
                "node",
                "plugin",
                "scope",
                "secret",
                "service",
                "type",
                "volume",
            ],
        )?;
        let point = |text: &Option<String>| -> Result<Option<i64>> {
            match text.as_deref() {
                None | Some("") => Ok(None),
                Some(text) => time::parse(text).map(Some).ok_or_else(|| {
                    HopError::invalid(format!("parsing time \"{text}\": it is no time"))
                }),
            }
        };
        let (since, until) = (point(&call.query.since)?, point(&call.query.until)?);
        let (past, now) = {
            let past = lock(&self.events.past);
            let from = since.unwrap_or(i64::MAX);
            let at = |e: &Event| e.base.time_nano.unwrap_or(0);
            let past: Vec<Event> = past
                .iter()
                .filter(|e| at(e) >= from && until.is_none_or(|u| at(e) <= u))
                .cloned()
                .collect();
            (past, self.events.now.subscribe())
        };
        let live = BroadcastStream::new(now).map(|event| match event {
            Ok(event) => Ok(event),
            Err(BroadcastStreamRecvError::Lagged(missed)) => {
                Err(HopError::internal(format!("{missed} events were missed")))
            }
        });
        let left = until.map(|u| u.saturating_sub(time::now()).max(0) as u64);
        let end = async move {
            match left {
                Some(left) => tokio::time::sleep(std::time::Duration::from_nanos(left)).await,
                None => std::future::pending().await,
            }
        };
        let all = futures_util::stream::iter(past.into_iter().map(Ok)).chain(live.take_until(end));
        Ok(Box::pin(all.filter_map(move |event| {
            let event = match event {
                Ok(event) => wanted(&event, &filters).then_some(Ok(Json(event))),
                Err(error) => Some(Err(error)),
            };
            std::future::ready(event)
        })))
    }
}
