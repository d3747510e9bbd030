//! An iSCSI protocol data unit: a header of 48 bytes, then data padded to four.

use std::io::{self, Read, Write};

const HEADER_BYTES: usize = 48;
/// More than was allowed at login (`MaxRecvDataSegmentLength`) is refused before memory is asked for.
const DATA_BYTES_MAX: usize = 262_144;

/// What is sent has the "immediate" bit where the RFC wants it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Opcode {
    NopOut = 0x40,
    ScsiCommand = 0x01,
    LoginRequest = 0x43,
    NopIn = 0x20,
    ScsiResponse = 0x21,
    LoginResponse = 0x23,
    DataIn = 0x25,
}

/// The basic header segment.
#[derive(Debug)]
pub(super) struct Header(pub(super) [u8; HEADER_BYTES]);

impl Header {
    pub(super) fn new(opcode: Opcode, flags: u8) -> Header {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = opcode as u8;
        bytes[1] = flags;
        Header(bytes)
    }

    pub(super) fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// The big-endian word at byte `at`.
    pub(super) fn get(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    pub(super) fn put(&mut self, at: usize, word: u32) {
        self.0[at..at + 4].copy_from_slice(&word.to_be_bytes());
    }

    /// Sends it with `data`, whose length it gets.
    pub(super) fn send(mut self, stream: &mut impl Write, data: &[u8]) -> io::Result<()> {
        self.0[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = self.0.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        stream.write_all(&bytes)
    }
}

/// What a target sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) header: Header,
    pub(super) data: Vec<u8>,
}

impl Answer {
    pub(super) fn receive(stream: &mut impl Read) -> io::Result<Answer> {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header)?;
        let extra = usize::from(header[4]) * 4;
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        if length > DATA_BYTES_MAX {
            return Err(io::Error::other(format!("the target sent {length} bytes at once, against the login")));
        }
        let mut data = vec![0; (extra + length).next_multiple_of(4)];
        stream.read_exact(&mut data)?;
        data.drain(..extra);
        data.truncate(length);
        Ok(Answer { header: Header(header), data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let mut wire = Vec::new();
        let mut header = Header::new(Opcode::LoginRequest, 0x87);
        header.put(24, 7);
        header.send(&mut wire, b"a=b\0c").unwrap();
        assert_eq!(wire.len(), 48 + 8);
        let answer = Answer::receive(&mut &wire[..]).unwrap();
        assert_eq!((answer.header.opcode(), answer.header.get(24), &answer.data[..]), (0x03, 7, &b"a=b\0c"[..]));
    }

    #[test]
    fn too_much_data_is_refused() {
        let mut wire = [0; 48];
        wire[5] = 0xff;
        assert!(Answer::receive(&mut &wire[..]).unwrap_err().to_string().contains("at once"));
    }
}
