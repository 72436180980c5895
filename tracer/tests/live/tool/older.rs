//! Sockets that were there before the tracer.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{Test, test};
use crate::{
    actor::{Actor, Held, Op, Server},
    dump::Row,
    lines::{Keep, SocketSeen},
    netns::Netns,
    report::note,
    scenarios::stream::validate,
    scene::{Scene, V4, V6},
    tracer::Tracer,
    truth::{Field, Numbers, agree},
};

pub(super) const ALL: &[Test] = &[test("sockets_before_the_start", before_the_start)];

/// One of each kind.
struct Past {
    netns: Netns,
    server: Server,
    client: Actor,
    /// Descriptors that are open, of the one and the other.
    accepted: Vec<i64>,
    opened: Vec<i64>,
    held: Vec<Held>,
    /// The tracer was there when descriptors were closed.
    watched: bool,
}

impl Past {
    fn new(netns: Netns, ip: std::net::IpAddr) -> Result<Self> {
        let path = netns.path();
        let actor = Actor::spawn(&path, "server")?;
        let server = Server::listen(actor, SocketAddr::new(ip, 5774), 64)?;
        let mut past = Self {
            client: Actor::spawn(&path, "client")?,
            netns,
            server,
            accepted: Vec::new(),
            opened: Vec::new(),
            held: Vec::new(),
            watched: false,
        };
        past.live()?;
        Ok(past)
    }

    fn live(&mut self) -> Result<()> {
        let to = self.server.addr;
        // Two that stay, one whose server has closed, one whose client has, and one in either's TIME_WAIT.
        for _ in 0..6 {
            self.opened.push(self.client.open(to)?);
            self.accepted.push(self.server.accept()?);
        }
        self.server.actor.close(self.accepted.remove(5))?;
        self.client.close(self.opened.remove(4))?;
        self.client.close(self.opened.remove(3))?;
        self.server.actor.close(self.accepted.remove(3))?;
        self.server.actor.close(self.accepted.remove(2))?;
        self.client.run(&Op::ReadToEnd { fd: self.opened[2] })?;
        self.client.close(self.opened.remove(2))?;
        // In the queue: nobody has a descriptor of the server's end.
        self.opened.push(self.client.open(to)?);
        // Bound, at a port of its own and at one of the kernel's.
        for port in [20_000, 0] {
            let fd = self.client.bound(SocketAddr::new(to.ip(), port))?;
            let addr = self.client.local(fd, to.ip())?;
            self.held.push(Held(addr));
            self.opened.push(fd);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.watched = true;
        for fd in self.opened.drain(..) {
            self.client.close(fd)?;
        }
        for fd in self.accepted.drain(..).chain([self.server.fd]) {
            self.server.actor.close(fd)?;
        }
        self.held.clear();
        Ok(())
    }

    /// Who has a descriptor is named. Where nobody has, the listener may be, which the port tells: whatever is
    /// on it was its.
    fn judge(&self, seen: &SocketSeen, rows: &[Row]) -> Option<String> {
        let [server, client] = [self.server.actor.pid, self.client.pid];
        let holder = if seen.state == "CLOSE" {
            // Older kernels do not list it, and tell no descriptor.
            Some(client)
        } else {
            let row = rows.iter().find(|row| row.is(seen))?;
            [server, client]
                .into_iter()
                .find(|pid| row.is_open_in(*pid))
        };
        let named = seen.process.as_ref().map(|process| process.pid);
        let served = seen.local.port == Some(self.server.addr.port());
        let right = match (holder, seen.owner.as_str()) {
            (Some(_), "snapshot") => named == holder,
            (None, "snapshot") if self.watched => {
                named == Some(if served { server } else { client })
            }
            (None, "inherited") => named == Some(server) && served,
            (None, "none") => named.is_none(),
            _ => false,
        };
        (!right).then(|| format!("{holder:?} has it: {seen:?}"))
    }

    fn field<'a>(&'a self, judge: &'a dyn Fn(&SocketSeen, &[Row]) -> Option<String>) -> Field<'a> {
        Field {
            netns: &self.netns,
            held: self.held.clone(),
            judge,
        }
    }
}

fn before_the_start() -> Result<()> {
    let mut one = Past::new(Netns::new()?, V4)?;
    let mut other = Past::new(Netns::new()?, V6)?;
    let tracer = Tracer::started(&["--interval", "1"], Keep::All)?;
    let scene = Scene::new(Arc::new(tracer))?;
    let mut numbers = compare(&scene, &one, &other)?;
    // Beside those that only hold a port, there are at least these.
    ensure!(
        numbers.sockets >= 20 && numbers.timewait >= 4,
        "too few: {numbers:?}"
    );
    one.end()?;
    other.end()?;
    numbers.add(compare(&scene, &one, &other)?);
    note(numbers.in_words());
    let finished = scene.into_tracer()?.stop(Signal::TERM)?;
    finished.check_totals()?;
    validate(&finished.lines.all())
}

fn compare(scene: &Scene, one: &Past, other: &Past) -> Result<Numbers> {
    let judges = [one, other].map(|past| |seen: &SocketSeen, rows: &[Row]| past.judge(seen, rows));
    let fields = [one.field(&judges[0]), other.field(&judges[1])];
    agree(scene, &fields)
}
