//! `Namespaces`: the one service that is not itself in a namespace.

use super::{
    convert::{labels_in, labels_out, relabel},
    required, verbs,
};
use crate::metadata::{Namespace, identifier};
use hops::{
    Cx,
    proto::containerd::{
        events,
        services::namespaces::v1::{
            CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest,
            GetNamespaceRequest, GetNamespaceResponse, ListNamespacesRequest,
            ListNamespacesResponse, Namespace as Message, UpdateNamespaceRequest,
            UpdateNamespaceResponse,
        },
    },
};

fn message(name: String, namespace: Namespace) -> Message {
    Message { name, labels: labels_out(namespace.labels) }
}

/// The namespace that hears of a new or changed one: the caller's, as with containerd, which tells
/// only of the end of one in itself.
fn teller<'a>(cx: &'a Cx, name: &'a str) -> &'a str {
    cx.namespace().filter(|ns| !ns.is_empty()).unwrap_or(name)
}

verbs! {
    /// A namespace that does not exist is one without labels to containerd, and so here.
    GetNamespaceRequest = |engine, _cx, op| {
        let found = engine.store().metadata().view()?.find::<Namespace>("", &op.name)?;
        let found = found.unwrap_or_default();
        Ok(GetNamespaceResponse { namespace: Some(message(op.name, found)) })
    }

    ListNamespacesRequest = |engine, _cx, _op| {
        let all = engine.store().metadata().list::<Namespace>("")?;
        let namespaces = all.into_iter().map(|(name, found)| message(name, found)).collect();
        Ok(ListNamespacesResponse { namespaces })
    }

    CreateNamespaceRequest = |engine, cx, op| {
        let new = required(op.namespace, "namespace")?;
        let (name, labels) = (new.name.clone(), labels_in(new.labels.clone()));
        engine.blocking(move |s| s.metadata().create_namespace(&name, labels)).await?;
        let event = events::NamespaceCreate { name: new.name.clone(), labels: new.labels.clone() };
        engine.events().emit(teller(cx, &new.name), "/namespaces/create", &event);
        Ok(CreateNamespaceResponse { namespace: Some(new) })
    }

    UpdateNamespaceRequest = |engine, cx, op| {
        let new = required(op.namespace, "namespace")?;
        let mask = op.update_mask.unwrap_or_default().paths;
        let changed = engine.blocking(move |store| {
            let what = format!("namespace {:?}", new.name);
            let changed = store.metadata().change(|tx| {
                // containerd makes the one that is not there.
                let mut namespace = tx.find::<Namespace>("", &new.name)?.unwrap_or_default();
                relabel(&mut namespace.labels, &new.labels, &mask, &what)?;
                identifier::validate_labels(&namespace.labels)?;
                tx.put("", &new.name, &namespace)?;
                Ok(namespace)
            })?;
            Ok(message(new.name, changed))
        }).await?;
        let event = events::NamespaceUpdate {
            name: changed.name.clone(),
            labels: changed.labels.clone(),
        };
        engine.events().emit(teller(cx, &changed.name), "/namespaces/update", &event);
        Ok(UpdateNamespaceResponse { namespace: Some(changed) })
    }

    DeleteNamespaceRequest = |engine, _cx, op| {
        let name = op.name.clone();
        engine.blocking(move |store| store.metadata().remove_namespace(&name)).await?;
        let event = events::NamespaceDelete { name: op.name.clone() };
        engine.events().emit(&op.name, "/namespaces/delete", &event);
        Ok(())
    }
}
