//! What the running kernel is and allows, read before anything is loaded.

use std::{collections::BTreeMap, fs, path::Path};

use rustix::system::uname;
use thiserror::Error;

use super::{
    btf::{self, Btf},
    layout::{self, Global},
    plan,
    rules::{self, Version},
    tracefs,
};
use crate::{pool::Rules, privileges};

/// Why the tracer cannot run here; each sentence says what is missing and what to do.
#[derive(Debug, Error)]
pub enum Unfit {
    #[error(
        "{} {} missing, and the kernel takes no tracing programs without: run tracer with sudo, or as a service with \
         CAP_BPF and CAP_PERFMON", .0.join(" and "), if .0.len() == 1 { "is" } else { "are" }
    )]
    Privilege(Vec<&'static str>),
    #[error(
        "kernel lockdown is in confidentiality mode and forbids eBPF programs to read kernel memory: \
         boot with lockdown=integrity or lockdown=none"
    )]
    Lockdown,
    #[error(
        "{path} can't be read ({0}): tracer needs a kernel built with CONFIG_DEBUG_INFO_BTF=y, as \
         distribution kernels since 5.10 are", path = btf::VMLINUX
    )]
    NoBtf(std::io::Error),
    #[error("this kernel's layout is not understood: {0}; please report it with `uname -r`")]
    Layout(#[from] btf::Error),
}

/// The facts that a plan is made from.
#[derive(Debug)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    pub architecture: String,
    pub globals: Vec<Global>,
    pub(super) rules: Rules,
    functions: BTreeMap<&'static str, Result<u32, String>>,
}

const FUNCTIONS: [&str; 9] = [
    "inet_hash_connect",
    "inet6_hash_connect",
    "tcp_v4_connect",
    "tcp_v6_connect",
    "inet_twsk_alloc",
    "__inet_twsk_schedule",
    "inet_twsk_kill",
    "inet_csk_accept",
    "inet_csk_get_port",
];

/// The variant of `bpf_get_socket_cookie` that tracing programs may call (net/core/filter.c, since
/// 5.12).
const SOCKET_COOKIE: &str = "bpf_get_socket_ptr_cookie";

/// The current task under its type (kernel/trace/bpf_trace.c, since 5.11).
const TASK_BTF: &str = "bpf_get_current_task_btf";

/// A task's registers (kernel/trace/bpf_trace.c, since 5.15).
const TASK_REGISTERS: &str = "bpf_task_pt_regs";

/// The way in which kprobes are attached (since 4.17, with CONFIG_KPROBE_EVENTS).
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe";

impl Facts {
    pub fn read() -> Result<Self, Unfit> {
        check_privilege()?;
        check_lockdown()?;
        let blob = fs::read(btf::VMLINUX).map_err(Unfit::NoBtf)?;
        let btf = Btf::parse(&blob)?;
        let mut globals = layout::read(&btf)?;
        let helpers = [
            ("HAS_SOCKET_COOKIE", SOCKET_COOKIE),
            ("HAS_TASK_BTF", TASK_BTF),
        ];
        globals.extend(helpers.map(|(name, helper)| Global {
            name,
            value: u32::from(btf.arguments(helper).is_ok()),
        }));
        let has_registers = globals.iter().any(|global| global.name == "PT_REGS_DI");
        if has_registers && btf.arguments(TASK_REGISTERS).is_ok() {
            globals.push(Global {
                name: "HAS_TASK_REGISTERS",
                value: 1,
            });
        }
        globals.extend(record_fields());
        let system = uname();
        let release = system.release().to_string_lossy().into_owned();
        Ok(Self {
            rules: rules::read(&btf, version(&release)),
            release,
            architecture: system.machine().to_string_lossy().into_owned(),
            globals,
            functions: FUNCTIONS
                .map(|name| (name, btf.arguments(name).map_err(|e| e.to_string())))
                .into(),
        })
    }

    /// Whether `io_uring_complete` names its request (since 6.0), so that its socket can be found.
    pub fn completions_have_requests(&self) -> bool {
        [
            "COMPLETE_REQ",
            "COMPLETE_RES",
            "IO_KIOCB_FILE",
            "IO_KIOCB_OPCODE",
        ]
        .into_iter()
        .all(|name| self.has(name))
    }

    /// Whether this kernel has what a global of the programs stands for.
    fn has(&self, name: &str) -> bool {
        self.globals.iter().any(|global| global.name == name)
    }
}

impl plan::Facts for Facts {
    fn arguments(&self, function: &str) -> Result<u32, String> {
        match self.functions.get(function) {
            Some(found) => found.clone(),
            None => Err(format!("{function} was not looked up")),
        }
    }

    fn has_tracepoint(&self, category: &str, name: &str) -> bool {
        tracefs::has(category, name)
    }

    fn has_tracefs(&self) -> bool {
        tracefs::path().is_some()
    }

    fn has_kprobes(&self) -> bool {
        Path::new(KPROBE_PMU).exists()
    }

    fn has_hash_table(&self) -> bool {
        self.has("NET_HASHINFO")
    }

    fn has_registers(&self) -> bool {
        self.has("HAS_TASK_REGISTERS")
    }

    fn architecture(&self) -> &str {
        &self.architecture
    }
}

/// Where Ubuntu names the release that its kernel is made from.
const SIGNATURE: &str = "/proc/version_signature";

fn version(release: &str) -> Version {
    let signature = fs::read_to_string(SIGNATURE).unwrap_or_default();
    let build = uname().version().to_string_lossy().into_owned();
    Version::find(release, &[&build, &signature])
}

/// Fields of tracepoint records, as far as this kernel has them.
fn record_fields() -> Vec<Global> {
    const COMPLETE: (&str, &str) = ("io_uring", "io_uring_complete");
    [
        ("COMPLETE_REQ", COMPLETE, "req"),
        ("COMPLETE_RES", COMPLETE, "res"),
    ]
    .into_iter()
    .filter_map(|(global, (category, name), field)| {
        let value = tracefs::field_offset(category, name, field)?;
        Some(Global {
            name: global,
            value,
        })
    })
    .collect()
}

fn check_privilege() -> Result<(), Unfit> {
    match privileges::lacks(privileges::effective()) {
        lacks if lacks.is_empty() => Ok(()),
        lacks => Err(Unfit::Privilege(lacks)),
    }
}

fn check_lockdown() -> Result<(), Unfit> {
    let state = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if state.contains("[confidentiality]") {
        Err(Unfit::Lockdown)
    } else {
        Ok(())
    }
}
