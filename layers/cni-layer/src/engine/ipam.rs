//! Addresses by delegation: the plugin that `ipam.type` names, with the same parameters.

use hops::cni::Attached;
use wire::cni::error::{CniError, Result};

use crate::{
    call::Call,
    engine::{self, Verb},
};

/// The plugin that gives addresses; `None` when the network has none.
fn kind<'a>(call: &Call<'a>) -> Option<&'a str> {
    call.of.config["ipam"]["type"].as_str().filter(|kind| !kind.is_empty())
}

fn delegate(call: &Call<'_>, kind: &str, verb: Verb) -> Result<Attached> {
    let call = Call { kind: kind.to_owned(), ..call.clone() };
    engine::run(&call, kind, verb)
}

/// Takes addresses; `None` when the network gives none.
///
/// # Errors
/// The plugin's own, and a result without addresses.
pub(crate) fn add(call: &Call<'_>) -> Result<Option<Attached>> {
    let Some(kind) = kind(call) else { return Ok(None) };
    let leased = delegate(call, kind, Verb::Add)?;
    if leased.ips.is_empty() {
        return Err(CniError::internal("IPAM plugin returned missing IP config"));
    }
    Ok(Some(leased))
}

/// Gives addresses back.
///
/// # Errors
/// The plugin's own.
pub(crate) fn del(call: &Call<'_>) -> Result<()> {
    kind(call).map_or(Ok(()), |kind| delegate(call, kind, Verb::Del).map(drop))
}

/// Checks that the addresses are still held.
///
/// # Errors
/// The plugin's own.
pub(crate) fn check(call: &Call<'_>) -> Result<()> {
    kind(call).map_or(Ok(()), |kind| delegate(call, kind, Verb::Check).map(drop))
}
