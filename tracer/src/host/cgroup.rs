//! The cgroup v2 hierarchy.

use std::{
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

/// Where it is mounted, on hosts with v2 only and on those with v1 beside it.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The path of the cgroup with this id, from the root on; `None`: there is none any more. Looks at every cgroup: for
/// rare questions.
pub fn path(id: u64) -> Option<String> {
    let is_mount =
        |path: &&&str| statfs(**path).is_ok_and(|is| is.f_type == libc::CGROUP2_SUPER_MAGIC);
    let root = Path::new(MOUNTS.iter().find(|path| is_mount(path))?);
    let found = find(root, id)?;
    let below = found.strip_prefix(root).ok()?;
    Some(format!("/{}", below.display()))
}

/// The id of a cgroup is the inode number of its directory (`cgroup_id`, include/linux/cgroup.h).
fn find(root: &Path, id: u64) -> Option<PathBuf> {
    if fs::metadata(root).ok()?.ino() == id {
        return Some(root.into());
    }
    let mut unread = vec![root.to_owned()];
    while let Some(directory) = unread.pop() {
        // It may be gone meanwhile.
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|is| is.is_dir());
        for entry in entries.filter(is_directory) {
            if entry.ino() == id {
                return Some(entry.path());
            }
            unread.push(entry.path());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_directory_by_its_inode() {
        let root = std::env::temp_dir().join(format!("tracer-cgroup-{}", std::process::id()));
        let wanted = root.join("b/c");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::create_dir_all(&wanted).unwrap();
        let id = |path: &Path| fs::metadata(path).unwrap().ino();
        let (at_root, below) = (find(&root, id(&root)), find(&root, id(&wanted)));
        let nowhere = find(&root, u64::MAX);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(at_root, Some(root));
        assert_eq!(below, Some(wanted));
        assert_eq!(nowhere, None);
    }
}
