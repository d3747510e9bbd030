//! Which workstation it is that says this of itself, and whether its network says the same.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use icbd_image::{ClientName, ClientNameError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Mac, Neighbours, Workstation};

/// What a workstation says of itself when it boots, or somebody knows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub name: Option<ClientName>,
    /// Of the network card that it boots by.
    pub mac: Option<Mac>,
    pub uuid: Option<Uuid>,
}

/// Why somebody is none of the workstations on the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    #[error("{0} is not on the list of workstations")]
    Unknown(Claims),
    #[error("{claim} is {whose}'s on the list of workstations, and who asks says that it is {name}, too")]
    Two { claim: String, whose: ClientName, name: ClientName },
    #[error("{claim} is not what the list of workstations has for {name}")]
    Other { claim: String, name: ClientName },
}

/// An address at which another machine answers than who asks from there says that it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address} is spoofed or {name} has a network card that is not on the list of workstations: at this address answers {}", whose_card(*.mac, .whose))]
pub struct Spoofed {
    pub address: IpAddr,
    pub name: ClientName,
    pub mac: Mac,
    /// Whose it is, if it is on the list.
    pub whose: Option<ClientName>,
}

fn whose_card(mac: Mac, whose: &Option<ClientName>) -> String {
    whose.as_ref().map_or_else(|| mac.to_string(), |name| format!("{mac}, which is {name}'s"))
}

impl Claims {
    pub fn is_empty(&self) -> bool {
        *self == Claims::default()
    }

    /// Each as people call it, with the workstation of a list that has it.
    fn of<'a>(&self, list: &'a [Workstation]) -> [Option<(String, Option<&'a Workstation>)>; 3] {
        let find = |is_it: &dyn Fn(&Workstation) -> bool| list.iter().find(|workstation| is_it(workstation));
        [
            self.name.as_ref().map(|name| (name.to_string(), find(&|known| known.name == *name))),
            self.mac.map(|mac| (format!("the MAC {mac}"), find(&|known| known.macs.contains(&mac)))),
            self.uuid.map(|uuid| (format!("the UUID {uuid}"), find(&|known| known.uuid == Some(uuid)))),
        ]
    }
}

/// A name, a MAC or a UUID, whichever it can be.
impl FromStr for Claims {
    type Err = ClientNameError;

    fn from_str(text: &str) -> Result<Claims, ClientNameError> {
        if let Ok(mac) = text.parse() {
            return Ok(Claims { mac: Some(mac), ..Claims::default() });
        }
        if let Ok(uuid) = text.parse() {
            return Ok(Claims { uuid: Some(uuid), ..Claims::default() });
        }
        Ok(Claims { name: Some(text.parse()?), ..Claims::default() })
    }
}

impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claims: Vec<String> = self.of(&[]).into_iter().flatten().map(|(claim, _)| claim).collect();
        f.write_str(&claims.join(" with "))
    }
}

/// The workstation that all claims are true of, as far as the list knows: one of them has to be on it.
pub fn who<'a>(list: &'a [Workstation], claims: &Claims) -> Result<&'a Workstation, Stranger> {
    let of_list = claims.of(list);
    let found = of_list.iter().flatten().find_map(|(_, workstation)| *workstation);
    let found = found.ok_or_else(|| Stranger::Unknown(claims.clone()))?;
    let name = || found.name.clone();
    let [_, mac, uuid] = &of_list;
    // A name is on the list, or nobody's; a list without any MAC or UUID of a workstation says nothing against one.
    let says_nothing =
        |claim: &Option<(String, Option<&Workstation>)>, has_some: bool| matches!(claim, Some((_, None))) && !has_some;
    let is_silent = [false, says_nothing(mac, !found.macs.is_empty()), says_nothing(uuid, found.uuid.is_some())];
    for ((claim, workstation), is_silent) in
        of_list.into_iter().zip(is_silent).filter_map(|(claim, is)| Some((claim?, is)))
    {
        match workstation {
            Some(workstation) if workstation.name == found.name => {}
            Some(other) => return Err(Stranger::Two { claim, whose: other.name.clone(), name: name() }),
            None if is_silent => {}
            None => return Err(Stranger::Other { claim, name: name() }),
        }
    }
    Ok(found)
}

impl Workstation {
    /// Refuses that this one asks from an address where the network card of another machine answers. Where nothing is known of
    /// the address, nothing speaks against it.
    pub fn check(&self, list: &[Workstation], address: IpAddr, neighbours: &Neighbours) -> Result<(), Spoofed> {
        let owner = |mac: &Mac| list.iter().find(|workstation| workstation.macs.contains(mac));
        // A card of which the list knows nothing may be that of a workstation of which it knows no card.
        let is_ours = |mac: &Mac| self.macs.contains(mac) || self.macs.is_empty() && owner(mac).is_none();
        let answering = neighbours.at(address);
        match answering.first() {
            Some(mac) if !answering.iter().any(is_ours) => {
                let whose = owner(mac).map(|workstation| workstation.name.clone());
                Err(Spoofed { address, name: self.name.clone(), mac: *mac, whose })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workstations::read_sheet;

    const A: &str = "4c4c4544-0000-0000-0000-00000000000a";
    const B: &str = "4c4c4544-0000-0000-0000-00000000000b";

    fn list() -> Vec<Workstation> {
        let sheet = format!(
            "name,mac,uuid\npc-1,52:54:00:00:00:01 52:54:00:00:00:11,{A}\npc-2,52:54:00:00:00:02,\npc-3,,{B}\n"
        );
        read_sheet(&sheet).unwrap()
    }

    fn claims(name: &str, mac: &str, uuid: &str) -> Claims {
        let uuid = Some(uuid).filter(|text| !text.is_empty()).map(|text| text.parse().unwrap());
        Claims { name: name.parse().ok(), mac: mac.parse().ok(), uuid }
    }

    #[test]
    fn a_workstation_is_known_by_what_is_on_the_list() {
        let list = list();
        for (name, mac, uuid, is) in [
            ("pc-1", "", "", "pc-1"),
            ("", "52:54:00:00:00:11", "", "pc-1"),
            ("", "", A, "pc-1"),
            ("pc-1", "52:54:00:00:00:01", A, "pc-1"),
            // Of what the list does not have, it says nothing.
            ("pc-2", "52:54:00:00:00:02", "4c4c4544-0000-0000-0000-00000000000c", "pc-2"),
            ("pc-3", "52:54:00:00:00:99", B, "pc-3"),
        ] {
            assert_eq!(who(&list, &claims(name, mac, uuid)).unwrap().name.as_str(), is);
        }
    }

    #[test]
    fn who_contradicts_the_list_or_itself_is_nobody() {
        let list = list();
        for (name, mac, uuid, says) in [
            ("pc-9", "", "", "pc-9 is not on the list"),
            ("", "52:54:00:00:00:99", "", "the MAC 52:54:00:00:00:99 is not on the list"),
            ("pc-9", "52:54:00:00:00:99", "", "pc-9 with the MAC"),
            ("pc-1", "52:54:00:00:00:02", "", "the MAC 52:54:00:00:00:02 is pc-2's on the list"),
            ("pc-1", "", B, "is pc-3's"),
            ("", "52:54:00:00:00:02", A, "is pc-1's"),
            ("pc-1", "52:54:00:00:00:99", "", "is not what the list of workstations has for pc-1"),
            ("pc-1", "", "4c4c4544-0000-0000-0000-00000000000c", "is not what the list of workstations has for pc-1"),
            ("pc-9", "52:54:00:00:00:01", "", "pc-9 is not what the list of workstations has for pc-1"),
        ] {
            let stranger = who(&list, &claims(name, mac, uuid)).unwrap_err().to_string();
            assert!(stranger.contains(says), "{stranger}");
        }
    }

    #[test]
    fn an_address_speaks_against_whoever_is_not_there() {
        let list = list();
        let neighbours = Neighbours::parse(
            "10.0.0.1 0x1 0x2 52:54:00:00:00:01 * a\n10.0.0.2 0x1 0x2 52:54:00:00:00:02 * a\n\
             10.0.0.9 0x1 0x2 52:54:00:00:00:99 * a\n10.0.0.12 0x1 0x2 52:54:00:00:00:01 * a\n\
             10.0.0.12 0x1 0x2 52:54:00:00:00:02 * b\n",
        );
        let check = |name: &str, address: &str| {
            let workstation = list.iter().find(|workstation| workstation.name.as_str() == name).unwrap();
            workstation.check(&list, address.parse().unwrap(), &neighbours)
        };
        for (name, address) in [
            ("pc-1", "10.0.0.1"),
            ("pc-2", "10.0.0.2"),
            // Nobody knows who is there.
            ("pc-1", "10.0.0.200"),
            ("pc-1", "fe80::1"),
            // On two networks.
            ("pc-1", "10.0.0.12"),
            ("pc-2", "10.0.0.12"),
            // Known by its UUID alone, with a card of nobody's.
            ("pc-3", "10.0.0.9"),
        ] {
            assert_eq!(check(name, address), Ok(()));
        }
        for (name, address, says) in [
            ("pc-1", "10.0.0.2", "10.0.0.2 is spoofed or pc-1 has a network card"),
            ("pc-1", "10.0.0.9", "at this address answers 52:54:00:00:00:99"),
            ("pc-3", "10.0.0.2", "52:54:00:00:00:02, which is pc-2's"),
        ] {
            let words = check(name, address).unwrap_err().to_string();
            assert!(words.contains(says), "{words}");
        }
    }
}
