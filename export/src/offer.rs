//! What a server serves: one version, by a name that says which, so that a name never changes its content.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use icbd_image::{ClientName, VersionId};
use ipnet::IpNet;

/// Where in a target the disk is; 0 is tgtd's controller, and LIO can do without.
pub const LUN: u8 = 1;
/// Hexadecimal digits by which a disk is known; what SCSI has room for in all places.
pub(crate) const IDENTITY_DIGITS: usize = 16;
/// Before the name of the version; `iqn.` and the month of a domain, as RFC 7143 wants it.
const IQN: &str = "iqn.2026-01.net.icbd:";

/// The name of an offer by iSCSI: `iqn.2026-01.net.icbd:win11-lab.7`, and `….7.pc-17` for one that is a client's alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OfferName {
    pub version: VersionId,
    /// Whose disk it is, if it can be written to.
    pub client: Option<ClientName>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no version that is offered; such a name is {IQN}IMAGE.NUMBER or {IQN}IMAGE.NUMBER.CLIENT")]
pub struct OfferNameError(String);

/// A version's disk as a server is to serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub name: OfferName,
    /// The disk, where the server finds it.
    pub disk: PathBuf,
    /// Who may use it, in order; nobody is named for one that is a client's alone, who is known by its name.
    pub clients: Vec<IpNet>,
}

impl OfferName {
    /// As the client has to call itself, if it is the only one that may use it.
    pub fn initiator(&self) -> Option<String> {
        self.client.as_ref().map(|client| format!("{IQN}{client}"))
    }
}

impl fmt::Display for OfferName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VersionId { image, number } = &self.version;
        write!(f, "{IQN}{image}.{number}")?;
        self.client.as_ref().map_or(Ok(()), |client| write!(f, ".{client}"))
    }
}

impl FromStr for OfferName {
    type Err = OfferNameError;

    fn from_str(text: &str) -> Result<OfferName, OfferNameError> {
        let parse = || {
            // From the end: images may have dots in their names.
            let (front, last) = text.strip_prefix(IQN)?.rsplit_once('.')?;
            let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            let (image, number, client) = match is_number(last) {
                true => (front, last, None),
                false => {
                    let (image, number) = front.rsplit_once('.')?;
                    (image, number, Some(last.parse().ok()?))
                }
            };
            let version = VersionId { image: image.parse().ok()?, number: number.parse().ok()? };
            let name = OfferName { version, client };
            // One way to write each.
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or_else(|| OfferNameError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_and_nothing_else_does() {
        for (text, version, client) in [
            ("iqn.2026-01.net.icbd:win11-lab.7", "win11-lab@7", None),
            ("iqn.2026-01.net.icbd:win11-lab.7.pc-17", "win11-lab@7", Some("pc-17")),
            ("iqn.2026-01.net.icbd:debian.12.7", "debian.12@7", None),
            ("iqn.2026-01.net.icbd:debian.12.7.pc1", "debian.12@7", Some("pc1")),
        ] {
            let name: OfferName = text.parse().unwrap();
            assert_eq!(
                (name.version.to_string().as_str(), name.client.as_ref().map(ClientName::as_str)),
                (version, client)
            );
            assert_eq!(name.to_string(), text);
        }
        for text in [
            "iqn.2026-01.net.icbd:win11-lab",
            "iqn.2026-01.net.icbd:win11-lab.0",
            "iqn.2026-01.net.icbd:win11-lab.07",
            "iqn.2026-01.net.icbd:win11-lab.7.",
            "iqn.2026-01.net.icbd:.7",
            "iqn.2001-04.com.example:win11-lab.7",
        ] {
            assert!(text.parse::<OfferName>().is_err(), "{text}");
        }
    }
}
