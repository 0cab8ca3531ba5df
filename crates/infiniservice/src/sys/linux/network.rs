//! Network interfaces: getifaddrs(3) and /proc/net/dev.

use std::collections::BTreeMap;
use std::net::IpAddr;

use guest_protocol::facts::Interface;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use super::procfs;
use crate::sys::{ReadError, Scratch};

/// The most addresses that are told of one interface. A machine that holds
/// more is a router, and its list is not for a report every few seconds.
const MAX_ADDRESSES: usize = 64;

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's name.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// The prefix's length.
    pub prefix: u32,
}

/// How far the network is, as the lifecycle wants to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reachability {
    /// An interface that is up and has a carrier.
    pub online: Option<String>,
    /// An address with which the guest can be reached from elsewhere.
    pub address: Option<Address>,
}

/// The interfaces except the loopback, at most `limit`, without rates.
pub fn interfaces(
    limit: usize,
    scratch: &mut Scratch,
) -> Result<BTreeMap<String, Interface>, ReadError> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in entries()? {
        if !found.contains_key(&entry.interface_name) && found.len() == limit {
            continue;
        }
        let interface = found.entry(entry.interface_name.clone()).or_default();
        interface.up = is_up(entry.flags);
        if let Some(mac) = hardware_address(&entry) {
            interface.mac = Some(mac);
        } else if let Some(address) = address(&entry)
            && interface.addresses.len() < MAX_ADDRESSES
        {
            interface.addresses.push(format!("{}/{}", address.ip, address.prefix));
        }
    }
    for (name, received, sent) in parse_dev(procfs::read("/proc/net/dev", scratch)?) {
        if let Some(interface) = std::str::from_utf8(name).ok().and_then(|it| found.get_mut(it)) {
            (interface.received_bytes, interface.sent_bytes) = (received, sent);
        }
    }
    for interface in found.values_mut() {
        interface.addresses.sort_unstable();
    }
    Ok(found)
}

/// How far the network is.
pub fn reachability() -> Result<Reachability, ReadError> {
    let mut reached = Reachability::default();
    for entry in entries()?.filter(|entry| is_up(entry.flags)) {
        let address = address(&entry).filter(|address| reaches_beyond_the_link(address.ip));
        // IPv4 wins, because most people look for it.
        if let Some(address) = address
            && (address.ip.is_ipv4() || reached.address.is_none())
        {
            reached.address = Some(address);
        }
        reached.online.get_or_insert(entry.interface_name);
    }
    Ok(reached)
}

fn entries() -> Result<impl Iterator<Item = InterfaceAddress>, ReadError> {
    let all = getifaddrs()
        .map_err(|error| ReadError::Refused { what: "getifaddrs".into(), source: error.into() })?;
    Ok(all.filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)))
}

fn is_up(flags: InterfaceFlags) -> bool {
    flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING)
}

fn hardware_address(entry: &InterfaceAddress) -> Option<String> {
    let address = entry.address?.as_link_addr()?.addr()?;
    // Tunnels have an address of zeros.
    (address != [0; 6]).then(|| {
        let [a, b, c, d, e, f] = address;
        format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    })
}

fn address(entry: &InterfaceAddress) -> Option<Address> {
    let ip = ip(entry.address.as_ref()?)?;
    let prefix = match entry.netmask.as_ref().and_then(self::ip) {
        Some(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
        Some(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
        None if ip.is_ipv4() => 32,
        None => 128,
    };
    Some(Address { interface: entry.interface_name.clone(), ip, prefix })
}

fn ip(storage: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

fn reaches_beyond_the_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_unspecified() && !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_unspecified() && !ip.is_loopback(),
    }
}

/// Names with received and sent bytes.
fn parse_dev(text: &[u8]) -> impl Iterator<Item = (&[u8], u64, u64)> {
    procfs::lines(text).filter_map(|line| {
        let colon = line.iter().rposition(|&byte| byte == b':')?;
        let mut numbers = procfs::fields(&line[colon + 1..]).map(procfs::number);
        let received = numbers.next()??;
        let sent = numbers.nth(7)??;
        Some((line[..colon].trim_ascii(), received, sent))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counters_are_read_past_the_headings() {
        let text = b"Inter-|   Receive   |  Transmit\n face |bytes packets|bytes packets\n\
            \x20 eth0:12345 10 0 0 0 0 0 0 6789 20 0 0 0 0 0 0\n eth0:1: 5 0 0 0 0 0 0 0 6 0\n";
        let all: Vec<_> = parse_dev(text).collect();
        assert_eq!(all, [(&b"eth0"[..], 12345, 6789), (&b"eth0:1"[..], 5, 6)]);
    }

    #[test]
    fn addresses_of_the_link_are_no_addresses_to_be_reached_at() {
        for (text, reaches) in [
            ("10.0.2.15", true),
            ("169.254.3.4", false),
            ("fe80::1", false),
            ("fd00::1", true),
            ("::1", false),
        ] {
            assert_eq!(reaches_beyond_the_link(text.parse().unwrap()), reaches, "{text}");
        }
    }

    #[test]
    fn this_machines_interfaces_are_read_without_the_loopback() {
        let all = interfaces(16, &mut Scratch::new()).unwrap();
        assert!(!all.contains_key("lo"));
        for interface in all.values() {
            assert!(interface.addresses.is_sorted());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            parse_dev(&text).count();
        }
    }
}
