//! `POST /containers/{id}/wait`: the answer begins at once, its document comes at the end.

use async_trait::async_trait;
use bytes::Bytes;
use hops::{
    Cx, HandleStream, HopError, Inputs, Outputs, Result,
    docker::{
        ContainerWait, Json, Request,
        models::{ContainerWaitExitError, ContainerWaitResponse},
    },
};

use super::{Engine, container::Life};
use crate::record::Phase;

#[async_trait]
impl HandleStream<Request<ContainerWait>> for Engine {
    async fn stream(
        &self,
        _cx: &Cx,
        call: Request<ContainerWait>,
        _input: Inputs<Bytes>,
    ) -> Result<Outputs<Json<ContainerWaitResponse>>> {
        let container = self.find(&call.id)?;
        let mut life = container.life.subscribe();
        let exits = life.borrow().exits;
        // A container that is about to be started again is not at its end.
        let condition: Box<dyn FnMut(&Life) -> bool + Send> =
            match call.query.condition.as_deref().unwrap_or_default() {
                "" | "not-running" => {
                    let container = container.clone();
                    Box::new(move |life| {
                        life.removed || (!life.runs && container.phase() != Phase::Restarting)
                    })
                }
                "next-exit" => Box::new(move |life| life.removed || life.exits > exits),
                "removed" => Box::new(|life| life.removed),
                other => {
                    return Err(HopError::invalid(format!("invalid condition: \"{other}\"")));
                }
            };
        let removal = call.query.condition.as_deref() == Some("removed");
        Ok(Box::pin(futures_util::stream::once(async move {
            let end = life.wait_for(condition).await.map(|life| life.clone());
            let end = end.map_err(|_| HopError::internal("the daemon is shutting down"))?;
            let error = Some(end.error).filter(|e| !e.is_empty() && !removal);
            Ok(Json(ContainerWaitResponse {
                status_code: end.exit_code,
                error: error.map(|message| ContainerWaitExitError { message: Some(message) }),
            }))
        })))
    }
}
