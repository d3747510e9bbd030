//! A workstation's clone that is to become a version: marked so that its workstation boots it, and read for the master.

use std::net::IpAddr;
use std::sync::Arc;

use icbd_cache::{CloneDisk, CloneName, Fate, Written};
use icbd_image::{ClientName, ImageName, Timestamp, VersionId};

use super::reset::{self, Asks, sessions_of};
use crate::audit::Change;
use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::images::find_image;
use crate::improvements::{EditCloneReport, EditCloneSpec};
use crate::near;
use crate::roles::cache::state::CacheServer;
use crate::roles::cache::{boot, clients};

/// Has a workstation's clone be kept until it is a version, with both ends of it in the audit log.
pub(in super::super) async fn edit(
    server: Arc<CacheServer>,
    peer: Peer,
    spec: EditCloneSpec,
) -> anyhow::Result<EditCloneReport> {
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    let begun = async { Ok(begin(&server, &spec).await?) };
    server.audit.both_ends(&peer, change, begun).await
}

async fn begin(server: &Arc<CacheServer>, spec: &EditCloneSpec) -> Result<EditCloneReport, Failure> {
    let EditCloneSpec { image, client, .. } = spec;
    find_image(&server.images(), image)?;
    let url = url(server)?;
    let declaration = boot::declaration(server, image)?;
    if !declaration.clone {
        let message = format!(
            "{image} is exported read-only, so no workstation has a disk to change; on this cache server `icbd export remove {image} \
             --iscsi`, then `icbd export add {image} --iscsi --clients CIDR --clone`"
        );
        return Err(Failure::new(Exit::Refused, message));
    }
    let list = clients::listed(server)?;
    if let Some(list) = list.as_deref().filter(|list| !list.iter().any(|known| known.name == *client)) {
        return Err(clients::absent(Some(list), client));
    }
    let turn = server.boots.of(client);
    let _turn = turn.lock().await;
    let clones = server.cache.clones();
    let record = boot::booted(server, image, Some(client))?;
    let name = CloneName { version: record.statement.statement().version(), client: client.clone() };
    let is_new = match clones.get(&name) {
        Some(clone) => {
            if let Some(exported) = boot::other_disk(server, &declaration, &record, &clone).await {
                let message = format!(
                    "{name} is of {}, and {exported} is what is exported now; boot {client} once, or `icbd clone remove {client} {}`",
                    clone.file(),
                    name.version
                );
                return Err(Failure::new(Exit::Refused, message));
            }
            clone.check_is_impersonal().map(|()| false).map_err(Failure::from)?
        }
        None => boot::make(server, &declaration, &record, &name).await.map(|()| true)?,
    };
    clones.set_fate(&name, Fate::Edited).await.map_err(Failure::from)?;
    server.exports.settle().await;
    let clone = clones.get(&name).ok_or_else(|| absent(server, image, client))?;
    let view = server.cache.view();
    let deployed = view.image(image).and_then(|image| image.deployed);
    Ok(EditCloneReport {
        version: name.version.clone(),
        client: client.clone(),
        is_new,
        written_bytes: clone.allocated().unwrap_or(0),
        since: Timestamp { seconds: i64::try_from(clone.made()).unwrap_or(i64::MAX), nanoseconds: 0 },
        in_use: !sessions_of(server, &name).is_empty(),
        deployed: deployed.map(|number| VersionId { image: image.clone(), number }),
        url,
    })
}

/// Where a master finds this cache server, as far as that is known here.
fn url(server: &CacheServer) -> Result<String, Failure> {
    let reachable = server.plane.listen.iter().find(|address| !address.ip().is_loopback());
    let Some(address) = reachable.or(server.plane.listen.first()) else {
        let message = "nobody could boot or save it: this cache server does not listen; write `listen = [\"0.0.0.0:7071\"]` \
                       under [serve] in the configuration, name the master in serve.allow, and restart the cache";
        return Err(Failure::new(Exit::Refused, message));
    };
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(match address.ip() {
        ip if ip.is_unspecified() && !name.trim().is_empty() => format!("http://{}:{}", name.trim(), address.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => format!("http://{address}"),
    })
}

/// What a workstation wrote, once nobody uses its disk. Nobody is kept from it while that is read.
pub(in super::super) async fn written(
    server: Arc<CacheServer>,
    image: ImageName,
    client: ClientName,
) -> Result<Written, Failure> {
    find_image(&server.images(), &image)?;
    let clone = to_save(&server, &image, &client)?;
    let turn = server.boots.of(&client);
    let _turn = turn.lock().await;
    // Its server closes it, and what it had not written yet is written then.
    let held_back = reset::free(&server, clone.name(), Asks::Boot).await?;
    let written = clone.written().await.map_err(Failure::from)?;
    drop(held_back);
    if written.bytes() == 0 {
        let message =
            format!("{client} has written nothing over {}; boot it and change something", clone.name().version);
        return Err(Failure::new(Exit::Refused, message));
    }
    Ok(written)
}

/// The clone that is meant: the one that is to become a version, or the only one.
fn to_save(server: &CacheServer, image: &ImageName, client: &ClientName) -> Result<Arc<CloneDisk>, Failure> {
    if let Some(edited) = boot::edited(server, image, client) {
        return Ok(edited);
    }
    let mut own = server.cache.clones().all();
    own.retain(|clone| (&clone.name().version.image, &clone.name().client) == (image, client));
    match &own[..] {
        [only] => Ok(only.clone()),
        [] => Err(absent(server, image, client)),
        several => {
            let names: Vec<String> = several.iter().map(|clone| clone.name().version.to_string()).collect();
            let message = format!(
                "{client} has clones of several versions, {}; remove those that are not meant with `icbd clone remove`",
                names.join(" and ")
            );
            Err(Failure::new(Exit::Refused, message))
        }
    }
}

fn absent(server: &CacheServer, image: &ImageName, client: &ClientName) -> Failure {
    let all = server.cache.clones().all();
    let others = all.iter().map(|clone| clone.name()).filter(|name| name.version.image == *image);
    let hint = near::hint(client.as_str(), others.map(|name| name.client.as_str()));
    let message = format!(
        "{client} has no clone of {image}{hint}; `icbd image edit {image} --client {client}` on the cache server makes one, and \
         `icbd clone list` there shows those there are"
    );
    Failure::new(Exit::Absent, message)
}
