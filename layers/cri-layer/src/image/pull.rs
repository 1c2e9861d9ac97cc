//! Pulling: containerd transfers the image from its registry, unpacks it, and it is named.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hops::{
    Cx, HopError, Kind, Result,
    proto::{
        Any,
        containerd::{
            services::{
                images::v1::{
                    CreateImageRequest, GetImageRequest, Image as NamedImage, UpdateImageRequest,
                },
                transfer::v1::TransferRequest,
            },
            types::{
                Descriptor, Platform,
                transfer::{ImageStore, OciRegistry, RegistryResolver, UnpackConfiguration},
            },
        },
        runtime::v1::AuthConfig,
    },
};
use prost::{Message, Name};

use super::{Image, Images, MANAGED, architecture, reference::Reference};

impl Images {
    /// Pulls `text`, and gives it the three names that containerd's CRI gives an image: the
    /// reference, the repository with the digest, and the id.
    ///
    /// # Errors
    /// `InvalidArgument` for a reference or credentials that are none; those of containerd, with
    /// its CRI's words before them.
    pub(crate) async fn pull(
        &self,
        cx: &Cx,
        text: &str,
        auth: Option<&AuthConfig>,
    ) -> Result<Arc<Image>> {
        let reference = Reference::parse(text).map_err(HopError::invalid)?;
        let name = reference.name();
        let failed =
            |e: HopError| e.context(format_args!("failed to pull and unpack image {name:?}"));
        let headers = match auth {
            Some(auth) => authorization(auth).map_err(failed)?,
            None => HashMap::new(),
        };
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: architecture().to_owned(),
            ..Platform::default()
        };
        let source = OciRegistry {
            reference: name.clone(),
            resolver: Some(RegistryResolver { headers, ..RegistryResolver::default() }),
        };
        let destination = ImageStore {
            name: name.clone(),
            labels: labels(),
            platforms: vec![platform.clone()],
            unpacks: vec![UnpackConfiguration {
                platform: Some(platform),
                snapshotter: self.snapshotter.clone(),
            }],
            ..ImageStore::default()
        };
        let transfer = TransferRequest {
            source: Some(any(&source)),
            destination: Some(any(&destination)),
            options: None,
        };
        self.containerd.call(cx, transfer).await.map_err(failed)?;
        self.forget(&name);
        let stored = self.containerd.call(cx, GetImageRequest { name: name.clone() }).await?;
        let target = stored.image.and_then(|image| image.target).ok_or_else(|| {
            HopError::internal(format!("containerd stored the image {name} without a target"))
        })?;
        let image = self.image(cx, &target).await.map_err(failed)?;
        let by_digest = format!("{}@{}", reference.repository, target.digest);
        for alias in [by_digest, image.id.clone()] {
            if alias != name {
                self.store(cx, alias, target.clone()).await.map_err(failed)?;
            }
        }
        Ok(image)
    }

    async fn store(&self, cx: &Cx, name: String, target: Descriptor) -> Result<()> {
        let image =
            NamedImage { name, labels: labels(), target: Some(target), ..Default::default() };
        let create = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        match self.containerd.call(cx, create).await {
            Err(error) if error.kind == Kind::AlreadyExists => {
                let update = UpdateImageRequest { image: Some(image), ..Default::default() };
                self.containerd.call(cx, update).await.map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }
}

fn labels() -> HashMap<String, String> {
    HashMap::from([(MANAGED.0.to_owned(), MANAGED.1.to_owned())])
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// The header that says who pulls.
fn authorization(auth: &AuthConfig) -> Result<HashMap<String, String>> {
    let value = if !auth.registry_token.is_empty() {
        format!("Bearer {}", auth.registry_token)
    } else if !auth.username.is_empty() {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", auth.username, auth.password)))
    } else if !auth.auth.is_empty() {
        let decoded = STANDARD.decode(&auth.auth).ok();
        if !decoded.is_some_and(|text| text.contains(&b':')) {
            return Err(HopError::invalid(
                "invalid auth config: auth is not base64 of user:password",
            ));
        }
        format!("Basic {}", auth.auth)
    } else if !auth.identity_token.is_empty() {
        return Err(HopError::new(
            Kind::Unimplemented,
            "invalid auth config: identity tokens are not supported",
        ));
    } else {
        return Ok(HashMap::new());
    };
    Ok(HashMap::from([("Authorization".to_owned(), value)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_become_a_header() {
        let of = |auth: AuthConfig| authorization(&auth).map(|h| h.into_values().next());
        let named = AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() };
        assert_eq!(of(named).unwrap().unwrap(), "Basic dTpw");
        let encoded = AuthConfig { auth: "dTpw".into(), ..Default::default() };
        assert_eq!(of(encoded).unwrap().unwrap(), "Basic dTpw");
        assert_eq!(of(AuthConfig::default()).unwrap(), None);
        assert!(of(AuthConfig { auth: "nonsense".into(), ..Default::default() }).is_err());
    }
}
