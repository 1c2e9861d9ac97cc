//! A middleware that makes a verb fail, for proving what the layer above does then.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::{Cx, Handle, HandleStream, HopError, Inputs, Op, Outputs, Result, StreamOp};

/// Around any implementation of a face: the next calls of chosen verbs fail.
#[derive(Clone, Debug)]
pub struct Faulty<L> {
    inner: L,
    plan: Arc<Mutex<Vec<(&'static str, HopError)>>>,
}

impl<L> Faulty<L> {
    /// Fails nothing yet.
    pub fn new(inner: L) -> Faulty<L> {
        Faulty { inner, plan: Arc::default() }
    }

    /// The next call of `verb` is not passed on; it is answered with `error`.
    pub fn fail_next(&self, verb: &'static str, error: HopError) {
        self.plan.lock().unwrap_or_else(|e| e.into_inner()).push((verb, error));
    }

    fn planned(&self, verb: &str) -> Result<()> {
        let mut plan = self.plan.lock().unwrap_or_else(|e| e.into_inner());
        match plan.iter().position(|(planned, _)| *planned == verb) {
            Some(at) => Err(plan.remove(at).1),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl<L: Handle<O>, O: Op> Handle<O> for Faulty<L> {
    async fn handle(&self, cx: &Cx, op: O) -> Result<O::Reply> {
        self.planned(O::NAME)?;
        self.inner.handle(cx, op).await
    }
}

#[async_trait]
impl<L: HandleStream<O>, O: StreamOp> HandleStream<O> for Faulty<L> {
    async fn stream(&self, cx: &Cx, op: O, input: Inputs<O::In>) -> Result<Outputs<O::Out>> {
        self.planned(O::NAME)?;
        self.inner.stream(cx, op, input).await
    }
}
