//! The main job: N pods on each path, interleaved, and where their time went.

use std::{
    collections::BTreeMap,
    fs,
    io::BufRead,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hops::{
    Cx,
    trace::{Side, Span, Spans},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::{
    account::Tree,
    era::{Era, Places},
    fetch, host, image,
    outcome::{LayerUse, Outcome, PathOutcome, PodOutcome},
    premises::Premises,
    sandbox::{Layout, Sandbox},
    stack::Plan,
    usage,
};

/// Pods that run before the measured ones, so that every program and image is in memory.
const WARM_UP: usize = 2;

/// What to compare.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Measured pods on each path.
    pub pods: usize,
    /// The pod; the built-in one when absent.
    pub manifest: Option<PathBuf>,
    /// The image that the pod's containers run instead of the manifest's own: a reference, or the
    /// path of an archive.
    pub image: Option<String>,
    /// Names or files of eras.
    pub paths: Vec<String>,
}

/// A comparison's results, and the spans they come from.
pub(crate) struct Comparison {
    /// The results.
    pub outcome: Outcome,
    /// For each path, the spans of the pod nearest to its median.
    pub typical: Vec<Vec<Span>>,
}

/// The built-in pod.
const POD: &str = include_str!("pod.yaml");

/// One path while it runs.
struct Running {
    era: Era,
    sandbox: Sandbox,
    layout: Layout,
    answers: Vec<Value>,
    before: Vec<LayerUse>,
}

/// Runs the comparison.
///
/// Everything on the host is made in `premises`, and ends with them.
///
/// # Errors
/// When the manifest or an image is wrong, a sandbox cannot be made, or a pod fails: the error of
/// the layer that found the fault.
pub(crate) fn run(options: &Options, premises: &Premises) -> Result<Comparison> {
    let workload = Workload::of(options, premises.dir())?;
    let manifest = &workload.manifest;
    let eras: Vec<Era> = options.paths.iter().map(|p| Era::find(p)).collect::<Result<_>>()?;
    let bar = ProgressBar::new((eras.len() * (options.pods + WARM_UP)) as u64).with_style(
        ProgressStyle::with_template("{msg:>24} {wide_bar} {pos}/{len} pods, {eta} left")?,
    );
    let mut paths = Vec::new();
    for era in eras {
        bar.set_message(format!("starting {}", era.name));
        let path = start(era, &workload.archives, premises)?;
        paths.push(path);
    }
    for n in 0..WARM_UP + options.pods {
        for path in &mut paths {
            bar.set_message(path.era.name.clone());
            let answer = one_pod(path, manifest, n)?;
            if n >= WARM_UP {
                path.answers.push(answer);
            } else {
                path.before = usage::sample(path.sandbox.pid());
            }
            bar.inc(1);
        }
    }
    bar.set_message("measuring memory");
    let mut outcomes = Vec::new();
    let mut typical = Vec::new();
    for path in &mut paths {
        let layers = layers(path, manifest)?;
        let (outcome, spans) = account(path, layers)?;
        outcomes.push(outcome);
        typical.push(spans);
    }
    bar.finish_and_clear();
    Ok(Comparison {
        outcome: Outcome {
            host: host::read(),
            versions: versions(),
            command: command(),
            span_cost_ns: span_cost(&premises.dir().join("cost"))?,
            paths: outcomes,
        },
        typical,
    })
}

/// A pod, and the archives of its images.
struct Workload {
    manifest: String,
    archives: Vec<PathBuf>,
}

impl Workload {
    fn of(options: &Options, dir: &Path) -> Result<Workload> {
        let text = match &options.manifest {
            None => POD.replace("{image}", image::APP),
            Some(path) => fs::read_to_string(path).with_context(|| path.display().to_string())?,
        };
        // What is wrong with a manifest is to be said before anything is started.
        kubelet_sim::Pod::read_one(&text)?;
        let mut archives: Vec<PathBuf> = Vec::new();
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let mut fetched = |what: &str| -> Result<String> {
            if what == image::APP || what == image::PAUSE {
                return Ok(what.to_owned());
            }
            if let Some(name) = names.get(what) {
                return Ok(name.clone());
            }
            let archive = dir.join(format!("{}.tar", archives.len()));
            let name = fetch::archive(what, &dir.join("store"), &archive)?;
            archives.push(archive);
            names.insert(what.to_owned(), name.clone());
            Ok(name)
        };
        let manifest = with_images(&text, |own| fetched(options.image.as_deref().unwrap_or(own)))?;
        Ok(Workload { manifest, archives })
    }
}

/// The manifest with every container's image replaced by what `image` makes of it. The images are
/// in the sandbox before the pod is, so nothing is left to pull.
fn with_images(manifest: &str, mut image: impl FnMut(&str) -> Result<String>) -> Result<String> {
    let mut pod: serde_yaml_ng::Value = serde_yaml_ng::from_str(manifest).context("manifest")?;
    for list in ["initContainers", "containers"] {
        let containers = pod.get_mut("spec").and_then(|spec| spec.get_mut(list));
        for container in containers.and_then(|c| c.as_sequence_mut()).into_iter().flatten() {
            let Some(container) = container.as_mapping_mut() else { continue };
            let own = container.get("image").and_then(|i| i.as_str()).unwrap_or_default();
            let name = image(own)?;
            container.insert("image".into(), name.into());
            container.insert("imagePullPolicy".into(), "Never".into());
        }
    }
    Ok(serde_yaml_ng::to_string(&pod)?)
}

fn start(era: Era, archives: &[PathBuf], premises: &Premises) -> Result<Running> {
    let name = era.name.replace('.', "-");
    let layout = Layout::new(premises, &name)?;
    image::write(&layout.shared("builtin.tar"))?;
    let mut inside = vec![layout.inside("builtin.tar")];
    for (n, archive) in archives.iter().enumerate() {
        let name = format!("image-{n}.tar");
        fs::copy(archive, layout.shared(&name)).with_context(|| archive.display().to_string())?;
        inside.push(layout.inside(&name));
    }
    fs::File::create(layout.shared("spans"))?;
    let plan = Plan {
        era: era.clone(),
        places: Places {
            root: "/var/lib/strata".into(),
            run: "/run/strata".into(),
            bin: "/run/bin".into(),
            cni: "/run/cni-conf".into(),
            pause: image::PAUSE.into(),
        },
        archives: inside,
        spans: layout.inside("spans"),
        logs: "/shared".into(),
    };
    let sandbox = Sandbox::start(premises, &name, &layout, &plan)?;
    Ok(Running { era, sandbox, layout, answers: Vec::new(), before: Vec::new() })
}

fn one_pod(path: &mut Running, manifest: &str, n: usize) -> Result<Value> {
    path.sandbox
        .send(&json!({"manifest": manifest, "name_suffix": format!("-{n}"), "hold_ms": 0}))?;
    answered(path)
}

fn answered(path: &mut Running) -> Result<Value> {
    let answer = path.sandbox.answer()?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => bail!("path {}: {error}", path.era.name),
        None => Ok(answer),
    }
}

/// What each layer uses while one pod runs: the sample with the most processes.
fn layers(path: &mut Running, manifest: &str) -> Result<Vec<LayerUse>> {
    const HOLD: Duration = Duration::from_millis(400);
    let job =
        json!({"manifest": manifest, "name_suffix": "-held", "hold_ms": HOLD.as_millis() as u64});
    path.sandbox.send(&job)?;
    let begun = Instant::now();
    let mut best: Vec<LayerUse> = Vec::new();
    let processes = |layers: &[LayerUse]| layers.iter().map(|l| l.processes).sum::<usize>();
    while begun.elapsed() < HOLD {
        std::thread::sleep(HOLD / 5);
        let sample = usage::sample(path.sandbox.pid());
        if processes(&sample) >= processes(&best) {
            best = sample;
        }
    }
    answered(path)?;
    for layer in &mut best {
        let before = path.before.iter().find(|b| b.name == layer.name);
        layer.cpu_ms -= before.map_or(0, |b| b.cpu_ms.min(layer.cpu_ms));
    }
    Ok(best)
}

fn account(path: &Running, layers: Vec<LayerUse>) -> Result<(PathOutcome, Vec<Span>)> {
    let spans = read_spans(&path.layout.shared("spans"))?;
    let mut pods = Vec::new();
    let mut traces = Vec::new();
    for answer in &path.answers {
        let number = |key: &str| {
            answer[key].as_f64().with_context(|| format!("the kubelet's answer has no {key}"))
        };
        let trace = answer["trace"].as_str().context("the kubelet's answer has no trace")?;
        let tree = Tree::of(&spans, trace).context("the pod left no root span")?;
        let account = tree.account();
        pods.push(PodOutcome {
            start_us: number("start_us")?,
            life_us: number("life_us")?,
            parts: account.parts,
            spans: tree.walk().len(),
        });
        traces.push(trace.to_owned());
    }
    let typical = typical(&pods).map(|i| traces[i].clone()).unwrap_or_default();
    let typical = spans.into_iter().filter(|span| span.trace == typical).collect();
    let outcome =
        PathOutcome { name: path.era.name.clone(), title: path.era.title.clone(), pods, layers };
    Ok((outcome, typical))
}

/// The pod whose life is nearest to the median.
fn typical(pods: &[PodOutcome]) -> Option<usize> {
    let lives: Vec<f64> = pods.iter().map(|p| p.life_us).collect();
    let median = crate::outcome::quantile(&lives, 0.5);
    lives.iter().position(|life| *life == median)
}

fn read_spans(path: &Path) -> Result<Vec<Span>> {
    let file = std::io::BufReader::new(fs::File::open(path)?);
    let mut spans = Vec::new();
    for line in file.lines() {
        spans.push(serde_json::from_str(&line?).context("spans")?);
    }
    Ok(spans)
}

/// What one span costs: begun, ended and written.
fn span_cost(file: &Path) -> Result<f64> {
    const SPANS: u32 = 2000;
    let spans = Spans::to_file("lab", file)?;
    let (cx, _root): (Cx, _) = spans.root("cost");
    let begun = Instant::now();
    for _ in 0..SPANS {
        drop(spans.begin(&cx, "", "cost", Side::Inner));
    }
    Ok(begun.elapsed().as_nanos() as f64 / f64::from(SPANS))
}

fn versions() -> BTreeMap<String, String> {
    let own = env!("CARGO_PKG_VERSION").to_owned();
    let programs = crate::stack::PROGRAMS.iter().map(|p| ((*p).to_owned(), own.clone()));
    programs.chain([("strata".to_owned(), own.clone())]).collect()
}

fn command() -> String {
    let quote = |arg: String| {
        let plain = arg.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c));
        if plain { arg } else { format!("'{}'", arg.replace('\'', r"'\''")) }
    };
    let args: Vec<String> = std::env::args().skip(1).map(quote).collect();
    format!("strata {}", args.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_replaces_every_containers_own() {
        let text = with_images(POD, |own| Ok(format!("example.org/{}:1", own.len()))).unwrap();
        assert!(text.contains("image: example.org/7:1") && text.contains("Never"), "{text}");
    }
}
