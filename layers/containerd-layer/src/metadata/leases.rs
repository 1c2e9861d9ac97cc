//! Leases: a client's promise of interest, without which the garbage collector would take what it
//! is still putting together.

use super::{Change, Labels, Lease, Metadata, Resource, identifier};
use crate::{Error, Result};
use std::{collections::BTreeSet, time::SystemTime};

impl Metadata {
    /// Makes a lease.
    ///
    /// # Errors
    /// `AlreadyExists`, or `InvalidArgument` for an id that containerd would refuse.
    pub fn create_lease(&self, ns: &str, id: &str, labels: Labels) -> Result<Lease> {
        identifier::validate(id)?;
        identifier::validate_labels(&labels)?;
        let lease = Lease {
            id: id.to_owned(),
            labels,
            created_at: SystemTime::now(),
            resources: BTreeSet::new(),
        };
        self.change(|tx| tx.create(ns, id, &lease))?;
        Ok(lease)
    }
}

impl Change {
    /// Adds to what a lease keeps; nothing happens for no lease.
    ///
    /// # Errors
    /// `NotFound` for a lease that is gone.
    pub fn lease_resource(
        &self,
        ns: &str,
        lease: Option<&str>,
        kind: &str,
        id: &str,
    ) -> Result<()> {
        let Some(lease) = lease else { return Ok(()) };
        let resource = Resource { kind: kind.to_owned(), id: id.to_owned() };
        self.update(ns, lease, |l: &mut Lease| {
            l.resources.insert(resource);
            Ok(())
        })?;
        Ok(())
    }

    /// Takes something out of a lease.
    ///
    /// # Errors
    /// `NotFound` for the lease or the resource.
    pub fn unlease_resource(&self, ns: &str, lease: &str, resource: &Resource) -> Result<()> {
        self.update(ns, lease, |l: &mut Lease| {
            if l.resources.remove(resource) {
                return Ok(());
            }
            Err(Error::not_found(format_args!("resource {:?}", resource.id)))
        })?;
        Ok(())
    }
}
