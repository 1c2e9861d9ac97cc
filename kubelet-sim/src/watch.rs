//! Keeping the pods of a manifest file or of a directory of them, as the kubelet keeps static
//! pods (`pkg/kubelet/config/file.go`, Kubernetes 1.20).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hops::Cx;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    kubelet::Kubelet,
    manifest::Pod,
    sync::{Keeping, PodStatus},
};

/// What to keep, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// A manifest, or a directory of them.
    pub path: PathBuf,
    /// How often each pod is looked at.
    pub every: Duration,
    /// Remove the pods in the end, instead of leaving them running.
    pub teardown: bool,
}

/// How often the manifests are read again without being told that they changed.
const READ_AGAIN: Duration = Duration::from_secs(20);
const SOURCE: &str = "kubernetes.io/config.source";
const HASH: &str = "kubernetes.io/config.hash";

/// What a pod's worker is to do; the default is to keep nothing.
type Wanted = Option<Pod>;

/// The manifests of `path`: a file's, or those of all files of a directory but the hidden ones.
fn manifests(path: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => return Ok(vec![path.to_owned()]),
        // A manifest that is gone is a pod that is not wanted.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map(drop)?,
    }
    let entries = fs::read_dir(path)?.map(|entry| entry.map(|e| e.path()));
    let mut files = entries.collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| {
        let hidden = file.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        !hidden && file.is_file()
    });
    files.sort();
    Ok(files)
}

/// 128 bits of FNV-1a in hexadecimal: a pod's uid by what its manifest says and where it stands.
fn hash(parts: &[&[u8]]) -> String {
    let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0]));
    let hash = bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b)
    });
    format!("{hash:032x}")
}

/// The static pods of one manifest: named after their node, their uid a hash of what they say.
fn static_pods(file: &Path, text: &str, node: &str) -> Result<Vec<Pod>, hops::HopError> {
    let mut pods = Pod::read(text)?;
    for pod in &mut pods {
        let name = pod.name.clone();
        let hash = hash(&[
            node.as_bytes(),
            file.as_os_str().as_encoded_bytes(),
            name.as_bytes(),
            text.as_bytes(),
        ]);
        pod.name = format!("{name}-{}", node.to_lowercase());
        if pod.uid.is_empty() {
            pod.uid = hash.clone();
        }
        pod.annotations.insert(HASH.into(), hash);
        pod.annotations.insert(SOURCE.into(), "file".into());
    }
    Ok(pods)
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// Tells of everything that changes in the manifests' directory.
///
/// A thread waits for it: it ends with the first change after nobody listens any more.
fn changes(path: &Path) -> io::Result<mpsc::Receiver<()>> {
    let dir = match path.is_dir() {
        true => path,
        false => path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    };
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let events = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE;
    inotify.add_watch(dir, events)?;
    let (tell, told) = mpsc::channel(1);
    std::thread::spawn(move || {
        // What changed does not matter: the whole directory is read again.
        while inotify.read_events().is_ok() && tell.blocking_send(()).is_ok() {}
    });
    Ok(told)
}

/// One pod's worker: keeps what is wanted, removes what is not wanted any more, and ends when
/// nothing is, or when the program does.
async fn keep(
    kubelet: Arc<Kubelet>,
    mut wanted: watch::Receiver<Wanted>,
    mut ending: watch::Receiver<bool>,
    every: Duration,
) {
    let cx = Cx::background();
    let mut keeping: Option<Keeping> = None;
    let mut shown = None;
    while !*ending.borrow_and_update() {
        let want = wanted.borrow_and_update().clone();
        if let Some(old) = keeping.take_if(|k| want.as_ref() != Some(k.pod())) {
            let pod = old.pod();
            match kubelet.remove_pod(&cx, pod, None).await {
                Ok(()) => println!("{}/{} removed", pod.namespace, pod.name),
                Err(error) => {
                    tracing::warn!(pod = pod.name, %error, "removing a pod");
                    keeping = Some(old);
                }
            }
        }
        match (&mut keeping, want) {
            (None, None) => return,
            (None, Some(pod)) => {
                keeping = Some(Keeping::new(pod));
                continue;
            }
            (Some(current), Some(pod)) if *current.pod() == pod => {
                let status = kubelet.sync_pod(&cx, current, now()).await;
                show(&pod, &status, &mut shown);
            }
            // It could not be removed yet.
            (Some(_), _) => {}
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            _ = ending.changed() => {}
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// Prints a status that differs from the last one shown.
fn show(pod: &Pod, status: &hops::Result<PodStatus>, shown: &mut Option<String>) {
    let line = match status {
        Ok(status) => format!("{}/{} {status}", pod.namespace, pod.name),
        Err(error) => {
            let way: Vec<_> = error.passed.iter().map(|(h, v)| format!("{h}.{v}")).collect();
            format!("{}/{} error: {error} [{}]", pod.namespace, pod.name, way.join(" < "))
        }
    };
    if shown.as_ref() != Some(&line) {
        println!("{line}");
        *shown = Some(line);
    }
}

/// The pods that this source left running and does not want any more.
async fn remove_orphans(kubelet: &Kubelet, wanted: &BTreeMap<String, Pod>) -> hops::Result<()> {
    let cx = Cx::background();
    for sandbox in kubelet.all_sandboxes(&cx).await? {
        let metadata = sandbox.metadata.unwrap_or_default();
        let ours = sandbox.annotations.get(SOURCE).is_some_and(|source| source == "file");
        if ours && !wanted.values().any(|pod| pod.uid == metadata.uid) {
            let pod = Pod {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                spec: Default::default(),
            };
            kubelet.remove_pod(&cx, &pod, None).await?;
            println!("{}/{} removed", pod.namespace, pod.name);
        }
    }
    Ok(())
}

/// What the manifests ask for. A manifest that cannot be read asks for what it did before.
#[derive(Default)]
struct Source {
    files: BTreeMap<PathBuf, (String, Vec<Pod>)>,
}

impl Source {
    fn read(&mut self, path: &Path, node: &str) -> BTreeMap<String, Pod> {
        match manifests(path) {
            Ok(found) => {
                self.files.retain(|file, _| found.contains(file));
                for file in found {
                    self.read_file(file, node);
                }
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "reading the manifests"),
        }
        let mut wanted = BTreeMap::new();
        for (file, pod) in
            self.files.iter().flat_map(|(f, (_, pods))| pods.iter().map(move |p| (f, p)))
        {
            let name = format!("{}/{}", pod.namespace, pod.name);
            if wanted.contains_key(&name) {
                tracing::warn!(pod = name, file = %file.display(), "a second manifest of the pod");
                continue;
            }
            wanted.insert(name, pod.clone());
        }
        wanted
    }

    fn read_file(&mut self, file: PathBuf, node: &str) {
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "reading a manifest");
                return;
            }
        };
        let before = self.files.get(&file);
        if before.is_some_and(|(read, _)| *read == text) {
            return;
        }
        let pods = static_pods(&file, &text, node).unwrap_or_else(|error| {
            eprintln!("error: {}: {error}", file.display());
            before.map(|(_, pods)| pods.clone()).unwrap_or_default()
        });
        self.files.insert(file, (text, pods));
    }
}

/// Keeps the pods until `shutdown` completes.
///
/// # Errors
/// Those of watching the directory, and of the runtime while the leftovers are looked for.
pub async fn serve(
    kubelet: Arc<Kubelet>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> hops::Result<()> {
    let mut changes = changes(&options.path)?;
    let (end, ending) = watch::channel(false);
    let mut workers: BTreeMap<String, watch::Sender<Wanted>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut source = Source::default();
    let mut first = true;
    tokio::pin!(shutdown);
    loop {
        let wanted = source.read(&options.path, &kubelet.config.node_name);
        if std::mem::take(&mut first) {
            remove_orphans(&kubelet, &wanted).await?;
        }
        for (name, worker) in &workers {
            if !wanted.contains_key(name) {
                worker.send_if_modified(|want| want.take().is_some());
            }
        }
        for (name, pod) in wanted {
            let running = workers.get(&name).filter(|worker| !worker.is_closed());
            let Some(worker) = running else {
                let (worker, wanted) = watch::channel(Some(pod));
                tasks.spawn(keep(kubelet.clone(), wanted, ending.clone(), options.every));
                workers.insert(name, worker);
                continue;
            };
            worker.send_if_modified(|want| {
                let differs = want.as_ref() != Some(&pod);
                *want = Some(pod);
                differs
            });
        }
        tokio::select! {
            Some(()) = changes.recv() => {}
            () = tokio::time::sleep(READ_AGAIN) => {}
            () = &mut shutdown => break,
        }
    }
    if options.teardown {
        for worker in workers.values() {
            worker.send_if_modified(|want| want.take().is_some());
        }
    } else {
        end.send_replace(true);
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a pod's worker");
        }
    }
    Ok(())
}
