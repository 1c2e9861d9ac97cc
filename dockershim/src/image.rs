//! Images (`pkg/kubelet/dockershim/docker_image.go`, Kubernetes 1.20).

use std::{io, path::Path};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose};
use futures_util::StreamExt;
use hops::{
    Cx, Handle, HandleStream, HopError, Kind, Result,
    cx::REGISTRY_AUTH_HEADER,
    docker::{
        ImageCreate, ImageCreateQuery, ImageInspect, ImageList, ImageListQuery, ImageRemove,
        ImageRemoveQuery, Json, Progress, Request, models::ImageInspect as DockerImage,
    },
    op::no_input,
    proto::runtime::v1::*,
};

use crate::{engine::Engine, labels, time::now};

/// Before an image's id in a container's `image_ref`, when no registry knows the image.
pub(crate) const DOCKER: &str = "docker://";
const PULLABLE: &str = "docker-pullable://";

/// A container's `image_ref`: by digest where the image came from a registry, else by id.
pub(crate) fn pullable_ref(id: &str, image: &DockerImage) -> String {
    match image.repo_digests.iter().flatten().next() {
        Some(digest) => format!("{PULLABLE}{digest}"),
        None => format!("{DOCKER}{id}"),
    }
}

/// A reference's repository, and its tag or digest. A colon before the last slash is a port's.
fn split(reference: &str) -> (&str, &str) {
    if let Some((repository, digest)) = reference.split_once('@') {
        // A tag beside a digest says nothing more.
        let name = repository.rfind('/').map_or(0, |at| at + 1);
        let end = repository[name..].find(':').map_or(repository.len(), |at| name + at);
        return (&repository[..end], digest);
    }
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "latest"),
    }
}

/// Docker's `X-Registry-Auth`; `None` without credentials.
fn registry_auth(auth: &AuthConfig) -> Result<String> {
    let (mut username, mut password) = (auth.username.clone(), auth.password.clone());
    if username.is_empty() && !auth.auth.is_empty() {
        let decoded = general_purpose::STANDARD.decode(&auth.auth).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
        let (user, pass) =
            pair.ok_or_else(|| HopError::invalid("auth: not base64 of \"user:password\""))?;
        (username, password) = (user.to_owned(), pass.trim_end_matches('\0').to_owned());
    }
    let json = serde_json::json!({
        "username": username,
        "password": password,
        "serveraddress": auth.server_address,
        "identitytoken": auth.identity_token,
        "registrytoken": auth.registry_token,
    });
    Ok(general_purpose::URL_SAFE.encode(json.to_string()))
}

/// What is compared to see whether a pull goes on.
fn progress(message: &Progress) -> String {
    let detail = message.detail.as_ref().and_then(|d| Some((d.current?, d.total?)));
    let bytes = detail.map(|(current, total)| format!(" {current}/{total}")).unwrap_or_default();
    format!(
        "{}: {}{bytes}",
        message.id.as_deref().unwrap_or_default(),
        message.status.as_deref().unwrap_or_default()
    )
}

impl Engine {
    /// An image by reference or id; `None` when Docker has none.
    pub(crate) async fn image(&self, cx: &Cx, reference: &str) -> Result<Option<DockerImage>> {
        match self.docker.handle(cx, Request::<ImageInspect>::of(reference)).await {
            Ok(image) => Ok(Some(image.0.base)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has Docker pull `reference`, watching that the pull makes progress.
    async fn pull(&self, cx: &Cx, reference: &str, auth: Option<&AuthConfig>) -> Result<()> {
        let (repository, tag) = split(reference);
        let query = ImageCreateQuery {
            from_image: Some(repository.to_owned()),
            tag: Some(tag.to_owned()),
            ..ImageCreateQuery::default()
        };
        let header = registry_auth(auth.unwrap_or(&AuthConfig::default()))?;
        let cx = cx.with(REGISTRY_AUTH_HEADER, header);
        let request = Request::<ImageCreate>::default().query(query);
        let mut messages = self.docker.stream(&cx, request, no_input()).await?;
        let mut last = String::new();
        let deadline = self.config.pull_deadline;
        let stalled = tokio::time::sleep(deadline);
        tokio::pin!(stalled);
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                // Leaving the stream hangs up, on which Docker gives the pull up.
                () = &mut stalled => {
                    return Err(HopError::new(
                        Kind::DeadlineExceeded,
                        format!(
                            "Cancel pulling image {reference:?} because of no progress for {deadline:?}, latest progress: {last:?}"
                        ),
                    ));
                }
            };
            let Some(message) = message else { return Ok(()) };
            let Json(message) = message?;
            let now = progress(&message);
            if now != last {
                last = now;
                stalled.as_mut().reset(tokio::time::Instant::now() + deadline);
            }
        }
    }

    /// Pulls the sandboxes' image where Docker has it not.
    pub(crate) async fn ensure_sandbox_image(&self, cx: &Cx) -> Result<()> {
        let image = &self.config.sandbox_image;
        let found = self
            .image(cx, image)
            .await
            .map_err(|e| e.context(format_args!("failed to inspect sandbox image {image:?}")))?;
        match found {
            Some(_) => Ok(()),
            None => self
                .pull(cx, image, None)
                .await
                .map_err(|e| e.context(format_args!("unable to pull sandbox image {image:?}"))),
        }
    }
}

/// The user that an image names: a number, or a name; the group is not CRI's business.
fn user(text: &str) -> (Option<Int64Value>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(value) => (Some(Int64Value { value }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn cri_image(image: DockerImage) -> Image {
    let (uid, username) = user(image.config.and_then(|c| c.user).as_deref().unwrap_or_default());
    Image {
        id: image.id.unwrap_or_default(),
        repo_tags: image.repo_tags.unwrap_or_default(),
        repo_digests: image.repo_digests.unwrap_or_default(),
        size: image.size.and_then(|s| u64::try_from(s).ok()).unwrap_or(0),
        uid,
        username,
        ..Image::default()
    }
}

fn reference(spec: Option<ImageSpec>) -> Result<String> {
    let reference = spec.map(|s| s.image).filter(|image| !image.is_empty());
    let reference =
        reference.ok_or_else(|| HopError::invalid("image: no reference in the request"))?;
    // What a container's status calls its image names it again.
    let plain = reference.strip_prefix(PULLABLE).or_else(|| reference.strip_prefix(DOCKER));
    Ok(plain.map(str::to_owned).unwrap_or(reference))
}

#[async_trait]
impl Handle<ImageStatusRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: ImageStatusRequest) -> Result<ImageStatusResponse> {
        let image = self.image(cx, &reference(op.image)?).await?.map(cri_image);
        Ok(ImageStatusResponse { image, ..ImageStatusResponse::default() })
    }
}

#[async_trait]
impl Handle<ListImagesRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: ListImagesRequest) -> Result<ListImagesResponse> {
        let wanted = op.filter.and_then(|f| f.image).map(|i| i.image).filter(|i| !i.is_empty());
        let query = ImageListQuery {
            filters: labels::filters(&[("reference", wanted.into_iter().collect())]),
            ..ImageListQuery::default()
        };
        let found = self.docker.handle(cx, Request::<ImageList>::default().query(query)).await?;
        let known = |names: Vec<String>| names.into_iter().filter(|n| !n.starts_with("<none>"));
        let images = found.0.into_iter().map(|image| image.base).map(|image| Image {
            id: image.id,
            repo_tags: known(image.repo_tags).collect(),
            repo_digests: known(image.repo_digests).collect(),
            size: u64::try_from(image.size).unwrap_or(0),
            ..Image::default()
        });
        Ok(ListImagesResponse { images: images.collect() })
    }
}

#[async_trait]
impl Handle<PullImageRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: PullImageRequest) -> Result<PullImageResponse> {
        let name = reference(op.image)?;
        self.pull(cx, &name, op.auth.as_ref()).await?;
        let image = self.image(cx, &name).await?;
        let image =
            image.ok_or_else(|| HopError::not_found(format!("unable to inspect image {name}")))?;
        let digest = image.repo_digests.and_then(|digests| digests.into_iter().next());
        Ok(PullImageResponse { image_ref: digest.or(image.id).unwrap_or_default() })
    }
}

#[async_trait]
impl Handle<RemoveImageRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: RemoveImageRequest) -> Result<RemoveImageResponse> {
        let name = reference(op.image)?;
        let Some(image) = self.image(cx, &name).await? else {
            return Ok(RemoveImageResponse {});
        };
        // Docker removes an image with its last name; by id it refuses one that has several.
        let mut names = image.repo_tags.unwrap_or_default();
        if names.is_empty() {
            names = image.repo_digests.unwrap_or_default();
        }
        if names.is_empty() {
            names.push(image.id.unwrap_or(name));
        }
        for name in names {
            let request = Request::<ImageRemove>::of(name).query(ImageRemoveQuery::default());
            match self.docker.handle(cx, request).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(RemoveImageResponse {})
    }
}

/// Bytes and inodes below `dir`, each inode once. What vanishes meanwhile is passed over.
fn usage(dir: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut seen) = (0, std::collections::HashSet::new());
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if seen.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.blocks() * 512;
            }
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok((bytes, seen.len() as u64))
}

#[async_trait]
impl Handle<ImageFsInfoRequest> for Engine {
    async fn handle(&self, cx: &Cx, _op: ImageFsInfoRequest) -> Result<ImageFsInfoResponse> {
        let root = self.info(cx).await?.docker_root_dir.unwrap_or_default();
        let walked = root.clone();
        let walk = tokio::task::spawn_blocking(move || usage(Path::new(&walked)));
        let (bytes, inodes) = walk
            .await
            .map_err(|e| HopError::internal(e.to_string()))?
            .map_err(|e| HopError::from(e).context(&root))?;
        Ok(ImageFsInfoResponse {
            image_filesystems: vec![FilesystemUsage {
                timestamp: now(),
                fs_id: Some(FilesystemIdentifier { mountpoint: root }),
                used_bytes: Some(UInt64Value { value: bytes }),
                inodes_used: Some(UInt64Value { value: inodes }),
            }],
            ..ImageFsInfoResponse::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_split_where_docker_splits_them() {
        for (reference, expected) in [
            ("busybox", ("busybox", "latest")),
            ("busybox:1", ("busybox", "1")),
            ("localhost:5000/a/b", ("localhost:5000/a/b", "latest")),
            ("localhost:5000/a/b:2", ("localhost:5000/a/b", "2")),
            ("a@sha256:00", ("a", "sha256:00")),
            ("localhost:5000/a:1@sha256:00", ("localhost:5000/a", "sha256:00")),
        ] {
            assert_eq!(split(reference), expected);
        }
    }

    #[test]
    fn users_are_numbers_or_names() {
        assert_eq!(user("1000:1000"), (Some(Int64Value { value: 1000 }), String::new()));
        assert_eq!(user("www:www"), (None, "www".to_owned()));
        assert_eq!(user(""), (None, String::new()));
    }

    #[test]
    fn credentials_come_in_two_forms() {
        let plain = AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() };
        let packed =
            AuthConfig { auth: general_purpose::STANDARD.encode("u:p"), ..Default::default() };
        assert_eq!(registry_auth(&plain).unwrap(), registry_auth(&packed).unwrap());
        let bad = AuthConfig { auth: "?".into(), ..Default::default() };
        assert!(registry_auth(&bad).is_err());
    }
}
