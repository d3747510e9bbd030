//! `icbd prefetch`.

use anyhow::Result;
use http::Method;
use icbd_image::ImageRef;

use super::{follow, interrupted};
use crate::args::PrefetchCommand;
use crate::control::Client;
use crate::failure::{Exit, Failure};
use crate::jobs::JobReport;
use crate::output::{bytes, percent, table};
use crate::settings::{Role, Settings};
use crate::verify::VersionBody;

pub(crate) async fn run(settings: &Settings, command: PrefetchCommand) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    match command {
        PrefetchCommand::Add { version, wait, .. } => add(settings, &mut client, version, wait).await,
        PrefetchCommand::List => {
            let jobs: Vec<JobReport> = client.get("/v1/prefetch").await?;
            settings.talk().result(&jobs, |jobs| list(jobs))
        }
        PrefetchCommand::Cancel { job } => {
            let job: JobReport = client.call(Method::DELETE, &format!("/v1/prefetch/{job}"), &()).await?;
            settings.talk().result(&job, |job| format!("{} {} {}", job.id, job.version, job.state))
        }
    }
}

async fn add(settings: &Settings, client: &mut Client, version: ImageRef, wait: bool) -> Result<()> {
    let mut job: JobReport = client.call(Method::POST, "/v1/prefetch", &VersionBody { version }).await?;
    if wait {
        let id = job.id;
        let done = follow(client, &format!("/v1/prefetch/{id}/wait"), &(), settings.talk()).await?;
        job = done.ok_or_else(|| interrupted(&format!("job {id} goes on; `icbd prefetch cancel {id}` stops it")))?;
    }
    settings.talk().result(&job, |job| format!("{} {} {}", job.id, job.version, job.state))?;
    match &*job.state {
        "cancelled" if wait => {
            let why = job.trouble.map_or_else(|| "was cancelled".to_owned(), |trouble| format!("ended: {trouble}"));
            Err(Failure::new(Exit::Refused, format!("job {} {why}", job.id)).into())
        }
        _ => Ok(()),
    }
}

fn list(jobs: &[JobReport]) -> String {
    let row = |job: &JobReport| {
        let rate = if job.state == "running" { format!("{}/s", bytes(job.bytes_per_second)) } else { "-".to_owned() };
        let done = format!("{}/{}", bytes(job.done_bytes), bytes(job.total_bytes));
        let share = percent(job.done_bytes, job.total_bytes);
        let trouble = job.trouble.clone().unwrap_or_default();
        vec![job.id.to_string(), format!("{} all", job.version), job.state.clone(), done, share, rate, trouble]
    };
    table(&[">ID", "WHAT", "STATE", ">DONE", ">SHARE", ">RATE", "TROUBLE"], jobs.iter().map(row))
}
