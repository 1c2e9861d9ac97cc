//! The shape of a result in each version of the specification.
//!
//! [`Attached`] has the shape of 1.0.0. Versions 0.3.0 to 0.4.0 say each address's family beside
//! it; 0.1.0 and 0.2.0 know one address per family and no links.

use hops::cni::{Attached, Route};
use serde_json::{Map, Value, json};

use crate::cni::{
    addr::Cidr,
    error::{CniError, Result, code},
};

/// The versions spoken, oldest first.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The newest version spoken.
pub const NEWEST: &str = "1.1.0";
/// The version of a configuration that names none (libcni's rule).
pub const UNNAMED: &str = "0.1.0";

/// Where a version stands among [`VERSIONS`].
///
/// # Errors
/// [`code::INCOMPATIBLE_VERSION`] for one that is not spoken.
pub fn rank(version: &str) -> Result<usize> {
    VERSIONS.iter().position(|v| *v == version).ok_or_else(|| {
        CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
            .detailed(format!("config is {version:?}, plugin supports {VERSIONS:?}"))
    })
}

const WITH_INTERFACES: usize = 2;
const WITHOUT_FAMILIES: usize = 5;

/// The JSON of `result` in the shape of `version`.
///
/// # Errors
/// [`code::INCOMPATIBLE_VERSION`] for a version that is not spoken.
pub fn write(result: &Attached, version: &str) -> Result<Value> {
    let rank = rank(version)?;
    let family = |address: &str| if address.contains(':') { "6" } else { "4" };
    if rank < WITH_INTERFACES {
        return Ok(write_by_family(result, version, family));
    }
    let mut json = serde_json::to_value(result).unwrap_or_default();
    json["cniVersion"] = version.into();
    if rank < WITHOUT_FAMILIES
        && let Some(ips) = json["ips"].as_array_mut()
    {
        for ip in ips {
            ip["version"] = family(ip["address"].as_str().unwrap_or_default()).into();
        }
    }
    Ok(json)
}

/// The shape of 0.1.0 and 0.2.0: one address per family, and no links.
fn write_by_family(result: &Attached, version: &str, family: fn(&str) -> &'static str) -> Value {
    let mut json = Map::from_iter([("cniVersion".to_owned(), version.into())]);
    for number in ["4", "6"] {
        let Some(ip) = result.ips.iter().find(|ip| family(&ip.address) == number) else { continue };
        let routes: Vec<&Route> =
            result.routes.iter().filter(|route| family(&route.dst) == number).collect();
        let mut one = json!({ "ip": ip.address });
        if let Some(gateway) = &ip.gateway {
            one["gateway"] = gateway.to_string().into();
        }
        if !routes.is_empty() {
            one["routes"] = json!(routes);
        }
        json.insert(format!("ip{number}"), one);
    }
    json.insert("dns".to_owned(), json!(result.dns));
    Value::Object(json)
}

/// Reads a result in the shape of any version spoken; one without a version has `version`'s.
///
/// # Errors
/// [`code::INCOMPATIBLE_VERSION`] for a version that is not spoken, [`code::DECODING`] for a
/// result that is not of its version's shape.
pub fn read(mut json: Value, version: &str) -> Result<Attached> {
    let named = json["cniVersion"].as_str().filter(|v| !v.is_empty()).unwrap_or(version).to_owned();
    if rank(&named)? < WITH_INTERFACES {
        read_by_family(&mut json);
    }
    json["cniVersion"] = named.as_str().into();
    let result: Attached = serde_json::from_value(json)
        .map_err(|e| CniError::new(code::DECODING, format!("could not parse prevResult: {e}")))?;
    for ip in &result.ips {
        address(&ip.address)?;
    }
    Ok(result)
}

fn read_by_family(json: &mut Value) {
    let (mut ips, mut routes) = (Vec::new(), Vec::new());
    for number in ["ip4", "ip6"] {
        let one = json[number].take();
        if one.is_object() {
            ips.push(json!({ "address": one["ip"], "gateway": one["gateway"] }));
            routes.extend(one["routes"].as_array().cloned().unwrap_or_default());
        }
    }
    json["ips"] = ips.into();
    json["routes"] = routes.into();
}

/// Reads the address of a result.
///
/// # Errors
/// [`code::DECODING`] naming the text.
pub fn address(text: &str) -> Result<Cidr> {
    text.parse().map_err(|e: String| CniError::new(code::DECODING, e))
}

#[cfg(test)]
mod tests {
    use hops::cni::{Dns, Interface, Ip};

    use super::*;

    fn sample() -> Attached {
        Attached {
            cni_version: "1.0.0".to_owned(),
            interfaces: vec![Interface { name: "eth0".into(), ..Interface::default() }],
            ips: vec![
                Ip {
                    interface: Some(0),
                    address: "10.1.2.3/24".into(),
                    gateway: Some("10.1.2.1".parse().unwrap()),
                },
                Ip { address: "fd00::3/64".into(), ..Ip::default() },
            ],
            routes: vec![Route { dst: "0.0.0.0/0".into(), gw: None }],
            dns: Dns::default(),
        }
    }

    #[test]
    fn each_version_has_its_shape() {
        let one = write(&sample(), "1.0.0").unwrap();
        assert_eq!(one["ips"][0].get("version"), None);
        assert_eq!(one["dns"], json!({}));
        let four = write(&sample(), "0.4.0").unwrap();
        assert_eq!(
            (&four["ips"][0]["version"], &four["ips"][1]["version"]),
            (&json!("4"), &json!("6"))
        );
        let two = write(&sample(), "0.2.0").unwrap();
        assert_eq!(two["ip4"]["ip"], "10.1.2.3/24");
        assert_eq!(two["ip4"]["routes"], json!([{ "dst": "0.0.0.0/0" }]));
        assert_eq!(two["ip6"], json!({ "ip": "fd00::3/64" }));
        assert_eq!(two.get("interfaces"), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for version in VERSIONS {
            let read = read(write(&sample(), version).unwrap(), NEWEST).unwrap();
            let mut want = Attached { cni_version: version.into(), ..sample() };
            if rank(version).unwrap() < WITH_INTERFACES {
                want.interfaces.clear();
                want.ips[0].interface = None;
            }
            assert_eq!(read, want, "{version}");
        }
    }

    #[test]
    fn a_foreign_version_is_named() {
        let error = write(&sample(), "9.9").unwrap_err();
        assert_eq!(error.code, code::INCOMPATIBLE_VERSION);
        assert!(error.details.contains("9.9") && error.details.contains("1.0.0"), "{error}");
    }
}
