//! A configuration looked at without a container: what `create` does before it makes anything.

use std::{fs::File, path::Path};

use crate::{
    Error, Result,
    cgroup::{self, Cgroup, Hierarchies},
    engine,
    plan::{self, HookCommand, ProcessPlan, Rootfs, RootfsContext},
    seccomp,
    spec::Spec,
};

/// Decodes, checks and plans a `config.json` as `create` would, its seccomp profile and its device
/// rules compiled, for cgroup v1 and for v2. The answer is the warnings that `create` would give.
///
/// It makes and changes nothing. Of the machine it reads what a plan depends on: mountinfo(5) of
/// this process, the type of the file system of a mount's source, whether there is AppArmor or
/// SELinux.
///
/// # Errors
///
/// [`Error::Spec`] with the field that `create` would refuse.
pub fn check(config: &[u8]) -> Result<Vec<String>> {
    let spec = Spec::parse(config)?;
    let process = spec.process.as_ref().ok_or_else(Error::no_process)?;
    let mut warnings = Vec::new();
    let filter = match &spec.linux.seccomp {
        Some(profile) => seccomp::compile(profile)?,
        None => None,
    };
    if let Some(resources) = &spec.linux.resources {
        cgroup::check(resources)?;
    }
    for (hierarchies, cgroup_namespace) in
        [(Hierarchies::v2_only(), true), (Hierarchies::usual_v1(), false)]
    {
        let cgroup = Cgroup::locate(&hierarchies, &spec.linux.cgroups_path, "check");
        cgroup.refuse_root(&hierarchies)?;
        let context = RootfsContext {
            bundle: Path::new("/bundle"),
            rootfs: Path::new("/bundle/rootfs"),
            hierarchies: &hierarchies,
            cgroup: &cgroup,
            cgroup_namespace,
            in_user_namespace: !cgroup_namespace,
            no_pivot: false,
            // A user namespace would have to be made; any descriptor stands for it.
            idmap: |_| {
                let null = File::open("/dev/null");
                null.map(Into::into).map_err(|e| Error::os("open /dev/null", e.into()))
            },
        };
        Rootfs::new(&spec, &context)?;
    }
    let hooks = &spec.hooks;
    for list in [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.create_container,
        &hooks.start_container,
        &hooks.poststart,
        &hooks.poststop,
    ] {
        HookCommand::list(list)?;
    }
    plan::sysctls(&spec.linux)?;
    engine::time_offsets(&spec.linux);
    plan::console_size(process);
    ProcessPlan::new(process, &spec.linux, filter, &mut |w| warnings.push(w))?;
    Ok(warnings)
}
