//! `Leases`: what a client is still putting together is kept from the garbage collector.

use super::{
    convert::{labels_in, labels_out},
    namespace, required, stamp, verbs,
};
use crate::{
    Digest, Error, Kind, Result,
    error::At,
    filters::Filters,
    metadata::{Lease, Resource, identifier},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use hops::proto::containerd::services::leases::v1::{
    AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, DeleteResourceRequest,
    Lease as Message, ListRequest, ListResourcesRequest, ListResourcesResponse, ListResponse,
    Resource as ResourceMessage,
};
use std::{collections::BTreeSet, fs::File, io::Read, time::SystemTime};

fn message(lease: Lease) -> Message {
    Message { id: lease.id, created_at: stamp(lease.created_at), labels: labels_out(lease.labels) }
}

/// A resource that a lease can keep, in the form containerd accepts.
fn resource(message: ResourceMessage) -> Result<Resource> {
    let ResourceMessage { id, r#type: kind } = message;
    match kind.split('/').collect::<Vec<_>>().as_slice() {
        ["content"] => {
            id.parse::<Digest>().map_err(|e| {
                Error::invalid(format_args!("invalid content resource id {id}: {e}"))
            })?;
        }
        ["ingests"] | ["snapshots", _] => {}
        ["content" | "ingests", ..] => {
            return Err(Error::invalid(format_args!("invalid resource type {kind}")));
        }
        ["snapshots", ..] => {
            return Err(Error::invalid(format_args!("invalid snapshot resource type {kind}")));
        }
        _ => {
            return Err(Error::unimplemented(format_args!(
                "resource type {kind} not supported yet"
            )));
        }
    }
    Ok(Resource { kind, id })
}

/// An id for a lease without one, in containerd's form.
fn unnamed() -> Result<String> {
    let mut random = [0; 3];
    let source = "/dev/urandom";
    File::open(source).and_then(|mut file| file.read_exact(&mut random)).at("reading", source)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{}-{}", now.subsec_nanos(), URL_SAFE.encode(random)))
}

verbs! {
    CreateRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        // Any id will do, as with containerd: `ctr images mount` names a lease by a path.
        let lease = Lease {
            id: if op.id.is_empty() { unnamed()? } else { op.id },
            labels: labels_in(op.labels),
            created_at: SystemTime::now(),
            resources: BTreeSet::new(),
        };
        identifier::validate_labels(&lease.labels)?;
        let record = lease.clone();
        engine
            .blocking(move |s| s.metadata().change(|tx| tx.create(&ns, &record.id, &record)))
            .await?;
        Ok(CreateResponse { lease: Some(message(lease)) })
    }

    DeleteRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        engine
            .blocking(move |s| s.metadata().change(|tx| tx.remove::<Lease>(&ns, &op.id)))
            .await?;
        engine.collect(op.sync).await
    }

    ListRequest = |engine, cx, op| {
        let filters = Filters::parse(&op.filters)?;
        let all = engine.store().metadata().list::<Lease>(&namespace(cx)?)?;
        let leases = all.into_iter().map(|(_, lease)| lease).filter(|l| filters.matches(l));
        Ok(ListResponse { leases: leases.map(message).collect() })
    }

    AddResourceRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let Resource { kind, id } = resource(required(op.resource, "resource")?)?;
        Ok(engine.blocking(move |store| {
            store.metadata().change(|tx| tx.lease_resource(&ns, Some(&op.id), &kind, &id))
        }).await?)
    }

    DeleteResourceRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let resource = resource(required(op.resource, "resource")?)?;
        engine.blocking(move |store| {
            let removed = store.metadata().change(|tx| tx.unlease_resource(&ns, &op.id, &resource));
            match removed {
                // containerd says nothing when the lease did not have it.
                Err(e) if e.kind == Kind::NotFound && store.metadata().get::<Lease>(&ns, &op.id).is_ok() => Ok(()),
                removed => removed,
            }
        }).await?;
        engine.collector().schedule();
        Ok(())
    }

    ListResourcesRequest = |engine, cx, op| {
        let lease = engine.store().metadata().get::<Lease>(&namespace(cx)?, &op.id)?;
        let message = |r: Resource| ResourceMessage { id: r.id, r#type: r.kind };
        Ok(ListResourcesResponse { resources: lease.resources.into_iter().map(message).collect() })
    }
}
