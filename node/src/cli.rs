//! The command line: nouns, then verbs.
//!
//! [`parse`] turns the arguments into an [`Action`]; `main` runs those that are a process of their own (node, worker,
//! demo, benchmark) and hands the others to [`run`]. Commands speak to a node through `shoal-client` only, like any
//! other client; none of them opens the node's data, except for its address and its token, and `shoal check`.
//!
//! What always holds: results go to standard output, all else to standard error; with `--json` standard output is one
//! JSON value as the API has it; progress is shown on a terminal only; a reader that closes the pipe early is no error;
//! an error is a line that says what is wrong and one that says what to do next; exit codes are those of [`EXIT_CODES`].

mod bare;
mod bench;
mod blob;
mod check;
mod connect;
mod deploy;
mod document;
mod drain;
mod failure;
mod function;
mod history;
mod input;
mod invite;
mod job;
mod key;
mod kv;
mod node;
mod output;
mod peers;
mod progress;
mod sign;
mod status;
mod submit;
mod table;
mod terms;
mod token;
mod wait;
mod watch;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shoal_client::NodeAddr;

use crate::config::{Config, Overrides};
pub(crate) use bare::{Bare, run as run_bare};
pub(crate) use bench::{BenchArgs, OnOff, Part};
pub(crate) use check::{CheckArgs, print as print_check};
use connect::Context;
pub(crate) use failure::Failure;
pub(crate) use progress::Progress;
pub(crate) use table::{Table, size};
pub(crate) use worker::WorkerRun;

/// What the exit codes mean, as `--help` says it.
const EXIT_CODES: &str = "\
Exit codes:
  0  done; a job that was waited for has succeeded
  1  failed
  2  the command line is wrong
  3  there is no such object
  4  the node cannot be reached
  5  refused: no valid token, or not allowed
  6  the job that was waited for has not succeeded; if the function ended with an
     exit code of its own, `shoal submit --wait` and `shoal job wait` end with that one
  7  too much is waiting already, or a quota is used up: it may go later
  130  interrupted; jobs go on

Environment:
  SHOAL_NODE   the node to speak to, quic://NODEID@host:port; else the one that runs in the data folder
  SHOAL_TOKEN  the token; else the file `token` in the data folder
  SHOAL_DATA   the data folder; else $XDG_DATA_HOME/shoal or ~/.local/share/shoal";

/// Over the flags that every command takes.
const EVERYWHERE: &str = "Options of every command";

/// Shoal turns any set of machines into one serverless platform that has no server.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, after_help = EXIT_CODES, max_term_width = 120)]
struct Cli {
    /// Print one JSON value, as the API has it
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    json: bool,
    /// The node to speak to
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "SHOAL_NODE", value_name = "ADDRESS", hide_env = true)]
    node: Option<NodeAddr>,
    /// The token to speak with
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "SHOAL_TOKEN", value_name = "TOKEN", hide_env = true)]
    token: Option<String>,
    /// The data folder of the local node
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "SHOAL_DATA", value_name = "FOLDER", hide_env = true)]
    data: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node with a worker, until it is told to stop
    Up(Overrides),
    /// The main job on real input: deploy a face detector, submit photographs, collect the results
    Demo(DemoArgs),
    /// Measure jobs and blobs on this machine, beside what disk, wasmtime and iroh-blobs do alone
    Bench(Box<BenchArgs>),
    /// Look at the data of a node that does not run: is all of it as it was written?
    Check(CheckArgs),
    /// iroh-blobs alone, for comparison
    #[command(subcommand, hide = true)]
    BareBlobs(Bare),
    /// Run one more worker, or look after those of the node
    Worker(worker::Worker),
    #[command(flatten)]
    Client(Box<ClientCommand>),
}

/// A command that speaks to a node and ends.
#[derive(Debug, Subcommand)]
enum ClientCommand {
    /// What the node is and does: its workers, jobs and blobs
    Status,
    /// The other nodes: how far, by which way, and whether they have the same objects
    Peers,
    /// Print a text with which another machine joins this mesh: `shoal up --join TEXT`
    Invite,
    /// Let a node hand over its jobs, blobs and local KV to another one, and stop then
    Drain(drain::Drain),
    /// Hand over a job; prints its id
    Submit(Box<submit::Submit>),
    /// Jobs: look, wait, collect, cancel
    #[command(subcommand)]
    Job(job::Job),
    /// Blobs: bytes, named by their hash
    #[command(subcommand)]
    Blob(blob::Blob),
    /// Keys and values of a user, project or function
    #[command(subcommand)]
    Kv(kv::Kv),
    /// Users
    #[command(subcommand)]
    User(document::User),
    /// Projects
    #[command(subcommand)]
    Project(document::Project),
    /// Functions
    #[command(subcommand)]
    Function(Box<function::Function>),
    /// Deploy a function, or a new version of one; prints its id, name and version
    Deploy(deploy::Deploy),
    /// Nodes
    #[command(subcommand)]
    Node(node::Node),
    /// The token that commands speak with
    #[command(subcommand)]
    Token(token::Token),
    #[command(skip)]
    Worker(worker::WorkerCommand),
}

/// How the demo is run.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Leave what the demo made in this folder, the picture with the framed face among it; else a folder of its own
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
}

/// What the command line asks for.
pub(crate) enum Action {
    /// Run a node.
    Up(Box<Config>),
    /// Run a worker.
    Worker(Box<WorkerRun>),
    /// Run the demo.
    Demo(DemoArgs),
    /// Run the benchmark.
    Bench(Box<BenchArgs>),
    /// Look at a data folder.
    Check(CheckArgs),
    /// Run a process of iroh-blobs alone.
    Bare(Bare),
    /// Speak to a node: [`run`].
    Client(Box<ClientAction>),
}

/// A command for a node, and how to reach it.
pub(crate) struct ClientAction {
    command: ClientCommand,
    context: Context,
}

/// Reads the arguments of this process. A wrong command line, `--help` and `--version` are answered here.
pub(crate) fn parse() -> Result<Action, ExitCode> {
    let cli = Cli::try_parse().map_err(|error| {
        // Nothing is left to be done if it cannot be shown.
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE))
    })?;
    action(cli).map_err(|failure| failure.report())
}

fn action(cli: Cli) -> Result<Action, Failure> {
    let Cli { json, node, token, data, command } = cli;
    let client = |command| {
        let context = Context { json, node: node.clone(), token: token.clone(), data: data.clone() };
        Ok(Action::Client(Box::new(ClientAction { command, context })))
    };
    match command {
        Command::Up(overrides) => Ok(Action::Up(Box::new(Config::load(data, &overrides)?))),
        Command::Demo(args) => Ok(Action::Demo(args)),
        Command::Bench(args) => Ok(Action::Bench(Box::new(BenchArgs { json, ..*args }))),
        Command::Check(args) => Ok(Action::Check(CheckArgs { json, data, ..args })),
        Command::BareBlobs(bare) => Ok(Action::Bare(bare)),
        Command::Worker(worker) => match worker.command() {
            worker::Either::Run(run) => Ok(Action::Worker(Box::new(run.checked(node)?))),
            worker::Either::Ask(command) => client(ClientCommand::Worker(command)),
        },
        Command::Client(command) => client(*command),
    }
}

/// Runs a command that speaks to a node, on a runtime of its own.
pub(crate) fn run(action: ClientAction) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new(format!("no runtime can be started: {error}")).report(),
    };
    let ended = runtime.block_on(dispatch(action));
    // A blocking read of standard input cannot be interrupted; nobody waits for it.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn dispatch(action: ClientAction) -> Result<(), Failure> {
    let ClientAction { command, context } = action;
    if let ClientCommand::Token(command) = command {
        return token::run(&context, command).await;
    }
    let client = context.connect().await?;
    let ended = match command {
        ClientCommand::Status => status::run(&context, &client).await,
        ClientCommand::Peers => peers::run(&context, &client).await,
        ClientCommand::Invite => invite::run(&context, &client).await,
        ClientCommand::Drain(command) => drain::run(&context, &client, command).await,
        ClientCommand::Submit(command) => submit::run(&context, &client, *command).await,
        ClientCommand::Job(command) => job::run(&context, &client, command).await,
        ClientCommand::Blob(command) => blob::run(&context, &client, command).await,
        ClientCommand::Kv(command) => kv::run(&context, &client, command).await,
        ClientCommand::User(command) => document::run_user(&context, &client, command).await,
        ClientCommand::Project(command) => document::run_project(&context, &client, command).await,
        ClientCommand::Function(command) => function::run(&context, &client, *command).await,
        ClientCommand::Deploy(command) => deploy::run(&context, &client, command).await,
        ClientCommand::Node(command) => node::run(&context, &client, command).await,
        ClientCommand::Worker(command) => worker::run(&context, &client, command).await,
        ClientCommand::Token(command) => token::run(&context, command).await,
    };
    client.close().await;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    /// clap checks this by itself only when it is built with debug assertions, which no build of ours is.
    #[test]
    fn no_two_arguments_of_a_command_share_a_name() {
        use clap::CommandFactory as _;
        let mut command = Cli::command();
        let everywhere: Vec<_> =
            command.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().clone()).collect();
        let mut commands = vec![command.clone()];
        while let Some(command) = commands.pop() {
            // Of two that share one, building it keeps the one of the command.
            let own = command.get_arguments().filter(|argument| !argument.is_global_set());
            own.for_each(|own| assert!(!everywhere.contains(own.get_id()), "{}: {}", command.get_name(), own.get_id()));
            commands.extend(command.get_subcommands().cloned());
        }
        command.build();
        let mut commands = vec![command];
        let mut seen = 0;
        while let Some(command) = commands.pop() {
            let mut names = std::collections::BTreeSet::new();
            for argument in command.get_arguments() {
                let long = argument.get_long().map(|long| format!("--{long}"));
                let short = argument.get_short().map(|short| format!("-{short}"));
                for name in [Some(format!("id {}", argument.get_id())), long, short].into_iter().flatten() {
                    assert!(names.insert(name.clone()), "{}: {name} stands for two arguments", command.get_name());
                }
            }
            seen += 1;
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(seen > 40, "{seen} commands");
    }

    #[test]
    fn a_label_of_the_job_is_no_need() {
        let cli = parsed("shoal submit f --label a=b --needs-label c=d").expect("a command line");
        let Command::Client(command) = cli.command else { panic!("another command") };
        let text = format!("{command:?}");
        assert!(text.contains(r#"labels: [("a", "b")]"#) && text.contains(r#"labels: [("c", "d")]"#), "{text}");
    }

    #[test]
    fn the_lines_of_the_design_are_understood() {
        let id = "01HF7YAT00000NGVVFDNK6YS35";
        let hash = "ab".repeat(32);
        for line in [
            "shoal up",
            "shoal up --name a --label zone=x --label rack=1 --gateway 127.0.0.1:0 --slots 2 --no-worker",
            "shoal --data here status --json",
            "shoal demo",
            "shoal bench --jobs 100 --in-flight 8 --slots 2",
            "shoal bench --only idle,blobs --blob-size 256MiB --blob-rounds 3 --json",
            "shoal bench --only poisson,on-off --rate 500 --on-off 100,900 --seconds 5 --seed 7 --report here.json",
            "shoal bench --only trace --trace arrivals.txt --folder here",
            "shoal submit digest --text hello --wait",
            "shoal submit digest --input - --arg a --arg=-b --env K=V --needs-label gpu=yes --timeout 10m --count 5",
            "shoal invite",
            "shoal job ls --state queued",
            "shoal job ls --mesh --json",
            &format!("shoal job logs -f {id}"),
            &format!("shoal job result {id} -o out"),
            &format!("shoal job wait {id} {id} --timeout 5s"),
            &format!("shoal job watch {id}"),
            "shoal job watch --project p --function f --json",
            &format!("shoal job cancel {id}"),
            &format!("shoal job rm {id}"),
            "shoal blob put - --keep --name x",
            &format!("shoal blob get {hash} -o out"),
            &format!("shoal blob keep {hash}"),
            "shoal kv get key",
            &format!("shoal kv set face-detect model --blob {hash}"),
            "shoal kv incr --local user hits --by -3",
            "shoal kv cas project:p key --version 0 --text x",
            "shoal kv ls",
            "shoal user add ada --label a=b",
            "shoal project add-member p ada --role owner",
            "shoal project set p --weight 3 --quota-queued 10000 --quota-running none --quota-storage 10GiB",
            "shoal function activate f 2",
            "shoal deploy a.wasm --name f --grant blob,kv --memory-mb 64 --needs-label a=b --timeout 1m --attempts 2",
            "shoal worker ls",
            "shoal worker --ticket t --capability gpu",
            "shoal worker run --ticket t --slots 2 --cache here",
            "shoal worker ticket --name gpu",
            "shoal node set --name b",
            "shoal token show",
        ] {
            assert!(parsed(line).is_ok(), "{line}: {}", parsed(line).expect_err("an error"));
        }
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "shoal",
            "shoal fly",
            "shoal submit",
            "shoal submit f --text a --input b",
            "shoal submit f --timeout soon",
            "shoal submit f --env K",
            "shoal submit f --wait --count 2",
            "shoal job show 123",
            "shoal job watch 01HF7YAT00000NGVVFDNK6YS35 --project p",
            "shoal blob get xyz",
            "shoal kv get",
            "shoal kv set user key",
            "shoal kv set user key --text a --blob b",
            "shoal deploy a.wasm --grant root",
            "shoal worker",
            "shoal worker --ticket t ls",
            "shoal --node here status",
            "shoal bench --only everything",
            "shoal bench --blob-size 1GB",
            "shoal bench --rate 0",
            "shoal project set p --weight 0",
            "shoal project set p --quota-rate many",
        ] {
            let refused = match parsed(line) {
                Err(_) => true,
                Ok(cli) => action(cli).is_err(),
            };
            assert!(refused, "{line}");
        }
    }
}
