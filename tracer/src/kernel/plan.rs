//! Which hooks give which capability, best first. Pure: facts in, choices out; `load` tries them.

use serde::{Deserialize, Serialize};

/// What a user gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Every TCP state transition.
    Transitions,
    /// Every `connect()` that fails with EADDRNOTAVAIL, with its reason.
    ConnectFailure,
    /// When TIME_WAIT begins and ends.
    TimeWait,
    /// Who accepted a connection.
    Accept,
    /// Who holds a port by `bind()` or `listen()`.
    Bind,
    /// Sockets that are older than the tracer, or whose events were lost.
    ExistingSockets,
}

/// How a hook is attached.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    TpBtf,
    Fexit,
    Kprobe,
    RawTracepoint,
    Tracepoint,
    /// A BPF iterator.
    Iterator,
}

/// A set of backends that belong together; `--backend` forces one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rung {
    /// BTF-typed programs: tp_btf and fexit.
    Fexit,
    /// kprobes, and a raw tracepoint.
    Kprobe,
    /// Tracepoints only, raw and classic.
    Tracepoint,
}

/// A program of the object and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    pub target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    TpBtf(&'static str),
    Fentry(&'static str),
    Fexit(&'static str),
    RawTracepoint(&'static str),
    /// Also a kretprobe: the program's own section decides.
    Kprobe(&'static str),
    Tracepoint(&'static str, &'static str),
    /// Loaded only: it runs when a dump is read.
    Iterator(&'static str),
}

/// One way to a capability. All its programs attach, or it is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidate {
    pub capability: Capability,
    pub backend: Backend,
    /// What the coverage shows.
    pub hook: &'static str,
    /// The rungs that it belongs to; none: it is not chosen when one is forced.
    pub rungs: &'static [Rung],
    /// Beside what its backend needs.
    pub needs: &'static [Need],
    pub programs: &'static [Program],
}

/// What the kernel must have. Having it is no proof that the programs attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A function with this many arguments: an fexit program finds the result behind them.
    Function(&'static str, u32),
    Tracepoint(&'static str, &'static str),
    /// The way from a network namespace to its table of established sockets.
    HashTable,
    /// The arguments of a system call when it returns.
    Registers,
}

/// What is known of the running kernel without loading anything.
pub trait Facts {
    /// `Err`: why not, in words.
    fn arguments(&self, function: &str) -> Result<u32, String>;
    fn has_tracepoint(&self, category: &str, name: &str) -> bool;
    fn has_tracefs(&self) -> bool;
    fn has_kprobes(&self) -> bool;
    fn has_hash_table(&self) -> bool;
    fn has_registers(&self) -> bool;
    fn architecture(&self) -> &str;
}

const HASH: &str = "inet_hash_connect";
const HASH6: &str = "inet6_hash_connect";
const V4: &str = "tcp_v4_connect";
const V6: &str = "tcp_v6_connect";
const STATE: &str = "inet_sock_set_state";
const TWSK_ALLOC: &str = "inet_twsk_alloc";
const TWSK_SCHEDULE: &str = "__inet_twsk_schedule";
const TWSK_KILL: &str = "inet_twsk_kill";
const TIMER_EXPIRE: &str = "timer_expire_entry";
const ACCEPT: &str = "inet_csk_accept";
const GET_PORT: &str = "inet_csk_get_port";
const DESTROY: &str = "tcp_destroy_sock";

const CONNECT_FUNCTIONS: &[Need] = &[
    Need::Function(HASH, 2),
    Need::Function(HASH6, 2),
    Need::Function(V4, 3),
    Need::Function(V6, 3),
];

const fn program(name: &'static str, target: Target) -> Program {
    Program { name, target }
}

/// Ways to see failed connects.
const CONNECT_FAILURE: &[Candidate] = &[
    Candidate {
        capability: Capability::ConnectFailure,
        backend: Backend::Fexit,
        hook: HASH,
        rungs: &[Rung::Fexit],
        needs: CONNECT_FUNCTIONS,
        programs: &[
            program("hash_fexit", Target::Fexit(HASH)),
            program("hash6_fexit", Target::Fexit(HASH6)),
            program("v4_fexit", Target::Fexit(V4)),
            program("v6_fexit", Target::Fexit(V6)),
        ],
    },
    Candidate {
        capability: Capability::ConnectFailure,
        backend: Backend::Kprobe,
        hook: HASH,
        rungs: &[Rung::Kprobe],
        needs: CONNECT_FUNCTIONS,
        programs: &[
            program("hash_kprobe", Target::Kprobe(HASH)),
            program("hash_kretprobe", Target::Kprobe(HASH)),
            program("hash_kprobe", Target::Kprobe(HASH6)),
            program("hash_kretprobe", Target::Kprobe(HASH6)),
            program("v4_kprobe", Target::Kprobe(V4)),
            program("v4_kretprobe", Target::Kprobe(V4)),
            program("v6_kprobe", Target::Kprobe(V6)),
            program("v6_kretprobe", Target::Kprobe(V6)),
        ],
    },
    // The transitions around the failure, and the errno from the system call.
    Candidate {
        capability: Capability::ConnectFailure,
        backend: Backend::Tracepoint,
        hook: STATE,
        rungs: &[Rung::Tracepoint],
        needs: &[
            Need::Tracepoint("syscalls", "sys_exit_connect"),
            Need::Registers,
        ],
        programs: &[
            program("exit_connect", syscall("sys_exit_connect")),
            program("exit_sendto", syscall("sys_exit_sendto")),
            program("exit_sendmsg", syscall("sys_exit_sendmsg")),
        ],
    },
    // Where what a call was made with has to be kept until it returns.
    Candidate {
        capability: Capability::ConnectFailure,
        backend: Backend::Tracepoint,
        hook: STATE,
        rungs: &[Rung::Tracepoint],
        needs: &[
            Need::Tracepoint("syscalls", "sys_enter_connect"),
            Need::Tracepoint("syscalls", "sys_exit_connect"),
        ],
        programs: &[
            program("enter_connect", syscall("sys_enter_connect")),
            program("exit_call", syscall("sys_exit_connect")),
            program("enter_sendto", syscall("sys_enter_sendto")),
            program("exit_call", syscall("sys_exit_sendto")),
            program("enter_sendmsg", syscall("sys_enter_sendmsg")),
            program("exit_call", syscall("sys_exit_sendmsg")),
        ],
    },
];

const fn syscall(name: &'static str) -> Target {
    Target::Tracepoint("syscalls", name)
}

const IO_URING: Target = Target::Tracepoint("io_uring", "io_uring_complete");

/// With the tracepoints of connects, where the kernel names the request (since 6.0) in its record.
pub const IO_URING_FAILED: Program = program("io_uring_complete", IO_URING);

/// With those of binds and accepts.
pub const IO_URING_DONE: Program = program("io_uring_complete_well", IO_URING);

/// With the tracepoints of binds: those that fail.
pub const IO_URING_REFUSED: Program = program("io_uring_complete_refused", IO_URING);

/// Ways to see transitions.
const TRANSITIONS: &[Candidate] = &[
    Candidate {
        capability: Capability::Transitions,
        backend: Backend::TpBtf,
        hook: STATE,
        rungs: &[Rung::Fexit],
        needs: &[],
        programs: &[
            program("state_btf", Target::TpBtf(STATE)),
            program("state_btf_nested", Target::TpBtf(STATE)),
        ],
    },
    Candidate {
        capability: Capability::Transitions,
        backend: Backend::RawTracepoint,
        hook: STATE,
        rungs: &[Rung::Kprobe, Rung::Tracepoint],
        needs: &[],
        programs: &[
            program("state_raw", Target::RawTracepoint(STATE)),
            program("state_raw_nested", Target::RawTracepoint(STATE)),
        ],
    },
];

const TWSK_FUNCTIONS: &[Need] = &[
    Need::Function(TWSK_ALLOC, 3),
    Need::Function(TWSK_SCHEDULE, 3),
    Need::Function(TWSK_KILL, 1),
];

/// Ways to see timewait sockets. The first three functions are called in this order in the life of one;
/// `inet_twsk_free` is not the last: 7.2 inlines it.
const TIME_WAIT: &[Candidate] = &[
    Candidate {
        capability: Capability::TimeWait,
        backend: Backend::Fexit,
        hook: TWSK_ALLOC,
        rungs: &[Rung::Fexit],
        needs: TWSK_FUNCTIONS,
        programs: &[
            program("twsk_kill_fentry", Target::Fentry(TWSK_KILL)),
            program("twsk_schedule_fentry", Target::Fentry(TWSK_SCHEDULE)),
            program("twsk_alloc_fexit", Target::Fexit(TWSK_ALLOC)),
        ],
    },
    Candidate {
        capability: Capability::TimeWait,
        backend: Backend::Kprobe,
        hook: TWSK_ALLOC,
        rungs: &[Rung::Kprobe],
        needs: TWSK_FUNCTIONS,
        programs: &[
            program("twsk_kill_kprobe", Target::Kprobe(TWSK_KILL)),
            program("twsk_schedule_kprobe", Target::Kprobe(TWSK_SCHEDULE)),
            program("twsk_alloc_kprobe", Target::Kprobe(TWSK_ALLOC)),
            program("twsk_alloc_kretprobe", Target::Kprobe(TWSK_ALLOC)),
        ],
    },
    // The begin shows in the hash table when the socket closes.
    Candidate {
        capability: Capability::TimeWait,
        backend: Backend::RawTracepoint,
        hook: TIMER_EXPIRE,
        rungs: &[Rung::Tracepoint],
        needs: &[Need::HashTable],
        programs: &[program(
            "timer_expires_raw",
            Target::RawTracepoint(TIMER_EXPIRE),
        )],
    },
];

/// Ways to see who accepts. A kretprobe is none: threads that wait in `accept()` use up its instances.
const ACCEPTS: &[Candidate] = &[
    Candidate {
        capability: Capability::Accept,
        backend: Backend::Fexit,
        hook: ACCEPT,
        rungs: &[Rung::Fexit],
        needs: &[Need::Function(ACCEPT, 2)],
        programs: &[program("accept2_fexit", Target::Fexit(ACCEPT))],
    },
    Candidate {
        capability: Capability::Accept,
        backend: Backend::Fexit,
        hook: ACCEPT,
        rungs: &[Rung::Fexit],
        needs: &[Need::Function(ACCEPT, 4)],
        programs: &[program("accept4_fexit", Target::Fexit(ACCEPT))],
    },
    Candidate {
        capability: Capability::Accept,
        backend: Backend::Tracepoint,
        hook: "sys_exit_accept4",
        rungs: &[Rung::Kprobe, Rung::Tracepoint],
        needs: &[Need::Tracepoint("syscalls", "sys_exit_accept4")],
        programs: &[
            program("exit_accept", syscall("sys_exit_accept")),
            program("exit_accept", syscall("sys_exit_accept4")),
        ],
    },
];

/// Ways to see who holds a port without a connection.
const BINDS: &[Candidate] = &[
    Candidate {
        capability: Capability::Bind,
        backend: Backend::Fexit,
        hook: GET_PORT,
        rungs: &[Rung::Fexit],
        needs: &[Need::Function(GET_PORT, 2)],
        programs: &[
            program("destroy_btf", Target::TpBtf(DESTROY)),
            program("get_port_fexit", Target::Fexit(GET_PORT)),
        ],
    },
    Candidate {
        capability: Capability::Bind,
        backend: Backend::Kprobe,
        hook: GET_PORT,
        rungs: &[Rung::Kprobe],
        needs: &[Need::Function(GET_PORT, 2)],
        programs: &[
            program("destroy_raw", Target::RawTracepoint(DESTROY)),
            program("get_port_kprobe", Target::Kprobe(GET_PORT)),
            program("get_port_kretprobe", Target::Kprobe(GET_PORT)),
        ],
    },
    // Where functions can't be hooked, but types are known.
    Candidate {
        capability: Capability::Bind,
        backend: Backend::Tracepoint,
        hook: "sys_exit_bind",
        rungs: &[],
        needs: &[Need::Tracepoint("syscalls", "sys_exit_bind")],
        programs: &bind_calls(program("destroy_btf", Target::TpBtf(DESTROY))),
    },
    Candidate {
        capability: Capability::Bind,
        backend: Backend::Tracepoint,
        hook: "sys_exit_bind",
        rungs: &[Rung::Tracepoint],
        needs: &[Need::Tracepoint("syscalls", "sys_exit_bind")],
        programs: &bind_calls(program("destroy_raw", Target::RawTracepoint(DESTROY))),
    },
];

/// The system calls that bind, with what sees that a socket is destroyed.
const fn bind_calls(destroyed: Program) -> [Program; 5] {
    [
        destroyed,
        program("enter_bind", syscall("sys_enter_bind")),
        program("exit_bind", syscall("sys_exit_bind")),
        program("enter_listen", syscall("sys_enter_listen")),
        program("exit_bind", syscall("sys_exit_listen")),
    ]
}

/// The way to see what is there already, the same on every rung.
const EXISTING: &[Candidate] = &[Candidate {
    capability: Capability::ExistingSockets,
    backend: Backend::Iterator,
    hook: "tcp",
    rungs: &[Rung::Fexit, Rung::Kprobe, Rung::Tracepoint],
    needs: &[],
    programs: &[TCP_ITERATOR, FILE_ITERATOR],
}];

/// Every socket of a network namespace but those that are only bound.
pub const TCP_ITERATOR: Program = program("dump_tcp", Target::Iterator("tcp"));

/// Every descriptor of every process.
pub const FILE_ITERATOR: Program = program("dump_files", Target::Iterator("task_file"));

impl Capability {
    /// In the order in which they are attached: what happens later to a socket first, so that no end is
    /// missed of a beginning that was seen.
    pub const ALL: [Self; 6] = [
        Self::ExistingSockets,
        Self::TimeWait,
        Self::Bind,
        Self::Accept,
        Self::ConnectFailure,
        Self::Transitions,
    ];

    pub fn candidates(self) -> &'static [Candidate] {
        match self {
            Self::Transitions => TRANSITIONS,
            Self::ConnectFailure => CONNECT_FAILURE,
            Self::TimeWait => TIME_WAIT,
            Self::Accept => ACCEPTS,
            Self::Bind => BINDS,
            Self::ExistingSockets => EXISTING,
        }
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transitions => "TCP state transitions",
            Self::ConnectFailure => "failed connects (EADDRNOTAVAIL)",
            Self::TimeWait => "begin and end of TIME_WAIT",
            Self::Accept => "who accepts",
            Self::Bind => "who binds and listens",
            Self::ExistingSockets => "sockets older than the tracer",
        }
    }
}

/// A candidate that is worth a try, or why it is not.
pub type Choice = (&'static Candidate, Result<(), String>);

/// The candidates of the forced rung, or all, in order.
pub fn choose(
    candidates: &'static [Candidate],
    facts: &impl Facts,
    forced: Option<Rung>,
) -> Vec<Choice> {
    candidates
        .iter()
        .filter(|candidate| forced.is_none_or(|rung| candidate.rungs.contains(&rung)))
        .map(|candidate| (candidate, missing(candidate, facts)))
        .collect()
}

fn missing(candidate: &Candidate, facts: &impl Facts) -> Result<(), String> {
    if candidate.backend == Backend::Kprobe {
        check_kprobes(facts)?;
    }
    for need in candidate.needs {
        check(*need, facts)?;
    }
    Ok(())
}

/// On x86-64 only: the committed object reads registers as that has them.
fn check_kprobes(facts: &impl Facts) -> Result<(), String> {
    if facts.architecture() != "x86_64" {
        return Err(format!(
            "kprobes are supported on x86_64 only, this is {}",
            facts.architecture()
        ));
    }
    if !facts.has_kprobes() {
        return Err("this kernel is built without kprobes (CONFIG_KPROBE_EVENTS)".into());
    }
    Ok(())
}

fn check(need: Need, facts: &impl Facts) -> Result<(), String> {
    match need {
        Need::Function(name, expected) => match facts.arguments(name)? {
            found if found == expected => Ok(()),
            found => Err(format!(
                "{name} takes {found} arguments on this kernel, {expected} are known"
            )),
        },
        Need::Tracepoint(..) if !facts.has_tracefs() => Err(
            "tracefs is not mounted and can't be (mount -t tracefs tracefs /sys/kernel/tracing), or this user may not \
             read it (CAP_DAC_READ_SEARCH)"
                .into(),
        ),
        Need::Tracepoint(category, name) if !facts.has_tracepoint(category, name) => {
            Err(format!("this kernel has no tracepoint {category}:{name}"))
        }
        Need::HashTable if !facts.has_hash_table() => {
            Err("the kernel's table of sockets is not where it is looked for".into())
        }
        Need::Registers if !facts.has_registers() => Err(
            "programs can't read a thread's registers here (bpf_task_pt_regs, since 5.15, on x86_64)".into(),
        ),
        Need::Tracepoint(..) | Need::HashTable | Need::Registers => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A kernel that has everything, less what a test takes away.
    struct Fake {
        without: Vec<&'static str>,
        architecture: &'static str,
        hash_arguments: u32,
        accept_arguments: u32,
    }

    impl Default for Fake {
        fn default() -> Self {
            Self {
                without: Vec::new(),
                architecture: "x86_64",
                hash_arguments: 2,
                accept_arguments: 2,
            }
        }
    }

    impl Facts for Fake {
        fn arguments(&self, function: &str) -> Result<u32, String> {
            match function {
                _ if self.without.contains(&function) => Err(format!("no {function}")),
                HASH | HASH6 => Ok(self.hash_arguments),
                TWSK_KILL => Ok(1),
                GET_PORT => Ok(2),
                ACCEPT => Ok(self.accept_arguments),
                _ => Ok(3),
            }
        }
        fn has_tracepoint(&self, category: &str, _: &str) -> bool {
            !self.without.contains(&category)
        }
        fn has_tracefs(&self) -> bool {
            !self.without.contains(&"tracefs")
        }
        fn has_kprobes(&self) -> bool {
            !self.without.contains(&"kprobes")
        }
        fn has_hash_table(&self) -> bool {
            !self.without.contains(&"hash table")
        }
        fn has_registers(&self) -> bool {
            !self.without.contains(&"registers")
        }
        fn architecture(&self) -> &str {
            self.architecture
        }
    }

    fn refusals(candidates: &'static [Candidate], facts: &Fake) -> Vec<(Backend, Option<String>)> {
        choose(candidates, facts, None)
            .into_iter()
            .map(|(candidate, verdict)| (candidate.backend, verdict.err()))
            .collect()
    }

    #[test]
    fn best_first_and_all_open_on_a_full_kernel() {
        assert_eq!(
            refusals(CONNECT_FAILURE, &Fake::default()),
            [
                (Backend::Fexit, None),
                (Backend::Kprobe, None),
                (Backend::Tracepoint, None),
                (Backend::Tracepoint, None)
            ]
        );
        assert_eq!(
            refusals(TRANSITIONS, &Fake::default()),
            [(Backend::TpBtf, None), (Backend::RawTracepoint, None)]
        );
    }

    #[test]
    fn a_missing_function_leaves_the_tracepoint_rung() {
        let facts = Fake {
            without: vec![HASH6],
            ..Fake::default()
        };
        let refusals = refusals(CONNECT_FAILURE, &facts);
        assert_eq!(refusals[0].1.as_deref(), Some("no inet6_hash_connect"));
        assert_eq!(refusals[1].1.as_deref(), Some("no inet6_hash_connect"));
        assert_eq!(refusals[2].1, None);
    }

    #[test]
    fn another_signature_is_not_trusted() {
        let facts = Fake {
            hash_arguments: 3,
            ..Fake::default()
        };
        assert_eq!(
            refusals(CONNECT_FAILURE, &facts)[0].1.as_deref(),
            Some("inet_hash_connect takes 3 arguments on this kernel, 2 are known")
        );
    }

    #[test]
    fn without_tracefs_transitions_remain() {
        let facts = Fake {
            without: vec!["tracefs"],
            ..Fake::default()
        };
        for (backend, refusal) in refusals(TRANSITIONS, &facts) {
            assert_eq!(refusal, None, "{backend:?}");
        }
        let reason = refusals(CONNECT_FAILURE, &facts)[2].1.clone();
        assert!(reason.unwrap().contains("mount -t tracefs"));
    }

    #[test]
    fn kprobes_are_for_x86_only() {
        let facts = Fake {
            architecture: "aarch64",
            ..Fake::default()
        };
        let refusals = refusals(CONNECT_FAILURE, &facts);
        assert!(
            refusals[1]
                .1
                .as_deref()
                .unwrap()
                .ends_with("this is aarch64")
        );
        assert_eq!(refusals[0].1, None);
    }

    #[test]
    fn a_kernel_without_kprobes_is_told_apart() {
        let facts = Fake {
            without: vec!["kprobes"],
            ..Fake::default()
        };
        let refusals = refusals(CONNECT_FAILURE, &facts);
        assert!(
            refusals[1]
                .1
                .as_deref()
                .unwrap()
                .contains("without kprobes")
        );
    }

    #[test]
    fn accept_is_hooked_by_the_signature_that_the_kernel_has() {
        for (arguments, program) in [(2, "accept2_fexit"), (4, "accept4_fexit")] {
            let facts = Fake {
                accept_arguments: arguments,
                ..Fake::default()
            };
            let choices = choose(ACCEPTS, &facts, Some(Rung::Fexit));
            let (best, _) = choices.iter().find(|(_, verdict)| verdict.is_ok()).unwrap();
            assert_eq!(best.programs[0].name, program);
        }
    }

    #[test]
    fn without_registers_arguments_are_kept() {
        let facts = Fake {
            without: vec!["registers"],
            ..Fake::default()
        };
        let choices = choose(CONNECT_FAILURE, &facts, Some(Rung::Tracepoint));
        let (best, _) = choices.iter().find(|(_, verdict)| verdict.is_ok()).unwrap();
        assert_eq!(best.programs[0].name, "enter_connect");
    }

    #[test]
    fn without_the_hash_table_the_tracepoint_rung_sees_no_time_wait() {
        let facts = Fake {
            without: vec!["hash table"],
            ..Fake::default()
        };
        let choices = choose(TIME_WAIT, &facts, Some(Rung::Tracepoint));
        assert!(choices.iter().all(|(_, verdict)| verdict.is_err()));
    }

    #[test]
    fn every_rung_has_a_way_to_every_capability() {
        for rung in [Rung::Fexit, Rung::Kprobe, Rung::Tracepoint] {
            for capability in Capability::ALL {
                let choices = choose(capability.candidates(), &Fake::default(), Some(rung));
                assert!(
                    choices.iter().any(|(_, verdict)| verdict.is_ok()),
                    "{rung:?} {capability:?}"
                );
            }
        }
    }

    #[test]
    fn a_forced_rung_hides_the_others() {
        for (rung, failure, transition) in [
            (Rung::Fexit, Backend::Fexit, Backend::TpBtf),
            (Rung::Kprobe, Backend::Kprobe, Backend::RawTracepoint),
            (
                Rung::Tracepoint,
                Backend::Tracepoint,
                Backend::RawTracepoint,
            ),
        ] {
            let only = |candidates| {
                let choices = choose(candidates, &Fake::default(), Some(rung));
                let backends = choices.iter().map(|(candidate, _)| candidate.backend);
                let backends: BTreeSet<_> = backends.collect();
                assert_eq!(backends.len(), 1, "{rung:?}");
                choices[0].0.backend
            };
            assert_eq!(only(CONNECT_FAILURE), failure);
            assert_eq!(only(TRANSITIONS), transition);
        }
    }
}
