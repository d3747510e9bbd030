//! `icbd prefetch`.

use anyhow::Result;
use http::Method;

use super::{follow, interrupted};
use crate::args::{AddArgs, PrefetchCommand, TermArgs, WhatArgs};
use crate::control::Client;
use crate::failure::{Exit, Failure};
use crate::orders::{ExplanationReport, OrderBody, OrderReport, Subject, Terms, Verdict, What, explain, list, one};
use crate::output::{bytes, percent};
use crate::settings::{Role, Settings};

pub(crate) async fn run(settings: &Settings, command: PrefetchCommand) -> Result<()> {
    // What is wrong with the command is said before a daemon is looked for.
    let subject = match &command {
        PrefetchCommand::Add(args) => Some(Subject::Could(args.image.clone(), ordered(&args.what)?)),
        PrefetchCommand::Explain { subject, what } => Some(subject_of(subject, what)?),
        PrefetchCommand::Set { terms, .. } => some_terms(terms).map(|()| None)?,
        _ => None,
    };
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    let (id, verb) = match command {
        PrefetchCommand::Add(args) => return add(settings, &mut client, args).await,
        PrefetchCommand::List { ended } => {
            let mut orders: Vec<OrderReport> = client.get("/v1/prefetch").await?;
            let known = orders.len();
            orders.retain(|order| ended || !order.has_ended());
            let left_out = known - orders.len();
            return settings.talk().result(&orders, |orders| list(orders, left_out));
        }
        PrefetchCommand::Explain { .. } => {
            let report: ExplanationReport = client.call(Method::POST, "/v1/explain", &subject).await?;
            return settings.talk().result(&report, explain);
        }
        PrefetchCommand::Set { order, terms } => {
            let path = format!("/v1/prefetch/{order}");
            let order: OrderReport = client.call(Method::POST, &path, &Terms::from(terms)).await?;
            warn(settings, &order);
            return settings.talk().result(&order, one);
        }
        PrefetchCommand::Pause { order } => (order, "pause"),
        PrefetchCommand::Resume { order } => (order, "resume"),
        PrefetchCommand::Cancel { order } => (order, "cancel"),
    };
    let order: OrderReport = client.call(Method::POST, &format!("/v1/prefetch/{id}/{verb}"), &()).await?;
    settings.talk().result(&order, one)
}

async fn add(settings: &Settings, client: &mut Client, args: AddArgs) -> Result<()> {
    let AddArgs { image, what, terms, wait } = args;
    let body = OrderBody { of: image, what: ordered(&what)?, terms: terms.into() };
    let mut order: OrderReport = client.call(Method::POST, "/v1/prefetch", &body).await?;
    warn(settings, &order);
    if wait {
        let id = order.id;
        let done = follow(client, &format!("/v1/prefetch/{id}/wait"), &(), settings.talk()).await?;
        order = done.ok_or_else(|| interrupted(&format!("order {id} goes on; `icbd prefetch cancel {id}` ends it")))?;
    }
    settings.talk().result(&order, one)?;
    match order.verdict {
        Verdict::Cancelled if wait => {
            let why = order.trouble.map_or_else(|| "was cancelled".to_owned(), |trouble| format!("ended: {trouble}"));
            Err(Failure::new(Exit::Refused, format!("order {} {why}", order.id)).into())
        }
        _ if wait && order.is_broken() => Err(missed(&order).into()),
        _ => Ok(()),
    }
}

/// Says what cannot be kept, before it is missed.
fn warn(settings: &Settings, order: &OrderReport) {
    if order.verdict == Verdict::Late {
        let left = bytes(order.left_bytes);
        let best = order.says.strip_prefix("LATE, ").map_or(String::new(), |end| format!("; at best it is done {end}"));
        settings.talk().say(format!("! this cannot be kept ({}): {left} are still to be fetched{best}", order.order));
    }
}

fn missed(order: &OrderReport) -> Failure {
    let share = percent(order.done_bytes, order.total_bytes);
    let goes_on = if order.state == "active" { "; the order goes on" } else { "" };
    let message = format!(
        "the promise of order {} was missed ({}): {share} is here, {}{goes_on}",
        order.id, order.order, order.says
    );
    Failure::new(Exit::Missed, message)
}

fn ordered(what: &WhatArgs) -> Result<What, Failure> {
    match what {
        WhatArgs { boot: true, .. } => Ok(What::Boot),
        WhatArgs { all: true, .. } => Ok(What::All),
        WhatArgs { file: Some(path), .. } => Ok(What::File(path.clone())),
        _ => Err(Failure::new(Exit::Usage, "say what to fetch: --boot, --all or --file PATH")),
    }
}

fn subject_of(subject: &str, what: &WhatArgs) -> Result<Subject, Failure> {
    if let Ok(id) = subject.parse() {
        return Ok(Subject::Order(id));
    }
    let of = subject
        .parse()
        .map_err(|error| Failure::new(Exit::Usage, format!("{subject:?} is no order and no image: {error}")))?;
    Ok(Subject::Could(of, ordered(what)?))
}

fn some_terms(terms: &TermArgs) -> Result<(), Failure> {
    if Terms::from(terms.clone()) == Terms::default() {
        return Err(Failure::new(Exit::Usage, "say what to change: --by, --days, --zone, --limit or --priority"));
    }
    Ok(())
}

impl From<TermArgs> for Terms {
    fn from(args: TermArgs) -> Terms {
        let TermArgs { by, days, zone, limit, priority } = args;
        Terms { by, days, zone, limit, priority }
    }
}
