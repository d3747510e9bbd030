//! Files by HTTP: to whom, and who reads them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use icbd_export::{Declaration, Protocol};
use icbd_image::{ImageName, Serial};

use crate::failure::{Exit, Failure};
use crate::images::find_image;
use crate::roles::cache::boot::{PACKAGE, check_is_for, is_for_somebody, not_exported};
use crate::roles::cache::state::{CacheServer, Plane};
use crate::serve::Readers;

/// Whoever read so lately is about to read more.
const READS: Duration = Duration::from_secs(600);
/// Of so many readers it is known when they read last; there are hardly as many workstations.
const READERS_MAX: usize = 4096;

/// When whom was sent something of which version last.
#[derive(Debug, Default)]
pub(in super::super) struct Http(Mutex<BTreeMap<(Serial, IpAddr), Instant>>);

impl Http {
    /// Who reads a version.
    pub(super) fn readers(&self, version: Serial) -> Vec<IpAddr> {
        let known = self.lock();
        let of_version =
            known.range((version, IpAddr::from([0; 4]))..).take_while(|((serial, _), _)| *serial == version);
        of_version.filter(|(_, when)| when.elapsed() < READS).map(|((_, address), _)| *address).collect()
    }

    fn note(&self, version: Serial, from: IpAddr) {
        let mut known = self.lock();
        known.insert((version, from), Instant::now());
        if known.len() > READERS_MAX {
            known.retain(|_, when| when.elapsed() < READS);
        }
        if known.len() > READERS_MAX
            && let Some(oldest) = known.iter().min_by_key(|(_, when)| **when).map(|(key, _)| *key)
        {
            known.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Serial, IpAddr), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails if no file could be served.
pub(super) fn check(plane: &Plane) -> Result<(), Failure> {
    let message = "serve.listen names no address, so nothing is served by HTTP; write `listen = [\"0.0.0.0:7071\"]` under \
                   [serve] in the configuration, and restart the cache";
    if plane.listen.is_empty() { Err(Failure::new(Exit::Refused, message)) } else { Ok(()) }
}

impl Readers for CacheServer {
    fn check(&self, image: &ImageName, path: &[u8], from: IpAddr) -> Result<(), Failure> {
        find_image(&self.images(), image)?;
        // Who boots a version by another protocol has its kernel by this one.
        let is_package = path.strip_prefix(PACKAGE.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
        if is_package && is_for_somebody(self, image, from) {
            return Ok(());
        }
        let declarations = self.exports.all()?;
        let is_meant = |it: &&Declaration| it.image == *image && it.protocol == Protocol::Http;
        let declaration = declarations.iter().find(is_meant).ok_or_else(|| not_exported(image, Protocol::Http))?;
        check_is_for(declaration, from)
    }

    fn reads(&self, version: Serial, from: IpAddr) -> bool {
        self.exports.http.readers(version).contains(&from)
    }

    fn note(&self, version: Serial, from: IpAddr) {
        self.exports.http.note(version, from);
    }
}

/// The same, shared.
pub(in super::super) fn readers(server: &Arc<CacheServer>) -> Arc<dyn Readers> {
    server.clone()
}
