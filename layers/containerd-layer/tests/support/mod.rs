//! A registry that can misbehave, and small images for it.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub(crate) mod archive;
pub(crate) mod distribution;
pub(crate) mod pki;
pub(crate) mod stored;
pub(crate) mod transfer;

use containerd_layer::{Digest, Store, images::registry::Options};
use std::{
    collections::HashMap,
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// A request as a registry's handler sees it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn range(&self) -> Option<usize> {
        let range = self.headers.get("range")?.strip_prefix("bytes=")?;
        range.split('-').next()?.parse().ok()
    }
}

/// What it answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Announce this length instead of the body's.
    pub(crate) length: Option<u64>,
    /// Send the body again and again, without a length.
    pub(crate) endless: bool,
    /// Wait so long before every byte of the body.
    pub(crate) drip: Option<Duration>,
    /// Announce no length: the body ends where the connection does.
    pub(crate) unmeasured: bool,
    /// Keep the connection after the body, and say nothing.
    pub(crate) stall: bool,
    /// Wait so long before the head.
    pub(crate) late: Duration,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn ok(body: Vec<u8>) -> Self {
        Self { body, ..Self::status(200) }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A registry under test.
pub(crate) struct Registry {
    pub(crate) host: String,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
}

impl Registry {
    /// Serves `handler` on a free port of this machine until the test's runtime ends.
    pub(crate) async fn serve(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve_over(None, handler).await
    }

    /// The same over TLS, where there is an acceptor.
    pub(crate) async fn serve_over(
        tls: Option<TlsAcceptor>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, handler) = (Arc::clone(&requests), Arc::new(handler));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                let tls = tls.clone();
                tokio::spawn(async move {
                    // A client that goes away is part of the tests.
                    let _ = match tls {
                        None => answer(stream, &log, &*handler).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => answer(stream, &log, &*handler).await,
                            Err(e) => Err(e),
                        },
                    };
                });
            }
        });
        Self { host, requests }
    }

    pub(crate) fn asked(&self, method: &str, path: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|r| r.method == method && r.path.contains(path)).count()
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    log: &Mutex<Vec<Request>>,
    handler: &(dyn Fn(&Request) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let path = first.next().unwrap_or_default().to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let request = Request { method, path, headers, body };
    let reply = handler(&request);
    tokio::time::sleep(reply.late).await;
    log.lock().unwrap().push(request.clone());
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let measured = !reply.endless && !reply.unmeasured;
    if measured && !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
        let length = reply.length.unwrap_or(reply.body.len() as u64);
        head += &format!("Content-Length: {length}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).await?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
    match reply.drip {
        None => stream.write_all(body).await?,
        Some(pause) => {
            for byte in body {
                tokio::time::sleep(pause).await;
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
            }
        }
    }
    if reply.endless {
        loop {
            stream.write_all(body).await?;
        }
    }
    stream.flush().await?;
    if reply.stall {
        std::future::pending::<()>().await;
    }
    // Over TLS an end without a word would be a cut.
    if reply.cut.is_none() { stream.shutdown().await } else { Ok(()) }
}

/// An image as a registry holds it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    pub(crate) layers: Vec<Digest>,
    pub(crate) manifest: Vec<u8>,
    pub media_type: String,
}

/// A tar of plain files.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        // As hostile as the test wants: the builder's own checks are bypassed.
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image of finished layers: (the tar whose digest is the diff id, the blob).
pub(crate) fn image(layers: &[(Vec<u8>, Vec<u8>)]) -> Image {
    let quoted = |digests: &[Digest]| {
        digests.iter().map(|d| format!("\"{d}\"")).collect::<Vec<_>>().join(",")
    };
    let diff_ids: Vec<_> = layers.iter().map(|(tar, _)| Digest::of(tar)).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        quoted(&diff_ids)
    )
    .into_bytes();
    let mut blobs = HashMap::new();
    let mut descriptors = Vec::new();
    for (_, blob) in layers {
        let digest = Digest::of(blob);
        descriptors.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":{}}}"#,
            blob.len()
        ));
        blobs.insert(digest.to_string(), blob.clone());
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#,
        Digest::of(&config),
        config.len(),
        descriptors.join(",")
    )
    .into_bytes();
    blobs.insert(Digest::of(&config).to_string(), config);
    Image {
        blobs,
        layers: layers.iter().map(|(_, blob)| Digest::of(blob)).collect(),
        manifest,
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
    }
}

/// Two gzipped layers, the second with data that does not compress away.
pub(crate) fn two_layers() -> Image {
    let noise: Vec<u8> =
        (0u32..100_000).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let first = tar_of(&[("etc/a", b"first"), ("etc/b", b"b")]);
    let second = tar_of(&[("etc/a", b"second"), ("noise", &noise)]);
    let blobs = [gzip(&first), gzip(&second)];
    image(&[(first, blobs[0].clone()), (second, blobs[1].clone())])
}

impl Image {
    /// What a good registry answers for `x:1`.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        let object = path.rsplit('/').next().unwrap_or_default();
        let digest = Digest::of(&self.manifest).to_string();
        if request.path.contains("/manifests/") && (object == "1" || object == digest) {
            return Reply::ok(self.manifest.clone())
                .header("Content-Type", &self.media_type)
                .header("Docker-Content-Digest", &digest);
        }
        let Some(blob) = self.blobs.get(object) else { return Reply::status(404) };
        match request.range() {
            Some(start) => Reply { status: 206, ..Reply::ok(blob[start..].to_vec()) }.header(
                "Content-Range",
                &format!("bytes {start}-{}/{}", blob.len() - 1, blob.len()),
            ),
            None => Reply::ok(blob.clone()),
        }
    }
}

/// Writes an image as an OCI layout, and answers skopeo's name of it.
pub(crate) fn layout(dir: &Path, image: &Image) -> String {
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let manifest = Digest::of(&image.manifest);
    for (digest, bytes) in image.blobs.iter().chain([(&manifest.to_string(), &image.manifest)]) {
        let name = digest.trim_start_matches("sha256:");
        std::fs::write(dir.join("blobs/sha256").join(name), bytes).unwrap();
    }
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{manifest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"1"}}}}]}}"#,
        image.media_type,
        image.manifest.len()
    );
    std::fs::write(dir.join("index.json"), index).unwrap();
    format!("oci:{}:1", dir.display())
}

/// A store in a fresh directory.
pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (dir, store)
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(&dir.join("root"), &dir.join("state")).unwrap()
}

/// A store whose registries may be silent for `patience`, with what `hosts` says about them.
pub(crate) fn store_with(hosts: Option<&Path>, patience: Duration) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let hosts_dirs = hosts.into_iter().map(Path::to_owned).collect();
    let options = Options { hosts_dirs, patience };
    let store =
        Store::open_with(&dir.path().join("root"), &dir.path().join("state"), options).unwrap();
    (dir, store)
}

/// Describes the registry `name` in a directory of hosts.
pub(crate) fn describe(hosts: &Path, name: &str, text: &str) {
    let dir = hosts.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
}

pub(crate) fn snapshot_dirs(store: &Store) -> usize {
    let dirs = store.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    std::fs::read_dir(dirs).unwrap().count()
}

/// No unfinished write, no image, and no directory without a snapshot.
pub(crate) fn assert_nothing_half_done(store: &Store, ns: &str) {
    use containerd_layer::{filters::Filters, metadata::Image};
    assert_eq!(store.content().statuses(ns).unwrap(), []);
    assert!(store.metadata().list::<Image>(ns).unwrap().is_empty());
    let ingest = store.root().join("io.containerd.content.v1.content/ingest");
    assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
    let snapshots = store.snapshots("").unwrap().list(ns, &Filters::default()).unwrap();
    assert_eq!(snapshot_dirs(store), snapshots.len());
}
