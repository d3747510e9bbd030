//! Whose boot script is asked for: what whoever asks says of itself is compared with the list of workstations, and with what
//! answers at its address.

use std::net::IpAddr;

use icbd_export::{Claims, Stranger, who};
use icbd_image::{ClientName, ImageName};

use crate::failure::{Exit, Failure};
use crate::roles::cache::clients::listed;
use crate::roles::cache::state::CacheServer;
use crate::serve::Asking;

const CHANGE_IT: &str = "`icbd client list` shows the list, `icbd client import` changes it";

/// What somebody says of itself. What iPXE does not know, it leaves empty.
pub(super) fn claims(asking: &Asking) -> Result<Claims, Failure> {
    fn parse<T: std::str::FromStr<Err: ToString>>(text: &Option<String>) -> Result<Option<T>, Failure> {
        let text = text.as_deref().filter(|text| !text.is_empty());
        text.map(str::parse).transpose().map_err(|error: T::Err| Failure::new(Exit::Usage, error.to_string()))
    }
    let uuid = parse(&asking.uuid).map_err(|_| {
        let text = asking.uuid.clone().unwrap_or_default();
        Failure::new(Exit::Usage, format!("{text:?} is no UUID; write it as 4c4c4544-0051-3510-8052-b4c04f4d3132"))
    })?;
    Ok(Claims { name: parse(&asking.client)?, mac: parse(&asking.mac)?, uuid })
}

/// How whoever asks is called, as far as that is known.
pub(super) fn named(server: &CacheServer, claims: &Claims) -> Option<ClientName> {
    match listed(server) {
        Ok(Some(list)) => who(&list, claims).ok().map(|workstation| workstation.name.clone()),
        _ => claims.name.clone(),
    }
}

/// The workstation that gets its clone. Refused unless it is on the list, if there is one.
pub(super) fn client(
    server: &CacheServer,
    image: &ImageName,
    claims: &Claims,
    from: IpAddr,
) -> Result<ClientName, Failure> {
    if claims.is_empty() {
        let message = format!(
            "{image} is exported with a clone for each client: ask for /boot/{image}?client=NAME, or ?mac=MAC or ?uuid=UUID"
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    let refused = |message: String| Failure::new(Exit::Refused, message);
    let Some(list) = listed(server)? else {
        return match claims {
            Claims { name: Some(name), mac: None, uuid: None } => Ok(name.clone()),
            _ => {
                let message = "nobody is known by a MAC or UUID: no list of workstations is imported; \
                               `icbd client import FILE.csv` does, or ask with ?client=NAME alone";
                Err(refused(message.to_owned()))
            }
        };
    };
    let workstation = who(&list, claims).map_err(|stranger| match stranger {
        Stranger::Unknown(_) => refused(format!("{stranger}, so it gets no clone; {CHANGE_IT}")),
        Stranger::Two { .. } | Stranger::Other { .. } => refused(format!("{stranger}; {CHANGE_IT}")),
    })?;
    // It was spoken to a moment ago, so it is in the table if there is no router in between.
    match icbd_export::neighbours() {
        Ok(neighbours) => {
            let checked = workstation.check(&list, from, &neighbours);
            checked.map_err(|spoofed| refused(format!("{spoofed}; no clone was touched; {CHANGE_IT}")))?;
        }
        Err(error) => tracing::debug!(%error, "who answers at an address is not known"),
    }
    Ok(workstation.name.clone())
}
