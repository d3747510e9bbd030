//! A disk that is a file on an NFS server: version 3 over TCP, in this process, so that no kernel caches for it.

use std::io;
use std::net::ToSocketAddrs;
use std::time::Duration;

use nfs3_client::nfs3_types::nfs3::{
    GETATTR3args, LOOKUP3args, Nfs3Result, READ3args, diropargs3, filename3, nfs_fh3, nfsstat3,
};
use nfs3_client::nfs3_types::rpc::{auth_unix, opaque_auth};
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use nfs3_client::tokio::{TokioConnector, TokioIo};
use nfs3_client::{Nfs3Connection, Nfs3ConnectionBuilder};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::nbd::ANSWER_TIMEOUT;

/// Servers take 1 MiB a read as a rule; this much, all of them take.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Long enough for a server far away, short enough for a person who mistyped a host.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct NfsDisk {
    runtime: Runtime,
    connection: Nfs3Connection<TokioIo<TcpStream>>,
    file: nfs_fh3,
    bytes: u64,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for NfsDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NfsDisk").field("file", &self.file).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl NfsDisk {
    pub(crate) fn open(host: &str, port: Option<u16>, mount_port: Option<u16>, path: &str) -> io::Result<NfsDisk> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let address = (host, 0).to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the host has no address"))?;
        let host = address.ip().to_string();
        let opening = async { tokio::time::timeout(MOUNT_TIMEOUT, open(&host, port, mount_port, path)).await };
        let (connection, file, bytes) = runtime.block_on(opening).map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(NfsDisk { runtime, connection, file, bytes, buffer: Vec::new() })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn read(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        self.buffer.clear();
        while self.buffer.len() < bytes {
            let args = READ3args {
                file: self.file.clone(),
                offset: offset + self.buffer.len() as u64,
                count: (bytes - self.buffer.len()).min(READ_BYTES_MAX) as u32,
            };
            let connection = &mut self.connection;
            let reading = async { tokio::time::timeout(ANSWER_TIMEOUT, connection.read(&args)).await };
            let answer = self.runtime.block_on(reading).map_err(|_| io::ErrorKind::TimedOut)?;
            match answer.map_err(io::Error::other)? {
                Nfs3Result::Ok(read) if read.data.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Nfs3Result::Ok(read) => self.buffer.extend_from_slice(&read.data),
                Nfs3Result::Err((status, _)) => return Err(refused("reading", status)),
            }
        }
        Ok(&self.buffer[..bytes])
    }
}

type Opened = (Nfs3Connection<TokioIo<TcpStream>>, nfs_fh3, u64);

/// Mounts the nearest folder above `path` that the server exports, and finds the file below it.
async fn open(host: &str, port: Option<u16>, mount_port: Option<u16>, path: &str) -> io::Result<Opened> {
    let mut refusal = None;
    for (at, _) in path.rmatch_indices('/') {
        let folder = if at == 0 { "/" } else { &path[..at] };
        match mount(host, port, mount_port, folder).await {
            Ok(connection) => return find(connection, &path[at..]).await,
            // Only a refusal by the server can mean that the export is higher up.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| io::Error::other("it names no file")))
}

async fn mount(
    host: &str,
    port: Option<u16>,
    mount_port: Option<u16>,
    folder: &str,
) -> io::Result<Nfs3Connection<TokioIo<TcpStream>>> {
    let root = auth_unix { machinename: Opaque::borrowed(b"icbd-storm"), ..auth_unix::default() };
    let mut builder =
        Nfs3ConnectionBuilder::new(TokioConnector, host, folder).credential(opaque_auth::auth_unix(&root));
    if let Some(port) = port {
        builder = builder.nfs3_port(port);
    }
    if let Some(port) = mount_port {
        builder = builder.mount_port(port);
    }
    builder.mount().await.map_err(|error| match error {
        nfs3_client::ConnectError::Io(error) => error,
        nfs3_client::ConnectError::Mount(status) => {
            io::Error::new(io::ErrorKind::PermissionDenied, format!("mounting {folder}: {status}"))
        }
        other => io::Error::other(other),
    })
}

/// Looks `below` up, a part at a time, and asks for the file's size.
async fn find(mut connection: Nfs3Connection<TokioIo<TcpStream>>, below: &str) -> io::Result<Opened> {
    let mut at = connection.root_nfs_fh3();
    for name in below.split('/').filter(|name| !name.is_empty()) {
        let what = diropargs3 { dir: at, name: filename3(Opaque::borrowed(name.as_bytes())) };
        at = match connection.lookup(&LOOKUP3args { what }).await.map_err(io::Error::other)? {
            Nfs3Result::Ok(found) => found.object,
            Nfs3Result::Err((status, _)) => return Err(refused(name, status)),
        };
    }
    match connection.getattr(&GETATTR3args { object: at.clone() }).await.map_err(io::Error::other)? {
        Nfs3Result::Ok(found) => Ok((connection, at, found.obj_attributes.size)),
        Nfs3Result::Err((status, _)) => Err(refused("asking for the size", status)),
    }
}

fn refused(what: &str, status: nfsstat3) -> io::Error {
    let kind = match status {
        nfsstat3::NFS3ERR_NOENT => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{what}: the server answered {status:?}"))
}
