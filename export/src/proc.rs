//! What the kernel tells of a process in `/proc/PID`: its connections and its mounts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// TCP states of the kernel.
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

/// TCP connections of a network namespace, with both ends.
#[derive(Debug)]
pub(crate) struct Sockets {
    established: Vec<(SocketAddr, SocketAddr)>,
    listening: Vec<SocketAddr>,
}

impl Sockets {
    /// What `net/tcp` and `net/tcp6` say.
    pub(crate) fn of(tables: [&[u8]; 2]) -> Sockets {
        let lines = || tables.into_iter().flat_map(|table| table.split(|byte| *byte == b'\n'));
        let lines = |state| lines().filter_map(move |line| sockets_in(std::str::from_utf8(line).ok()?, state));
        let listening = lines(LISTENING).map(|(local, _)| local).collect();
        Sockets { established: lines(ESTABLISHED).collect(), listening }
    }

    /// The other ends of connections to ports; in order, each once.
    pub(crate) fn clients(&self, is_port: impl Fn(u16) -> bool) -> BTreeSet<IpAddr> {
        let there = self.established.iter().filter(|(local, _)| is_port(local.port()));
        there.map(|(_, remote)| remote.ip()).collect()
    }

    /// Where somebody listens at ports.
    pub(crate) fn portals(&self, is_port: impl Fn(u16) -> bool) -> Vec<SocketAddr> {
        self.listening.iter().copied().filter(|local| is_port(local.port())).collect()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) id: u64,
    pub(crate) point: PathBuf,
    pub(crate) is_fuse: bool,
}

impl Mount {
    /// The one on which a path lies.
    pub(crate) fn over<'a>(table: &'a [Mount], path: &Path) -> Option<&'a Mount> {
        let over = table.iter().filter(|mount| path.starts_with(&mount.point));
        // Of those at the same point the last one shows.
        over.max_by_key(|mount| mount.point.as_os_str().len())
    }
}

/// What `mountinfo` says, in its order.
pub(crate) fn mounts_in(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(mount_in).collect()
}

/// A line of `/proc/PID/mountinfo`.
fn mount_in(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescaped(fields.nth(3)?)?;
    // Behind a list that may be empty.
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { id, point: PathBuf::from(std::ffi::OsStr::from_bytes(&point)), is_fuse: kind.starts_with(b"fuse") })
}

/// Text in which spaces and the like are written as three octal digits behind a backslash, as the kernel and the programs of
/// its NFS server do.
pub(crate) fn unescaped(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    while let Some(at) = text.iter().position(|byte| *byte == b'\\') {
        let digits = std::str::from_utf8(text.get(at + 1..at + 4)?).ok()?;
        plain.extend_from_slice(&text[..at]);
        plain.push(u8::from_str_radix(digits, 8).ok()?);
        text = &text[at + 4..];
    }
    plain.extend_from_slice(text);
    Some(plain)
}

/// A line of `/proc/PID/net/tcp` or `tcp6`, if it is in a state: both ends.
fn sockets_in(line: &str, state: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote) = (fields.next()?, fields.next()?);
    (fields.next()? == state).then_some((socket(local)?, socket(remote)?))
}

/// The address is in words of the machine's own order, the port is a number.
fn socket(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::V4(Ipv4Addr::from(bytes)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    // What is of IPv4 may be written as IPv6.
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let v4 = "   1: 0201A8C0:0801 1101A8C0:03E7 01 00000000:00000000 02:000003E8 00000000     0        0 41 2 0 20 4 30 10 -1";
        let ends = |local: &str, remote: &str| Some((local.parse().unwrap(), remote.parse().unwrap()));
        if cfg!(target_endian = "little") {
            assert_eq!(sockets_in(v4, ESTABLISHED), ends("192.168.1.2:2049", "192.168.1.17:999"));
            let v6 = "   0: 0000000000000000FFFF00000201A8C0:0801 00000000000000000000000001000000:03E7 0A 0:0";
            assert_eq!(sockets_in(v6, LISTENING), ends("192.168.1.2:2049", "[::1]:999"));
        }
        assert_eq!(sockets_in(v4, LISTENING), None);
        assert_eq!(sockets_in("  sl  local_address rem_address   st", ESTABLISHED), None);
        let mount = b"44 96 0:40 / /srv/a\\040b ro,nosuid master:2 - fuse.icbd icbd ro";
        assert_eq!(mount_in(mount), Some(Mount { id: 44, point: "/srv/a b".into(), is_fuse: true }));
        let root = mount_in(b"1 0 254:0 / / rw - ext4 /dev/vda rw");
        assert_eq!(root, Some(Mount { id: 1, point: "/".into(), is_fuse: false }));
        assert_eq!((mount_in(b""), mount_in(b"44 96 0:40 / /srv/\\0 ro - fuse.icbd icbd ro")), (None, None));
    }
}
