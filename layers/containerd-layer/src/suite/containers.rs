//! Containers: records with a life of their own.

use super::{Subject, Verdict, mask, same, says, some};
use futures_util::StreamExt;
use hops::{
    Cx, HandleStream, Kind,
    proto::{
        Any,
        containerd::services::{
            containers::v1::{
                Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
                ListContainersRequest, UpdateContainerRequest, container::Runtime,
            },
            namespaces::v1::DeleteNamespaceRequest,
        },
    },
};

/// The type under which containerd's clients keep an OCI configuration.
pub(super) const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

pub(super) fn container(id: &str, runtime: &str, spec: &str) -> Container {
    Container {
        id: id.to_owned(),
        labels: [("a".into(), "1".into())].into(),
        image: "example.org/suite:1".into(),
        runtime: Some(Runtime { name: runtime.to_owned(), options: None }),
        spec: Some(Any { type_url: SPEC.into(), value: spec.as_bytes().to_vec() }),
        ..Default::default()
    }
}

pub(super) fn create(container: Container) -> CreateContainerRequest {
    CreateContainerRequest { container: Some(container) }
}

pub(super) async fn chapter(subject: &Subject) -> Verdict {
    let (cx, ns) = subject.fresh("containers");
    let one = || container("one", "io.containerd.runc.v2", "{}");
    let made = subject.call(&cx, create(one())).await?;
    some("creation time", some("container", made.container)?.created_at)?;
    let refusal = subject.refused(&cx, create(one()), Kind::AlreadyExists).await?;
    says(&refusal, "one")?;
    for bad in [
        Container { id: "a b".into(), ..one() },
        Container { id: "x".into(), spec: None, ..one() },
        Container { id: "x".into(), runtime: None, ..one() },
        Container { id: "x".into(), snapshot_key: "k".into(), ..one() },
    ] {
        subject.refused(&cx, create(bad), Kind::InvalidArgument).await?;
    }
    update(subject, &cx, one()).await?;
    list(subject, &cx).await?;

    let missing = GetContainerRequest { id: "two".into() };
    let refusal = subject.refused(&cx, missing, Kind::NotFound).await?;
    says(&refusal, &format!("container \"two\" in namespace \"{ns}\": not found"))?;
    subject.call(&cx, DeleteContainerRequest { id: "one".into() }).await?;
    let gone = DeleteContainerRequest { id: "one".into() };
    subject.refused(&cx, gone, Kind::NotFound).await?;
    subject.call(&cx, DeleteNamespaceRequest { name: ns }).await
}

async fn update(subject: &Subject, cx: &Cx, mut one: Container) -> Verdict {
    one.labels = [("b".into(), "2".into())].into();
    one.image = "example.org/suite:2".into();
    let with = |paths: &[&str]| UpdateContainerRequest {
        container: Some(one.clone()),
        update_mask: Some(mask(paths)),
    };
    subject.call(cx, with(&["labels.b"])).await?;
    let found = subject.call(cx, GetContainerRequest { id: "one".into() }).await?;
    let found = some("container", found.container)?;
    same("labels", found.labels.len(), 2)?;
    same("image", found.image.as_str(), "example.org/suite:1")?;
    subject.call(cx, with(&["labels", "image"])).await?;
    let found = subject.call(cx, GetContainerRequest { id: "one".into() }).await?;
    let found = some("container", found.container)?;
    same("labels", found.labels.len(), 1)?;
    same("image", found.image.as_str(), "example.org/suite:2")?;
    subject.refused(cx, with(&["runtime"]), Kind::InvalidArgument).await.map(drop)
}

async fn list(subject: &Subject, cx: &Cx) -> Verdict {
    for (filter, wanted) in [
        ("id==one", 1),
        ("id!=one", 0),
        ("image~=suite:2$", 1),
        ("runtime.name==io.containerd.runc.v2", 1),
        ("labels.\"b\"==2", 1),
        ("labels.c", 0),
    ] {
        let request = || ListContainersRequest { filters: vec![filter.to_owned()] };
        let found = subject.call(cx, request()).await?;
        same(format_args!("containers with {filter}"), found.containers.len(), wanted)?;
        let no_input = hops::op::no_input();
        let opened = HandleStream::stream(&*subject.face, cx, request(), no_input).await;
        let mut stream = opened.map_err(|e| format!("ListStream: {e}"))?;
        let mut found = 0;
        while let Some(container) = stream.next().await {
            container.map_err(|e| format!("ListStream: {e}"))?;
            found += 1;
        }
        same(format_args!("containers with {filter}, streamed"), found, wanted)?;
    }
    Ok(())
}
