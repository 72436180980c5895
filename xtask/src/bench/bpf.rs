//! A process's BPF programs, by the descriptors that it holds (`bpf_prog_show_fdinfo`, kernel/bpf/syscall.c).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CStr,
    fs, io,
    mem::offset_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};

const SYSCTL: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// `enum bpf_cmd` of include/uapi/linux/bpf.h.
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const ENABLE_STATS: u32 = 32;

/// `enum bpf_stats_type` of the same file.
const RUN_TIME: u32 = 0;

/// Ids of the programs that it has loaded.
pub(crate) fn ids(pid: u32) -> BTreeSet<u32> {
    held(pid).into_keys().collect()
}

/// Nanoseconds in its programs, by their names; those of one name are added up.
pub(crate) fn programs(pid: u32) -> Result<BTreeMap<String, u64>> {
    let mut programs = BTreeMap::new();
    for (id, ns) in held(pid) {
        let name = name(id).with_context(|| format!("the BPF program {id} has no name"))?;
        *programs.entry(name).or_default() += ns;
    }
    Ok(programs)
}

/// Nanoseconds in all its programs.
pub(crate) fn ns(pid: u32) -> u64 {
    held(pid).values().sum()
}

/// Bytes of memory of its maps.
pub(crate) fn maps(pid: u32) -> u64 {
    let maps = fdinfo(pid);
    let maps = maps.filter_map(|text| Some((field(&text, "map_id:")?, field(&text, "memlock:")?)));
    maps.collect::<BTreeMap<_, _>>().values().sum()
}

/// What the kernel says of each of its descriptors.
fn fdinfo(pid: u32) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let entries = entries.into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok())
}

/// Nanoseconds since a program was loaded, by its id: several descriptors may lead to one.
fn held(pid: u32) -> BTreeMap<u32, u64> {
    fdinfo(pid)
        .filter_map(|text| {
            let id = u32::try_from(field(&text, "prog_id:")?).ok()?;
            Some((id, field(&text, "run_time_ns:")?))
        })
        .collect()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// The beginning of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct Info {
    before: [u64; 8],
    name: [u8; 16],
}

// `name` follows load_time, created_by_uid, nr_map_ids and map_ids.
const _: () = assert!(offset_of!(Info, name) == 64);

/// What the kernel calls a program: the first 15 bytes of its name.
fn name(id: u32) -> io::Result<String> {
    let program = bpf(PROG_GET_FD_BY_ID, &mut [id, 0, 0, 0])?;
    // SAFETY: the call has made this descriptor, and nobody else has it.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let mut info = Info::default();
    let address = (&raw mut info).addr() as u64;
    let [low, high] = [address as u32, (address >> 32) as u32];
    let words = [
        program.as_raw_fd().cast_unsigned(),
        size_of::<Info>() as u32,
    ];
    bpf(OBJ_GET_INFO_BY_FD, &mut [words[0], words[1], low, high])?;
    let name = CStr::from_bytes_until_nul(&info.name).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}

/// bpf(2), with the words that `union bpf_attr` begins with; little-endian.
fn bpf(command: u32, attributes: &mut [u32; 4]) -> io::Result<i32> {
    // SAFETY: the kernel reads so many bytes; where they hold an address, it is of an `Info` that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    match i32::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Programs are timed as long as this lives; the kernel ends it with this process, however that ends (`BPF_ENABLE_STATS`,
/// since 5.8).
pub(crate) struct Statistics {
    _enabled: OwnedFd,
}

impl Statistics {
    pub(crate) fn enable() -> Result<Self> {
        let enabled = bpf(ENABLE_STATS, &mut [RUN_TIME, 0, 0, 0]);
        let enabled = enabled.context("BPF statistics can't be enabled")?;
        // SAFETY: the call has made this descriptor, and nobody else has it.
        let enabled = unsafe { OwnedFd::from_raw_fd(enabled) };
        Ok(Self { _enabled: enabled })
    }

    /// # Errors
    ///
    /// `kernel.bpf_stats_enabled` is set: whatever has a program costs more then.
    pub(crate) fn refuse() -> Result<()> {
        let set = fs::read_to_string(SYSCTL).with_context(|| format!("{SYSCTL} can't be read"))?;
        if set.trim() != "0" {
            bail!(
                "{SYSCTL} is {}: it costs every observer time; set it to 0",
                set.trim()
            );
        }
        Ok(())
    }
}
