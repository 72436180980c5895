//! The network namespace that a user means.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use super::{Namespace, all, walk::OWN};

/// Where `ip netns add` puts them, of old too.
const DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// The namespace of the process with this id, else the one of this name in `ip netns list`, else that with this
/// inode number. An error is a sentence.
pub fn named(name: &str) -> io::Result<Namespace> {
    let places = [of_process(name), of_file(name)];
    if let Some(place) = places.into_iter().flatten().next() {
        return Namespace::any_at(&place).map_err(|error| {
            let place = place.display();
            let text = format!("the network namespace {place} can't be opened: {error}");
            io::Error::new(error.kind(), text)
        });
    }
    match name.parse() {
        Ok(inode) => with_inode(inode).unwrap_or_else(|| Err(unknown(name))),
        Err(_) => Err(unknown(name)),
    }
}

/// That of this thread.
pub fn own() -> io::Result<Namespace> {
    Namespace::any_at(Path::new(OWN))
}

fn of_process(name: &str) -> Option<PathBuf> {
    let pid: u32 = name.parse().ok()?;
    let process = PathBuf::from(format!("/proc/{pid}"));
    process.is_dir().then(|| process.join("ns/net"))
}

fn of_file(name: &str) -> Option<PathBuf> {
    // No way out of the directory.
    let mut parts = Path::new(name).components();
    let (Some(Component::Normal(file)), None) = (parts.next(), parts.next()) else {
        return None;
    };
    let files = DIRECTORIES.map(|directory| Path::new(directory).join(file));
    files.into_iter().find(|file| file.exists())
}

fn with_inode(inode: u32) -> Option<io::Result<Namespace>> {
    let found = match all() {
        Ok(found) => found,
        Err(error) => {
            let text = format!("network namespaces can't be listed: {error}");
            return Some(Err(io::Error::new(error.kind(), text)));
        }
    };
    found.into_iter().find(|each| each.inode == inode).map(Ok)
}

fn unknown(name: &str) -> io::Error {
    let text = format!(
        "no network namespace {name:?}: give a process id, a name of \"ip netns list\" or an inode number"
    );
    io::Error::new(io::ErrorKind::NotFound, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netns::tests::{elsewhere, here};

    #[test]
    fn knows_processes_and_inodes() {
        let own = std::process::id().to_string();
        assert_eq!(named(&own).unwrap().inode, here());
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        let found = named(&inode.to_string()).unwrap();
        assert_eq!(found.inode, inode);
        assert!(found.file.is_ok());
        drop(leave);
        thread.join().unwrap();
    }

    #[test]
    fn says_what_to_give() {
        for bad in [
            "",
            "no such",
            "..",
            "../../proc",
            "0",
            "-1",
            "4294967295",
            "99999999999",
        ] {
            let error = named(bad).unwrap_err().to_string();
            let expected = format!("no network namespace {bad:?}: give a process id, ");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
