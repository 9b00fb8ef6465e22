//! The binary `shoal`: node, worker and command line in one.
//!
//! `cli` reads the arguments; `node` runs a node, whose edges `gateway` (QUIC) and `api` (HTTP) authenticate and hand on
//! to `service`, which asks the kernel through `runtime`, the documents, the blobs and the store.

mod api;
mod bench;
mod check;
mod cli;
mod config;
mod crash;
mod demo;
mod documents;
mod frames;
mod gateway;
mod identity;
mod logs;
mod memory;
mod metrics;
mod node;
mod peers;
mod replication;
mod runtime;
mod service;
mod stage;
mod store;
mod supervisor;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use cli::Action;
use config::LogFormat;

fn main() -> ExitCode {
    memory::give_back();
    // Before anything speaks TLS: two libraries would otherwise choose a provider each and panic at the second.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return fail(&anyhow::anyhow!("another TLS provider was installed before ours"));
    }
    match cli::parse() {
        Err(code) => code,
        Ok(Action::Client(action)) => cli::run(*action),
        Ok(Action::Up(config)) => {
            log(config.log);
            on_runtime(node::run(*config))
        }
        Ok(Action::Worker(run)) => {
            log(LogFormat::Text);
            on_runtime(worker(*run))
        }
        Ok(Action::Demo(args)) => end(demo::run(args)),
        Ok(Action::Bench(args)) => end(bench::run(*args)),
        Ok(Action::Check(args)) => checked(args),
        Ok(Action::Bare(bare)) => on_runtime(cli::run_bare(bare)),
    }
}

async fn worker(run: cli::WorkerRun) -> anyhow::Result<()> {
    let (config, stop) = run.into_parts()?;
    if matches!(config.attachment, shoal_worker::Attachment::Local(_)) {
        supervisor::own_session();
    }
    shoal_worker::run(config, stop).await?;
    Ok(())
}

/// Ends with a failure where something is damaged.
fn checked(args: cli::CheckArgs) -> ExitCode {
    log(LogFormat::Text);
    let mut is_whole = false;
    let ended = on_runtime(async {
        is_whole = check::run(args).await?;
        Ok(())
    });
    if is_whole { ended } else { ExitCode::FAILURE }
}

/// Two threads: the edges share them, kernel, store and guests have their own.
fn on_runtime(body: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(body);
            // Blocking threads may be waiting for a disk that does not answer.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            ended
        }
        Err(error) => Err(error.into()),
    };
    end(ended)
}

fn end(ended: anyhow::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a process goes to the person who started it")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("shoal: {}", sentence(error));
    ExitCode::FAILURE
}

/// An error and its causes, without those that the text before them already says.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.is_empty() => cause,
        cause if said.contains(&cause) => said,
        cause => format!("{said}: {cause}"),
    })
}

/// Log lines go to standard error; `SHOAL_LOG` chooses which, as in `info,shoal=debug`.
fn log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SHOAL_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(
            "warn,shoal=info,shoal_worker=info,shoal_blobs=info,iroh_blobs::store::gc=off",
        )
    });
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would say them on standard error, and panic since that cannot be written: on a full disk the log is lost,
        // not the process.
        .log_internal_errors(false);
    match format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.with_target(false).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_each_cause_once() {
        let refused = std::io::Error::other("permission denied");
        let error = anyhow::Error::new(refused).context("a: permission denied").context("starting");
        assert_eq!(sentence(&error), "starting: a: permission denied");
        assert_eq!(sentence(&anyhow::anyhow!("one").context("two")), "two: one");
    }
}
