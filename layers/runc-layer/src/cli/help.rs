//! Help for the program and for each command, in the layout of runc's.

use super::{COMMANDS, Command, GLOBAL, options::Option_, show::print, version_text};

/// What the command does, and what comes after its options.
fn about(name: &str) -> (&'static str, &'static str) {
    const ID: &str = "<container-id>";
    match name {
        "create" => ("make a container whose program waits for start", ID),
        "run" => ("make a container and run its program", ID),
        "start" => ("run the program of a created container", ID),
        "state" => ("show what a container is doing", ID),
        "kill" => ("send a signal, SIGTERM by default", "<container-id> [signal]"),
        "delete" => ("remove a container and what it holds", ID),
        "exec" => ("run one more program in a container", "<container-id> <command> [arguments]"),
        "list" => ("list the containers below the root directory", ""),
        "ps" => ("list the processes of a container", "<container-id> [ps options]"),
        "pause" => ("freeze all processes of a container", ID),
        "resume" => ("thaw a paused container", ID),
        "update" => ("change a container's limits", ID),
        "events" => ("show a container's usage and its events", ID),
        "spec" => ("write a config.json to begin with", ""),
        "features" => ("show what the runtime knows", ""),
        "checkpoint" => ("write a running container to files", ID),
        "restore" => ("make a container of the files of a checkpoint", ID),
        _ => ("show this help, or that of a command", "[command]"),
    }
}

fn options(title: &str, table: &[Option_]) -> String {
    if table.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{title}:\n");
    for option in table {
        let names: Vec<String> = option
            .names
            .iter()
            .map(|name| if option.value { format!("{name} value") } else { (*name).to_owned() })
            .collect();
        text.push_str(&format!("   {}\n", names.join(", ")));
    }
    text
}

/// The help of `command`, or of the program.
pub(super) fn text(command: Option<&Command>) -> String {
    let Some(command) = command else {
        let mut text = format!(
            "NAME:\n   strata-runc - a container runtime of the Open Container Initiative\n\nUSAGE:\n   strata-runc [global options] command [command options] [arguments...]\n\nVERSION:\n   {}\n\nCOMMANDS:\n",
            version_text()
        );
        for Command { name, .. } in &COMMANDS {
            text.push_str(&format!("   {name:<10}  {}\n", about(name).0));
        }
        return text + &options("GLOBAL OPTIONS", &GLOBAL);
    };
    let (what, operands) = about(command.name);
    let name = command.name;
    format!(
        "NAME:\n   strata-runc {name} - {what}\n\nUSAGE:\n   strata-runc {name} [command options] {operands}\n{}",
        options("OPTIONS", command.options)
    )
}

pub(super) fn show(command: Option<&Command>) -> super::Outcome {
    print(&text(command))
}
