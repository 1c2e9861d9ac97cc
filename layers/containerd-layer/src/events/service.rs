//! `Events` over gRPC for clients, and over ttrpc for shims.

use crate::{
    Engine,
    filters::Filters,
    services::{namespace, required, streams, verbs},
};
use async_trait::async_trait;
use futures_util::stream;
use hops::{
    Cx, Handle,
    proto::containerd::services::events::{
        ttrpc::v1::ForwardRequest as ShimForward,
        v1::{ForwardRequest, PublishRequest, SubscribeRequest},
    },
};

verbs! {
    PublishRequest = |engine, cx, op| {
        let event = required(op.event, "event")?;
        Ok(engine.events().publish(&namespace(cx)?, &op.topic, event)?)
    }

    ForwardRequest = |engine, _cx, op| {
        Ok(engine.events().forward(required(op.envelope, "envelope")?)?)
    }
}

#[async_trait]
impl Handle<ShimForward> for Engine {
    async fn handle(&self, _cx: &Cx, op: ShimForward) -> hops::Result<()> {
        let envelope = required(op.envelope, "envelope")?;
        if self.tasks().is_news(&envelope) {
            self.events().forward(envelope)?;
        }
        Ok(())
    }
}

streams! {
    SubscribeRequest = |engine, _cx, op, _input| {
        let events = engine.events().subscribe(Filters::parse(&op.filters)?);
        Ok(Box::pin(stream::unfold(Some(events), |events| async {
            let mut events = events?;
            match events.next().await {
                Ok(event) => Some((Ok(event), Some(events))),
                Err(lost) => Some((Err(lost), None)),
            }
        })))
    }
}
