//! Prefetch orders over the control socket: each change has its author in the audit log.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use icbd_cache::{CacheError, Explanation, Order, OrderId, OrderStatus};
use icbd_image::{Entry, Kind, VersionId};
use jiff::Timestamp;

use super::state::CacheServer;
use crate::control::{Event, Peer, events::Teller};
use crate::failure::Failure;
use crate::images::find_image;
use crate::near;
use crate::orders::{
    ExplainedVersion, ExplanationReport, Here, OrderBody, OrderReport, Subject, Terms, Verdict, What, report,
};
use crate::output::{Progress, bit_rate};

/// How often an order's progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// An order is answered with how it stands; what takes longer to find out is shown by the list.
const LOOK_MAX: Duration = Duration::from_secs(3);

pub(super) async fn list(server: Arc<CacheServer>) -> Result<Vec<OrderReport>> {
    let here = Here::now();
    Ok(server.cache.prefetch_list().iter().map(|status| report(status, &here)).collect())
}

pub(super) async fn add(server: Arc<CacheServer>, peer: Peer, body: OrderBody) -> Result<OrderReport> {
    let what = format!("prefetch add {} {}", body.of, shown(&body.what, &body.terms));
    let added = add_order(&server, body).await;
    server.audit.record(&peer, &what, &added);
    look(&server, added?).await
}

async fn add_order(server: &CacheServer, body: OrderBody) -> Result<OrderId> {
    let order = ordered(server, body)?;
    if let icbd_cache::What::File(_) = order.what {
        // Whether there is such a file is found out before anything is promised.
        server.cache.prefetch_explain(order.clone()).await.map_err(|error| absent(server, error))?;
    }
    Ok(server.cache.prefetch_add(order).await.map_err(Failure::from)?)
}

fn ordered(server: &CacheServer, body: OrderBody) -> Result<Order, Failure> {
    match body.of.number {
        None => drop(find_image(&server.images(), &body.of.image)?),
        Some(_) => drop(server.find_version(&body.of)?),
    }
    body.terms.apply(Order::new(body.of, body.what.into()), Timestamp::now())
}

/// What there is instead of a file that is not there.
fn absent(server: &CacheServer, error: CacheError) -> Failure {
    let hint = match &error {
        CacheError::NoSuchFile { version, path } => near_names(server, version, path),
        _ => None,
    };
    let Failure { exit, message } = Failure::from(error);
    Failure::new(exit, format!("{message}{}", hint.unwrap_or_default()))
}

fn near_names(server: &CacheServer, id: &VersionId, path: &str) -> Option<String> {
    let serial = server.cache.view().version(id)?.serial();
    let version = server.cache.opened(serial)?;
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = version.head().resolve(folder.as_bytes())?;
    let head = version.head();
    let is_file = |entry: &Entry<'_>| head.node(entry.node).is_some_and(|node| node.kind() == Kind::File);
    let files = head.entries(folder, 0).filter(is_file);
    let names: Vec<&str> = files.filter_map(|entry| str::from_utf8(entry.name).ok()).collect();
    Some(near::hint(name, names))
}

pub(super) async fn set(server: Arc<CacheServer>, peer: Peer, id: OrderId, terms: Terms) -> Result<OrderReport> {
    let what = format!("prefetch set {id}{}", shown_terms(&terms));
    let changed = async {
        let orders = server.cache.prefetch_list();
        let order =
            orders.iter().find(|status| status.id == id).ok_or(CacheError::UnknownOrder(id)).map_err(Failure::from)?;
        let change = terms.change(&order.order, Timestamp::now())?;
        Ok(server.cache.prefetch_set(id, change).await.map_err(Failure::from)?)
    };
    let changed: Result<OrderStatus> = changed.await;
    server.audit.record(&peer, &what, &changed);
    changed?;
    look(&server, id).await
}

/// What can be done to an order without further words.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verb {
    Pause,
    Resume,
    Cancel,
}

pub(super) async fn alter(server: Arc<CacheServer>, peer: Peer, id: OrderId, verb: Verb) -> Result<OrderReport> {
    let (word, altered) = match verb {
        Verb::Pause => ("pause", server.cache.prefetch_pause(id).await),
        Verb::Resume => ("resume", server.cache.prefetch_resume(id).await),
        Verb::Cancel => ("cancel", server.cache.prefetch_cancel(id).await),
    };
    let altered = altered.map_err(|error| anyhow::Error::from(Failure::from(error)));
    server.audit.record(&peer, &format!("prefetch {word} {id}"), &altered);
    Ok(report(&altered?, &Here::now()))
}

pub(super) async fn look(server: &CacheServer, id: OrderId) -> Result<OrderReport> {
    let status = server.cache.prefetch_look(id, LOOK_MAX).await.map_err(Failure::from)?;
    Ok(report(&status, &Here::now()))
}

/// Tells an order's progress until it is done or its promise missed; it goes on when the client leaves.
pub(super) async fn watch(server: &CacheServer, id: OrderId, teller: &Teller) -> Result<OrderReport> {
    let mut done = std::pin::pin!(server.cache.prefetch_wait(id));
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            done = done.as_mut() => return Ok(report(&done.map_err(Failure::from)?, &Here::now())),
            _ = ticks.tick() => {
                let status = server.cache.prefetch_look(id, Duration::ZERO).await.map_err(Failure::from)?;
                let order = report(&status, &Here::now());
                let (done_bytes, total_bytes) = (order.done_bytes, order.total_bytes);
                teller.tell(Event::Progress(Progress { what: doing(order), done_bytes, total_bytes }));
            }
        }
    }
}

fn doing(order: OrderReport) -> String {
    match (order.trouble, order.verdict) {
        (Some(why), _) => format!("waiting ({why})"),
        (None, Verdict::Runs) => order.says.replacen("runs", "fetching", 1),
        (None, _) => order.says,
    }
}

pub(super) async fn explain(server: Arc<CacheServer>, subject: Subject) -> Result<ExplanationReport> {
    let explanation = match subject {
        Subject::Order(id) => server.cache.prefetch_explain_order(id).await,
        Subject::Could(of, what) => {
            let order = ordered(&server, OrderBody { of, what, terms: Terms::default() })?;
            server.cache.prefetch_explain(order).await
        }
    };
    let explanation = explanation.map_err(|error| absent(&server, error))?;
    let withheld = server.cache.view().withheld_of(&explanation.order.of.image).count();
    let mut report = explained(explanation);
    report.hindrances.extend(server.out_of_reach());
    Ok(ExplanationReport { withheld, ..report })
}

fn explained(explanation: Explanation) -> ExplanationReport {
    let (order, rate) = (&explanation.order, explanation.rate);
    let mut hindrances: Vec<String> = explanation.no_room.into_iter().collect();
    if let Some(limit) = order.limit {
        hindrances.push(format!("it is limited to {}", bit_rate(limit.get())));
    }
    if let Some(opens) = explanation.window_opens {
        let opens = opens.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M").to_string();
        hindrances.push(format!("background fill is limited until {opens} (window.hours); --priority high lifts that"));
    }
    let version = |leg: icbd_cache::ExplainedVersion| ExplainedVersion {
        version: leg.version,
        total_bytes: leg.total_bytes,
        left_bytes: leg.left_bytes,
        is_left_exact: leg.is_exact,
        note: leg.note.map(str::to_owned),
    };
    ExplanationReport {
        withheld: 0,
        of: order.of.clone(),
        what: What::from(&order.what),
        versions: explanation.versions.into_iter().map(version).collect(),
        source: rate.source,
        bytes_per_second: rate.bytes_per_second,
        is_rate_measured: rate.is_measured,
        wire_bytes: explanation.wire_bytes,
        takes_seconds: explanation.takes.map(|takes| takes.as_secs().unsigned_abs()),
        hindrances,
        order: explanation.status.map(|status| report(&status, &Here::now())),
    }
}

fn shown(what: &What, terms: &Terms) -> String {
    let what = match what {
        What::File(path) => format!("--file {path}"),
        what => format!("--{what}"),
    };
    format!("{what}{}", shown_terms(terms))
}

fn shown_terms(terms: &Terms) -> String {
    let Terms { by, days, zone, limit, priority } = terms;
    let terms = [("by", by), ("days", days), ("zone", zone), ("limit", limit), ("priority", priority)];
    let given = terms.into_iter().filter_map(|(name, value)| Some(format!(" --{name} {}", value.as_ref()?)));
    given.collect()
}
