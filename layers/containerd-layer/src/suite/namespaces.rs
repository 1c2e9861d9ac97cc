//! Version, introspection, namespaces, leases.

use super::{Subject, Verdict, same, says, some};
use hops::{
    Cx, Kind,
    containerd::{ServerRequest, VersionRequest},
    proto::containerd::services::{
        containers::v1::ListContainersRequest,
        introspection::v1::PluginsRequest,
        leases::v1::{
            AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, ListRequest,
            ListResourcesRequest, Resource,
        },
        namespaces::v1::{
            CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest,
            ListNamespacesRequest, Namespace, UpdateNamespaceRequest,
        },
    },
};
use std::collections::HashMap;

pub(super) async fn chapter(subject: &Subject) -> Verdict {
    let (cx, ns) = subject.fresh("namespaces");
    let version = subject.call(&cx, VersionRequest {}).await?;
    says(&version.version, ".")?;
    let server = subject.call(&cx, ServerRequest {}).await?;
    let again = subject.call(&cx, ServerRequest {}).await?;
    same("length of the uuid", server.uuid.len(), 36)?;
    same("the uuid of a second call", again.uuid, server.uuid)?;
    let filters = vec!["type==io.containerd.snapshotter.v1,id==overlayfs".to_owned()];
    let plugins = subject.call(&cx, PluginsRequest { filters }).await?.plugins;
    same("snapshotters called overlayfs", plugins.len(), 1)?;

    let nowhere = Cx::background();
    let refusal = subject
        .refused(&nowhere, ListContainersRequest::default(), Kind::FailedPrecondition)
        .await?;
    says(&refusal, "namespace is required")?;

    namespace(subject, &cx, &ns).await?;
    leases(subject, &cx).await?;
    subject.call(&cx, DeleteNamespaceRequest { name: ns.clone() }).await?;
    let gone = DeleteNamespaceRequest { name: ns.clone() };
    subject.refused(&cx, gone, Kind::NotFound).await?;
    let all = subject.call(&cx, ListNamespacesRequest::default()).await?.namespaces;
    same("namespaces of the name", all.iter().filter(|n| n.name == ns).count(), 0)
}

async fn namespace(subject: &Subject, cx: &Cx, ns: &str) -> Verdict {
    let labels = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let named = |pairs| Namespace { name: ns.to_owned(), labels: labels(pairs) };
    let create = |namespace| CreateNamespaceRequest { namespace: Some(namespace) };
    subject.call(cx, create(named(&[("a", "1")]))).await?;
    subject.refused(cx, create(named(&[])), Kind::AlreadyExists).await?;
    let bad = Namespace { name: "-x".into(), ..Default::default() };
    subject.refused(cx, create(bad), Kind::InvalidArgument).await?;
    let update = UpdateNamespaceRequest {
        namespace: Some(named(&[("b", "2")])),
        update_mask: Some(super::mask(&["labels.b"])),
    };
    subject.call(cx, update).await?;
    let found = subject.call(cx, GetNamespaceRequest { name: ns.to_owned() }).await?;
    let found = some("namespace", found.namespace)?.labels;
    same("labels", found, labels(&[("a", "1"), ("b", "2")]))?;
    let all = subject.call(cx, ListNamespacesRequest::default()).await?.namespaces;
    same("namespaces of the name", all.iter().filter(|n| n.name == ns).count(), 1)
}

async fn leases(subject: &Subject, cx: &Cx) -> Verdict {
    let id = "lease/with a path".to_owned();
    let create =
        CreateRequest { id: id.clone(), labels: HashMap::from([("k".into(), "v".into())]) };
    let lease = some("lease", subject.call(cx, create.clone()).await?.lease)?;
    same("lease's id", &lease.id, &id)?;
    subject.refused(cx, create, Kind::AlreadyExists).await?;
    let resource = Some(Resource { id: "key".into(), r#type: "snapshots/overlayfs".into() });
    subject.call(cx, AddResourceRequest { id: id.clone(), resource: resource.clone() }).await?;
    let listed = subject.call(cx, ListResourcesRequest { id: id.clone() }).await?;
    same("resources", listed.resources.len(), 1)?;
    let strange = Some(Resource { id: "key".into(), r#type: "cats".into() });
    subject
        .refused(cx, AddResourceRequest { id: id.clone(), resource: strange }, Kind::Unimplemented)
        .await?;
    subject.call(cx, DeleteResourceRequest { id: id.clone(), resource }).await?;
    let listed = subject.call(cx, ListResourcesRequest { id: id.clone() }).await?;
    same("resources", listed.resources.len(), 0)?;
    let leases = subject.call(cx, ListRequest { filters: vec!["labels.k==v".into()] }).await?;
    same("leases", leases.leases.len(), 1)?;
    subject.call(cx, DeleteRequest { id: id.clone(), sync: true }).await?;
    subject.refused(cx, DeleteRequest { id, sync: false }, Kind::NotFound).await?;
    Ok(())
}
