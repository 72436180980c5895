//! What `--metrics` names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where metrics are served.
pub type Address = SocketAddr;

/// From `IP:PORT` or `PORT`, which is on loopback only.
pub fn parse(text: &str) -> Result<Address, String> {
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let port = text.strip_prefix(':').unwrap_or(text);
    let port = port.parse::<u16>().map(local);
    match port.or_else(|_| text.parse::<SocketAddr>()) {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err(
            "give a port, which is served on loopback only, or an address with a port, such as 9464, 127.0.0.1:9464, \
             [::1]:9464 or 0.0.0.0:9464"
                .into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn who_names_no_address_means_loopback() {
        for (text, address) in [
            ("9464", "127.0.0.1:9464"),
            (":9464", "127.0.0.1:9464"),
            ("127.0.0.1:9464", "127.0.0.1:9464"),
            ("[::1]:9464", "[::1]:9464"),
            ("0.0.0.0:9464", "0.0.0.0:9464"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            ":",
            "0",
            "127.0.0.1",
            "127.0.0.1:0",
            "localhost:9464",
            "65536",
            "[::1]",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
