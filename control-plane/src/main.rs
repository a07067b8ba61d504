//! `portolan-control`: flags, logging, signals.

use clap::Parser as _;
use control_plane::settings::{LogFormat, Settings};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let settings = match Settings::try_parse() {
        Ok(settings) => settings,
        Err(told) => {
            // Help and version are no errors; everything else ends with 1.
            let failed = told.use_stderr();
            let _ = told.print();
            return if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portolan-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log_level)
        .map_err(|e| anyhow::anyhow!("--log-level {}: {e}", settings.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    let upkeep = metrics.clone();

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut running = control_plane::server::start(settings, Arc::new(move || metrics.render())).await?;
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tick = tokio::time::interval(std::time::Duration::from_secs(5));
        let failed = loop {
            tokio::select! {
                _ = term.recv() => break false,
                _ = interrupt.recv() => break false,
                () = running.failed() => break true,
                // Histograms queue their samples until this runs.
                _ = tick.tick() => upkeep.run_upkeep(),
            }
        };
        info!("stopping");
        running.stop().await;
        if failed {
            error!("ended after a failure of its own");
            anyhow::bail!("a part of it has failed; see the log");
        }
        Ok(())
    })
}
