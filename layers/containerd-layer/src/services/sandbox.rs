//! `sandbox.Store` keeps what a client says about its sandboxes. What runs is `sandbox.Controller`'s.

use super::{namespace, required, stamp, verbs};
use crate::{
    Error, Result,
    filters::{Fields, Filters},
    metadata::{self, identifier},
};
use hops::proto::containerd::{
    services::sandbox::v1::{
        StoreCreateRequest, StoreCreateResponse, StoreDeleteRequest, StoreDeleteResponse,
        StoreGetRequest, StoreGetResponse, StoreListRequest, StoreListResponse, StoreUpdateRequest,
        StoreUpdateResponse,
    },
    types::Sandbox,
};
use prost::Message;
use std::{borrow::Cow, time::SystemTime};

struct Filtered<'a>(&'a Sandbox);

impl Fields for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id"] => Some(self.0.sandbox_id.as_str().into()),
            ["runtime", "name"] => Some(self.0.runtime.as_ref()?.name.as_str().into()),
            ["labels", key @ ..] => self.0.labels.get(&key.join(".")).map(|v| v.as_str().into()),
            _ => None,
        }
    }
}

pub(crate) fn decode(record: &metadata::Sandbox) -> Result<Sandbox> {
    Sandbox::decode(record.0.as_slice())
        .map_err(|e| Error::data_loss(format_args!("decoding a sandbox: {e}")))
}

fn merge(sandbox: &mut Sandbox, new: Sandbox, fields: &[String]) -> Result<()> {
    let everything = ["labels", "extensions", "runtime", "spec"].map(str::to_owned);
    for field in if fields.is_empty() { &everything } else { fields } {
        match field.as_str() {
            "labels" => sandbox.labels = new.labels.clone(),
            "extensions" => sandbox.extensions = new.extensions.clone(),
            "runtime" => sandbox.runtime = new.runtime.clone(),
            "spec" => sandbox.spec = new.spec.clone(),
            field => {
                return Err(Error::invalid(format_args!(
                    "cannot update {field:?} field on sandbox {:?}",
                    sandbox.sandbox_id
                )));
            }
        }
    }
    Ok(())
}

verbs! {
    StoreCreateRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let mut sandbox = required(op.sandbox, "sandbox")?;
        identifier::validate(&sandbox.sandbox_id)?;
        sandbox.created_at = stamp(SystemTime::now());
        sandbox.updated_at = sandbox.created_at;
        let (id, record) = (sandbox.sandbox_id.clone(), metadata::Sandbox(sandbox.encode_to_vec()));
        engine
            .blocking(move |s| s.metadata().change(|tx| tx.create(&ns, &id, &record)))
            .await?;
        Ok(StoreCreateResponse { sandbox: Some(sandbox) })
    }

    StoreUpdateRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let new = required(op.sandbox, "sandbox")?;
        let sandbox = engine.blocking(move |store| {
            let id = new.sandbox_id.clone();
            let mut changed = Sandbox::default();
            store.metadata().change(|tx| {
                tx.update(&ns, &id, |record: &mut metadata::Sandbox| {
                    changed = decode(record)?;
                    merge(&mut changed, new, &op.fields)?;
                    changed.updated_at = stamp(SystemTime::now());
                    record.0 = changed.encode_to_vec();
                    Ok(())
                })
            })?;
            Ok(changed)
        }).await?;
        Ok(StoreUpdateResponse { sandbox: Some(sandbox) })
    }

    StoreDeleteRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        engine.blocking(move |store| {
            store.metadata().change(|tx| tx.remove::<metadata::Sandbox>(&ns, &op.sandbox_id))
        }).await?;
        Ok(StoreDeleteResponse {})
    }

    StoreListRequest = |engine, cx, op| {
        let filters = Filters::parse(&op.filters)?;
        let mut list = Vec::new();
        for (_, record) in engine.store().metadata().list::<metadata::Sandbox>(&namespace(cx)?)? {
            let sandbox = decode(&record)?;
            if filters.matches(&Filtered(&sandbox)) {
                list.push(sandbox);
            }
        }
        Ok(StoreListResponse { list })
    }

    StoreGetRequest = |engine, cx, op| {
        let record =
            engine.store().metadata().get::<metadata::Sandbox>(&namespace(cx)?, &op.sandbox_id)?;
        Ok(StoreGetResponse { sandbox: Some(decode(&record)?) })
    }
}
