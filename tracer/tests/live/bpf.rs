//! What a tracer has in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    mem::offset_of,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{Array, HashMap, Map, MapData, MapInfo},
    programs::loaded_programs,
};
use tracer_ebpf::{Place, Socket, Task};

const SOCKET: usize = size_of::<Socket>();
const PLACE: usize = size_of::<Place>();

/// Ids of the kernel objects that a process holds, by the name that `fdinfo` gives them.
pub(crate) fn held(pid: u32, what: &str) -> Result<BTreeSet<u32>> {
    let fields = fdinfo(pid)?.into_iter();
    let ids = fields.filter_map(|fields| fields.get(what)?.parse().ok());
    Ok(ids.collect())
}

/// How often the kernel left out a program because it was already running on that CPU, interrupted
/// or preempted there: such an event is lost (`__bpf_trace_run`, kernel/trace/bpf_trace.c).
pub(crate) fn skipped_runs(pid: u32) -> Result<usize> {
    let programs: BTreeMap<String, usize> = fdinfo(pid)?
        .into_iter()
        .filter_map(|fields| {
            let misses = fields.get("recursion_misses")?.parse().ok()?;
            Some((fields.get("prog_id")?.clone(), misses))
        })
        .collect();
    Ok(programs.values().sum())
}

/// What the kernel says of each descriptor of a process.
fn fdinfo(pid: u32) -> Result<Vec<BTreeMap<String, String>>> {
    let mut descriptors = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed between the listing and the look.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        let fields = info.lines().filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        descriptors.push(fields.collect());
    }
    Ok(descriptors)
}

/// Ids of all programs that the kernel has.
pub(crate) fn programs() -> BTreeSet<u32> {
    // A program may go between two steps of the walk.
    loaded_programs()
        .filter_map(|program| Some(program.ok()?.id()))
        .collect()
}

/// The process of every socket that this tracer remembers.
pub(crate) fn socket_owners(tracer: u32) -> Result<Vec<u32>> {
    let sockets: HashMap<_, u64, [u8; SOCKET]> =
        HashMap::try_from(Map::HashMap(map(tracer, "SOCKETS")?))?;
    let mut owners = Vec::new();
    for key in sockets.keys() {
        // Gone since the walk found it: not a leak. And the walk starts anew when its key is gone.
        if let Ok(value) = sockets.get(&key?, 0) {
            owners.push(owner(&value)?);
        }
    }
    let places: Array<_, [u8; PLACE]> = Array::try_from(Map::Array(map(tracer, "PLACES")?))?;
    for place in places.iter() {
        let place = place?;
        let (has_owner, socket) = place.split_at(offset_of!(Place, socket));
        if has_owner.iter().any(|byte| *byte != 0) {
            owners.push(owner(socket)?);
        }
    }
    Ok(owners)
}

fn map(tracer: u32, name: &str) -> Result<MapData> {
    let is_named =
        |id: &u32| MapInfo::from_id(*id).is_ok_and(|info| info.name_as_str() == Some(name));
    let id = held(tracer, "map_id")?.into_iter().find(is_named);
    let id = id.with_context(|| format!("the tracer has no map {name}"))?;
    Ok(MapData::from_id(id)?)
}

fn owner(socket: &[u8]) -> Result<u32> {
    let at = offset_of!(Socket, task) + offset_of!(Task, pid);
    let bytes = socket[at..].first_chunk().context("a short value")?;
    Ok(u32::from_ne_bytes(*bytes))
}
