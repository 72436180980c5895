//! The metrics page and its server, without a kernel: how much it shows, what it escapes, whom it waits for.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use tracer::{
    event::{Comm, Endpoint, Event, Family, Kind, Owner, Reason, Role, Task, Tuple},
    ledger::{Crowd, Crowded, Way},
    metrics::{About, Format, Listener, Publisher, Snapshot, Tallies, text},
    record::Where,
};

const TOP: usize = 50;

fn failed(number: u32, comm: &[u8], reason: Option<Reason>) -> Event {
    let [_, _, high, low] = number.to_be_bytes();
    let mut name = [0; 16];
    name[..comm.len()].copy_from_slice(comm);
    let endpoint = |ip: [u8; 4], port| Endpoint {
        ip: ip.into(),
        port,
    };
    Event {
        timestamps: false,
        socket_range: None,
        ts: u64::from(number),
        sock: 1,
        cookie: None,
        netns: 7,
        tuple: Tuple {
            family: Family::Ipv4,
            local: endpoint([127, 0, 0, 1], None),
            peer: endpoint([10, 0, high, low], Some(80)),
        },
        held: None,
        role: Some(Role::Client),
        owner: Owner::Connect,
        task: Some(Task {
            pid: 812,
            tid: 812,
            uid: 0,
            start_ns: 1,
            cgroup: 1,
            comm: Comm(name),
        }),
        kind: match reason {
            Some(reason) => Kind::ConnectFailed { errno: 99, reason },
            None => Kind::BindFailed {
                errno: 98,
                listens: false,
            },
        },
    }
}

fn page(tallies: &Tallies, crowd: Crowd, format: Format) -> String {
    let snapshot = Snapshot {
        connects: (&tallies.connects).into(),
        binds: (&tallies.binds).into(),
        losses: tallies.losses.clone(),
        crowd: Arc::new(crowd),
        ..Snapshot::default()
    };
    text(&Arc::new(snapshot), format).unwrap()
}

/// The samples of a metric by their labels.
fn samples(page: &str, name: &str) -> BTreeMap<String, f64> {
    let samples = page.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let is_it = labels.is_empty() || labels.starts_with('{');
        is_it.then(|| (labels.to_owned(), value.parse().unwrap()))
    });
    samples.collect()
}

#[test]
fn ten_thousand_destinations_make_a_bounded_page() {
    let mut tallies = Tallies::new(TOP);
    for round in 0..3 {
        for number in 0..10_000 {
            let mut event = failed(number, b"worker", Some(Reason::PortsExhausted));
            event.ts += round * 10_000;
            tallies.count(&event);
        }
    }
    let page = page(&tallies, Crowd::default(), Format::Prometheus);
    let series = samples(&page, "tracer_process_connect_failures_total");
    assert_eq!(series.len(), TOP + 1);
    assert_eq!(series.values().sum::<f64>(), 30_000.0);
    let other = r#"{reason="ports_exhausted",comm="other",peer="other"}"#;
    assert_eq!(series[other], 3.0 * (10_000 - TOP) as f64);
    let all = samples(&page, "tracer_connect_failures_total");
    assert_eq!(all[r#"{reason="ports_exhausted"}"#], 30_000.0);
    assert_eq!(all.len(), 4);
    assert!(page.len() < 20_000, "{}", page.len());
}

#[test]
fn every_failure_has_its_reason_and_place() {
    let mut tallies = Tallies::new(TOP);
    tallies.count(&failed(1, b"a", Some(Reason::TupleInUse)));
    let mut bound = failed(2, b"b", None);
    tallies.count(&bound);
    bound.tuple.local.port = Some(80);
    bound.task = None;
    tallies.count(&bound);
    tallies.losses.add(5, Where::Ring);
    let page = page(&tallies, Crowd::default(), Format::OpenMetrics);
    let connects = samples(&page, "tracer_process_connect_failures_total");
    assert_eq!(
        connects[r#"{reason="tuple_in_use",comm="a",peer="10.0.0.1:80"}"#],
        1.0
    );
    let binds = samples(&page, "tracer_process_bind_failures_total");
    assert_eq!(
        binds[r#"{reason="ports_exhausted",comm="b",local="127.0.0.1"}"#],
        1.0
    );
    assert_eq!(
        binds[r#"{reason="address_in_use",comm="",local="127.0.0.1:80"}"#],
        1.0
    );
    assert_eq!(
        samples(&page, "tracer_lost_total")[r#"{where="ring"}"#],
        5.0
    );
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn names_that_others_choose_are_escaped() {
    let mut tallies = Tallies::new(TOP);
    let hostile = b"\"} 1\n\\x\xff";
    tallies.count(&failed(1, hostile, Some(Reason::PortsExhausted)));
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let page = page(&tallies, Crowd::default(), format);
        let expected = r#"comm="\"} 1\n\\x�""#;
        assert!(page.contains(expected), "{page}");
    }
}

#[test]
fn destinations_show_their_ports() {
    let way = Way {
        netns: 7,
        local_ip: Ipv4Addr::LOCALHOST.into(),
        peer: Endpoint {
            ip: "2001:db8::1".parse().unwrap(),
            port: Some(443),
        },
    };
    let crowd = Crowd {
        ways: vec![Crowded {
            way: Some(way),
            in_use: 12,
            time_wait: 9,
            free: 4,
        }],
        others: Crowded {
            in_use: 100,
            ..Crowded::default()
        },
        ..Crowd::default()
    };
    let page = page(&Tallies::new(0), crowd, Format::Prometheus);
    let labels = r#"{netns="7",local="127.0.0.1",peer="[2001:db8::1]:443"}"#;
    let others = r#"{netns="other",local="other",peer="other"}"#;
    let in_use = samples(&page, "tracer_destination_ports_in_use");
    assert_eq!((in_use[labels], in_use[others]), (12.0, 100.0));
    let free = samples(&page, "tracer_destination_ports_free");
    assert_eq!((free[labels], free.get(others)), (4.0, None));
}

fn served() -> (SocketAddr, Publisher) {
    let listener = Listener::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).unwrap();
    let address = listener.address();
    (address, listener.serve().unwrap())
}

fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let request = format!("{head}\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn snapshot() -> Snapshot {
    Snapshot {
        about: Arc::new(About {
            version: "0.1.0",
            ..About::default()
        }),
        ..Snapshot::default()
    }
}

#[test]
fn clients_get_the_format_that_they_accept() {
    let (address, publisher) = served();
    assert!(ask(address, "GET /healthz HTTP/1.1").starts_with("HTTP/1.1 503"));
    assert!(ask(address, "GET /metrics HTTP/1.1").starts_with("HTTP/1.1 503"));
    publisher.publish(snapshot());
    assert!(ask(address, "GET /healthz HTTP/1.1").starts_with("HTTP/1.1 200"));
    let plain = ask(address, "GET /metrics HTTP/1.1");
    assert!(
        plain.contains("content-type: text/plain; version=0.0.4"),
        "{plain}"
    );
    assert!(
        plain.contains("# TYPE tracer_events_total counter"),
        "{plain}"
    );
    let accept = "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let open = ask(address, accept);
    assert!(
        open.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{open}"
    );
    assert!(
        open.contains("# TYPE tracer_events counter") && open.ends_with("# EOF\n"),
        "{open}"
    );
    assert!(ask(address, "GET / HTTP/1.1").starts_with("HTTP/1.1 404"));
    assert!(ask(address, "POST /metrics HTTP/1.1").starts_with("HTTP/1.1 405"));
    let head = ask(address, "HEAD /metrics HTTP/1.1");
    assert!(
        head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
}

#[test]
fn a_new_snapshot_is_a_new_page() {
    let (address, publisher) = served();
    for events in [1, 2] {
        publisher.publish(Snapshot {
            events,
            ..snapshot()
        });
        for _ in 0..2 {
            let page = ask(address, "GET /metrics HTTP/1.1");
            assert!(
                page.contains(&format!("\ntracer_events_total {events}\n")),
                "{page}"
            );
        }
    }
}

/// Clients that say nothing, half of a request, or take nothing of the answer.
#[test]
fn slow_clients_hold_nobody_up() {
    let (address, publisher) = served();
    publisher.publish(snapshot());
    let said: [&[u8]; 3] = [
        b"",
        b"GET /metrics HTTP/1.1\r\nX-Slow: ",
        b"GET /metrics HTTP/1.1\r\n\r\n",
    ];
    let slow: Vec<TcpStream> = (0..96)
        .map(|number| {
            let mut stream = TcpStream::connect(address).unwrap();
            let _ = stream.write_all(said[number % said.len()]);
            stream
        })
        .collect();
    let page = ask(address, "GET /metrics HTTP/1.1");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    // Most of them have been cut off in favour of others.
    let is_open = |stream: &&TcpStream| {
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut stream = *stream;
        let mut bytes = [0; 8192];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    };
    let open = slow.iter().take(64).filter(is_open).count();
    assert_eq!(open, 0);
}

#[test]
fn the_port_is_given_back() {
    let (address, publisher) = served();
    let taken = Listener::bind(address).unwrap_err().to_string();
    assert!(
        taken.contains("the port is taken") && taken.contains(&address.to_string()),
        "{taken}"
    );
    drop(publisher);
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpListener::bind(address).is_err() {
        assert!(Instant::now() < deadline, "still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_address_that_is_not_here_is_refused_in_a_sentence() {
    let error = Listener::bind("192.0.2.77:9464".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--metrics 192.0.2.77:9464: this host has no such address; 127.0.0.1 is always there"
    );
}
