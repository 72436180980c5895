//! Hosts and processes by number. Both are bounded: of processes of one name, the first ones have a number of their
//! own and the others share one.

use std::collections::HashMap;

use super::events::Where;
use crate::report::{
    digest,
    model::{NOBODY, who},
};

/// So many hosts; lines of others are skipped, and said to be.
const HOSTS: usize = 1024;
/// So many processes of one name and host are told apart.
const NAMESAKES: u32 = 24;
/// So many names of one host are told apart, and so many processes in all.
const NAMES: usize = 512;
const PROCESSES: usize = 16_384;

pub(super) type HostId = usize;
pub(super) type ProcessId = usize;

#[derive(Debug, Default)]
pub(super) struct Names {
    pub hosts: Vec<Host>,
    by_name: HashMap<Box<str>, HostId>,
    pub processes: Vec<Process>,
}

#[derive(Debug, Default)]
pub(super) struct Host {
    pub name: String,
    by_id: HashMap<Box<str>, ProcessId>,
    /// By name: how many have a number of their own, and the number of the others.
    by_comm: HashMap<Box<str>, (u32, Option<ProcessId>)>,
    nobody: Option<ProcessId>,
    others: Option<ProcessId>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    pub host: HostId,
    pub comm: String,
    /// `None`: not one process.
    pub id: Option<String>,
    pub pid: u32,
    pub exe: Option<String>,
    /// Nanoseconds since 1970.
    pub started: Option<i64>,
    pub exited: Option<i64>,
    pub first: Option<i64>,
    pub first_port: Option<i64>,
}

impl Process {
    /// As it is shown.
    pub(super) fn title(&self) -> String {
        match self.id {
            Some(_) => format!("{} ({})", self.comm, self.pid),
            None => self.comm.clone(),
        }
    }

    /// Within a sentence.
    pub(super) fn in_words(&self) -> String {
        who(&self.title()).to_owned()
    }
}

impl Names {
    /// `None`: there are too many hosts.
    pub(super) fn host(&mut self, name: &str) -> Option<HostId> {
        if let Some(known) = self.by_name.get(name) {
            return Some(*known);
        }
        if self.hosts.len() == HOSTS {
            return None;
        }
        self.hosts.push(Host {
            name: name.into(),
            ..Host::default()
        });
        self.by_name.insert(name.into(), self.hosts.len() - 1);
        Some(self.hosts.len() - 1)
    }

    pub(super) fn place(&self, host: HostId, netns: Option<u32>) -> Where<'_> {
        Where {
            host: &self.hosts[host].name,
            netns,
        }
    }

    pub(super) fn nobody(&mut self, host: HostId) -> ProcessId {
        if let Some(known) = self.hosts[host].nobody {
            return known;
        }
        let number = self.group(host, NOBODY.into());
        self.hosts[host].nobody = Some(number);
        number
    }

    /// Those that no list has room for.
    pub(super) fn others(&mut self, host: HostId) -> ProcessId {
        if let Some(known) = self.hosts[host].others {
            return known;
        }
        let number = self.group(host, "others".into());
        self.hosts[host].others = Some(number);
        number
    }

    pub(super) fn process(&mut self, host: HostId, process: &digest::Process) -> ProcessId {
        if let Some(known) = self.hosts[host].by_id.get(&process.id) {
            let known = *known;
            // After execve() a process has another name: the latest says most.
            if self.processes[known].comm != *process.comm {
                self.processes[known].comm = process.comm.as_ref().into();
            }
            return known;
        }
        let full = self.processes.len() >= PROCESSES;
        let names = self.hosts[host].by_comm.len();
        if !self.hosts[host].by_comm.contains_key(&process.comm) && (full || names >= NAMES) {
            return self.others(host);
        }
        let (own, shared) = self.hosts[host]
            .by_comm
            .entry(process.comm.clone())
            .or_default();
        if *own < NAMESAKES && !full {
            *own += 1;
            let number = self.add(Process {
                host,
                comm: process.comm.as_ref().into(),
                id: Some(process.id.as_ref().into()),
                pid: process.pid,
                ..Process::default()
            });
            self.hosts[host].by_id.insert(process.id.clone(), number);
            return number;
        }
        if let Some(shared) = *shared {
            return shared;
        }
        let number = self.group(host, format!("{} (others)", process.comm));
        if let Some((_, shared)) = self.hosts[host].by_comm.get_mut(&process.comm) {
            *shared = Some(number);
        }
        number
    }

    fn group(&mut self, host: HostId, comm: String) -> ProcessId {
        self.add(Process {
            host,
            comm,
            ..Process::default()
        })
    }

    fn add(&mut self, process: Process) -> ProcessId {
        self.processes.push(process);
        self.processes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::{NAMESAKES, Names};
    use crate::report::digest::Process;

    #[test]
    fn of_many_namesakes_the_later_ones_share_a_row() {
        let mut names = Names::default();
        let host = names.host("web-1").unwrap();
        let numbers: Vec<_> = (0..1000)
            .map(|pid| {
                let process = Process {
                    host: 0,
                    id: format!("{pid}-1").into(),
                    comm: "curl".into(),
                    pid,
                };
                names.process(host, &process)
            })
            .collect();
        let first = &numbers[..NAMESAKES as usize];
        assert!(first.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(
            numbers[first.len()..]
                .iter()
                .all(|number| *number == numbers[999])
        );
        assert_eq!(names.processes[numbers[999]].title(), "curl (others)");
        assert_eq!(names.processes[numbers[3]].title(), "curl (3)");
    }
}
