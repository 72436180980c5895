//! tracefs: where classic tracepoints are described and found.

use std::{fs, io, path::PathBuf};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Where aya looks as well.
const PATHS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The mount point, if there is one.
pub fn path() -> Option<PathBuf> {
    PATHS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.join("events").is_dir())
}

/// Makes sure that this process sees tracefs. Many hosts do not mount it; then it is mounted in a
/// mount namespace of our own, which ends with us: the host's mounts stay as they are.
///
/// Must run before other threads start, they would keep the old namespace.
pub fn ensure() -> io::Result<()> {
    if path().is_some() {
        return Ok(());
    }
    // SAFETY: no other thread shares our filesystem context yet, and no descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Mounts of the host still reach us, ours do not reach the host.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    mount("tracefs", PATHS[0], "tracefs", MountFlags::empty(), None)?;
    Ok(())
}

/// Offset of a field in the record of a tracepoint, from its `format` file.
pub fn field_offset(category: &str, name: &str, field: &str) -> Option<u32> {
    let format = path()?
        .join("events")
        .join(category)
        .join(name)
        .join("format");
    parse_offset(&fs::read_to_string(format).ok()?, field)
}

/// Whether this kernel has the tracepoint.
pub fn has(category: &str, name: &str) -> bool {
    path().is_some_and(|path| path.join("events").join(category).join(name).is_dir())
}

/// A line reads `field:const void * skaddr; offset:8; size:8; signed:0;`, with tabs between the parts.
fn parse_offset(format: &str, field: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        let (declaration, rest) = line.trim().strip_prefix("field:")?.split_once(';')?;
        let name = declaration.rsplit([' ', '*']).next()?;
        if name.split('[').next()? != field {
            return None;
        }
        let offset = rest.trim().strip_prefix("offset:")?;
        offset.split(';').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::parse_offset;

    const FORMAT: &str = "name: inet_sock_set_state
ID: 1434
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;

\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;
\tfield:int oldstate;\toffset:16;\tsize:4;\tsigned:1;
\tfield:__u8 saddr[4];\toffset:32;\tsize:4;\tsigned:0;

print fmt: \"family=%s\", REC->family";

    #[test]
    fn reads_offsets_from_a_format() {
        assert_eq!(parse_offset(FORMAT, "skaddr"), Some(8));
        assert_eq!(parse_offset(FORMAT, "oldstate"), Some(16));
        assert_eq!(parse_offset(FORMAT, "saddr"), Some(32));
        assert_eq!(parse_offset(FORMAT, "state"), None);
    }
}
