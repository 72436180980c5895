//! The source address that the kernel chooses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    slice,
};

use super::{Namespace, in_each};

/// Whatever port: no packet is sent.
const PORT: u16 = 9;

/// The source address of a connection from this namespace to that address, if nobody chooses another.
pub fn source_for(namespace: &Namespace, to: IpAddr) -> io::Result<IpAddr> {
    let to = to.to_canonical();
    let mut found = in_each(slice::from_ref(namespace), |_| Ok(of_thread(to)))?;
    let none = || Err(io::ErrorKind::NotFound.into());
    let source = found.pop().unwrap_or_else(none)?;
    source.map_err(|error| {
        let inode = namespace.inode;
        let text = format!("network namespace {inode} has no way to {to}: {error}");
        io::Error::new(error.kind(), text)
    })
}

/// A UDP socket that connects chooses as a TCP socket does, and sends nothing.
fn of_thread(to: IpAddr) -> io::Result<IpAddr> {
    let any = match to {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((to, PORT))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netns::{all, tests::elsewhere};

    #[test]
    fn knows_where_there_is_a_way() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        let namespaces = all().unwrap();
        for to in ["127.0.0.1", "::ffff:127.0.0.5"] {
            let source = source_for(&namespaces[0], to.parse().unwrap());
            assert_eq!(source.unwrap(), IpAddr::from(Ipv4Addr::LOCALHOST), "{to}");
        }
        // Nothing is up in a new one.
        let there = namespaces.iter().find(|each| each.inode == inode).unwrap();
        let error = source_for(there, "192.0.2.1".parse().unwrap()).unwrap_err();
        let expected = format!("network namespace {inode} has no way to 192.0.2.1: ");
        assert!(error.to_string().starts_with(&expected), "{error}");
        drop(leave);
        thread.join().unwrap();
    }
}
