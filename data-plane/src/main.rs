//! portolan-proxy: flags, logging, and the proxy's life.

mod allocator;
mod flags;

use clap::Parser;
use data_plane::server::{self, Boot, BootError, Logging, Origin, Proxy, StartError};
use flags::{Flags, Mode};
use std::process::ExitCode;
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Longest wait of `--mode init_only`: Envoy's two initial fetch timeouts and a little.
const INIT_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    allocator::without_huge_pages();
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            // Help is not an error.
            let failed = error.use_stderr();
            let _ = error.print();
            return if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    if flags.version {
        println!("portolan-proxy  version: {}", server::version());
        return ExitCode::SUCCESS;
    }
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // On standard error whatever the log level and file are.
            eprintln!("error initializing configuration '{}':\n{}", flags.config_name(), failure.describe());
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<(), StartError> {
    let (settings, bad_directives) = flags.logging();
    let (logging, bad_components) = Logging::start(settings)
        .map_err(|source| StartError::System { what: "cannot open the log file", source })?;
    for directive in bad_directives {
        warn!("--log-format: {directive} is not understood; the default format is used");
    }
    for component in bad_components {
        warn!("--component-log-level: {component}");
    }
    for flag in flags.without_effect() {
        debug!("{flag} has no effect");
    }
    // A panic ends its task and not the process: it must not go unseen in the log.
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::capture();
        error!("{panic}\n{trace}");
    }));
    let boot = read(flags.origin())?;
    if let Some(pattern) = &boot.log_pattern {
        if flags.has_log_format() {
            let told = "application_log_config.log_format: excludes --log-format".to_owned();
            return Err(BootError(vec![told]).into());
        }
        logging.set_pattern(pattern.clone());
    }
    if flags.mode == Mode::Validate {
        for finding in &boot.ignored {
            eprintln!("warning: ignored: {finding}");
        }
        boot.check()?;
        println!("configuration '{}' OK", flags.config_name());
        return Ok(());
    }
    info!(version = server::version(), "starting");
    let handle = Proxy::start(boot, flags.options(logging))?;
    allocator::give_back();
    if flags.mode == Mode::InitOnly {
        if !handle.ready(INIT_LIMIT) {
            error!("not initialized in time");
        }
        return Ok(());
    }
    handle.join()
}

/// Reads the bootstrap on a thread of its own: what it takes to read is several times what is kept, and the
/// allocator can give all of a thread's memory back once the thread has ended.
fn read(origin: Origin) -> Result<Boot, StartError> {
    let reader = std::thread::spawn(move || {
        let boot = Boot::read(&origin)?;
        if boot.is_static() {
            // Nothing more is read unless someone asks. No other thread uses the descriptors yet.
            xds_types::release();
        }
        Ok(boot)
    });
    reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
