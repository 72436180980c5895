//! Loads the object, tries the plan's candidates in order and keeps every refusal.

use std::io;

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError},
    programs::{
        BtfTracePoint, FEntry, FExit, Iter, KProbe, Program, ProgramError, RawTracePoint,
        TracePoint,
    },
};
use thiserror::Error;
use tracer_ebpf::PLACES;

pub use crate::config::{Needs, Sizes};

use super::{
    facts::{Facts, Unfit},
    plan::{self, Backend, Candidate, Capability, Choice, Need, Rung, Target},
};

/// The committed object, built from `tracer-ebpf` (see `cargo xtask build-ebpf`).
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/tracer.o");

#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("the kernel refused to create tracer's maps: {}{}", chain(.0), advice(.0))]
    Maps(Box<aya::EbpfError>),
    #[error("the kernel's BTF can't be used for loading: {}", chain(.0))]
    Btf(aya::BtfError),
    #[error(
        "the BPF object has ABI {0}, this program has {expected}: it was not built from one source",
        expected = tracer_ebpf::ABI_VERSION
    )]
    Abi(u32),
    #[error("no hook for {0} works here: {1}")]
    NoHook(&'static str, String),
}

/// A hook that was not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub backend: Backend,
    pub hook: &'static str,
    pub reason: String,
}

/// How a capability is covered; `None`: it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    pub capability: Capability,
    pub by: Option<(Backend, &'static str)>,
    pub refused: Vec<Refusal>,
    /// What this cover does not see.
    pub limits: Vec<String>,
}

/// Loaded and attached programs; dropping it detaches them.
pub struct Loaded {
    pub ebpf: Ebpf,
    pub coverage: Vec<Covered>,
}

/// Exhaustion and conflicts are recognized from the transitions as well.
const KRETPROBE_LIMIT: &str = "while more threads connect at once than the kernel has kretprobe instances, \
    a connect without a source address may be missed";

/// `kprobe_busy` and `bpf_prog_active` are per CPU.
const KPROBE_LIMIT: &str = "a probe is skipped while another one is running on that CPU: what it would have told shows \
    at the next interval";

/// See `hooks/timewait.rs` of the kernel side.
const TIMER_LIMIT: &str = "the peer's FIN, an end of TIME_WAIT other than by its timer or by reuse of the 4-tuple, \
    and the port of a connect() that waits show only at the next interval";

/// Loads and attaches. Without any hook for transitions, or with a forced rung that does not give
/// everything, this is an error; otherwise what is missing is in the coverage.
pub fn load(
    facts: &Facts,
    sizes: Sizes,
    needs: &Needs,
    forced: Option<Rung>,
) -> Result<Loaded, Error> {
    let btf = Btf::from_sys_fs().map_err(Error::Btf)?;
    let mut ebpf = maps(facts, sizes, needs, &btf)?;
    let mut loader = Loader {
        ebpf: &mut ebpf,
        btf: &btf,
    };
    let mut coverage = Vec::with_capacity(Capability::ALL.len());
    for capability in Capability::ALL {
        let choices = plan::choose(capability.candidates(), facts, forced);
        let mut covered = loader.cover(capability, choices);
        loader.know_limits(facts, &mut covered);
        if capability == Capability::Transitions || forced.is_some() {
            require(&covered)?;
        }
        coverage.push(covered);
    }
    coverage.reverse();
    Ok(Loaded { ebpf, coverage })
}

/// Only what dumps need: nothing is attached.
pub fn for_dumps(facts: &Facts) -> Result<Ebpf, Error> {
    const SMALL: Sizes = Sizes {
        ring: 4096,
        sockets: 1,
    };
    let btf = Btf::from_sys_fs().map_err(Error::Btf)?;
    let mut ebpf = maps(facts, SMALL, &Needs::default(), &btf)?;
    let mut loader = Loader {
        ebpf: &mut ebpf,
        btf: &btf,
    };
    let choices = plan::choose(Capability::ExistingSockets.candidates(), facts, None);
    require(&loader.cover(Capability::ExistingSockets, choices))?;
    Ok(ebpf)
}

/// Creates the maps and sets the globals; loads no program.
fn maps(facts: &Facts, sizes: Sizes, needs: &Needs, btf: &Btf) -> Result<Ebpf, Error> {
    let places = sizes.sockets.clamp(1, PLACES).next_power_of_two();
    let last_place = places - 1;
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .map_max_entries("EVENTS", sizes.ring)
        .map_max_entries("SOCKETS", sizes.sockets)
        .map_max_entries("PLACES", places);
    if !needs.no_steps {
        loader.map_max_entries("STEPS", 1);
    }
    for global in &facts.globals {
        loader.override_global(global.name, &global.value, true);
    }
    let only_some = u32::from(needs.netns.is_some());
    let no_closers = u32::from(needs.no_closers);
    let no_steps = u32::from(needs.no_steps);
    loader.override_global("LAST_PLACE", &last_place, true);
    loader.override_global("ONLY_SOME_NETNS", &only_some, true);
    loader.override_global("NO_CLOSERS", &no_closers, true);
    loader.override_global("NO_STEPS", &no_steps, true);
    let mut ebpf = loader.load(OBJECT).map_err(maps_error)?;
    check_abi(&ebpf)?;
    limit(&mut ebpf, needs).map_err(maps_error)?;
    Ok(ebpf)
}

/// To the network namespaces that there are to be events of.
fn limit(ebpf: &mut Ebpf, needs: &Needs) -> Result<(), EbpfError> {
    let Some(wanted) = &needs.netns else {
        return Ok(());
    };
    let map = ebpf
        .map_mut("NAMESPACES")
        .ok_or_else(|| MapError::InvalidName {
            name: "NAMESPACES".into(),
        })?;
    let mut namespaces: HashMap<_, u32, u8> = map.try_into()?;
    for netns in wanted {
        namespaces.insert(netns, 1, 0)?;
    }
    Ok(())
}

fn maps_error(error: impl Into<EbpfError>) -> Error {
    Error::Maps(Box::new(error.into()))
}

fn check_abi(ebpf: &Ebpf) -> Result<(), Error> {
    let found = ebpf
        .map(".rodata.abi")
        .and_then(|map| Array::<&MapData, u32>::try_from(map).ok())
        .and_then(|array| array.get(&0, 0).ok())
        .unwrap_or(0);
    if found == tracer_ebpf::ABI_VERSION {
        Ok(())
    } else {
        Err(Error::Abi(found))
    }
}

fn require(covered: &Covered) -> Result<(), Error> {
    if covered.by.is_some() {
        return Ok(());
    }
    let reasons: Vec<String> = covered
        .refused
        .iter()
        .map(|refusal| {
            format!(
                "{} {}: {}",
                name(refusal.backend),
                refusal.hook,
                refusal.reason
            )
        })
        .collect();
    Err(Error::NoHook(covered.capability.name(), reasons.join("; ")))
}

/// The name of a backend as records show it.
pub fn name(backend: Backend) -> &'static str {
    match backend {
        Backend::TpBtf => "tp_btf",
        Backend::Fexit => "fexit",
        Backend::Kprobe => "kprobe",
        Backend::RawTracepoint => "raw_tracepoint",
        Backend::Tracepoint => "tracepoint",
        Backend::Iterator => "iterator",
    }
}

struct Loader<'a> {
    ebpf: &'a mut Ebpf,
    btf: &'a Btf,
}

impl Loader<'_> {
    fn cover(&mut self, capability: Capability, choices: Vec<Choice>) -> Covered {
        let mut covered = Covered {
            capability,
            by: None,
            refused: Vec::new(),
            limits: Vec::new(),
        };
        for (candidate, verdict) in choices {
            match verdict.and_then(|()| self.attach_all(candidate)) {
                Ok(()) => {
                    if candidate.needs.contains(&Need::Registers) {
                        self.rely_on_registers();
                    }
                    covered.by = Some((candidate.backend, candidate.hook));
                    break;
                }
                Err(reason) => covered.refused.push(Refusal {
                    backend: candidate.backend,
                    hook: candidate.hook,
                    reason,
                }),
            }
        }
        covered
    }

    /// Attaches all programs of a candidate, or none.
    fn attach_all(&mut self, candidate: &Candidate) -> Result<(), String> {
        for (index, program) in candidate.programs.iter().enumerate() {
            if let Err(error) = self.attach(*program) {
                // This one, too: it may be loaded though it did not attach.
                for tried in &candidate.programs[..=index] {
                    self.unload(tried.name);
                }
                return Err(format!(
                    "{} on {}",
                    reason(&error),
                    target_name(program.target)
                ));
            }
        }
        Ok(())
    }

    /// Programs on transitions, which come later, know by it that the return of a call will be seen.
    fn rely_on_registers(&mut self) {
        let map = self.ebpf.map_mut("BY_REGISTERS");
        let map = map.and_then(|map| Array::<_, u32>::try_from(map).ok());
        if let Some(Err(error)) = map.map(|mut map| map.set(0, 1, 0)) {
            log::warn!(
                "a connect() from a bound port that is given up may be told as failed: {error}"
            );
        }
    }

    /// Adds what the chosen hook does not see.
    fn know_limits(&mut self, facts: &Facts, covered: &mut Covered) {
        let Some((backend, _)) = covered.by else {
            return;
        };
        match (covered.capability, backend) {
            (Capability::ConnectFailure, Backend::Kprobe) => {
                covered.limits.push(KRETPROBE_LIMIT.into());
            }
            (Capability::ConnectFailure, Backend::Tracepoint) => {
                let unseen = "a connect through io_uring without a source address is not seen";
                self.watch_io_uring(facts, plan::IO_URING_FAILED, unseen, covered);
            }
            (Capability::TimeWait, Backend::Kprobe) => {
                covered.limits.push(KPROBE_LIMIT.into());
            }
            (Capability::TimeWait, Backend::RawTracepoint) => {
                covered.limits.push(TIMER_LIMIT.into());
            }
            // Where the request is not named, io_uring can't bind either (since 6.11).
            (Capability::Bind, Backend::Tracepoint) if facts.completions_have_requests() => {
                let unseen = "bind and listen through io_uring that fail are not seen";
                self.watch_io_uring(facts, plan::IO_URING_REFUSED, unseen, covered);
            }
            (Capability::Accept, Backend::Tracepoint) => {
                let unseen = "accept, bind and listen through io_uring are not seen";
                self.watch_io_uring(facts, plan::IO_URING_DONE, unseen, covered);
            }
            _ => {}
        }
    }

    /// System call tracepoints see io_uring only through its completions.
    fn watch_io_uring(
        &mut self,
        facts: &Facts,
        program: plan::Program,
        unseen: &str,
        covered: &mut Covered,
    ) {
        let outcome = if facts.completions_have_requests() {
            self.attach(program).map_err(|error| reason(&error))
        } else {
            Err("this kernel's io_uring:io_uring_complete does not name the request".into())
        };
        if let Err(reason) = outcome {
            covered.limits.push(format!("{unseen}: {reason}"));
        }
    }

    fn attach(&mut self, program: plan::Program) -> Result<(), ProgramError> {
        let loaded = self
            .ebpf
            .program_mut(program.name)
            .ok_or(ProgramError::NotLoaded)?;
        let fresh = loaded.fd().is_err();
        match program.target {
            Target::TpBtf(function) => {
                let program: &mut BtfTracePoint = loaded.try_into()?;
                program.load(function, self.btf)?;
                program.attach()?;
            }
            Target::Fentry(function) => {
                let program: &mut FEntry = loaded.try_into()?;
                program.load(function, self.btf)?;
                program.attach()?;
            }
            Target::Fexit(function) => {
                let program: &mut FExit = loaded.try_into()?;
                program.load(function, self.btf)?;
                program.attach()?;
            }
            Target::RawTracepoint(name) => {
                let program: &mut RawTracePoint = loaded.try_into()?;
                program.load()?;
                program.attach(name)?;
            }
            Target::Kprobe(function) => {
                let program: &mut KProbe = loaded.try_into()?;
                if fresh {
                    program.load()?;
                }
                program.attach(function, 0)?;
            }
            Target::Tracepoint(category, name) => {
                let program: &mut TracePoint = loaded.try_into()?;
                if fresh {
                    program.load()?;
                }
                program.attach(category, name)?;
            }
            Target::Iterator(over) => {
                let program: &mut Iter = loaded.try_into()?;
                program.load(over, self.btf)?;
            }
        }
        Ok(())
    }

    /// Unloading detaches.
    fn unload(&mut self, name: &str) {
        let result = match self.ebpf.program_mut(name) {
            Some(Program::BtfTracePoint(program)) => program.unload(),
            Some(Program::FEntry(program)) => program.unload(),
            Some(Program::FExit(program)) => program.unload(),
            Some(Program::Iter(program)) => program.unload(),
            Some(Program::RawTracePoint(program)) => program.unload(),
            Some(Program::KProbe(program)) => program.unload(),
            Some(Program::TracePoint(program)) => program.unload(),
            _ => Ok(()),
        };
        if let Err(error) = result {
            log::debug!("{name} was not loaded: {error}");
        }
    }
}

fn target_name(target: Target) -> String {
    match target {
        Target::TpBtf(name)
        | Target::Fentry(name)
        | Target::Fexit(name)
        | Target::Iterator(name)
        | Target::RawTracepoint(name)
        | Target::Kprobe(name) => name.into(),
        Target::Tracepoint(category, name) => format!("{category}:{name}"),
    }
}

/// One line: the verifier's log, if there is one, goes to the debug log.
fn reason(error: &ProgramError) -> String {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        let log = verifier_log.to_string();
        log::debug!("verifier: {log}");
        const STATISTICS: [&str; 3] = ["processed", "verification", "stack depth"];
        let last = log.lines().rev().find(|line| {
            let is_statistic = STATISTICS.iter().any(|start| line.starts_with(start));
            !line.is_empty() && !is_statistic
        });
        return match last {
            Some(line) => format!("load failed: {io_error} (verifier: {line})"),
            None => format!("load failed: {io_error}"),
        };
    }
    chain(error)
}

/// What may be the reason, where the kernel says only that it is not permitted.
fn advice(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let is_denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    if causes.any(|cause| cause.downcast_ref().is_some_and(is_denied)) {
        "; before 5.11 maps count as locked memory: set LimitMEMLOCK=infinity (ulimit -l unlimited), or give \
         CAP_SYS_RESOURCE"
    } else {
        ""
    }
}

/// An error with its sources.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
