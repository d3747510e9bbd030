//! Addresses of network cards.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The address of one network card (EUI-48): `52:54:00:12:34:56`. Never one of a group, nor of zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// Why a text is not the address of a network card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    #[error(
        "{0:?} is no MAC address; write it as 52:54:00:12:34:56, and several of one workstation with spaces between"
    )]
    Form(String),
    #[error("{0} is no network card's own MAC address; write the one that the workstation boots by")]
    NotOwn(Mac),
}

/// Of a text that is none, so much is shown.
const SHOWN_CHARS_MAX: usize = 40;
/// In the first byte: the address is one of a group, everybody's included.
const GROUP: u8 = 1;

impl Mac {
    /// Tells the machine with this network card to switch on (Wake-on-LAN), by broadcast to networks. Fails if it went to none.
    pub fn wake(self, broadcasts: &[Ipv4Addr]) -> io::Result<()> {
        /// Discarded by everybody who hears it.
        const DISCARD: u16 = 9;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_broadcast(true)?;
        let packet = [&[0xff; 6][..], &self.0.repeat(16)].concat();
        // One that cannot be reached keeps nobody from being heard on the others.
        let (mut is_sent, mut failed) = (false, io::Error::other("this machine is on no network"));
        for broadcast in broadcasts {
            match socket.send_to(&packet, (*broadcast, DISCARD)) {
                Ok(_) => is_sent = true,
                Err(error) => failed = error,
            }
        }
        if is_sent { Ok(()) } else { Err(failed) }
    }
}

impl FromStr for Mac {
    type Err = MacError;

    /// Takes `52:54:00:12:34:56`, `52-54-00-12-34-56`, `5254.0012.3456` and `525400123456`, in any case.
    fn from_str(text: &str) -> Result<Mac, MacError> {
        let groups: Vec<&str> = match text.find([':', '-', '.']).map(|at| text.as_bytes()[at]) {
            Some(separator) => text.split(char::from(separator)).collect(),
            None => vec![text],
        };
        let is_dotted = text.contains('.');
        let digits_each = match (groups.len(), is_dotted) {
            (6, false) => Some(2),
            (3, true) => Some(4),
            (1, false) => Some(12),
            _ => None,
        };
        let is_group =
            |group: &&str| Some(group.len()) == digits_each && group.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !groups.iter().all(is_group) {
            return Err(MacError::Form(text.chars().take(SHOWN_CHARS_MAX).collect()));
        }
        let digits = u64::from_str_radix(&groups.concat(), 16).map_err(|_| MacError::Form(text.to_owned()))?;
        let [_, _, bytes @ ..] = digits.to_be_bytes();
        let mac = Mac(bytes);
        let is_own = bytes[0] & GROUP == 0 && digits != 0;
        if is_own { Ok(mac) } else { Err(MacError::NotOwn(mac)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Mac, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_however_it_is_written() {
        for text in ["52:54:00:ab:CD:ef", "52-54-00-AB-CD-EF", "5254.00ab.cdef", "525400abcdef", "52:54:00:AB:CD:EF"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), "52:54:00:ab:cd:ef");
        }
        for text in [
            "",
            "52",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:ef:00",
            "52:54:00:ab:cd:eg",
            "52:54:00-ab-cd-ef",
            "5254:00ab:cdef",
            "52.54.00.ab.cd.ef",
            "+2:54:00:ab:cd:ef",
            "5:54:00:ab:cd:ef",
            "52:54:00:ab:cd:e\u{e9}",
            "5254.00ab-cdef",
            "ü",
        ] {
            assert!(matches!(text.parse::<Mac>(), Err(MacError::Form(_))), "{text}");
        }
        for text in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"] {
            assert!(matches!(text.parse::<Mac>(), Err(MacError::NotOwn(_))), "{text}");
        }
    }
}
