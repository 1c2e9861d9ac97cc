//! `Cni`: container runtime → network plugin, since rkt and Kubernetes 1.1 (2015).
//!
//! The wire is the Container Network Interface 1.0: a program named by the configuration's `type`,
//! `CNI_*` variables, the configuration on its standard input, a result on its standard output.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Handle, Hop, Op};

/// What every verb is told (CNI 1.0, section 2).
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; absent in a [`Del`] whose namespace is gone.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`, e.g. `eth0`.
    pub ifname: String,
    /// `CNI_ARGS`, e.g. `K8S_POD_NAME`.
    pub args: Vec<(String, String)>,
    /// The plugin's configuration with `name`, `cniVersion`, and `prevResult` where it has one.
    pub config: Value,
}

/// `ADD`: attaches a namespace to a network.
#[derive(Clone, Debug, Default)]
pub struct Add(pub Attachment);

/// `DEL`: detaches it; detaching what is not attached is a success.
#[derive(Clone, Debug, Default)]
pub struct Del(pub Attachment);

/// `CHECK`: whether it is attached as `prevResult` says.
#[derive(Clone, Debug, Default)]
pub struct Check(pub Attachment);

/// The result of [`Add`] (CNI 1.0, section 5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// The version the result is written in.
    pub cni_version: String,
    /// The interfaces that were made, on the host and in the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The addresses that were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Ip>,
    /// The routes that were set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Name service, where the plugin knows one.
    #[serde(default)]
    pub dns: Dns,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The namespace's path; empty for an interface of the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// In CIDR form.
    pub address: String,
    /// The subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The index in [`Attached::interfaces`] of the interface that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination in CIDR form.
    pub dst: String,
    /// Where it goes; the subnet's gateway when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Name service settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Op for Add {
    type Reply = Attached;
    const HOP: Hop = Hop::Cni;
    const NAME: &'static str = "ADD";
}

impl Op for Del {
    type Reply = ();
    const HOP: Hop = Hop::Cni;
    const NAME: &'static str = "DEL";
}

impl Op for Check {
    type Reply = ();
    const HOP: Hop = Hop::Cni;
    const NAME: &'static str = "CHECK";
}

/// Network plugins as a container runtime sees them.
pub trait Cni: Handle<Add> + Handle<Del> + Handle<Check> + 'static {}
impl<T> Cni for T where T: Handle<Add> + Handle<Del> + Handle<Check> + 'static {}
