//! The processes of a life. A client says with one byte how its connection is to end: `c` it closes first, `f` the
//! server does, `r` it resets, `R` the server does, `k` both keep it.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::fd::{FromRawFd as _, OwnedFd},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Signal, set_parent_process_death_signal};
use socket2::{Domain, Socket, Type};

/// An order to connect where nobody listens.
const REFUSED: u8 = b'x';

pub(super) fn run(name: &str, arguments: &[&str]) -> Result<()> {
    fs::write("/proc/self/comm", name)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match (name, arguments) {
        ("server", [at]) => serve(&listen(at.parse()?)?),
        ("master", [at]) => workers(&listen(at.parse()?)?),
        ("worker", []) => serve(&inherited()),
        ("client", [to, orders, times]) => connect(to.parse()?, orders.as_bytes(), times.parse()?),
        ("keeper", [to, times]) => keep(to.parse()?, times.parse()?),
        ("binder", []) => bind(),
        _ => bail!("there is no {name} {arguments:?}"),
    }
}

fn ready() -> Result<()> {
    print!("!");
    Ok(io::stdout().flush()?)
}

fn forever() -> ! {
    loop {
        thread::park();
    }
}

fn tcp(at: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(at), Type::STREAM, None)
}

/// Several may listen at one port.
fn listen(at: SocketAddr) -> Result<Socket> {
    let listener = tcp(at)?;
    listener.set_reuse_address(true)?;
    listener.set_reuse_port(true)?;
    listener.bind(&at.into())?;
    listener.listen(64)?;
    Ok(listener)
}

fn serve(listener: &Socket) -> Result<()> {
    ready()?;
    let mut kept = Vec::new();
    loop {
        let (mut socket, _) = listener.accept()?;
        let mut order = [0];
        socket.read_exact(&mut order)?;
        match &order {
            b"f" => {}
            b"R" => socket.set_linger(Some(Duration::ZERO))?,
            b"k" => kept.push(socket),
            // The client closes or resets it.
            _ => drop(socket.read_to_end(&mut Vec::new())),
        }
    }
}

/// The listener is standard input of three processes that accept.
fn workers(listener: &Socket) -> Result<()> {
    let mut workers = Vec::new();
    for _ in 0..3 {
        let worker = Command::new("/proc/self/exe")
            .args(["peer", "worker"])
            .stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)))
            .stdout(Stdio::null())
            .spawn()?;
        workers.push(worker);
    }
    ready()?;
    for mut worker in workers {
        worker.wait()?;
    }
    Ok(())
}

fn connect(to: SocketAddr, orders: &[u8], times: usize) -> Result<()> {
    for order in orders.iter().cycle().take(times) {
        let socket = tcp(to)?;
        if *order == REFUSED {
            let nobody = SocketAddr::new(to.ip(), 5999);
            ensure!(socket.connect(&nobody.into()).is_err());
            continue;
        }
        match socket.connect(&to.into()) {
            Ok(()) => end(socket, *order)?,
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
            Err(error) => return Err(error).context("connect"),
        }
    }
    Ok(())
}

/// Until the other side has ended it, too.
fn end(mut socket: Socket, order: u8) -> Result<()> {
    socket.write_all(&[order])?;
    match order {
        b'r' => socket.set_linger(Some(Duration::ZERO))?,
        b'c' => socket.shutdown(std::net::Shutdown::Write)?,
        _ => {}
    }
    if order != b'r' {
        // A reset is an end as well.
        let _ = socket.read_to_end(&mut Vec::new());
    }
    Ok(())
}

fn inherited() -> Socket {
    // SAFETY: the master made standard input its listener, and nobody else uses it here.
    unsafe { Socket::from_raw_fd(0) }
}

fn keep(to: SocketAddr, times: usize) -> Result<()> {
    let mut kept = Vec::new();
    for _ in 0..times {
        let mut socket = tcp(to)?;
        socket.connect(&to.into())?;
        socket.write_all(b"k")?;
        kept.push(socket);
    }
    ready()?;
    forever()
}

/// Takes ports in every way; of two binders the second finds the 4-tuple taken.
fn bind() -> Result<()> {
    let server: SocketAddr = "127.0.0.1:5000".parse()?;
    let held = explicit("127.0.0.1:6000")?;
    let anywhere = explicit("0.0.0.0:0")?;
    let unbound = tcp(server)?;
    unbound.listen(8)?;
    let released = explicit("127.0.0.1:6001")?;
    drop(released);
    let mut connected = explicit("127.0.0.1:6002")?;
    match connected.connect(&server.into()) {
        Ok(()) => connected.write_all(b"k")?,
        Err(error) => ensure!(error.raw_os_error() == Some(libc::EADDRNOTAVAIL)),
    }
    let closed = explicit("127.0.0.1:6003")?;
    // It is refused, and holds its port on.
    let nobody: SocketAddr = "127.0.0.1:5999".parse()?;
    ensure!(closed.connect(&nobody.into()).is_err());
    let _kept = [held, anywhere, unbound, connected, closed];
    ready()?;
    forever()
}

fn explicit(at: &str) -> Result<Socket> {
    let at: SocketAddr = at.parse()?;
    let socket = tcp(at)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}
