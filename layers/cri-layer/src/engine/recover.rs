//! Finding what is there after a restart, however the last process ended.

use std::{collections::HashMap, fs, io, path::Path, sync::Arc};

use hops::{
    Cx, Result,
    proto::containerd::{
        services::{
            containers::v1::{Container as Contained, ListContainersRequest},
            tasks::v1::ListTasksRequest,
        },
        v1::types::{Process, Status},
    },
};

use super::{
    Core,
    container::Container,
    remove::remove_tree,
    sandbox::{Sandbox, unmount_shm},
    task::{Life, Task},
};
use crate::{
    names::{nanos, now},
    record::{ContainerRecord, Exit, Progress, Proto, SandboxRecord, of_extensions},
    spec::process_of,
};

impl Core {
    /// Takes over the sandboxes and containers that containerd has, and removes what is left of
    /// those that it has not.
    ///
    /// # Errors
    /// Those of containerd.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let cx = Cx::background();
        let contained =
            self.containerd.call(&cx, ListContainersRequest::default()).await?.containers;
        let tasks = self.containerd.call(&cx, ListTasksRequest::default()).await?.tasks;
        let id_of = |p: &Process| {
            if p.container_id.is_empty() { p.id.clone() } else { p.container_id.clone() }
        };
        let mut tasks: HashMap<String, Process> =
            tasks.into_iter().map(|p| (id_of(&p), p)).collect();
        for contained in contained {
            let process = tasks.remove(&contained.id);
            if let Some(record) = of_extensions::<SandboxRecord>(&contained.extensions) {
                self.recover_sandbox(record, process);
            } else if let Some(record) = of_extensions::<ContainerRecord>(&contained.extensions) {
                self.recover_container(record, contained, process);
            }
        }
        self.images.list(&cx).await?;
        self.sweep(&cx).await;
        Ok(())
    }

    fn recover_sandbox(self: &Arc<Self>, record: SandboxRecord, process: Option<Process>) {
        let id = record.id.clone();
        let progress = Progress { started_at: record.created_at, exit: None };
        let (life, ended) = life_of(progress, process.as_ref());
        let task = Task::new(&id, None, life);
        if let Err(error) = self.names.reserve("sandbox", &record.name, &id) {
            tracing::warn!(%error, id, "two sandboxes have one name");
        }
        self.sandboxes.insert(&id, Arc::new(Sandbox { record, task: task.clone() }));
        if let Some(exit) = ended {
            self.ended(&task, exit);
        }
    }

    fn recover_container(
        self: &Arc<Self>,
        record: ContainerRecord,
        contained: Contained,
        process: Option<Process>,
    ) {
        let id = record.id.clone();
        let root = self.config.container_root(&id);
        let progress = Progress::load(&root);
        let (life, ended) = life_of(progress, process.as_ref());
        let alive = life.running() && ended.is_none();
        let task = Task::new(&id, Some(root.clone()), life);
        if let Err(error) = self.names.reserve("container", &record.name, &id) {
            tracing::warn!(%error, id, "two containers have one name");
        }
        if let Err(error) = fs::create_dir_all(&root) {
            tracing::warn!(%error, id, "a container's directory");
        }
        let first = process_of(&contained.spec.unwrap_or_default());
        let container = Container::new(record, task.clone(), first, Vec::new());
        // Also of one that is over: what it wrote last is still in the pipes.
        if process.is_some()
            && let Err(error) = self.reopen_streams(&container)
        {
            tracing::warn!(%error, id, alive, "a container's output is lost");
        }
        self.containers.insert(&id, container);
        match ended {
            Some(exit) => self.ended(&task, exit),
            None => task.keep(),
        }
    }

    /// Removes the directories and network namespaces of sandboxes and containers that were begun
    /// or removed when the last process ended.
    async fn sweep(self: &Arc<Self>, cx: &Cx) {
        for id in entries(&self.config.state.join("netns")) {
            if self.sandboxes.get(&id).is_err() {
                let record = SandboxRecord {
                    id: id.clone(),
                    name: String::new(),
                    config: Proto::default(),
                    network: None,
                    runtime_handler: String::new(),
                    created_at: now(),
                };
                if let Err(error) = self.detach(cx, &record).await {
                    tracing::warn!(%error, id, "a network namespace without a sandbox stays");
                }
            }
        }
        let leftovers = |kind: &str, known: &dyn Fn(&str) -> bool| -> io::Result<()> {
            for base in [&self.config.state, &self.config.root] {
                let dir = base.join(kind);
                for id in entries(&dir).into_iter().filter(|id| !known(id)) {
                    unmount_shm(&dir.join(&id))?;
                    remove_tree(&dir.join(&id))?;
                }
            }
            Ok(())
        };
        let swept = leftovers("sandboxes", &|id| self.sandboxes.get(id).is_ok())
            .and_then(|()| leftovers("containers", &|id| self.containers.get(id).is_ok()));
        if let Err(error) = swept {
            tracing::warn!(%error, "what is left of a removed pod stays");
        }
    }
}

/// How far a task has come, from what was kept and what containerd says; and its end, where
/// containerd knows one that was not kept.
fn life_of(progress: Progress, process: Option<&Process>) -> (Life, Option<Exit>) {
    let mut life =
        Life { started_at: progress.started_at, exit: progress.exit.clone(), ..Life::default() };
    let Some(process) = process else {
        // There is no task: what was started is over, and nobody can say how.
        if life.exit.is_none() && life.started_at > 0 {
            life.exit = Some(Exit::unknown());
        }
        return (life, None);
    };
    life.pid = process.pid;
    match process.status() {
        Status::Running | Status::Paused | Status::Pausing => {
            if life.started_at == 0 {
                life.started_at = now();
            }
            life.exit = None;
            (life, None)
        }
        Status::Stopped => {
            life.exit = None;
            if life.started_at == 0 {
                life.started_at = now();
            }
            let code = i32::try_from(process.exit_status).unwrap_or(255);
            let at = nanos(process.exited_at.as_ref(), now());
            (life, Some(Exit { code, at, ..Exit::default() }))
        }
        // The start was interrupted: the task is there and must go when the container does.
        Status::Created | Status::Unknown => {
            life.left_over = true;
            life.exit = Some(Exit::start_error("the start was interrupted".to_owned()));
            (life, None)
        }
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_and_what_containerd_says_make_one_story() {
        let process = |status: Status| Process {
            pid: 7,
            exit_status: 3,
            status: status.into(),
            ..Default::default()
        };
        let started = || Progress { started_at: 5, exit: None };
        let (life, end) = life_of(started(), Some(&process(Status::Running)));
        assert!(life.running() && life.pid == 7 && end.is_none());
        let (life, end) = life_of(started(), Some(&process(Status::Stopped)));
        assert!(life.running(), "it is said to have exited when its task is gone");
        assert_eq!(end.unwrap().code, 3);
        let (life, end) = life_of(started(), None);
        assert_eq!((life.exit.unwrap().code, end), (255, None));
        let (life, _) = life_of(Progress::default(), None);
        assert!(life.exit.is_none() && life.started_at == 0, "it was only created");
        let (life, _) = life_of(Progress::default(), Some(&process(Status::Created)));
        assert!(life.left_over && life.exit.unwrap().reason == "StartError");
    }
}
