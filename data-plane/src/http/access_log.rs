//! Access-log sinks: lines gathered per worker, written by one thread that no worker ever waits for.
//!
//! A sink is shared by every log that names the same file. Lines go into a buffer of the worker's own; the writer
//! takes the buffers when one is full, every ten seconds, and at the end. What does not fit is dropped and
//! counted, since a slow disk must not hold up requests.

use crate::stat_block;
use crate::stats::Registry;
use data_plane_core::config::AccessLogSink;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A worker's buffer is handed over once it holds this much (Envoy: 64 KiB).
const FLUSH_BYTES: usize = 64 << 10;

/// Lines are dropped while a worker's buffer holds this much: the writer is too slow.
const MAX_BYTES: usize = 4 << 20;

/// Longest wait for a file or stream to take what is left at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// Longest stay of a line in a buffer (Envoy `--file-flush-interval-msec`).
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

stat_block! {
    /// Metrics of log writing, `filesystem.`.
    struct Stats {
        counters: flushed_by_timer, reopen_failed, write_buffered, write_completed, write_dropped, write_failed;
        gauges: write_total_buffered;
        histograms: ;
    }
}

/// The sinks of one proxy; clones share them. The last clone writes out what is buffered when dropped.
#[derive(Clone)]
pub struct AccessLogs(Arc<Owner>);

/// One file or stream that lines are appended to.
pub struct Sink {
    /// A buffer per worker; 0 is for other threads.
    buffers: Box<[Mutex<Vec<u8>>]>,
    target: Mutex<Target>,
    shared: Arc<Shared>,
}

enum Target {
    File {
        path: std::path::PathBuf,
        file: File,
    },
    Stdout,
    Stderr,
    #[cfg(test)]
    Memory(Arc<Mutex<Vec<u8>>>),
}

/// What the writer thread sees.
struct Shared {
    stats: Stats,
    interval: Duration,
    state: Mutex<State>,
    /// Something for the writer to do.
    work: Condvar,
    /// The writer has done a round.
    done: Condvar,
    /// A buffer is full; set so that only the first to fill one takes the lock.
    full: AtomicBool,
}

#[derive(Default)]
struct State {
    sinks: HashMap<AccessLogSink, Arc<Sink>>,
    /// Rounds asked for and done.
    asked: u64,
    rounds: u64,
    reopen: bool,
    stop: bool,
    /// A round took longer than anyone waits.
    is_stuck: bool,
    /// The writer has ended.
    is_over: bool,
}

struct Owner {
    shared: Arc<Shared>,
    workers: usize,
    /// Only whether places can be written to is looked at.
    is_idle: bool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl AccessLogs {
    /// No sinks yet, for `workers` workers. `interval`: longest stay of a line in a buffer.
    pub fn new(stats: &Registry, workers: usize, interval: Duration) -> Self {
        let shared = Shared {
            stats: Stats::new(&stats.scope("filesystem.", "filesystem.", &[])),
            interval,
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            full: AtomicBool::new(false),
        };
        let shared = Arc::new(shared);
        Self(Arc::new(Owner { shared, workers, is_idle: false, writer: Mutex::new(None) }))
    }

    /// Sinks that nothing is written to, to check a configuration with. No file is made.
    pub fn idle(stats: &Registry) -> Self {
        let Self(owner) = Self::new(stats, 0, FLUSH_INTERVAL);
        let shared = Arc::clone(&owner.shared);
        Self(Arc::new(Owner { shared, workers: 0, is_idle: true, writer: Mutex::new(None) }))
    }

    /// The sink of that place, opened if it is not open yet.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or no thread can be started.
    pub fn open(&self, place: &AccessLogSink) -> io::Result<Arc<Sink>> {
        if let Some(sink) = self.0.shared.state.lock().sinks.get(place) {
            return Ok(Arc::clone(sink));
        }
        if self.0.is_idle {
            if let AccessLogSink::File(path) = place {
                could_append(path)?;
            }
            let buffers = Box::new([Mutex::default()]);
            let target = Mutex::new(Target::Stderr);
            return Ok(Arc::new(Sink { buffers, target, shared: Arc::clone(&self.0.shared) }));
        }
        let target = match place {
            AccessLogSink::File(path) => Target::File { path: path.clone(), file: append(path)? },
            AccessLogSink::Stdout => Target::Stdout,
            AccessLogSink::Stderr => Target::Stderr,
        };
        self.insert(place, target)
    }

    fn insert(&self, place: &AccessLogSink, target: Target) -> io::Result<Arc<Sink>> {
        self.start_writer()?;
        let sink = Arc::new(Sink {
            buffers: (0..=self.0.workers).map(|_| Mutex::default()).collect(),
            target: Mutex::new(target),
            shared: Arc::clone(&self.0.shared),
        });
        let mut state = self.0.shared.state.lock();
        Ok(Arc::clone(state.sinks.entry(place.clone()).or_insert(sink)))
    }

    /// Opens every file anew after writing out what is buffered, for log rotation.
    pub fn reopen(&self) {
        let mut state = self.0.shared.state.lock();
        state.reopen = true;
        state.asked += 1;
        self.0.shared.work.notify_one();
    }

    /// Writes out what is buffered, and waits for it, 5 s at most. Returns how many bytes are not written.
    /// Blocks: not for workers.
    pub fn flush(&self) -> u64 {
        self.flush_within(FLUSH_LIMIT)
    }

    fn flush_within(&self, limit: Duration) -> u64 {
        let shared = &self.0.shared;
        let mut state = shared.state.lock();
        if self.0.writer.lock().is_none() {
            return 0;
        }
        state.asked += 1;
        let wanted = state.asked;
        shared.work.notify_one();
        if shared.done.wait_while_for(&mut state, |state| state.rounds < wanted, limit).timed_out() {
            state.is_stuck = true;
            return shared.stats.write_total_buffered.value();
        }
        0
    }

    fn start_writer(&self) -> io::Result<()> {
        let mut writer = self.0.writer.lock();
        if writer.is_none() {
            let shared = Arc::clone(&self.0.shared);
            *writer =
                Some(std::thread::Builder::new().name("access-log".into()).spawn(move || shared.run())?);
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let Some(writer) = self.writer.get_mut().take() else { return };
        let mut state = self.shared.state.lock();
        state.stop = true;
        self.shared.work.notify_one();
        let limit = if state.is_stuck { Duration::ZERO } else { FLUSH_LIMIT };
        self.shared.done.wait_while_for(&mut state, |state| !state.is_over, limit);
        let is_over = state.is_over;
        drop(state);
        // One that is stuck goes with the process.
        if is_over || writer.is_finished() {
            // A writer that panicked has nothing more to write.
            let _ = writer.join();
        }
    }
}

impl Sink {
    /// Appends what `render` writes, from worker `worker`. Never waits for the disk.
    pub fn append(&self, worker: usize, render: impl FnOnce(&mut Vec<u8>)) {
        let buffer = self.buffers.get(worker).unwrap_or(&self.buffers[0]);
        // Only the writer contends for it, for as long as it takes to swap a vector.
        let mut buffer = buffer.lock();
        let stats = &self.shared.stats;
        if buffer.len() >= MAX_BYTES {
            stats.write_dropped.inc();
            return;
        }
        let before = buffer.len();
        render(&mut buffer);
        stats.write_buffered.inc();
        stats.write_total_buffered.add((buffer.len() - before) as i64);
        let full = buffer.len() >= FLUSH_BYTES;
        drop(buffer);
        if full && !self.shared.full.swap(true, Relaxed) {
            // Taken for a moment only, once per 64 KiB, so that the writer cannot miss the call.
            drop(self.shared.state.lock());
            self.shared.work.notify_one();
        }
    }

    fn write_out(&self) {
        let mut target = self.target.lock();
        for buffer in &self.buffers {
            let taken = std::mem::take(&mut *buffer.lock());
            if taken.is_empty() {
                continue;
            }
            let stats = &self.shared.stats;
            match target.write_all(&taken) {
                Ok(()) => stats.write_completed.inc(),
                Err(_) => stats.write_failed.inc(),
            }
            // Only now: a write may take for ever.
            stats.write_total_buffered.add(-(taken.len() as i64));
        }
    }
}

impl Target {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.write_all(bytes),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::Stderr => io::stderr().lock().write_all(bytes),
            #[cfg(test)]
            Self::Memory(memory) => {
                memory.lock().extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Opens the file anew; keeps the old one when that fails.
    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            *file = append(path)?;
        }
        Ok(())
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        let mut last = Instant::now();
        loop {
            let due =
                |state: &mut State| state.rounds == state.asked && !state.stop && !self.full.load(Relaxed);
            let timed_out = self.work.wait_while_until(&mut state, due, last + self.interval).timed_out();
            let (round, reopen, stop) = (state.asked, std::mem::take(&mut state.reopen), state.stop);
            let mut gone: Vec<_> = Vec::new();
            if timed_out {
                // Sinks that no configuration names any more are closed after a last write.
                gone.extend(state.sinks.extract_if(|_, sink| Arc::strong_count(sink) == 1));
                self.stats.flushed_by_timer.inc();
            }
            let sinks: Vec<_> = state.sinks.values().cloned().collect();
            // Others wait for the lock, with a deadline: nothing is written under it.
            drop(state);
            gone.iter().for_each(|(_, sink)| sink.write_out());
            self.full.store(false, Relaxed);
            for sink in sinks {
                sink.write_out();
                if reopen && sink.target.lock().reopen().is_err() {
                    self.stats.reopen_failed.inc();
                }
            }
            last = Instant::now();
            state = self.state.lock();
            state.rounds = round;
            state.is_over = stop;
            self.done.notify_all();
            if stop {
                return;
            }
        }
    }
}

fn append(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Whether [`append`] would succeed, without making the file.
fn could_append(path: &std::path::Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.map(drop),
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(std::path::Path::new("."));
    Ok(rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?)
}

#[cfg(test)]
impl AccessLogs {
    /// A sink at `place` that writes into memory.
    pub(super) fn open_in_memory(&self, place: &AccessLogSink) -> (Arc<Sink>, Arc<Mutex<Vec<u8>>>) {
        let memory = Arc::<Mutex<Vec<u8>>>::default();
        (self.insert(place, Target::Memory(Arc::clone(&memory))).unwrap(), memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn logs() -> (Registry, AccessLogs) {
        let registry = Registry::new(2);
        let logs = AccessLogs::new(&registry, 2, Duration::from_secs(3600));
        (registry, logs)
    }

    #[test]
    fn logs_that_name_one_file_share_a_sink() {
        let folder = tempfile::tempdir().unwrap();
        let place = AccessLogSink::File(folder.path().join("a.log"));
        let (_registry, logs) = logs();
        let one = logs.open(&place).unwrap();
        let two = logs.open(&place).unwrap();
        assert!(Arc::ptr_eq(&one, &two));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let (_registry, logs) = logs();
        let place = AccessLogSink::File(PathBuf::from("/nonexistent/folder/a.log"));
        assert!(logs.open(&place).is_err());
    }

    #[test]
    fn lines_of_all_workers_reach_the_file_on_flush_and_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let (_registry, logs) = logs();
        let sink = logs.open(&AccessLogSink::File(path.clone())).unwrap();
        sink.append(1, |out| out.extend_from_slice(b"one\n"));
        sink.append(2, |out| out.extend_from_slice(b"two\n"));
        logs.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        sink.append(1, |out| out.extend_from_slice(b"last\n"));
        drop(logs);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nlast\n");
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
        let (_registry, logs) = logs();
        let sink = logs.open(&AccessLogSink::File(path.clone())).unwrap();
        sink.append(1, |out| out.extend_from_slice(b"before\n"));
        std::fs::rename(&path, &old).unwrap();
        logs.reopen();
        logs.flush();
        sink.append(1, |out| out.extend_from_slice(b"after\n"));
        logs.flush();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "before\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn a_stream_that_takes_nothing_does_not_hold_up_the_end() {
        let (_registry, logs) = logs();
        let (sink, memory) = logs.open_in_memory(&AccessLogSink::Stdout);
        let stuck = memory.lock();
        sink.append(1, |out| out.extend_from_slice(b"12345"));
        assert_eq!(logs.flush_within(Duration::from_millis(20)), 5);
        let began = Instant::now();
        drop((sink, logs));
        assert!(began.elapsed() < FLUSH_LIMIT, "nobody waits twice");
        drop(stuck);
    }

    #[test]
    fn lines_are_dropped_and_counted_while_the_writer_is_too_slow() {
        let (_registry, logs) = logs();
        let (sink, memory) = logs.open_in_memory(&AccessLogSink::Stdout);
        let slow = memory.lock();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            sink.append(1, |out| out.extend_from_slice(&line));
        }
        let stats = &sink.shared.stats;
        assert!(stats.write_dropped.value() > 0, "a full buffer drops");
        assert_eq!(stats.write_dropped.value() + stats.write_buffered.value(), 20);
        drop(slow);
        logs.flush();
        assert_eq!(memory.lock().len() as u64, stats.write_buffered.value() << 20);
        assert_eq!(stats.write_total_buffered.value(), 0);
    }
}
