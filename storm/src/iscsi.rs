//! A small iSCSI initiator that only reads: one session, one connection, one command at a time, no authentication.
//!
//! Source: RFC 7143 for the PDUs, SBC-3 for READ (16) and READ CAPACITY (16).

mod pdu;

use std::io;
use std::net::TcpStream;

use pdu::{Answer, Header, Opcode};

use crate::nbd::ANSWER_TIMEOUT;

/// What it offers and asks for; every target takes these.
const KEYS: &str = "SessionType=Normal\0HeaderDigest=None\0DataDigest=None\0MaxRecvDataSegmentLength=262144\0\
    MaxBurstLength=1048576\0FirstBurstLength=65536\0InitialR2T=Yes\0ImmediateData=No\0MaxConnections=1\0\
    MaxOutstandingR2T=1\0ErrorRecoveryLevel=0\0DefaultTime2Wait=0\0DefaultTime2Retain=0\0";
/// Transit to the full feature phase, from operational negotiation.
const LOGIN_TRANSIT: u8 = 0x80 | 1 << 2 | 3;
/// A target that negotiates longer than this wants something that is not offered here.
const LOGIN_ROUNDS_MAX: u32 = 4;
/// What a target may have to tell first (power on, changed capacity), each once.
const ATTENTIONS_MAX: u32 = 4;
/// Final, read, simple task.
const READ_FLAGS: u8 = 0x80 | 0x40 | 1;
const CHECK_CONDITION: u8 = 2;
const UNIT_ATTENTION: u8 = 6;
/// Pieces of a read: targets limit one command's transfer, commonly to 512 KiB or more.
const COMMAND_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) struct IscsiDisk {
    stream: TcpStream,
    lun: u8,
    command: u32,
    status: u32,
    block_bytes: u64,
    blocks: u64,
    buffer: Vec<u8>,
}

impl IscsiDisk {
    /// Logs in as `initiator`, or else as one of its own for `client`: a target ends the older of two sessions with one name.
    pub(crate) fn login(
        address: (&str, u16),
        name: &str,
        lun: u8,
        initiator: Option<&str>,
        client: u32,
    ) -> io::Result<IscsiDisk> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut disk =
            IscsiDisk { stream, lun, command: 1, status: 0, block_bytes: 512, blocks: 0, buffer: Vec::new() };
        disk.negotiate(name, initiator, client)?;
        let capacity = disk.read_capacity()?;
        let last = u64::from_be_bytes(capacity[..8].try_into().expect("eight bytes"));
        disk.block_bytes = u64::from(u32::from_be_bytes(capacity[8..12].try_into().expect("four bytes")));
        disk.blocks = last.checked_add(1).filter(|_| disk.block_bytes.is_power_of_two()).unwrap_or(0);
        match disk.bytes() {
            0 => Err(io::Error::other("the target says nothing sensible about its size")),
            _ => Ok(disk),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes)
    }

    pub(crate) fn read(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let first = offset / self.block_bytes;
        let end = (offset + bytes as u64).div_ceil(self.block_bytes);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(((end - first) * self.block_bytes) as usize, 0);
        let mut block = first;
        for piece in buffer.chunks_mut(COMMAND_BYTES_MAX) {
            let count = piece.len() as u64 / self.block_bytes;
            let mut command = [0; 16];
            command[0] = 0x88; // READ (16)
            command[2..10].copy_from_slice(&block.to_be_bytes());
            command[10..14].copy_from_slice(&(count as u32).to_be_bytes());
            self.run(command, piece)?;
            block += count;
        }
        self.buffer = buffer;
        let skip = (offset - first * self.block_bytes) as usize;
        Ok(&self.buffer[skip..skip + bytes])
    }

    fn negotiate(&mut self, name: &str, initiator: Option<&str>, client: u32) -> io::Result<()> {
        let own = || format!("iqn.2026-01.org.icbd:storm-{}-{client}", std::process::id());
        let initiator = initiator.map_or_else(own, str::to_owned);
        let mut text = format!("InitiatorName={initiator}\0TargetName={name}\0{KEYS}");
        for _ in 0..LOGIN_ROUNDS_MAX {
            let mut request = Header::new(Opcode::LoginRequest, LOGIN_TRANSIT);
            // A session id of the "random" kind that differs between the clients of this process.
            request.0[8] = 0x80;
            request.put(10, client.max(1));
            request.put(24, self.command);
            request.put(28, self.status);
            request.send(&mut self.stream, text.as_bytes())?;
            let Answer { header, data } = Answer::receive(&mut self.stream)?;
            if header.opcode() != Opcode::LoginResponse as u8 {
                return Err(io::Error::other("it does not answer as an iSCSI target"));
            }
            match (header.0[36], header.0[37]) {
                (0, _) => {}
                (2, 1 | 2) => return Err(io::Error::other("the target asks for a name and password (CHAP)")),
                (2, 3) => return Err(io::Error::new(io::ErrorKind::NotFound, format!("it has no target {name}"))),
                (class, detail) => {
                    return Err(io::Error::other(format!("the login was refused with status {class:02x}{detail:02x}")));
                }
            }
            self.status = header.get(24).wrapping_add(1);
            if header.0[1] & 0x80 != 0 {
                return Ok(());
            }
            if data.windows(10).any(|window| window == b"AuthMethod") {
                break;
            }
            text.clear();
        }
        Err(io::Error::other("the target wants to negotiate what is not offered"))
    }

    fn read_capacity(&mut self) -> io::Result<[u8; 32]> {
        let mut command = [0; 16];
        command[0] = 0x9e; // SERVICE ACTION IN (16)
        command[1] = 0x10; // READ CAPACITY (16)
        let mut capacity = [0; 32];
        command[10..14].copy_from_slice(&(capacity.len() as u32).to_be_bytes());
        self.run(command, &mut capacity)?;
        Ok(capacity)
    }

    /// Runs `command`, which fills `into`; again while the target only has something to announce.
    fn run(&mut self, command: [u8; 16], into: &mut [u8]) -> io::Result<()> {
        for _ in 0..ATTENTIONS_MAX {
            let sense = match self.run_once(command, into)? {
                (0, _) => return Ok(()),
                (CHECK_CONDITION, sense) => sense,
                (status, _) => return Err(io::Error::other(format!("the target answered with SCSI status {status}"))),
            };
            // Two bytes of length, then fixed-format sense data: its key is in byte 2.
            let key = sense.get(4).map(|byte| byte & 0x0f);
            if key != Some(UNIT_ATTENTION) {
                let code = sense.get(14..16).map(|code| (code[0], code[1]));
                return Err(io::Error::other(format!("the target failed with sense key {key:?}, code {code:02x?}")));
            }
        }
        Err(io::Error::other("the target does not come to rest"))
    }

    /// SCSI status and sense data of one round.
    fn run_once(&mut self, command: [u8; 16], into: &mut [u8]) -> io::Result<(u8, Vec<u8>)> {
        let mut request = Header::new(Opcode::ScsiCommand, READ_FLAGS);
        request.0[9] = self.lun;
        request.put(16, self.command);
        request.put(20, into.len() as u32);
        request.put(24, self.command);
        request.put(28, self.status);
        request.0[32..48].copy_from_slice(&command);
        request.send(&mut self.stream, &[])?;
        self.command = self.command.wrapping_add(1);
        let mut received = 0;
        loop {
            let Answer { header, data } = Answer::receive(&mut self.stream)?;
            let is_response = header.opcode() == Opcode::ScsiResponse as u8;
            match header.opcode() {
                code if code == Opcode::DataIn as u8 => {
                    let at = header.get(40) as usize;
                    let part = at.checked_add(data.len()).and_then(|end| into.get_mut(at..end));
                    part.ok_or_else(|| io::Error::other("more data came than was asked for"))?.copy_from_slice(&data);
                    received += data.len();
                }
                code if code == Opcode::NopIn as u8 => self.answer_ping(&header)?,
                _ if is_response => {}
                code => return Err(io::Error::other(format!("the target sent an unexpected PDU {code:#04x}"))),
            }
            let has_status = is_response || header.opcode() == Opcode::DataIn as u8 && header.0[1] & 1 != 0;
            if has_status {
                self.status = header.get(24).wrapping_add(1);
                let status = header.0[3];
                if status == 0 && received != into.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                return Ok((status, if is_response { data } else { Vec::new() }));
            }
        }
    }

    /// A target may ask whether its initiator lives.
    fn answer_ping(&mut self, ping: &Header) -> io::Result<()> {
        const NO_TAG: u32 = u32::MAX;
        if ping.get(20) == NO_TAG {
            return Ok(());
        }
        let mut answer = Header::new(Opcode::NopOut, 0x80);
        answer.0[8..16].copy_from_slice(&ping.0[8..16]);
        answer.put(16, NO_TAG);
        answer.put(20, ping.get(20));
        answer.put(24, self.command);
        answer.put(28, self.status);
        answer.send(&mut self.stream, &[])
    }
}
