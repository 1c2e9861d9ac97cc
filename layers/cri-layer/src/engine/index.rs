//! What there is, by id and by name.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use hops::{HopError, Kind, Result};

/// Things by their id, of which the beginning is enough where only one begins so.
pub(crate) struct Index<T>(RwLock<BTreeMap<String, Arc<T>>>);

impl<T> Index<T> {
    pub(crate) fn new() -> Index<T> {
        Index(RwLock::default())
    }

    /// The one whose id is `id` or begins with it.
    ///
    /// # Errors
    /// `NotFound` when none or more than one does, in the words of containerd's store.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<T>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = map.get(id) {
            return Ok(one.clone());
        }
        let mut from = map.range::<str, _>((Bound::Included(id), Bound::Unbounded));
        match (from.next(), from.next()) {
            (Some((found, one)), next)
                if !id.is_empty()
                    && found.starts_with(id)
                    && !next.is_some_and(|(other, _)| other.starts_with(id)) =>
            {
                Ok(one.clone())
            }
            _ => Err(HopError::not_found("not found")),
        }
    }

    /// Every one, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn insert(&self, id: &str, one: Arc<T>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), one);
    }

    pub(crate) fn remove(&self, id: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// Names that are in use, and by whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<BTreeMap<String, String>>>);

impl Names {
    /// Reserves `name` for `id`, until [`Names::release`].
    ///
    /// # Errors
    /// `AlreadyExists` when another has it, in containerd's words.
    pub(crate) fn reserve(&self, kind: &str, name: &str, id: &str) -> Result<()> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()) {
            Entry::Vacant(free) => {
                free.insert(id.to_owned());
                Ok(())
            }
            Entry::Occupied(taken) if taken.get() == id => Ok(()),
            Entry::Occupied(taken) => Err(HopError::new(
                Kind::AlreadyExists,
                format!(
                    "failed to reserve {kind} name {name:?}: name {name:?} is reserved for {:?}",
                    taken.get()
                ),
            )),
        }
    }

    /// Gives the name that `id` has back.
    pub(crate) fn release(&self, name: &str, id: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.get(name).is_some_and(|holder| holder == id) {
            names.remove(name);
        }
    }
}

/// Whether `labels` has every label of `selector`.
pub(crate) fn selects(
    selector: &HashMap<String, String>,
    labels: &HashMap<String, String>,
) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_enough_where_it_is_one() {
        let index = Index::new();
        ["abc", "abd", "b"].iter().for_each(|id| index.insert(id, Arc::new(*id)));
        for (id, found) in
            [("abc", Some("abc")), ("b", Some("b")), ("ab", None), ("", None), ("c", None)]
        {
            assert_eq!(index.get(id).ok().as_deref().copied(), found, "{id}");
        }
    }

    #[test]
    fn a_name_has_one_holder() {
        let names = Names::default();
        names.reserve("sandbox", "n", "1").unwrap();
        let error = names.reserve("sandbox", "n", "2").unwrap_err();
        assert_eq!(
            error.message,
            "failed to reserve sandbox name \"n\": name \"n\" is reserved for \"1\""
        );
        names.release("n", "2");
        assert!(names.reserve("sandbox", "n", "2").is_err());
        names.release("n", "1");
        names.reserve("sandbox", "n", "2").unwrap();
    }
}
