//! `Content.Write`: one blob per call, in as many messages as its sender likes. Each is answered
//! with how far the blob is, so that a sender that comes back goes on where it stopped.

use super::{convert::labels_in, lease, namespace, streams};
use crate::{
    Digest, Engine, Error, Result,
    content::{IngestStatus, Writer, WriterOptions},
    metadata::Labels,
};
use futures_util::{StreamExt, stream};
use hops::{
    HopError, Inputs,
    containerd::WriteContent,
    proto::containerd::services::content::v1::{
        WriteAction, WriteContentRequest, WriteContentResponse,
    },
};

/// A write under way.
struct Session {
    engine: Engine,
    input: Inputs<WriteContentRequest>,
    writer: Option<Writer>,
    total: i64,
    expected: String,
    /// The message that opened the call; it also acts.
    first: Option<WriteContentRequest>,
}

streams! {
    WriteContent = |engine, cx, _op, input| {
        let ns = namespace(cx)?;
        let mut input = input;
        let Some(first) = input.next().await else {
            return Err(Error::invalid("first message must have a reference").into());
        };
        if first.r#ref.is_empty() {
            return Err(Error::invalid("first message must have a reference").into());
        }
        let options = WriterOptions {
            reference: first.r#ref.clone(),
            total: u64::try_from(first.total).unwrap_or_default(),
            expected: digest(&first.expected)?,
            labels: Labels::new(),
            lease: lease(cx),
        };
        let writer = engine.blocking(move |s| s.content().writer(&ns, options)).await?;
        let session = Session {
            engine: engine.clone(),
            input,
            writer: Some(writer),
            total: first.total,
            expected: first.expected.clone(),
            first: Some(first),
        };
        Ok(Box::pin(stream::try_unfold(session, |session| session.step())))
    }
}

fn digest(text: &str) -> Result<Option<Digest>> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

impl Session {
    /// Answers the next message; nothing once the blob is committed or the sender has left.
    async fn step(mut self) -> hops::Result<Option<(WriteContentResponse, Session)>> {
        let Some(writer) = self.writer.take() else { return Ok(None) };
        let request = match self.first.take() {
            Some(request) => request,
            None => match self.input.next().await {
                Some(request) => request,
                None => return Ok(None),
            },
        };
        self.agree(&request)?;
        let action = WriteAction::try_from(request.action)
            .map_err(|_| Error::invalid(format_args!("unknown write action {}", request.action)))?;
        let (total, expected) = (self.total, self.expected.clone());
        let offset = writer.offset();
        if request.offset != 0 && request.offset.cast_unsigned() != offset {
            return Err(HopError::new(
                hops::Kind::OutOfRange,
                format!("write @{} must occur at current offset {offset}", request.offset),
            ));
        }
        let acted = move |_: &_| act(writer, action, request, total, &expected);
        let (answer, writer) = self.engine.blocking(acted).await?;
        self.writer = writer;
        Ok(Some((answer, self)))
    }

    /// Takes up what a later message says about the whole.
    fn agree(&mut self, request: &WriteContentRequest) -> Result<()> {
        if request.total > 0 {
            if self.total > 0 && request.total != self.total {
                return Err(Error::precondition(format_args!(
                    "commit size changed from {} to {}",
                    self.total, request.total
                )));
            }
            self.total = request.total;
        }
        if !request.expected.is_empty() {
            if !self.expected.is_empty() && request.expected != self.expected {
                return Err(Error::precondition(format_args!(
                    "commit digest changed from {} to {}",
                    self.expected, request.expected
                )));
            }
            self.expected.clone_from(&request.expected);
        }
        Ok(())
    }
}

fn act(
    mut writer: Writer,
    action: WriteAction,
    request: WriteContentRequest,
    total: i64,
    expected: &str,
) -> Result<(WriteContentResponse, Option<Writer>)> {
    if action == WriteAction::Stat {
        return Ok((answer(action, &writer.status()?, total, &writer.digest()), Some(writer)));
    }
    if request.offset == 0 {
        writer.truncate()?;
    }
    writer.write(&request.data)?;
    let status = IngestStatus { offset: writer.offset(), ..writer.status()? };
    if action == WriteAction::Write {
        return Ok((answer(action, &status, total, &writer.digest()), Some(writer)));
    }
    let size = u64::try_from(total).unwrap_or_default();
    let committed = writer.commit(size, digest(expected)?.as_ref(), labels_in(request.labels))?;
    Ok((answer(action, &status, total, &committed), None))
}

fn answer(
    action: WriteAction,
    status: &IngestStatus,
    total: i64,
    digest: &Digest,
) -> WriteContentResponse {
    WriteContentResponse {
        action: action.into(),
        started_at: super::stamp(status.started_at),
        updated_at: super::stamp(status.updated_at),
        offset: status.offset.cast_signed(),
        total,
        digest: digest.to_string(),
    }
}
