//! `Containers`: what should run. A container is data; what runs is a task.

use super::{convert::relabel_one, namespace, required, stamp, streams, verbs};
use crate::{
    Error, Kind, Result,
    filters::{Fields, Filters},
    metadata::{self, Labels, identifier},
};
use futures_util::stream;
use hops::proto::containerd::{
    events,
    services::containers::v1::{
        Container, CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest,
        GetContainerRequest, GetContainerResponse, ListContainerMessage, ListContainersRequest,
        ListContainersResponse, UpdateContainerRequest, UpdateContainerResponse,
    },
};
use prost::Message;
use std::{borrow::Cow, time::SystemTime};

impl crate::Engine {
    /// A container of a namespace.
    ///
    /// # Errors
    /// `NotFound` in containerd's words.
    pub(crate) fn container(&self, ns: &str, id: &str) -> Result<Container> {
        let record = self.store().metadata().get::<metadata::Container>(ns, id);
        decode(&record.map_err(|e| not_found(e, ns, id))?)
    }

    fn containers(&self, ns: &str, filters: &[String]) -> Result<Vec<Container>> {
        let filters = Filters::parse(filters)?;
        let mut found = Vec::new();
        for (_, record) in self.store().metadata().list::<metadata::Container>(ns)? {
            let container = decode(&record)?;
            if filters.matches(&Filtered(&container)) {
                found.push(container);
            }
        }
        Ok(found)
    }
}

struct Filtered<'a>(&'a Container);

impl Fields for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let text =
            |text: &'_ str| Some(text.to_owned().into()).filter(|t: &Cow<'_, str>| !t.is_empty());
        match path {
            ["id"] => text(&self.0.id),
            ["image"] => text(&self.0.image),
            ["runtime", "name"] => text(&self.0.runtime.as_ref()?.name),
            ["labels", key @ ..] => self.0.labels.get(&key.join(".")).map(|v| v.as_str().into()),
            _ => None,
        }
    }
}

fn decode(record: &metadata::Container) -> Result<Container> {
    Container::decode(record.0.as_slice())
        .map_err(|e| Error::data_loss(format_args!("decoding a container: {e}")))
}

fn encode(container: &Container) -> metadata::Container {
    metadata::Container(container.encode_to_vec())
}

fn not_found(error: Error, ns: &str, id: &str) -> Error {
    match error.kind {
        Kind::NotFound => Error::not_found(format_args!("container {id:?} in namespace {ns:?}")),
        _ => error,
    }
}

fn validate(container: &Container) -> Result<()> {
    identifier::validate(&container.id).map_err(|e| e.during("container.ID"))?;
    for (key, value) in &container.extensions {
        if key.is_empty() {
            return Err(Error::invalid("extension keys must not be zero-length"));
        }
        if value.type_url.is_empty() {
            return Err(Error::invalid(format_args!(
                "container.Extensions[{key:?}] must have a type url"
            )));
        }
    }
    let labels: Labels = container.labels.clone().into_iter().collect();
    identifier::validate_labels(&labels)?;
    if container.runtime.as_ref().is_none_or(|runtime| runtime.name.is_empty()) {
        return Err(Error::invalid("container.Runtime.Name must be set"));
    }
    if container.spec.is_none() {
        return Err(Error::invalid("container.Spec must be set"));
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return Err(Error::invalid(
            "container.Snapshotter must be set if container.SnapshotKey is set",
        ));
    }
    Ok(())
}

/// Takes over what the mask names from `new`; without a mask everything that may change.
fn merge(container: &mut Container, new: Container, mask: &[String]) -> Result<()> {
    let everything = ["labels", "spec", "extensions", "image", "snapshotkey"].map(str::to_owned);
    if mask.is_empty() {
        if new.snapshotter != container.snapshotter {
            return Err(Error::invalid("container.Snapshotter field is immutable"));
        }
        let name = |c: &Container| c.runtime.as_ref().map(|r| r.name.clone());
        if name(&new) != name(container) {
            return Err(Error::invalid("container.Runtime.Name field is immutable"));
        }
    }
    for path in if mask.is_empty() { &everything } else { mask } {
        match path.as_str() {
            "labels" => container.labels = new.labels.clone(),
            "spec" => container.spec = new.spec.clone(),
            "extensions" => container.extensions = new.extensions.clone(),
            "image" => container.image = new.image.clone(),
            "snapshotkey" => container.snapshot_key = new.snapshot_key.clone(),
            path => {
                if let Some(key) = path.strip_prefix("labels.") {
                    let mut labels: Labels = container.labels.drain().collect();
                    relabel_one(&mut labels, key, &new.labels);
                    container.labels = labels.into_iter().collect();
                } else if let Some(key) = path.strip_prefix("extensions.") {
                    match new.extensions.get(key) {
                        Some(value) => container.extensions.insert(key.to_owned(), value.clone()),
                        None => container.extensions.remove(key),
                    };
                } else {
                    return Err(Error::invalid(format_args!(
                        "cannot update {path:?} field on {:?}",
                        container.id
                    )));
                }
            }
        }
    }
    Ok(())
}

verbs! {
    GetContainerRequest = |engine, cx, op| {
        let container = engine.container(&namespace(cx)?, &op.id)?;
        Ok(GetContainerResponse { container: Some(container) })
    }

    ListContainersRequest = |engine, cx, op| {
        let containers = engine.containers(&namespace(cx)?, &op.filters)?;
        Ok(ListContainersResponse { containers })
    }

    CreateContainerRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let mut container = required(op.container, "container")?;
        validate(&container).map_err(|e| e.during("create container failed validation"))?;
        container.created_at = stamp(SystemTime::now());
        container.updated_at = container.created_at;
        let (record, id, within) = (encode(&container), container.id.clone(), ns.clone());
        engine
            .blocking(move |store| {
                store.metadata().change(|tx| tx.create(&within, &id, &record))
            })
            .await?;
        let runtime = container.runtime.clone().unwrap_or_default();
        let event = events::ContainerCreate {
            id: container.id.clone(),
            image: container.image.clone(),
            runtime: Some(events::container_create::Runtime {
                name: runtime.name,
                options: runtime.options,
            }),
        };
        engine.events().emit(&ns, "/containers/create", &event);
        Ok(CreateContainerResponse { container: Some(container) })
    }

    UpdateContainerRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let new = required(op.container, "container")?;
        if new.id.is_empty() {
            return Err(Error::invalid("must specify a container id").into());
        }
        let (within, mask) = (ns.clone(), op.update_mask.unwrap_or_default().paths);
        let container = engine.blocking(move |store| {
            let id = new.id.clone();
            let mut changed = Container::default();
            store.metadata().change(|tx| {
                tx.update(&within, &id, |record: &mut metadata::Container| {
                    let mut container = decode(record)?;
                    merge(&mut container, new, &mask)?;
                    validate(&container)?;
                    container.updated_at = stamp(SystemTime::now());
                    *record = encode(&container);
                    changed = container;
                    Ok(())
                }).map_err(|e| not_found(e, &within, &id))
            })?;
            Ok(changed)
        }).await?;
        let event = events::ContainerUpdate {
            id: container.id.clone(),
            image: container.image.clone(),
            labels: container.labels.clone(),
            snapshot_key: container.snapshot_key.clone(),
        };
        engine.events().emit(&ns, "/containers/update", &event);
        Ok(UpdateContainerResponse { container: Some(container) })
    }

    DeleteContainerRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let (within, id) = (ns.clone(), op.id.clone());
        engine.blocking(move |store| {
            store.metadata().change(|tx| {
                tx.remove::<metadata::Container>(&within, &id)
                    .map_err(|e| not_found(e, &within, &id))
            })
        }).await?;
        engine.events().emit(&ns, "/containers/delete", &events::ContainerDelete { id: op.id });
        Ok(())
    }
}

streams! {
    ListContainersRequest = |engine, cx, op, _input| {
        let containers = engine.containers(&namespace(cx)?, &op.filters)?;
        Ok(Box::pin(stream::iter(containers.into_iter().map(|container| {
            Ok(ListContainerMessage { container: Some(container) })
        }))))
    }
}
