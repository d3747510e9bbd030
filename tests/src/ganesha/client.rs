//! Clients of NFS: a tool that reads slowly, and one of the test's own, which keeps file handles as a kernel does.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const DEADLINE: Duration = Duration::from_secs(20);
/// What a reader takes at once.
const PIECE: usize = 1 << 20;
const NFS: (u32, u16) = (100_003, 2049);
const MOUNT: (u32, u16) = (100_005, 20048);
/// RFC 5531: a call, version 2; credentials of a user of a system; the last fragment of a record.
const CALL: u32 = 0;
const RPC_VERSION: u32 = 2;
const AUTH_SYS: u32 = 1;
const LAST_FRAGMENT: u32 = 1 << 31;
/// RFC 7530.
const OP_GETFH: u32 = 10;
const OP_LOOKUP: u32 = 15;
const OP_PUTFH: u32 = 22;
const OP_PUTROOTFH: u32 = 24;
const OP_READ: u32 = 25;

/// What a server calls a file, by one version of NFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHandle(Vec<u8>);

/// Calls of NFS as root, one at a time, each answered or refused with the status that the server gave.
#[derive(Debug, Clone, Copy)]
pub struct Nfs(pub IpAddr);

/// Words of four bytes, as XDR has them.
#[derive(Debug, Default)]
struct Words(Vec<u8>);

#[derive(Debug)]
struct Answer(std::io::Cursor<Vec<u8>>);

impl Nfs {
    /// The handle of a file below a path that is exported, which is mounted.
    pub fn handle_3(self, exported: &str, below: &[&str]) -> Result<FileHandle> {
        let mut answer = self.call(MOUNT, 3, 1, Words::default().opaque(exported.as_bytes()))?;
        answer.status().with_context(|| format!("mounting {exported}"))?;
        let mut handle = FileHandle(answer.opaque()?);
        for name in below {
            let mut answer = self.call(NFS, 3, 3, Words::default().opaque(&handle.0).opaque(name.as_bytes()))?;
            answer.status().with_context(|| format!("looking {name} up"))?;
            handle = FileHandle(answer.opaque()?);
        }
        Ok(handle)
    }

    /// The handle of a file by its way from the server's root.
    pub fn handle_4(self, way: &[&str]) -> Result<FileHandle> {
        let root = (OP_PUTROOTFH, Words::default());
        let lookups = way.iter().map(|name| (OP_LOOKUP, Words::default().opaque(name.as_bytes())));
        let operations: Vec<_> = [root].into_iter().chain(lookups).chain([(OP_GETFH, Words::default())]).collect();
        Ok(FileHandle(self.compound(operations).with_context(|| format!("looking {way:?} up"))?.opaque()?))
    }

    /// Up to `count` bytes of a file.
    pub fn read_3(self, file: &FileHandle, offset: u64, count: u32) -> Result<Vec<u8>> {
        const ATTRIBUTES_BYTES: usize = 84;
        let mut answer = self.call(NFS, 3, 6, Words::default().opaque(&file.0).long(offset).word(count))?;
        answer.status().context("reading by version 3")?;
        if answer.word()? == 1 {
            answer.skip(ATTRIBUTES_BYTES)?;
        }
        let (_count, _is_end) = (answer.word()?, answer.word()?);
        answer.opaque()
    }

    /// The same with a state that is nobody's.
    pub fn read_4(self, file: &FileHandle, offset: u64, count: u32) -> Result<Vec<u8>> {
        const STATE_WORDS: usize = 4;
        let stateless = (0..STATE_WORDS).fold(Words::default(), |words, _| words.word(0));
        let operations =
            vec![(OP_PUTFH, Words::default().opaque(&file.0)), (OP_READ, stateless.long(offset).word(count))];
        let mut answer = self.compound(operations).context("reading by version 4")?;
        let _is_end = answer.word()?;
        answer.opaque()
    }

    /// What the last of several operations answers; those before it answer nothing but their status.
    fn compound(self, operations: Vec<(u32, Words)>) -> Result<Answer> {
        let count = operations.len();
        let head = Words::default().opaque(b"").word(0).word(count as u32);
        let words = operations.into_iter().fold(head, |words, (operation, arguments)| {
            let mut words = words.word(operation);
            words.0.extend(arguments.0);
            words
        });
        let mut answer = self.call(NFS, 4, 1, words)?;
        answer.status()?;
        let (_tag, _count) = (answer.opaque()?, answer.word()?);
        for _ in 0..count {
            answer.word()?;
            answer.status()?;
        }
        Ok(answer)
    }

    fn call(self, (program, port): (u32, u16), version: u32, procedure: u32, arguments: Words) -> Result<Answer> {
        let mut stream = TcpStream::connect_timeout(&(self.0, port).into(), DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        // Stamp, name of the machine, root, its group, no others.
        let credentials = Words::default().word(0).opaque(b"test").word(0).word(0).word(0);
        let head = Words::default().word(1).word(CALL).word(RPC_VERSION).word(program).word(version).word(procedure);
        let mut call = head.word(AUTH_SYS).opaque(&credentials.0).word(0).word(0);
        call.0.extend(arguments.0);
        let record = LAST_FRAGMENT | call.0.len() as u32;
        stream.write_all(&[&record.to_be_bytes(), &*call.0].concat())?;
        let mut bytes = Vec::new();
        loop {
            let mut record = [0; 4];
            stream.read_exact(&mut record)?;
            let record = u32::from_be_bytes(record);
            let start = bytes.len();
            bytes.resize(start + (record & !LAST_FRAGMENT) as usize, 0);
            stream.read_exact(&mut bytes[start..])?;
            if record & LAST_FRAGMENT != 0 {
                break;
            }
        }
        let mut answer = Answer(std::io::Cursor::new(bytes));
        let (_xid, _reply) = (answer.word()?, answer.word()?);
        ensure!(answer.word()? == 0, "the call was denied");
        let (_flavour, _verifier) = (answer.word()?, answer.opaque()?);
        ensure!(answer.word()? == 0, "the call was not accepted");
        Ok(answer)
    }
}

impl Words {
    fn word(mut self, word: u32) -> Words {
        self.0.extend(word.to_be_bytes());
        self
    }

    fn long(self, long: u64) -> Words {
        self.word((long >> 32) as u32).word(long as u32)
    }

    fn opaque(self, bytes: &[u8]) -> Words {
        let mut words = self.word(bytes.len() as u32);
        words.0.extend(bytes);
        words.0.resize(words.0.len().next_multiple_of(4), 0);
        words
    }
}

impl Answer {
    fn word(&mut self) -> Result<u32> {
        let mut word = [0; 4];
        self.0.read_exact(&mut word)?;
        Ok(u32::from_be_bytes(word))
    }

    fn status(&mut self) -> Result<()> {
        match self.word()? {
            0 => Ok(()),
            status => bail!("status {status}"),
        }
    }

    fn opaque(&mut self) -> Result<Vec<u8>> {
        let count = self.word()? as usize;
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes)?;
        self.skip(count.next_multiple_of(4) - count)?;
        Ok(bytes)
    }

    fn skip(&mut self, count: usize) -> Result<()> {
        Ok(self.0.read_exact(&mut vec![0; count])?)
    }
}

/// `nfs-cat`, which waits for whoever takes what it has read: one connection, however often its server is killed.
#[derive(Debug)]
pub struct NfsReader {
    child: Child,
    bytes: ChildStdout,
}

impl NfsReader {
    pub fn start(url: &str) -> Result<NfsReader> {
        let mut command = Command::new("nfs-cat");
        command.arg(url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting nfs-cat; install the package libnfs-utils")?;
        let bytes = child.stdout.take().context("its output")?;
        Ok(NfsReader { child, bytes })
    }

    /// The next bytes, as many as are asked for.
    pub fn next(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            ensure!(self.more(count - bytes.len(), &mut bytes)? > 0, "nfs-cat: {}", self.said());
        }
        Ok(bytes)
    }

    /// All that is left; fails where it ended with an error.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while self.more(PIECE, &mut bytes)? > 0 {}
        let status = self.child.wait()?;
        ensure!(status.success(), "nfs-cat: {status} {}", self.said());
        Ok(bytes)
    }

    /// Waits for bytes, at most so many, or for its end.
    fn more(&mut self, count: usize, bytes: &mut Vec<u8>) -> Result<usize> {
        let mut ready = [PollFd::new(self.bytes.as_fd(), PollFlags::POLLIN)];
        ensure!(poll(&mut ready, PollTimeout::try_from(DEADLINE)?)? == 1, "nfs-cat read nothing within {DEADLINE:?}");
        let start = bytes.len();
        bytes.resize(start + count.min(PIECE), 0);
        let count = self.bytes.read(&mut bytes[start..])?;
        bytes.truncate(start + count);
        Ok(count)
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.as_mut().map(|errors| errors.read_to_string(&mut said));
        said
    }
}

impl Drop for NfsReader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
