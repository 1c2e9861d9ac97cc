//! Documents as API 1.41 has them, where the models, made from a newer API, dropped fields that
//! clients of 1.41 read (Docker 20.10.24's own answers).

use std::ops::Deref;

use bollard_stubs::models;
use serde::{Deserialize, Serialize};

macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident : $base:ty { $($(#[$fdoc:meta])* $field:ident = $wire:literal : $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
            pub struct $name {
                /// What the newer API kept.
                #[serde(flatten)]
                pub base: $base,
                $(
                    $(#[$fdoc])*
                    #[serde(rename = $wire, default)]
                    pub $field: $type,
                )*
            }

            impl Deref for $name {
                type Target = $base;
                fn deref(&self) -> &$base {
                    &self.base
                }
            }
        )*
    };
}

documents! {
    /// `GET /containers/{id}/json`. The base's own network settings are `None`.
    ContainerDocument: models::ContainerInspectResponse {
        /// Addresses and ports.
        network_settings = "NetworkSettings": NetworkDocument,
    }
    /// `NetworkSettings` of a container: those of its network `bridge` stand at the top as well.
    NetworkDocument: models::NetworkSettings {
        /// Always empty.
        bridge = "Bridge": String,
        /// The endpoint on `bridge`.
        endpoint_id = "EndpointID": String,
        /// The gateway on `bridge`.
        gateway = "Gateway": String,
        /// The address on `bridge`.
        ip_address = "IPAddress": String,
        /// The length of its subnet's prefix.
        ip_prefix_len = "IPPrefixLen": i64,
        /// The hardware address on `bridge`.
        mac_address = "MacAddress": String,
        /// The IPv6 gateway on `bridge`.
        ipv6_gateway = "IPv6Gateway": String,
        /// The IPv6 address on `bridge`.
        global_ipv6_address = "GlobalIPv6Address": String,
        /// The length of its subnet's prefix.
        global_ipv6_prefix_len = "GlobalIPv6PrefixLen": i64,
    }
    /// `GET /images/{id}/json`.
    ImageDocument: models::ImageInspect {
        /// The image it was built from.
        parent = "Parent": String,
        /// The container it was committed from.
        container = "Container": String,
        /// The version that built it.
        docker_version = "DockerVersion": String,
        /// The same as `Size`, in bytes.
        virtual_size = "VirtualSize": i64,
    }
    /// An item of `GET /images/json`.
    ImageSummary: models::ImageSummary {
        /// The same as `Size`, in bytes.
        virtual_size = "VirtualSize": i64,
    }
    /// An item of `GET /events`, with the fields of the first form of the message.
    Event: models::EventMessage {
        /// The action.
        status = "status": Option<String>,
        /// The actor.
        id = "id": Option<String>,
        /// The container's image.
        from = "from": Option<String>,
    }
}

/// The answer to a verb that makes something: its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The id.
    #[serde(rename = "Id", alias = "ID")]
    pub id: String,
}

/// A step of a pull or a load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Words for the terminal as they are, of a load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// What is being done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// How far, in bytes.
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub detail: Option<models::ProgressDetail>,
    /// How far, drawn as a bar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// The layer, or the tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}
