//! From the path of a cgroup to the container in it.

use crate::record::Container;

/// Names that container runtimes give the cgroup of a container: prefix of the path's part, its
/// suffix, and the runtime. The systemd cgroup driver makes scopes, the cgroupfs driver bare ids.
const SCOPES: [(&str, &str, &str); 8] = [
    ("docker-", ".scope", "docker"),
    ("cri-containerd-", ".scope", "containerd"),
    ("nerdctl-", ".scope", "containerd"),
    ("crio-", ".scope", "cri-o"),
    ("crio-", "", "cri-o"),
    ("libpod-", ".scope", "podman"),
    ("libpod-", "", "podman"),
    // In the unit of a Quadlet (`cgroups=split`).
    ("libpod-payload-", "", "podman"),
];

/// Where a runtime hands the systemd driver's `SLICE:PREFIX:ID` to the cgroupfs driver, that is the name.
const PREFIXES: [(&str, &str); 2] = [("cri-containerd", "containerd"), ("crio", "cri-o")];

/// Parents whose children are named by the bare id.
const PARENTS: [(&str, &str); 3] = [
    ("docker", "docker"),
    ("kubepods", "containerd"),
    ("libpod_parent", "podman"),
];

/// The innermost container on a path, else the systemd service (`runtime` "systemd").
pub fn of_cgroup(path: &str) -> Option<Container> {
    let parts: Vec<&str> = path.split('/').collect();
    let container = (0..parts.len()).rev().find_map(|at| {
        let part = parts[at];
        let named = scope(part).or_else(|| triple(part));
        named.or_else(|| bare(part, &parts[..at]))
    });
    container.or_else(|| service(&parts))
}

fn scope(part: &str) -> Option<Container> {
    SCOPES.iter().find_map(|(prefix, suffix, runtime)| {
        let id = part.strip_prefix(prefix)?.strip_suffix(suffix)?;
        is_id(id).then(|| container(runtime, id))
    })
}

fn triple(part: &str) -> Option<Container> {
    let (before, id) = part.rsplit_once(':').filter(|(_, id)| is_id(id))?;
    let (_, prefix) = before.rsplit_once(':')?;
    let found = PREFIXES.iter().find(|(name, _)| *name == prefix);
    found.map(|(_, runtime)| container(runtime, id))
}

fn bare(part: &str, parents: &[&str]) -> Option<Container> {
    if !is_id(part) {
        return None;
    }
    // The nearest parent decides: a container may run in a container of another runtime.
    let runtime = parents.iter().rev().find_map(|part| runtime_below(part));
    runtime.map(|runtime| container(runtime, part))
}

fn runtime_below(parent: &str) -> Option<&'static str> {
    // All that a path shows of Kubernetes from the cgroup namespace of another pod.
    if parent.strip_prefix("pod").is_some_and(is_uuid) {
        return runtime_below("kubepods");
    }
    let name = parent.split('.').next();
    let found = PARENTS.iter().find(|(parent, _)| name == Some(*parent));
    found.map(|(_, runtime)| *runtime)
}

fn service(parts: &[&str]) -> Option<Container> {
    let unit = parts.iter().rev().find(|part| part.ends_with(".service"))?;
    Some(container("systemd", unit))
}

fn container(runtime: &'static str, id: &str) -> Container {
    Container {
        runtime,
        id: id.into(),
    }
}

/// Runtimes use SHA-256 in hex.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_uuid(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    text.len() == 36 && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904b825dc642cb6eb9a060e54bf";

    #[test]
    fn knows_the_runtimes() {
        for (path, runtime) in [
            ("/system.slice/docker-ID.scope", "docker"),
            ("/docker/ID", "docker"),
            (
                "/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope",
                "containerd",
            ),
            ("/kubepods/besteffort/pod1/ID", "containerd"),
            ("/docker/ID/kubelet/kubepods/pod1/ID", "containerd"),
            ("/kubepods.slice/docker/ID", "docker"),
            ("/system.slice/nerdctl-ID.scope", "containerd"),
            (
                "/kubepods.slice/kubepods-pod1.slice/crio-ID.scope/container",
                "cri-o",
            ),
            ("/machine.slice/libpod-ID.scope", "podman"),
            (
                "/user.slice/user-0.slice/libpod-ID.scope/container",
                "podman",
            ),
            ("/system.slice/web.service/libpod-payload-ID", "podman"),
            (
                "/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:ID",
                "containerd",
            ),
            ("/system.slice/kubepods-pod1.slice:crio:ID", "cri-o"),
            // From another cgroup namespace.
            (
                "/../../kubepods-pod1.slice/cri-containerd-ID.scope",
                "containerd",
            ),
            (
                "/../../pod2c48913c-b29f-11e7-9350-020968147796/ID",
                "containerd",
            ),
        ] {
            let found = of_cgroup(&path.replace("ID", ID));
            assert_eq!(found, Some(container(runtime, ID)), "{path}");
        }
    }

    #[test]
    fn a_unit_is_named_when_there_is_no_container() {
        let found = of_cgroup("/system.slice/nginx.service");
        assert_eq!(found, Some(container("systemd", "nginx.service")));
        assert_eq!(of_cgroup("/user.slice/user-0.slice/session-1.scope"), None);
        assert_eq!(of_cgroup("/"), None);
        assert_eq!(of_cgroup("/docker/not-an-id"), None);
    }
}
