//! What the control socket of a cache server answers about clones.

use std::sync::Arc;

use icbd_cache::{CloneName, CloneStatus, Fate, Layers};
use icbd_image::Timestamp;

use super::reset::{self, Asks, sessions_of};
use crate::audit::Change;
use crate::clones::{CloneChange, CloneReport, CloneSpec, ClonesReport};
use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::roles::cache::state::CacheServer;

/// A refused write is worth a word for so long.
const REFUSED_SHOWN_SECONDS: u64 = 3600;

/// How all are.
pub(in super::super) async fn list(server: Arc<CacheServer>) -> anyhow::Result<ClonesReport> {
    let clones = server.cache.clones();
    let fill = clones.fill().await.map_err(Failure::from)?;
    let report = |clone: &CloneStatus| CloneReport {
        version: clone.name.version.clone(),
        client: clone.name.client.clone(),
        written_bytes: clone.written_bytes,
        personal_bytes: clone.personal_bytes,
        kept: clone.fate != Fate::Reset,
        edited: clone.fate == Fate::Edited,
        since: Timestamp::from(clone.made),
        sessions: sessions_of(&server, &clone.name),
    };
    let all = clones.list().await.map_err(Failure::from)?;
    Ok(ClonesReport {
        clones: all.iter().map(report).collect(),
        written_bytes: fill.written_bytes,
        reserve_bytes: fill.reserve_bytes,
        troubles: troubles(&server, fill.is_short()),
    })
}

/// What is wrong with clones.
fn troubles(server: &CacheServer, is_short: bool) -> Vec<String> {
    let clones = server.cache.clones();
    let damaged = clones.damaged();
    let mut troubles: Vec<String> = damaged
        .iter()
        .map(|(name, why)| format!("the clone {name} cannot be read: {why}; `icbd clone remove` deletes it"))
        .collect();
    let all = clones.all();
    troubles.extend(all.iter().filter(|clone| clone.is_suspect()).map(|clone| {
        let name = clone.name();
        format!("{name}: the disk failed to keep what it wrote; shut {} down and reset it", name.client)
    }));
    if is_short {
        let what = "clones take nine tenths of what they may: no workstation begins with one; enlarge clone.reserve, or \
                    remove some";
        troubles.push(what.to_owned());
    }
    let refused = clones
        .refused()
        .filter(|refused| refused.when.elapsed().is_ok_and(|since| since.as_secs() < REFUSED_SHOWN_SECONDS));
    troubles.extend(refused.map(|refused| {
        let ago = output::seconds(refused.when.elapsed().unwrap_or_default().as_secs());
        let why =
            if refused.is_limit { "it has written as much as clone.per_client lets it" } else { "the disk was full" };
        format!("{}: a write was refused {ago} ago: {why}", refused.clone)
    }));
    troubles
}

/// The same for the status: from memory.
pub(in super::super) fn warnings(server: &CacheServer) -> Vec<String> {
    troubles(server, false)
}

/// Resets, keeps or removes one, with both ends of it in the audit log.
pub(in super::super) async fn change(server: Arc<CacheServer>, peer: Peer, spec: CloneSpec) -> anyhow::Result<()> {
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act(&server, &spec)).await
}

async fn act(server: &Arc<CacheServer>, spec: &CloneSpec) -> anyhow::Result<()> {
    let name = find(server, spec)?;
    // Not while its workstation is told what it boots: that may be making or resetting the very same.
    let turn = server.boots.of(&name.client);
    let _turn = turn.lock().await;
    match spec.change {
        // One that is to become a version is kept already.
        CloneChange::Keep if server.cache.clones().get(&name).is_some_and(|clone| clone.fate() == Fate::Edited) => {}
        CloneChange::Keep => server.cache.clones().set_fate(&name, Fate::Kept).await.map_err(Failure::from)?,
        CloneChange::LetGo => server.cache.clones().set_fate(&name, Fate::Reset).await.map_err(Failure::from)?,
        CloneChange::Reset => reset::reset(server, &name, Asks::Person, Layers::Session).await?,
        CloneChange::ResetAll => reset::reset(server, &name, Asks::Person, Layers::All).await?,
        CloneChange::Remove => reset::remove(server, &name, Asks::Person).await?,
    }
    Ok(())
}

fn find(server: &CacheServer, spec: &CloneSpec) -> Result<CloneName, Failure> {
    let clones = server.cache.clones();
    let mut names: Vec<CloneName> = clones.all().iter().map(|clone| clone.name().clone()).collect();
    names.extend(clones.damaged().into_keys());
    let of_image = names.iter().filter(|name| name.version.image == spec.version.image);
    let of_client: Vec<&CloneName> = of_image.filter(|name| name.client == spec.client).collect();
    let is_meant = |name: &&CloneName| spec.version.number.is_none_or(|number| name.version.number == number);
    let meant: Vec<&CloneName> = of_client.iter().copied().filter(is_meant).collect();
    match meant[..] {
        [name] => Ok(name.clone()),
        [] => {
            // Nobody else's is offered: it would be reset or removed.
            let message =
                format!("{} has no clone of {}; `icbd clone list` shows those there are", spec.client, spec.version);
            Err(Failure::new(Exit::Absent, message))
        }
        _ => {
            let names: Vec<String> = meant.iter().map(|name| name.version.to_string()).collect();
            let message = format!("{} has clones of several versions; name one of {}", spec.client, names.join(", "));
            Err(Failure::new(Exit::Usage, message))
        }
    }
}
