use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::PathBuf,
};

use super::*;

fn numbered(numbers: std::ops::Range<usize>) -> Vec<u8> {
    let lines = numbers.map(|number| format!("line {number} {}\n", "x".repeat(number % 300)));
    lines.collect::<String>().into_bytes()
}

fn write_all(socket: &mut Socket, mut lines: &[u8]) {
    let until = Instant::now() + Duration::from_secs(10);
    while !lines.is_empty() {
        match socket.write(lines) {
            Ok(taken) => lines = &lines[taken..],
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    }
}

/// Which lines came; each must be whole.
fn read(stream: impl io::Read) -> Vec<usize> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let number = |line: String| {
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some("line"), "{line}");
        let number: usize = words.next().unwrap().parse().unwrap();
        assert_eq!(words.next().map(str::len), Some(number % 300), "{line}");
        number
    };
    lines.map(number).collect()
}

#[test]
fn lines_arrive_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let reader = thread::spawn(move || read(listener.accept().unwrap().0));
    let mut socket = Socket::new(Address::Tcp(address));
    write_all(&mut socket, &numbered(0..5000));
    socket
        .finish(Instant::now() + Duration::from_secs(10))
        .unwrap();
    drop(socket);
    assert!(reader.join().unwrap().into_iter().eq(0..5000));
}

/// The first reader goes in the middle of a line; the second one gets that line whole, and all that follow.
#[test]
fn a_new_connection_begins_with_a_whole_line_and_misses_none() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let reader = thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 100_001];
        first.read_exact(&mut bytes).unwrap();
        drop(first);
        let torn = bytes.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        assert!(torn < bytes.len());
        let before = read(&bytes[..torn]);
        (before, read(listener.accept().unwrap().0))
    });
    let mut socket = Socket::new(Address::Tcp(address));
    for at in 0..200 {
        write_all(&mut socket, &numbered(at * 100..(at + 1) * 100));
    }
    socket
        .finish(Instant::now() + Duration::from_secs(10))
        .unwrap();
    drop(socket);
    let (before, after) = reader.join().unwrap();
    let first = after[0];
    assert!(after.into_iter().eq(first..20_000));
    // What the first reader's kernel had acknowledged, and it had not read, is lost with it.
    assert_eq!(before, (0..before.len()).collect::<Vec<_>>());
}

struct Path(PathBuf);

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_reader_may_come_later_and_lines_wait() {
    let path = Path(std::env::temp_dir().join(format!("tracer-socket-{}", std::process::id())));
    let mut socket = Socket::new(Address::Unix(path.0.clone()));
    assert!(socket.write(b"line 0 \n").is_err());
    let listener = UnixListener::bind(&path.0).unwrap();
    let reader = thread::spawn(move || read(listener.accept().unwrap().0));
    write_all(&mut socket, &numbered(0..1000));
    socket
        .finish(Instant::now() + Duration::from_secs(10))
        .unwrap();
    drop(socket);
    assert!(reader.join().unwrap().into_iter().eq(0..1000));
}
