//! `Content`: blobs by their digest. Writing is in [`super::write`].

use super::{
    convert::{labels_out, relabel},
    namespace, required, stamp, streams, verbs,
};
use crate::{
    Digest,
    content::{IngestStatus, Reader},
    filters::{Fields, Filters},
    metadata::Content,
};
use futures_util::stream;
use hops::{
    HopError,
    proto::containerd::{
        events,
        services::content::v1::{
            AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse,
            ListContentRequest, ListContentResponse, ListStatusesRequest, ListStatusesResponse,
            ReadContentRequest, ReadContentResponse, Status, StatusRequest, StatusResponse,
            UpdateRequest, UpdateResponse,
        },
    },
};
use std::{borrow::Cow, sync::Arc};

/// How many bytes one message of a reading holds, as containerd has it.
const CHUNK: u64 = 1 << 20;
/// How many blobs one message of a listing holds, as containerd has it.
const BATCH: usize = 100;
/// What is read without leaving the async thread, in bytes: a manifest's size, in the page cache.
const SMALL: u64 = 64 << 10;

fn info(blob: Content) -> Info {
    Info {
        digest: blob.digest.into(),
        size: blob.size.cast_signed(),
        created_at: stamp(blob.created_at),
        updated_at: stamp(blob.updated_at),
        labels: labels_out(blob.labels),
    }
}

fn status(ingest: IngestStatus) -> Status {
    Status {
        started_at: stamp(ingest.started_at),
        updated_at: stamp(ingest.updated_at),
        r#ref: ingest.reference,
        offset: ingest.offset.cast_signed(),
        total: ingest.total.cast_signed(),
        expected: String::new(),
    }
}

struct Filtered<'a>(&'a IngestStatus);

impl Fields for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        (path == ["ref"]).then_some(Cow::Borrowed(self.0.reference.as_str()))
    }
}

verbs! {
    InfoRequest = |engine, cx, op| {
        let digest: Digest = op.digest.parse()?;
        let blob = engine.store().content().info(&namespace(cx)?, &digest)?;
        Ok(InfoResponse { info: Some(info(blob)) })
    }

    UpdateRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let new = required(op.info, "info")?;
        let mask = op.update_mask.unwrap_or_default().paths;
        let digest: Digest = new.digest.parse()?;
        let updated = engine.blocking(move |store| {
            let what = format!("content info {:?}", new.digest);
            // A mask that asks for something else is refused before anything changes.
            relabel(&mut Default::default(), &new.labels, &mask, &what)?;
            store.content().update(&ns, &digest, |labels| {
                // Checked just above.
                let _ = relabel(labels, &new.labels, &mask, &what);
            })
        }).await?;
        Ok(UpdateResponse { info: Some(info(updated)) })
    }

    DeleteContentRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let digest: Digest = op.digest.parse()?;
        let within = ns.clone();
        engine.blocking(move |store| store.content().delete(&within, &digest)).await?;
        engine.events().emit(&ns, "/content/delete", &events::ContentDelete { digest: op.digest });
        Ok(())
    }

    StatusRequest = |engine, cx, op| {
        let ingest = engine.store().content().status(&namespace(cx)?, &op.r#ref)?;
        Ok(StatusResponse { status: Some(status(ingest)) })
    }

    ListStatusesRequest = |engine, cx, op| {
        let filters = Filters::parse(&op.filters)?;
        let all = engine.store().content().statuses(&namespace(cx)?)?;
        let statuses = all.into_iter().filter(|i| filters.matches(&Filtered(i)));
        Ok(ListStatusesResponse { statuses: statuses.map(status).collect() })
    }

    AbortRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        Ok(engine.blocking(move |store| store.content().abort(&ns, &op.r#ref)).await?)
    }
}

streams! {
    ListContentRequest = |engine, cx, op, _input| {
        let filters = Filters::parse(&op.filters)?;
        let blobs = engine.store().content().list(&namespace(cx)?, &filters)?;
        let mut blobs = blobs.into_iter().map(info);
        Ok(Box::pin(stream::iter(std::iter::from_fn(move || {
            let info: Vec<Info> = blobs.by_ref().take(BATCH).collect();
            (!info.is_empty()).then_some(Ok(ListContentResponse { info }))
        }))))
    }

    ReadContentRequest = |engine, cx, op, _input| {
        let digest: Digest = op.digest.parse()?;
        let reader = engine.store().content().reader(&namespace(cx)?, &digest)?;
        let (Ok(offset), Ok(size)) = (u64::try_from(op.offset), u64::try_from(op.size)) else {
            return Err(HopError::new(
                hops::Kind::OutOfRange,
                format!("read at offset {} of size {}", op.offset, op.size),
            ));
        };
        if offset > reader.size {
            return Err(HopError::new(
                hops::Kind::OutOfRange,
                format!("read past object length {} bytes", reader.size),
            ));
        }
        let end = if size == 0 { reader.size } else { reader.size.min(offset.saturating_add(size)) };
        let reader = Arc::new(reader);
        Ok(Box::pin(stream::try_unfold(offset, move |at| {
            let reader = Arc::clone(&reader);
            async move {
                match end.saturating_sub(at).min(CHUNK) {
                    0 => Ok(None),
                    length if length <= SMALL => piece(&reader, (offset, at), length).map(Some),
                    length => tokio::task::spawn_blocking(move || piece(&reader, (offset, at), length))
                        .await
                        .map_err(|e| HopError::new(hops::Kind::Cancelled, e.to_string()))?
                        .map(Some),
                }
            }
        })))
    }
}

/// The next message of a reading, and where the one after it begins.
fn piece(
    reader: &Reader,
    (from, at): (u64, u64),
    length: u64,
) -> hops::Result<(ReadContentResponse, u64)> {
    let mut data = vec![0; usize::try_from(length).unwrap_or_default()];
    let read = reader.read_at(at, &mut data)?;
    if read == 0 {
        return Err(HopError::new(hops::Kind::DataLoss, "unexpected EOF"));
    }
    data.truncate(read);
    // As containerd counts: from where the reading began.
    let answer = ReadContentResponse { offset: (at - from).cast_signed(), data: data.into() };
    Ok((answer, at + read as u64))
}
