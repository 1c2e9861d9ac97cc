//! What happens: containerd's events, and the events that the kubelet may ask for.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use hops::{
    Cx, HopError, Outputs, Result,
    proto::{
        Any,
        containerd::{
            events::{TaskExit, TaskOom},
            services::{
                events::v1::{PublishRequest, SubscribeRequest},
                images::v1::{ImageCreate, ImageDelete, ImageUpdate},
            },
            types::Envelope,
        },
        runtime::v1::{ContainerEventResponse, ContainerEventType},
    },
};
use prost::Message;
use tokio::sync::{broadcast::error::RecvError, oneshot};

use super::{Core, task::Task};
use crate::{
    config::NAMESPACE,
    image::lock,
    names::{nanos, now},
    record::Exit,
};

/// What is listened for.
const TOPICS: [&str; 5] =
    ["/tasks/exit", "/tasks/oom", "/images/create", "/images/update", "/images/delete"];
/// What is published until the subscription answers, as servers that send their headers with the
/// first message (grpc-go's) need one.
const HELLO: &str = "/strata/cri/hello";
/// How long the first subscription is waited for; then its work goes on in the background.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// How long a lost subscription is left alone before the next try.
const AGAIN: Duration = Duration::from_millis(500);

/// Begins to listen to containerd. When this returns, no end of a task that starts later is missed.
pub(crate) async fn listen(core: &Arc<Core>) {
    let (heard, first) = oneshot::channel();
    let weak = Arc::downgrade(core);
    tokio::spawn(async move {
        let mut heard = Some(heard);
        while let Some(core) = weak.upgrade() {
            let events = core.subscribe().await;
            if heard.is_none() {
                core.resync().await;
            }
            drop(core);
            match events {
                Ok(mut events) => {
                    if let Some(heard) = heard.take() {
                        // Whoever opens the engine may have stopped waiting.
                        let _ = heard.send(());
                    }
                    while let Some(event) = events.next().await {
                        match (event, weak.upgrade()) {
                            (Ok(event), Some(core)) => core.heard(event),
                            (Err(error), Some(_)) => tracing::warn!(%error, "containerd's events"),
                            (_, None) => return,
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "subscribing to containerd's events"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
    if tokio::time::timeout(HELLO_PATIENCE, first).await.is_err() {
        tracing::warn!("containerd does not answer a subscription to its events");
    }
}

impl Core {
    async fn subscribe(&self) -> Result<Outputs<Envelope>> {
        let mut filters: Vec<String> = TOPICS
            .iter()
            .map(|topic| format!("namespace=={NAMESPACE},topic==\"{topic}\""))
            .collect();
        filters.push(format!("topic==\"{HELLO}\""));
        let cx = Cx::background();
        let mut opened = Box::pin(self.containerd.open(&cx, SubscribeRequest { filters }));
        loop {
            let hello = PublishRequest {
                topic: HELLO.to_owned(),
                event: Some(Any {
                    type_url: "google.protobuf.Empty".to_owned(),
                    value: Vec::new(),
                }),
            };
            tokio::select! {
                events = &mut opened => return events,
                () = tokio::time::sleep(Duration::from_millis(10)) => {
                    self.containerd.call(&cx, hello).await?;
                }
            }
        }
    }

    /// Asks for every task that should run: events were missed.
    async fn resync(self: &Arc<Self>) {
        let tasks = self.containers.all().into_iter().map(|c| c.task.clone());
        let tasks: Vec<_> =
            tasks.chain(self.sandboxes.all().into_iter().map(|s| s.task.clone())).collect();
        for task in tasks {
            if task.life().running() {
                self.probe(&task).await;
            }
        }
    }

    fn heard(self: &Arc<Self>, event: Envelope) {
        if event.namespace != NAMESPACE {
            return;
        }
        let value = event.event.map(|any| any.value).unwrap_or_default();
        let value = value.as_slice();
        let done = match event.topic.as_str() {
            "/tasks/exit" => TaskExit::decode(value).map(|exit| self.heard_exit(&exit)),
            "/tasks/oom" => TaskOom::decode(value).map(|oom| {
                if let Some(task) = self.task(&oom.container_id) {
                    task.life.send_modify(|life| life.oom = true);
                }
            }),
            "/images/create" => ImageCreate::decode(value).map(|i| self.images.forget(&i.name)),
            "/images/update" => ImageUpdate::decode(value).map(|i| self.images.forget(&i.name)),
            "/images/delete" => ImageDelete::decode(value).map(|i| self.images.forget(&i.name)),
            _ => Ok(()),
        };
        if let Err(error) = done {
            tracing::warn!(%error, topic = event.topic, "an event that cannot be read");
        }
    }

    fn heard_exit(self: &Arc<Self>, event: &TaskExit) {
        let exit = Exit {
            code: i32::try_from(event.exit_status).unwrap_or(255),
            at: nanos(event.exited_at.as_ref(), now()),
            ..Exit::default()
        };
        if event.id.is_empty() || event.id == event.container_id {
            if let Some(task) = self.task(&event.container_id) {
                self.ended(&task, exit);
            }
        } else if let Some(waiter) = lock(&self.execs).remove(&event.id) {
            // Whoever waited may have been told otherwise.
            let _ = waiter.send(exit);
        }
    }

    fn task(&self, id: &str) -> Option<Arc<Task>> {
        let exact = |task: &Arc<Task>| task.id == id;
        let container = self.containers.get(id).ok().map(|c| c.task.clone());
        let sandbox = || self.sandboxes.get(id).ok().map(|s| s.task.clone());
        container.filter(exact).or_else(|| sandbox().filter(exact))
    }

    /// Tells the kubelet, where it listens.
    pub(crate) fn happened(&self, id: &str, kind: ContainerEventType) {
        if self.happenings.receiver_count() == 0 {
            return;
        }
        let container = self.containers.get(id).ok().map(|c| c.record().sandbox_id.clone());
        let sandbox_id = container.unwrap_or_else(|| id.to_owned());
        let sandbox = self.sandboxes.get(&sandbox_id).ok();
        // The last listener may have gone just now.
        let _ = self.happenings.send(ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: sandbox.map(|sandbox| self.status_of_sandbox(&sandbox)),
            containers_statuses: self.statuses_in(&sandbox_id),
        });
    }

    /// What happens from now on.
    pub(crate) fn happenings(&self) -> Outputs<ContainerEventResponse> {
        let receiver = self.happenings.subscribe();
        Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), receiver)),
                Err(RecvError::Closed) => None,
                Err(RecvError::Lagged(lost)) => Some((
                    Err(HopError::new(
                        hops::Kind::DataLoss,
                        format!("{lost} container events were lost: the listener is too slow"),
                    )),
                    receiver,
                )),
            }
        }))
    }
}
