//! Our own HTTP/1.1 load: closed loop, or a fixed rate without coordinated omission.
//!
//! At a fixed rate every request has its time. It is sent then, on the next connection in turn, or as soon as that
//! connection has been answered, and its latency counts from its time: a server that stalls cannot keep requests
//! from being late.

use super::client::{lengths, succeeds};
use super::{Load, Request};
use anyhow::{Context, Result};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// One after the other on each connection.
    Closed,
    /// So many a second over all connections.
    Rate(f64),
}

/// Longest wait for what is under way when the time is over.
const PATIENCE: Duration = Duration::from_secs(10);
/// The timer among the connections.
const TIMER: u64 = u64::MAX;

/// Sends `request` for `time` over `connections` connections, which are opened before.
pub(crate) fn run(request: &Request, connections: usize, pace: Pace, time: Duration) -> Result<Load> {
    let mut driver = Driver::open(request, connections)?;
    driver.start = Instant::now();
    driver.drive(pace, time)?;
    let mut load = driver.load;
    load.latencies.sort_unstable();
    Ok(load)
}

struct Connection {
    stream: TcpStream,
    /// Of the request under way, or the request's length.
    sent: usize,
    /// Beginning of an answer whose head is not whole.
    head: Vec<u8>,
    /// Of an answer's body, still to come.
    owed: usize,
    good: bool,
    /// The time of the request under way.
    due: Option<Instant>,
    /// Times that came while it was under way.
    late: VecDeque<Instant>,
    /// The system tells when it can be written to.
    writing: bool,
}

impl Connection {
    fn new(stream: TcpStream, late: VecDeque<Instant>) -> Self {
        Self { stream, sent: 0, head: Vec::new(), owed: 0, good: true, due: None, late, writing: false }
    }
}

fn connect(epoll: &OwnedFd, port: u16, at: usize) -> Result<TcpStream> {
    let stream =
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("connection {at}"))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    epoll::add(epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
    Ok(stream)
}

struct Driver {
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    port: u16,
    request: Vec<u8>,
    buffer: Vec<u8>,
    busy: usize,
    start: Instant,
    load: Load,
}

impl Driver {
    fn open(request: &Request, connections: usize) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        let bytes = request.bytes();
        let mut all = Vec::with_capacity(connections);
        for at in 0..connections {
            let stream = connect(&epoll, request.port, at)?;
            all.push(Connection::new(stream, VecDeque::new()));
        }
        Ok(Self {
            epoll,
            timer,
            connections: all,
            port: request.port,
            request: bytes,
            buffer: vec![0; 64 * 1024],
            busy: 0,
            start: Instant::now(),
            load: Load::default(),
        })
    }

    fn drive(&mut self, pace: Pace, time: Duration) -> Result<()> {
        let end = self.start + time;
        let mut next = 0_u64;
        let start = self.start;
        // When request number `next` is due, while there is time for it.
        let due = |next: u64| match pace {
            Pace::Closed => None,
            Pace::Rate(rate) => {
                Some(start + Duration::from_secs_f64(next as f64 / rate)).filter(|due| *due < end)
            }
        };
        if let Pace::Closed = pace {
            for at in 0..self.connections.len() {
                self.begin(at, Instant::now())?;
            }
        }
        let mut events: Vec<Event> = Vec::with_capacity(1024);
        loop {
            let now = Instant::now();
            while let Some(time) = due(next).filter(|time| *time <= now) {
                let at = (next % self.connections.len() as u64) as usize;
                next += 1;
                if self.connections[at].due.is_some() {
                    self.connections[at].late.push_back(time);
                } else {
                    self.begin(at, time)?;
                }
            }
            let waits = self.busy > 0 || due(next).is_some();
            if !waits {
                break;
            }
            if now > end + PATIENCE {
                // Not answered, or not even sent, and not worth waiting for.
                let late: usize = self.connections.iter().map(|connection| connection.late.len()).sum();
                self.load.errors += (self.busy + late) as u64;
                break;
            }
            if let Some(time) = due(next) {
                self.set_timer(time.saturating_duration_since(Instant::now()))?;
            }
            events.clear();
            let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&patience))?;
            for event in &events {
                match event.data.u64() {
                    TIMER => drop(rustix::io::read(&self.timer, &mut [0_u8; 8])),
                    at => self.ready(at as usize, event.flags, pace, end)?,
                }
            }
        }
        self.load.took = self.start.elapsed();
        Ok(())
    }

    fn set_timer(&self, wait: Duration) -> Result<()> {
        // Zero would turn it off.
        let wait = wait.max(Duration::from_nanos(1));
        let it_value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::time::timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval, it_value },
        )?;
        Ok(())
    }

    fn begin(&mut self, at: usize, due: Instant) -> Result<()> {
        let connection = &mut self.connections[at];
        connection.due = Some(due);
        connection.sent = 0;
        self.busy += 1;
        self.write(at)
    }

    fn write(&mut self, at: usize) -> Result<()> {
        let connection = &mut self.connections[at];
        while connection.sent < self.request.len() {
            match connection.stream.write(&self.request[connection.sent..]) {
                Ok(n) => connection.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Reading tells what became of the connection.
                Err(_) => break,
            }
        }
        let writing = connection.sent < self.request.len();
        if writing != connection.writing {
            connection.writing = writing;
            let flags = if writing { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.epoll, &connection.stream, EventData::new_u64(at as u64), flags)?;
        }
        Ok(())
    }

    fn ready(&mut self, at: usize, flags: EventFlags, pace: Pace, end: Instant) -> Result<()> {
        if flags.contains(EventFlags::OUT) {
            self.write(at)?;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        let connection = &mut self.connections[at];
        let n = match connection.stream.read(&mut self.buffer) {
            Ok(n) if n > 0 => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Ok(_) | Err(_) => return self.replace(at, pace, end),
        };
        if connection.owed > 0 {
            connection.owed = connection.owed.saturating_sub(n);
        } else {
            // Nearly always whole: then nothing is copied.
            let whole;
            let bytes = if connection.head.is_empty() {
                &self.buffer[..n]
            } else {
                connection.head.extend_from_slice(&self.buffer[..n]);
                whole = std::mem::take(&mut connection.head);
                &whole
            };
            let Some((head, body)) = lengths(bytes) else {
                connection.head = bytes.to_vec();
                return Ok(());
            };
            connection.good = succeeds(bytes);
            connection.owed = (head + body).saturating_sub(bytes.len());
        }
        if connection.owed > 0 {
            return Ok(());
        }
        let now = Instant::now();
        if let Some(due) = connection.due.take() {
            self.busy -= 1;
            if connection.good {
                self.load.requests += 1;
                self.load.latencies.push(now.saturating_duration_since(due));
            } else {
                self.load.errors += 1;
            }
        }
        self.go_on(at, pace, end)
    }

    /// A connection is lost, and with it the request under way.
    fn replace(&mut self, at: usize, pace: Pace, end: Instant) -> Result<()> {
        let connection = &mut self.connections[at];
        if connection.due.is_some() {
            self.busy -= 1;
            self.load.errors += 1;
        }
        let late = std::mem::take(&mut connection.late);
        // Dropping the old stream takes it off the watch.
        *connection = Connection::new(connect(&self.epoll, self.port, at)?, late);
        self.go_on(at, pace, end)
    }

    fn go_on(&mut self, at: usize, pace: Pace, end: Instant) -> Result<()> {
        let now = Instant::now();
        let next = match pace {
            Pace::Closed => (now < end).then_some(now),
            Pace::Rate(_) => self.connections[at].late.pop_front(),
        };
        match next {
            Some(due) => self.begin(at, due),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers on one connection; stalls once, for `stall`, before the answer number `when`.
    fn server(stall: Duration, when: usize) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut buffer, mut answers) = ([0; 4096], 0);
            while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {
                answers += 1;
                if answers == when {
                    std::thread::sleep(stall);
                }
                // In two pieces, of which the first ends within the head.
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap();
                stream.write_all(b"ngth: 2\r\n\r\nok").unwrap();
            }
        });
        port
    }

    #[test]
    fn requests_that_a_stall_delays_count_from_the_time_they_were_due() {
        let stall = Duration::from_millis(300);
        let request = Request::plain(server(stall, 10));
        let load = run(&request, 1, Pace::Rate(200.), Duration::from_secs(1)).unwrap();
        assert_eq!((load.requests, load.errors), (200, 0), "every request is sent, however late");
        let late = load.latencies.iter().filter(|latency| **latency > stall / 3).count();
        assert!(late >= 30, "all that were due within the stall are late, not one: {late}");
    }

    #[test]
    fn a_closed_loop_sends_the_next_request_when_the_last_is_answered() {
        let request = Request { body: 10, ..Request::plain(server(Duration::ZERO, 0)) };
        let load = run(&request, 1, Pace::Closed, Duration::from_millis(100)).unwrap();
        assert!(load.requests > 0 && load.errors == 0);
        assert_eq!(load.latencies.len() as u64, load.requests);
    }
}
