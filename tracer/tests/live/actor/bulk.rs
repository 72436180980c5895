//! Operations that make many connections, or a noise.

use std::{
    hint, io,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use socket2::Socket;

use super::act::tcp;

/// What the client of an exchange says: who closes first.
const CLIENT_CLOSES: u8 = b'c';
const SERVER_CLOSES: u8 = b's';

pub(super) fn refused(to: SocketAddr, times: u64) -> io::Result<i64> {
    let mut refused = 0;
    for _ in 0..times {
        let done = tcp(to.is_ipv6())?.connect(&to.into());
        if done.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED)) {
            refused += 1;
        }
    }
    Ok(refused)
}

pub(super) fn exchange(to: SocketAddr, times: u32) -> io::Result<i64> {
    for round in 0..times {
        let mut socket = tcp(to.is_ipv6())?;
        socket.connect(&to.into())?;
        if round % 2 == 0 {
            socket.write_all(&[CLIENT_CLOSES])?;
        } else {
            socket.write_all(&[SERVER_CLOSES])?;
            socket.read_to_end(&mut Vec::new())?;
        }
    }
    Ok(times.into())
}

pub(super) fn serve_exchange(listener: &Socket, times: u32) -> io::Result<i64> {
    let listener = listener.try_clone()?;
    thread::spawn(move || -> io::Result<()> {
        for _ in 0..times {
            let mut socket = listener.accept()?.0;
            let mut who = [0];
            socket.read_exact(&mut who)?;
            if who == [CLIENT_CLOSES] {
                socket.read_to_end(&mut Vec::new())?;
            }
        }
        Ok(())
    });
    Ok(0)
}

pub(super) fn spin(threads: usize) -> i64 {
    for _ in 0..threads {
        thread::spawn(|| {
            loop {
                hint::spin_loop();
            }
        });
    }
    0
}

pub(super) fn serve_http(listener: &Socket) -> io::Result<i64> {
    let listener = listener.try_clone()?;
    listener.set_read_timeout(None)?;
    thread::spawn(move || -> io::Result<()> {
        loop {
            let stream: TcpStream = listener.accept()?.0.into();
            thread::spawn(move || answer_http(stream));
        }
    });
    Ok(0)
}

fn answer_http(mut stream: TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    // Whoever closes first keeps the port: the proxy shall.
    while lines.next().transpose()?.is_some() {}
    Ok(())
}

pub(super) fn get(to: SocketAddr) -> io::Result<i64> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))
}
