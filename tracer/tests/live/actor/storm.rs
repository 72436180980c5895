//! Connects that fail, as fast as is asked for.

use std::{
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

/// For so long, so many threads, so many connects per second of all. Answers how many failed for the lack of a
/// port, and how many ended otherwise.
pub(super) fn storm(to: SocketAddr, threads: u32, rate: u32, time: Duration) -> Vec<i64> {
    let pace = Duration::from_secs(1) * threads / rate;
    let run = || fail(to, pace, time);
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let counts = threads.into_iter().map(|thread| thread.join());
        counts.map(Result::unwrap_or_default).collect::<Vec<_>>()
    });
    let sum = |pick: fn(&(i64, i64)) -> i64| counts.iter().map(pick).sum();
    vec![sum(|count| count.0), sum(|count| count.1)]
}

fn fail(to: SocketAddr, pace: Duration, time: Duration) -> (i64, i64) {
    let (mut failed, mut others) = (0, 0);
    let began = Instant::now();
    let mut due = Duration::ZERO;
    while began.elapsed() < time {
        // Sleeps are coarse: it then catches up.
        thread::sleep(due.saturating_sub(began.elapsed()));
        due += pace;
        match connect(to) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => failed += 1,
            _ => others += 1,
        }
    }
    (failed, others)
}

fn connect(to: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.connect(&to.into())
}
