//! A read-only NBD client: fixed newstyle handshake, simple replies, one request at a time.
//!
//! Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A server that says nothing for so long is gone; no read of a storm may take longer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

const SERVER_MAGIC: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const OPTION_EXPORT_NAME: u32 = 1;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const COMMAND_READ: u16 = 0;
/// The longest name that the protocol allows.
const EXPORT_BYTES_MAX: usize = 4096;

trait Stream: Read + Write + Send + std::fmt::Debug {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

#[derive(Debug)]
pub(crate) struct NbdDisk {
    stream: Box<dyn Stream>,
    bytes: u64,
    cookie: u64,
    buffer: Vec<u8>,
}

impl NbdDisk {
    pub(crate) fn connect(address: (&str, u16), export: &str) -> io::Result<NbdDisk> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        NbdDisk::handshake(Box::new(stream), export)
    }

    pub(crate) fn connect_unix(socket: &Path, export: &str) -> io::Result<NbdDisk> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        NbdDisk::handshake(Box::new(stream), export)
    }

    fn handshake(mut stream: Box<dyn Stream>, export: &str) -> io::Result<NbdDisk> {
        let mut hello = [0; 18];
        stream.read_exact(&mut hello)?;
        let flags = u16::from_be_bytes([hello[16], hello[17]]);
        if hello[..16] != *SERVER_MAGIC || flags & FIXED_NEWSTYLE == 0 {
            return Err(io::Error::other("it does not speak NBD as of 2013 or later"));
        }
        if export.len() > EXPORT_BYTES_MAX {
            return Err(io::Error::other("the name of the export is too long"));
        }
        let flags = flags & (FIXED_NEWSTYLE | NO_ZEROES);
        let mut options = u32::from(flags).to_be_bytes().to_vec();
        options.extend(OPTION_MAGIC);
        options.extend(OPTION_EXPORT_NAME.to_be_bytes());
        options.extend((export.len() as u32).to_be_bytes());
        options.extend(export.as_bytes());
        stream.write_all(&options)?;
        // Size, flags, and zeroes that were agreed away where both can.
        let mut answer = [0; 10 + 124];
        let answer = if flags & NO_ZEROES != 0 { &mut answer[..10] } else { &mut answer[..] };
        stream.read_exact(answer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other(format!("it has no export {export:?}")),
            _ => error,
        })?;
        let bytes = u64::from_be_bytes(answer[..8].try_into().expect("eight bytes"));
        Ok(NbdDisk { stream, bytes, cookie: 0, buffer: Vec::new() })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn read(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        self.cookie += 1;
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend(0u16.to_be_bytes());
        request.extend(COMMAND_READ.to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend((bytes as u32).to_be_bytes());
        self.stream.write_all(&request)?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        let error = u32::from_be_bytes([reply[4], reply[5], reply[6], reply[7]]);
        if reply[..4] != REPLY_MAGIC.to_be_bytes() || reply[8..] != self.cookie.to_be_bytes() {
            return Err(io::Error::other("the server's answer is to nothing that was asked"));
        }
        if error != 0 {
            return Err(io::Error::other(format!("the server answered with NBD error {error}")));
        }
        self.buffer.resize(bytes, 0);
        self.stream.read_exact(&mut self.buffer)?;
        Ok(&self.buffer)
    }
}
