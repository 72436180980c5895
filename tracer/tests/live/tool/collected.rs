//! Readers at sockets, and several outputs at once.

use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{Test, test};
use crate::{
    actor::Op,
    output::{Account, Dir, Load, Run, needs_no_kernel, program, send},
    report::note,
    scene::V4,
};

pub(super) const ALL: &[Test] = &[
    test("hostile_names", hostile_names),
    test("rsyslog", rsyslog),
];

/// Names that break careless formats, as the kernel keeps them: 15 bytes.
const NAMES: [&[u8]; 6] = [
    b"\"}\n{\"v\":2}",
    b"a\nb\r\n\tc",
    b"\x1b[31m\x07\x08\x7f",
    b"\xff\xfe\xc3\x28",
    b"\\u0000\\\"",
    b"\xe2\x80\xa8 \xc2\x85</s>",
];

/// Every sink gets the same lines, whatever processes are called.
fn hostile_names() -> Result<()> {
    let dir = Dir::new()?;
    let (file, unix) = (dir.join("file"), dir.join("unix"));
    let local = UnixListener::bind(&unix)?;
    let remote = TcpListener::bind((V4, 0))?;
    let address = format!("tcp:{}", remote.local_addr()?);
    let readers = [
        collect(move || Ok(local.accept()?.0)),
        collect(move || Ok(remote.accept()?.0)),
    ];
    let args = [
        "--output",
        file.to_str().context("not UTF-8")?,
        "--output",
        &format!("unix:{}", unix.display()),
        "--output",
        &address,
        "--output",
        "-",
        "--label",
        "site=\"fra1\"\n\\",
        "--drain-timeout",
        "60s",
    ];
    let mut run = Run::start(&dir, &args)?;
    run.wait_for(&dir.join("stdout"))?;
    let mut load = Load::new()?;
    for name in NAMES {
        load.actor.run(&Op::Rename {
            name: name.to_vec(),
        })?;
        load.run(10)?;
    }
    run.stop(Signal::TERM)?;
    let text = fs::read_to_string(&file)?;
    ensure!(
        text == fs::read_to_string(dir.join("stdout"))?,
        "standard output has other lines"
    );
    for reader in readers {
        let read = reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        ensure!(text == read, "a socket's reader has other lines");
    }
    Account::of(text.lines())?.is_complete()?;
    for name in NAMES {
        let name = String::from_utf8_lossy(name);
        let lines = text.lines().map(serde_json::from_str::<Value>);
        let named = lines
            .filter_map(Result::ok)
            .filter(|line| line["process"]["comm"] == *name);
        let labelled = named
            .filter(|line| line["labels"]["site"] == "\"fra1\"\n\\")
            .count();
        ensure!(labelled >= 20, "{labelled} lines name {name:?}");
    }
    Ok(())
}

fn collect<R: io::Read>(
    accept: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> JoinHandle<io::Result<String>> {
    thread::spawn(move || {
        let mut text = String::new();
        accept()?.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// Ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real collector takes the lines by TCP, parses every one, and is started anew in the middle.
fn rsyslog() -> Result<()> {
    needs_no_kernel()?;
    let program = program("rsyslogd")?;
    let dir = Dir::new()?;
    let address = TcpListener::bind((V4, 0))?.local_addr()?;
    let out = dir.join("parsed");
    fs::write(dir.join("config"), config(address, &dir))?;
    let mut daemon = start_rsyslog(&program, &dir, address)?;
    let target = format!("tcp:{address}");
    // Without lines at intervals, it is idle once it has taken all.
    let args = [
        "--output",
        &target,
        "--drain-timeout",
        "60s",
        "--interval",
        "3600",
    ];
    let mut run = Run::start(&dir, &args)?;
    run.wait_for(&out)?;
    let mut load = Load::new()?;
    load.run(3000)?;
    until_idle(&out)?;
    send(daemon.0.id(), Signal::TERM)?;
    daemon.0.wait()?;
    load.run(500)?;
    let _daemon = start_rsyslog(&program, &dir, address)?;
    load.run(500)?;
    let status = run.stop(Signal::TERM)?;
    let wanted = |text: &str| text.lines().any(|line| line.contains(" stop "));
    for _ in 0..600 {
        if wanted(&fs::read_to_string(&out)?) {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let text = fs::read_to_string(&out)?;
    let mut seqs = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [parsed, kind, seq] = words[..] else {
            anyhow::bail!("rsyslog wrote {line:?}")
        };
        ensure!(
            parsed == "OK" && !kind.is_empty(),
            "rsyslog did not parse {line:?}"
        );
        seqs.push(seq.parse::<u64>()?);
    }
    seqs.sort_unstable();
    seqs.dedup();
    ensure!(wanted(&text), "no stop line; {status}");
    // What its kernel had acknowledged and the first one had not read when it ended is lost with it: at most the lines
    // about that end.
    let gaps: Vec<_> = seqs
        .windows(2)
        .filter(|pair| pair[1] != pair[0] + 1)
        .collect();
    let lost: u64 = gaps.iter().map(|pair| pair[1] - pair[0] - 1).sum();
    ensure!(
        seqs[0] == 0 && gaps.len() <= 1 && lost < 100,
        "lines are missing: {gaps:?}"
    );
    note(format!(
        "{} lines, {lost} lost when rsyslogd ended",
        seqs.len()
    ));
    Ok(())
}

/// What it has not read when it ends is lost with it.
fn until_idle(out: &Path) -> Result<()> {
    let mut length = 0;
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = fs::metadata(out)?.len();
        if now == length {
            return Ok(());
        }
        length = now;
    }
}

fn config(address: SocketAddr, dir: &Dir) -> String {
    format!(
        r#"global(workDirectory="{dir}" maxMessageSize="256k")
module(load="imtcp")
module(load="mmjsonparse")
template(name="parsed" type="string" string="%parsesuccess% %$!type% %$!seq%\n")
ruleset(name="tracer") {{
  action(type="mmjsonparse" cookie="")
  action(type="omfile" file="{dir}/parsed" template="parsed")
}}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="tracer")
"#,
        dir = dir.path().display(),
        port = address.port()
    )
}

fn start_rsyslog(program: &Path, dir: &Dir, address: SocketAddr) -> Result<Daemon> {
    let daemon = Command::new(program)
        .args(["-n", "-i", "NONE", "-f"])
        .arg(dir.join("config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("rsyslog"))?)
        .spawn()?;
    let daemon = Daemon(daemon);
    for _ in 0..600 {
        if std::net::TcpStream::connect(address).is_ok() {
            return Ok(daemon);
        }
        thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!(
        "rsyslogd does not listen: {}",
        fs::read_to_string(dir.join("rsyslog"))?
    )
}
