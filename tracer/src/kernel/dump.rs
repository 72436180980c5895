//! Dumps of the kernel's sockets, by BPF iterators: every network namespace's table, and every process's
//! descriptors.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Arc,
    thread,
};

use aya::{Ebpf, programs::Iter};
use rustix::time::{ClockId, clock_getres};
use thiserror::Error;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::plan::{FILE_ITERATOR, TCP_ITERATOR};
use crate::{
    event::Row,
    host::netns::{self, Namespace},
    privileges,
};

/// Rows that are handed over at once.
const BATCH: usize = 4096;

/// Batches that wait for the reader; then the dump waits.
const QUEUE: usize = 4;

/// Twice what the kernel gathers before it lets a reader have it (`bpf_seq_read`, kernel/bpf/bpf_iter.c).
const BUFFER: usize = 64 << 10;

const RECORD: usize = size_of::<tracer_ebpf::Event>();

#[derive(Debug, Error)]
#[error("the iterators are not loaded")]
pub struct NotLoaded;

/// A piece of a dump.
#[derive(Debug)]
pub enum Part {
    Rows(Vec<Row>),
    /// The last one.
    Done(Summary),
}

/// What a dump comprised.
#[derive(Debug, Default)]
pub struct Summary {
    /// Network namespaces whose tables were read to the end.
    pub complete: BTreeSet<u32>,
    /// Network namespaces that are there.
    pub alive: BTreeSet<u32>,
    /// There may be others: they may be hidden from us, or closed.
    pub is_half_blind: bool,
    /// What could not be read, in words.
    pub problems: Vec<String>,
}

/// Makes dumps, as often as it is asked.
#[derive(Clone)]
pub struct Dumper(Arc<Iterators>);

struct Iterators {
    tcp: OwnedFd,
    files: OwnedFd,
}

impl Dumper {
    /// Of the loaded object.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, NotLoaded> {
        Ok(Self(Arc::new(Iterators {
            tcp: program(ebpf, TCP_ITERATOR.name).ok_or(NotLoaded)?,
            files: program(ebpf, FILE_ITERATOR.name).ok_or(NotLoaded)?,
        })))
    }

    /// Whether the kernel lets this thread make dumps.
    pub fn works(&self) -> bool {
        let iterators = [&self.0.tcp, &self.0.files];
        iterators
            .into_iter()
            .all(|program| open(program.as_fd()).is_ok())
    }

    /// Begins a dump in a thread of its own. It ends early when the receiver is dropped.
    pub fn start(&self) -> io::Result<Receiver<Part>> {
        let (sender, receiver) = channel(QUEUE);
        let iterators = self.0.clone();
        thread::Builder::new()
            .name("dump".into())
            .spawn(move || dump(&iterators, &sender))?;
        Ok(receiver)
    }
}

fn program(ebpf: &mut Ebpf, name: &str) -> Option<OwnedFd> {
    let program: &mut Iter = ebpf.program_mut(name)?.try_into().ok()?;
    program.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// Nobody listens any more.
struct Gone;

fn dump(iterators: &Iterators, sender: &Sender<Part>) {
    let mut summary = Summary::default();
    let told = read_all(iterators, sender, &mut summary);
    if told.is_ok() {
        let _ = sender.blocking_send(Part::Done(summary));
    }
}

fn read_all(
    iterators: &Iterators,
    sender: &Sender<Part>,
    summary: &mut Summary,
) -> Result<(), Gone> {
    let mut reader = Reader {
        sender,
        jiffy: jiffy(),
        alive: BTreeSet::new(),
        problems: Vec::new(),
    };
    let namespaces = netns::all().unwrap_or_else(|error| {
        let text = format!("network namespaces can't be listed: {error}");
        reader.problems.push(text);
        Vec::new()
    });
    reader.descriptors(iterators)?;
    reader.tables(iterators, &namespaces, &mut summary.complete)?;
    summary.alive = reader.alive;
    summary
        .alive
        .extend(namespaces.iter().map(|each| each.inode));
    summary.is_half_blind = privileges::is_half_blind();
    summary.problems = reader.problems;
    Ok(())
}

struct Reader<'a> {
    sender: &'a Sender<Part>,
    /// Length of a jiffy in nanoseconds.
    jiffy: u64,
    alive: BTreeSet<u32>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn descriptors(&mut self, iterators: &Iterators) -> Result<(), Gone> {
        match self.read(iterators.files.as_fd()) {
            Ok(told) => told,
            Err(error) => {
                let text = format!("the descriptors of processes can't be read: {error}");
                self.problems.push(text);
                Ok(())
            }
        }
    }

    fn tables(
        &mut self,
        iterators: &Iterators,
        namespaces: &[Namespace],
        complete: &mut BTreeSet<u32>,
    ) -> Result<(), Gone> {
        let visited = netns::in_each(namespaces, |_| self.read(iterators.tcp.as_fd()));
        let visited = visited.unwrap_or_else(|error| vec![Err(error)]);
        for (namespace, outcome) in namespaces.iter().zip(visited) {
            match outcome {
                Ok(told) => {
                    told?;
                    complete.insert(namespace.inode);
                }
                // What lacks for that is said once, when the run starts.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    log::debug!("{error}");
                }
                Err(error) => self.problems.push(error.to_string()),
            }
        }
        Ok(())
    }

    /// Reads one iterator to its end, in the network namespace of this thread.
    fn read(&mut self, program: BorrowedFd<'_>) -> io::Result<Result<(), Gone>> {
        let mut file = open(program)?;
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
        let mut rows = Vec::new();
        loop {
            let length = match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => length,
                // After a million objects without a row, as after a signal, it goes on where it was.
                Err(error) if is_temporary(&error) => continue,
                Err(error) => return Err(error),
            };
            filled += length;
            let whole = filled - filled % RECORD;
            self.decode(&buffer[..whole], &mut rows);
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
            if rows.len() >= BATCH && self.send(&mut rows).is_err() {
                return Ok(Err(Gone));
            }
        }
        Ok(self.send(&mut rows))
    }

    fn decode(&mut self, records: &[u8], rows: &mut Vec<Row>) {
        for record in records.chunks_exact(RECORD) {
            match Row::decode(record, self.jiffy) {
                Ok(row) => {
                    self.alive.insert(row.netns);
                    rows.push(row);
                }
                Err(error) => self.problems.push(format!("a row of the dump: {error}")),
            }
        }
    }

    fn send(&self, rows: &mut Vec<Row>) -> Result<(), Gone> {
        let rows = std::mem::take(rows);
        self.sender
            .blocking_send(Part::Rows(rows))
            .map_err(|_| Gone)
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// `TICK_NSEC`, which is the resolution of the coarse clocks (kernel/time/posix-timers.c).
fn jiffy() -> u64 {
    clock_getres(ClockId::MonotonicCoarse)
        .tv_nsec
        .unsigned_abs()
}

/// An iterator of the program for this thread's network namespace. Aya's way ties the iterator to the object, which
/// another thread has.
fn open(program: BorrowedFd<'_>) -> io::Result<File> {
    let link = bpf(
        Command::LinkCreate,
        &LinkCreate {
            program: program.as_raw_fd(),
            target: 0,
            attach_type: BPF_TRACE_ITER,
            flags: 0,
            info: 0,
            info_length: 0,
            pad: 0,
        },
    )?;
    let iterator = bpf(
        Command::IterCreate,
        &IterCreate {
            link: link.as_raw_fd(),
            flags: 0,
        },
    )?;
    Ok(iterator.into())
}

/// `enum bpf_cmd` and `enum bpf_attach_type` (include/uapi/linux/bpf.h, since 5.8).
#[derive(Clone, Copy)]
enum Command {
    LinkCreate = 28,
    IterCreate = 33,
}
const BPF_TRACE_ITER: u32 = 28;

/// `bpf_attr.link_create`, with what an iterator's `iter_info` needs.
#[repr(C)]
struct LinkCreate {
    program: i32,
    target: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_length: u32,
    pad: u32,
}

/// `bpf_attr.iter_create`.
#[repr(C)]
struct IterCreate {
    link: i32,
    flags: u32,
}

/// The system call, for commands that make a descriptor.
fn bpf<T>(command: Command, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is the kernel's struct for this command, and longer-lived than the call.
    let made = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(made) {
        // SAFETY: the kernel made it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
