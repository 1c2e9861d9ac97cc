//! Content: written in pieces, resumed, refused, read, labelled, removed.

use super::{Subject, Verdict, as_kind, mask, same, some};
use crate::Digest;
use futures_util::{StreamExt, stream};
use hops::{
    Cx, HandleStream, HopError, Kind,
    containerd::WriteContent,
    proto::containerd::services::{
        content::v1::{
            AbortRequest, DeleteContentRequest, Info, InfoRequest, ListContentRequest,
            ListStatusesRequest, ReadContentRequest, StatusRequest, UpdateRequest, WriteAction,
            WriteContentRequest, WriteContentResponse,
        },
        namespaces::v1::DeleteNamespaceRequest,
    },
};
use std::collections::HashMap;

/// More than one message holds.
const SIZE: usize = (2 << 20) + 12_345;

pub(super) async fn chapter(subject: &Subject) -> Verdict {
    let (cx, ns) = subject.fresh("content");
    let bytes: Vec<u8> = (0..SIZE).map(|i| (i * 31 % 251) as u8).collect();
    let digest = Digest::of(&bytes).to_string();
    write(subject, &cx, &bytes, &digest).await?;
    read(subject, &cx, &bytes, &digest).await?;
    labels(subject, &cx, &digest).await?;

    subject.call(&cx, DeleteContentRequest { digest: digest.clone() }).await?;
    let gone = DeleteContentRequest { digest: digest.clone() };
    subject.refused(&cx, gone, Kind::NotFound).await?;
    subject.refused(&cx, InfoRequest { digest: "md5:1".into() }, Kind::InvalidArgument).await?;
    subject.call(&cx, DeleteNamespaceRequest { name: ns }).await
}

/// One call of `Write` with these messages; all its answers.
async fn session(
    subject: &Subject,
    cx: &Cx,
    messages: Vec<WriteContentRequest>,
) -> Result<Vec<WriteContentResponse>, HopError> {
    let input = Box::pin(stream::iter(messages));
    let mut answers = subject.face.stream(cx, WriteContent, input).await?;
    let mut all = Vec::new();
    while let Some(answer) = answers.next().await {
        all.push(answer?);
    }
    Ok(all)
}

fn message(action: WriteAction, offset: usize, data: &[u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: "suite".to_owned(),
        offset: offset as i64,
        data: data.to_vec().into(),
        ..Default::default()
    }
}

async fn write(subject: &Subject, cx: &Cx, bytes: &[u8], digest: &str) -> Verdict {
    let failed = |e: HopError| format!("Write: {e}");
    let half = SIZE / 2;
    let mut nameless = message(WriteAction::Stat, 0, &[]);
    nameless.r#ref.clear();
    let refused = session(subject, cx, vec![nameless]).await;
    as_kind("Write", &refused.err().ok_or("a write without a ref")?, Kind::InvalidArgument)?;

    let first = vec![message(WriteAction::Write, 0, &bytes[..half])];
    let answers = session(subject, cx, first).await.map_err(failed)?;
    same("offset", some("answer", answers.last())?.offset, half as i64)?;
    let status = subject.call(cx, StatusRequest { r#ref: "suite".into() }).await?;
    same("offset", some("status", status.status)?.offset, half as i64)?;
    let all = subject.call(cx, ListStatusesRequest::default()).await?;
    same("writes", all.statuses.len(), 1)?;

    // A later call goes on where the first one stopped, and only there.
    let elsewhere = vec![message(WriteAction::Write, half + 1, &bytes[half..])];
    let refused = session(subject, cx, elsewhere).await;
    as_kind("Write", &refused.err().ok_or("a write elsewhere")?, Kind::OutOfRange)?;
    let mut wrong = message(WriteAction::Commit, half, &bytes[half..]);
    wrong.expected = Digest::of(b"another").to_string();
    let refused = session(subject, cx, vec![wrong]).await;
    as_kind("Write", &refused.err().ok_or("a wrong digest")?, Kind::FailedPrecondition)?;
    // What was refused for its digest is thrown away by its sender.
    subject.call(cx, AbortRequest { r#ref: "suite".into() }).await?;
    subject.refused(cx, StatusRequest { r#ref: "suite".into() }, Kind::NotFound).await?;

    let mut commit = message(WriteAction::Commit, SIZE, &[]);
    commit.total = SIZE as i64;
    commit.expected = digest.to_owned();
    commit.labels = HashMap::from([("a".into(), "1".into())]);
    let messages = vec![
        message(WriteAction::Stat, 0, &[]),
        message(WriteAction::Write, 0, &bytes[..half]),
        message(WriteAction::Write, half, &bytes[half..]),
        commit.clone(),
    ];
    let answers = session(subject, cx, messages).await.map_err(failed)?;
    // containerd 1.6 answers a commit twice; its clients hear the first.
    let offsets: Vec<_> = answers.iter().take(4).map(|a| a.offset).collect();
    same("offsets", offsets, [0, half, SIZE, SIZE].map(|o| o as i64).to_vec())?;
    same("digest", answers[3].digest.as_str(), digest)?;
    let again = session(subject, cx, vec![commit]).await;
    as_kind("Write", &again.err().ok_or("a blob that is there")?, Kind::AlreadyExists)
}

async fn read(subject: &Subject, cx: &Cx, bytes: &[u8], digest: &str) -> Verdict {
    for (offset, size) in [(0, 0), (1000, 0), (SIZE - 10, 0), (5, 1 << 20), (SIZE, 0)] {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            offset: offset as i64,
            size: size as i64,
        };
        let no_input = hops::op::no_input();
        let opened = HandleStream::stream(&*subject.face, cx, request, no_input).await;
        let mut pieces = opened.map_err(|e| format!("Read: {e}"))?;
        let mut found = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|e| format!("Read: {e}"))?;
            // Counted from where the reading began.
            same("offset", piece.offset, found.len() as i64)?;
            found.extend_from_slice(&piece.data);
        }
        let end = if size == 0 { SIZE } else { (offset + size).min(SIZE) };
        if found != bytes[offset..end] {
            return Err(format!(
                "Read at {offset} of {size}: other bytes, {} of them",
                found.len()
            ));
        }
    }
    Ok(())
}

async fn labels(subject: &Subject, cx: &Cx, digest: &str) -> Verdict {
    let info = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Some(Info { digest: digest.to_owned(), labels, ..Default::default() })
    };
    let update =
        UpdateRequest { info: info(&[("b", "2")]), update_mask: Some(mask(&["labels.b"])) };
    subject.call(cx, update).await?;
    let found = subject.call(cx, InfoRequest { digest: digest.to_owned() }).await?;
    let found = some("info", found.info)?;
    same("labels", found.labels.len(), 2)?;
    same("size", found.size, SIZE as i64)?;
    let strange = UpdateRequest { info: info(&[]), update_mask: Some(mask(&["size"])) };
    subject.refused(cx, strange, Kind::InvalidArgument).await?;
    for (filter, wanted) in [("labels.b==2", 1), ("labels.b==3", 0)] {
        let request = ListContentRequest { filters: vec![filter.into()] };
        let no_input = hops::op::no_input();
        let opened = HandleStream::stream(&*subject.face, cx, request, no_input).await;
        let mut batches = opened.map_err(|e| format!("List: {e}"))?;
        let mut found = 0;
        while let Some(batch) = batches.next().await {
            found += batch.map_err(|e| format!("List: {e}"))?.info.len();
        }
        same(format_args!("blobs with {filter}"), found, wanted)?;
    }
    Ok(())
}
