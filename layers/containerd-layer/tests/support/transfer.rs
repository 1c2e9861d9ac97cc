//! The transfer service, and bytes on its streams.

use futures_util::{StreamExt, stream};
use hops::{
    Cx, HandleStream, HopError, Outputs,
    containerd::Stream,
    proto::{
        Any,
        containerd::{
            services::{streaming::v1::StreamInit, transfer::v1::TransferRequest},
            types::transfer::{Data, WindowUpdate},
        },
    },
};
use prost::{Message, Name};
use tokio::sync::mpsc;

pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

pub(crate) fn transfer(from: Any, to: Any) -> TransferRequest {
    TransferRequest { source: Some(from), destination: Some(to), options: None }
}

/// Opens a named stream: what is sent into the channel arrives there.
pub(crate) async fn open(
    face: &(impl HandleStream<Stream> + ?Sized),
    cx: &Cx,
    id: &str,
) -> hops::Result<(mpsc::Sender<Any>, Outputs<Any>)> {
    let (send, sent) = mpsc::channel(4);
    let init = any(&StreamInit { id: id.into() });
    let later = stream::unfold(sent, |mut sent| async { Some((sent.recv().await?, sent)) });
    let input = stream::iter([init]).chain(later);
    let mut answers = face.stream(cx, Stream, Box::pin(input)).await?;
    let ended = || HopError::internal("the stream ended");
    let opened = answers.next().await.ok_or_else(ended)??;
    assert_eq!(opened.type_url, "google.protobuf.Empty");
    Ok((send, answers))
}

/// Sends `bytes` as fast as the reader allows, and ends the stream; `answers` is to outlive the
/// reader. That one may go first: it has seen the archive's end and does not wait for what stands
/// behind it, or it has failed, and says so where it was asked to read.
pub(crate) async fn pour(send: mpsc::Sender<Any>, answers: &mut Outputs<Any>, bytes: &[u8]) {
    let (mut rest, mut window) = (bytes, 0_usize);
    while !rest.is_empty() {
        if window == 0 {
            let Some(Ok(update)) = answers.next().await else { return };
            let update = WindowUpdate::decode(update.value.as_slice()).unwrap();
            window += update.update as usize;
        }
        let (piece, left) = rest.split_at(window.min(32 << 10).min(rest.len()));
        (rest, window) = (left, window - piece.len());
        if send.send(any(&Data { data: piece.to_vec().into() })).await.is_err() {
            return;
        }
    }
}
