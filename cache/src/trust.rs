//! Which of the known versions are withheld, because their signatures are not believed now.
//!
//! Trust is judged anew at each start and whenever the configuration is read again, also of versions that were shown
//! before: a key that is revoked takes effect on what it signed. Nothing is deleted, and files that are open go on:
//! a version is never taken away from under those who run on it. When it is trusted again it is shown as it was.

use std::collections::BTreeMap;

use icbd_image::{Serial, StatementError, Trust, VersionRecord};

use crate::cache::Cache;
use crate::core::Core;
use crate::local::Choices;
use crate::view::{Object, View};

/// Versions that are not shown, and why.
pub(crate) type Withheld = BTreeMap<Serial, StatementError>;

impl Cache {
    /// Believes other signatures from now on; what is shown is judged anew at once, and the next refresh looks at all
    /// else anew. Blocks while the signatures of all known versions are checked.
    pub fn set_trust(&self, trust: Trust) {
        let mut known = self.core().trust.lock().expect("no panic under this lock");
        *known = trust;
        let shown = self.core().view();
        let withheld = judge(&shown, &known, None);
        self.core().put_view(shown.listed().showing(shown.choices().clone(), withheld));
        drop(known);
        self.core().sources.forget_listing();
        self.orders().changed();
    }
}

impl Core {
    /// Shows what is known now, as far as it is trusted. Blocks while the signatures of new versions are checked.
    pub(crate) fn show(&self, known: View, choices: Choices) {
        let trust = self.trust.lock().expect("no panic under this lock");
        let withheld = judge(&known, &trust, Some(&self.view()));
        self.put_view(known.showing(choices, withheld));
    }

    /// For who holds the lock on `trust`: every view that is shown was judged by it.
    fn put_view(&self, view: View) {
        let mut shown = self.view.write().expect("no panic under this lock");
        let before = std::mem::replace(&mut *shown, view.into());
        let now = shown.clone();
        drop(shown);
        tell(&before, &now);
    }
}

/// Those known versions whose signatures `trust` does not believe. What was judged `before` by the same trust is not
/// looked at again.
pub(crate) fn judge(known: &View, trust: &Trust, before: Option<&View>) -> Withheld {
    let mut withheld = Withheld::new();
    let listed = known.listed();
    for record in listed.images().iter().flat_map(|image| &image.versions) {
        let judged = before.and_then(|before| verdict(before, record));
        let verdict = judged.unwrap_or_else(|| trust.signer(&record.statement).err());
        withheld.extend(verdict.map(|why| (record.serial(), why)));
    }
    withheld
}

/// What was found of the very same statement.
fn verdict(before: &View, record: &VersionRecord) -> Option<Option<StatementError>> {
    match before.object(record.serial()) {
        Some(Object::Version(_, known)) if known.statement == record.statement => {
            Some(before.withheld().get(&record.serial()).cloned())
        }
        _ => None,
    }
}

/// Says in the log what is withheld from now on, and what no longer.
fn tell(before: &View, now: &View) {
    let is_new = |serial: &&Serial| before.withheld().get(serial) != now.withheld().get(serial);
    for warning in now.withheld().keys().filter(is_new).filter_map(|serial| warning(now, *serial)) {
        tracing::warn!("{warning}");
    }
    for serial in before.withheld().keys().filter(|serial| !now.withheld().contains_key(serial)) {
        if let Some(Object::Version(_, record)) = now.object(*serial) {
            tracing::info!(version = %record.statement.statement().version(), "trusted again: it is shown as it was");
        }
    }
}

/// What is withheld, for people.
pub(crate) fn warnings(view: &View) -> Vec<String> {
    let mut warnings: Vec<String> = view.withheld().keys().filter_map(|serial| warning(view, *serial)).collect();
    let more = warnings.len().saturating_sub(WARNINGS_MAX);
    if more > 1 {
        warnings.truncate(WARNINGS_MAX);
        warnings.push(format!("{more} more versions are withheld; `icbd image list IMAGE` says which and why"));
    }
    warnings
}

/// One key that is gone may withhold hundreds of versions.
const WARNINGS_MAX: usize = 3;

fn warning(view: &View, serial: Serial) -> Option<String> {
    let why = view.withheld().get(&serial)?;
    let Some(Object::Version(image, record)) = view.object(serial) else { return None };
    let name = &image.name;
    let current = match view.meant(name) == Some(record.number()) {
        true => format!(
            ". The name {name} alone means nothing here meanwhile: deploy a trusted version on the master, or roll back \
             to one with `icbd image rollback {name} --local --to N`"
        ),
        false => String::new(),
    };
    Some(format!(
        "{why}: it is withheld. What is held of it stays, and files that are open are served; `icbd config reload` shows \
         it again once its publisher is trusted, or publish it anew, signed{current}"
    ))
}
