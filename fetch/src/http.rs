//! A master, mirror or peer that speaks HTTP.
//!
//! HTTP/1.1 with kept connections, with TLS where the URL says so; no proxies from the environment, no redirects. Bodies
//! are bounded, and what does not look like an icbd answer is refused before it is read.

mod answer;
mod tls;
mod version_stream;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryFutureExt, TryStreamExt, stream};
use http::StatusCode;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, DATE, ETAG, IF_NONE_MATCH};
use icbd_image::{BLOCK_BYTES, ClientName, FileIndex, Hash, Head, ImageName, Listing, PAGE_BLOCKS, Profile, Root, Run};
use icbd_wire::{
    Base, Codec, FrameDecoder, FrameError, HEADER_BYTES, LISTING_BYTES_MAX, NODE_HEADER, NodeReport, OFFER_HEADER,
    Offer, READY_HEADER, ReadyReport, Resource, StreamBase, coding, listing, priority,
};
use reqwest::{Client, RequestBuilder, Response, Url, redirect};

use crate::error::SourceError;
use crate::settings::TimeOuts;
use crate::source::{BlockRequest, BlockStream, ListingTag, ProfileAnswer, Source, Way};
use answer::{Answer, JSON, OCTETS};
pub use tls::{Authorities, AuthoritiesError};
pub use version_stream::VersionStream;

/// Idle connections that are kept: as many as there are requests in flight by default.
const CONNECTIONS_IDLE_MAX: usize = 16;

/// A cache server waits so long, and a little less, until a clone is not in use any more.
const LET_GO_MAX: Duration = Duration::from_secs(60);

/// A source at a URL such as `http://img.example:7070`.
#[derive(Debug)]
pub struct HttpSource {
    /// Without a slash at its end.
    name: String,
    base: Url,
    clients: RwLock<Clients>,
    /// Leads to it, whatever its host is here.
    socket: Option<PathBuf>,
    time_outs: TimeOuts,
    /// How blocks travel, whatever is asked for.
    codec: Option<Codec>,
    /// What they may travel as the difference from.
    old_version: OnceLock<Arc<dyn Base>>,
    /// The source does not know it, or does not pack against any.
    refuses_base: Arc<AtomicBool>,
    /// Told with each request for the listing.
    offer: Mutex<Option<Offer>>,
    report: Mutex<Option<(NodeReport, ReadyReport)>>,
    /// Shared with the streams, which outlive a borrow of the source.
    received_bytes: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
struct Clients {
    usual: Client,
    /// For blocks that somebody waits for: a connection lives in the runtime that made it.
    demand: Client,
}

/// Why a text cannot be a source's URL.
#[derive(Debug, thiserror::Error)]
pub enum SourceUrlError {
    #[error("source URL {0:?} is not a URL ({1}); write http://HOST:PORT or https://HOST:PORT")]
    Malformed(String, String),
    #[error(
        "source URL {0:?} must begin with http:// or https:// and have no user, query or fragment; write http://HOST:PORT"
    )]
    Shape(String),
    #[error("no TLS can be spoken: {0}")]
    Tls(#[from] rustls::Error),
    #[error("no HTTP client can be made: {0}")]
    Client(#[from] reqwest::Error),
}

impl SourceUrlError {
    /// The same URL will never be taken.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

impl Clients {
    fn new(
        url: &Url,
        time_outs: TimeOuts,
        authorities: &Authorities,
        socket: Option<&Path>,
    ) -> Result<Clients, SourceUrlError> {
        // Also where the URL does not ask for it: a client without would look for the machine's authorities itself.
        let tls = match url.scheme() {
            "https" => authorities.client()?,
            _ => Authorities::none()?,
        };
        let client = || {
            let builder = match socket {
                Some(socket) => Client::builder().unix_socket(socket),
                None => Client::builder(),
            };
            builder
                .tls_backend_preconfigured(tls.clone())
                .user_agent(concat!("icbd/", env!("CARGO_PKG_VERSION")))
                .http1_only()
                .tcp_nodelay(true)
                .no_proxy()
                .redirect(redirect::Policy::none())
                .connect_timeout(time_outs.connect)
                .pool_max_idle_per_host(CONNECTIONS_IDLE_MAX)
                .build()
        };
        Ok(Clients { usual: client()?, demand: client()? })
    }
}

impl HttpSource {
    /// For a source at `url`; nothing is asked of it yet. One that speaks TLS is vouched for by the machine's authorities.
    pub fn new(url: &str, time_outs: TimeOuts) -> Result<HttpSource, SourceUrlError> {
        HttpSource::known_by(url, time_outs, &Authorities::default())
    }

    /// The same, vouched for by these.
    pub fn known_by(url: &str, time_outs: TimeOuts, authorities: &Authorities) -> Result<HttpSource, SourceUrlError> {
        HttpSource::made(url, time_outs, authorities, None)
    }

    /// The same where a socket of this machine leads to it, whatever the URL's host is here; `way` is for people.
    pub fn through(
        url: &str,
        time_outs: TimeOuts,
        authorities: &Authorities,
        (socket, way): (&Path, &str),
    ) -> Result<HttpSource, SourceUrlError> {
        let source = HttpSource::made(url, time_outs, authorities, Some(socket))?;
        Ok(HttpSource { name: format!("{} via {way}", source.name), ..source })
    }

    /// The host and port, as the URL has them.
    pub fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        format!("{host}:{}", self.base.port_or_known_default().unwrap_or(80))
    }

    fn made(
        url: &str,
        time_outs: TimeOuts,
        authorities: &Authorities,
        socket: Option<&Path>,
    ) -> Result<HttpSource, SourceUrlError> {
        let parsed = Url::parse(url).map_err(|error| SourceUrlError::Malformed(url.to_owned(), error.to_string()))?;
        let plain = parsed.query().is_none() && parsed.fragment().is_none();
        let nobody = parsed.username().is_empty() && parsed.password().is_none();
        if !matches!(parsed.scheme(), "http" | "https") || !plain || !nobody || !parsed.has_host() {
            return Err(SourceUrlError::Shape(url.to_owned()));
        }
        let clients = Clients::new(&parsed, time_outs, authorities, socket)?;
        let name = parsed.as_str().trim_end_matches('/').to_owned();
        Ok(HttpSource {
            name,
            base: parsed,
            clients: RwLock::new(clients),
            socket: socket.map(Path::to_owned),
            time_outs,
            codec: None,
            old_version: OnceLock::new(),
            refuses_base: Arc::default(),
            offer: Mutex::default(),
            report: Mutex::default(),
            received_bytes: Arc::default(),
        })
    }

    /// Has it vouched for by these from the next connection on; those that are open are not used again.
    pub fn set_authorities(&self, authorities: &Authorities) -> Result<(), SourceUrlError> {
        let clients = Clients::new(&self.base, self.time_outs, authorities, self.socket.as_deref())?;
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = clients;
        Ok(())
    }

    fn clients(&self) -> Clients {
        self.clients.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has blocks travel so from now on, however fast the way is measured to be.
    pub fn with_codec(self, codec: Codec) -> HttpSource {
        HttpSource { codec: Some(codec), ..self }
    }

    /// Lets blocks travel as what differs from a version that is here, from the next [`Sources`](crate::Sources) made
    /// of this one on. The first time counts.
    pub fn set_base(&self, base: Arc<dyn Base>) {
        drop(self.old_version.set(base));
    }

    /// Tells the source with each request for its listing what can be had here, until that is something else.
    pub fn offer(&self, offer: Option<Offer>) {
        *self.offer.lock().expect("no panic under this lock") = offer;
    }

    /// Tells the source with each request for its listing who asks, what is used here and what is ready, until that is
    /// something else.
    pub fn report(&self, report: Option<(NodeReport, ReadyReport)>) {
        *self.report.lock().expect("no panic under this lock") = report;
    }

    /// Asks for a resource; the answer's head has come and is that of an icbd.
    async fn get(
        &self,
        resource: &Resource,
        content_type: &'static str,
        known: Option<&str>,
    ) -> Result<Answer, SourceError> {
        let mut request = self.clients().usual.get(self.url(resource));
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        if matches!(resource, Resource::Head(_) | Resource::Page { .. }) {
            request = request.header(ACCEPT_ENCODING, coding::CODING);
        }
        if let (Resource::Images, Some(offer)) = (resource, &*self.offer.lock().expect("no panic under this lock")) {
            request = request.header(OFFER_HEADER, offer.to_string());
        }
        if let (Resource::Images, Some((report, ready))) =
            (resource, &*self.report.lock().expect("no panic under this lock"))
        {
            request = request.header(NODE_HEADER, report.to_string()).header(READY_HEADER, ready.to_string());
        }
        self.send(request, content_type).await
    }

    fn url(&self, resource: &Resource) -> Url {
        // Only the path is read anew: the host was checked once.
        let mut url = self.base.clone();
        url.set_path(&format!("{}{resource}", self.base.path().trim_end_matches('/')));
        url
    }

    /// What time it is there, to the second; `None` if it does not say.
    pub async fn time(&self) -> Result<Option<SystemTime>, SourceError> {
        let answer = self.get(&Resource::Images, JSON, None).await?;
        Ok(answer.header(DATE).and_then(|date| httpdate::parse_http_date(date).ok()))
    }

    /// The stream of a version, as stored if there is no codec; from a base, if the source knows the very same one, else
    /// [`SourceError::Absent`].
    pub async fn version_stream(
        &self,
        root: Root,
        base: Option<StreamBase>,
        codec: Option<Codec>,
    ) -> Result<VersionStream, SourceError> {
        let answer = self.get(&Resource::Stream { root, base, codec }, OCTETS, None).await?;
        Ok(VersionStream::new(answer, codec.unwrap_or(Codec::None)))
    }

    /// What a workstation wrote over a version of an image. Why there is nothing is said by [`SourceError::Refused`].
    pub async fn written(
        &self,
        image: ImageName,
        client: ClientName,
        codec: Codec,
    ) -> Result<VersionStream, SourceError> {
        let request = self.clients().usual.get(self.url(&Resource::Written { image, client, codec }));
        // Whoever serves the disk is asked to let go of it first.
        let response = self.respond(request, self.time_outs.first_byte.max(LET_GO_MAX)).await?;
        let received_bytes = self.received_bytes.clone();
        let answer = Answer::accept_or_say(response, OCTETS, self.time_outs.stall, received_bytes).await?;
        Ok(VersionStream::new(answer, codec))
    }

    /// The blocks of a run, against the base; `None` if that cannot be.
    async fn matched(&self, run: Run, file_bytes: u64) -> Option<Result<BlockStream, SourceError>> {
        let base = self.old_version.get().filter(|_| self.has_base())?;
        let resource = Resource::Matched { run, base: base.root() };
        match self.get(&resource, OCTETS, None).await {
            Err(SourceError::Absent) => {
                tracing::info!(source = self.name, base = %base.root(), "packs nothing against this version");
                self.refuses_base.store(true, Ordering::Relaxed);
                None
            }
            Err(error) => Some(Err(error)),
            Ok(answer) => {
                let blocks = unpacked(answer, run, file_bytes, base.clone(), self.refuses_base.clone());
                Some(Ok(stream::once(blocks.map_ok(stream::iter)).try_flatten().boxed()))
            }
        }
    }

    async fn send(&self, request: RequestBuilder, content_type: &'static str) -> Result<Answer, SourceError> {
        let response = self.respond(request, self.time_outs.first_byte).await?;
        Answer::accept(response, content_type, self.time_outs.stall, self.received_bytes.clone()).await
    }

    async fn respond(&self, request: RequestBuilder, first_byte: Duration) -> Result<Response, SourceError> {
        match tokio::time::timeout(first_byte, request.send()).await {
            Ok(response) => response.map_err(|error| answer::refused(error, &self.time_outs)),
            Err(_) => Err(SourceError::Timeout { what: "it answered nothing", after: first_byte }),
        }
    }
}

#[async_trait]
impl Source for HttpSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    async fn listing(&self, known: Option<&ListingTag>) -> Result<Option<(Listing, ListingTag)>, SourceError> {
        let answer = self.get(&Resource::Images, JSON, known.map(|tag| tag.0.as_str())).await?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let tag = answer.header(ETAG).ok_or_else(|| SourceError::Foreign("sends a list without an ETag".to_owned()))?;
        let tag = ListingTag(tag.to_owned());
        let bytes = answer.whole(LISTING_BYTES_MAX).await?;
        let listing = listing::decode(&bytes).map_err(|error| SourceError::Malformed(error.to_string()))?;
        Ok(Some((listing, tag)))
    }

    async fn head(&self, root: Root) -> Result<Bytes, SourceError> {
        self.get(&Resource::Head(root), OCTETS, None).await?.whole(Head::BYTES_MAX).await
    }

    async fn page(&self, root: Root, file: FileIndex, page: u64) -> Result<Bytes, SourceError> {
        let resource = Resource::Page { root, file, page };
        self.get(&resource, OCTETS, None).await?.whole(PAGE_BLOCKS as usize * Hash::BYTES).await
    }

    async fn profile(&self, root: Root, known: Option<Hash>) -> Result<ProfileAnswer, SourceError> {
        let tag = known.map(|known| format!("\"{known}\""));
        match self.get(&Resource::Profile(root), OCTETS, tag.as_deref()).await {
            Ok(answer) if answer.status() == StatusCode::NOT_MODIFIED => Ok(ProfileAnswer::Unchanged),
            Ok(answer) => answer.whole(Profile::BYTES_MAX).await.map(ProfileAnswer::Bytes),
            Err(SourceError::Absent) => Ok(ProfileAnswer::Unknown),
            Err(error) => Err(error),
        }
    }

    fn has_base(&self) -> bool {
        self.old_version.get().is_some() && self.codec.is_none() && !self.refuses_base.load(Ordering::Relaxed)
    }

    async fn blocks(&self, request: &BlockRequest) -> Result<BlockStream, SourceError> {
        let BlockRequest { run, file_bytes, way, urgency, check } = *request;
        let codec = match (self.codec, way) {
            (Some(codec), _) | (None, Way::By(codec)) => codec,
            (None, Way::Matched) => match self.matched(run, file_bytes).await {
                Some(answered) => return answered,
                None => Codec::Zstd,
            },
        };
        let Clients { usual, demand } = self.clients();
        let client = if urgency.is_awaited() { demand } else { usual };
        let mut request = client.get(self.url(&Resource::Blocks { run, codec }));
        if let Some(wanted) = check.cache_control() {
            request = request.header(CACHE_CONTROL, wanted);
        }
        if urgency.is_bulk() {
            request = request.header(priority::HEADER, priority::BULK);
        }
        let answer = self.send(request, OCTETS).await?;
        let decoder = FrameDecoder::new(run.first, run.count, file_bytes);
        let blocks = stream::try_unfold((answer, decoder), |(mut answer, mut decoder)| async move {
            loop {
                if let Some(block) = decoder.next().map_err(misframed)? {
                    return Ok(Some((block, (answer, decoder))));
                }
                match answer.chunk().await? {
                    Some(chunk) => decoder.push(chunk),
                    None => break,
                }
            }
            decoder.finish().map_err(misframed)?;
            Ok(None)
        });
        Ok(blocks.boxed())
    }
}

/// The blocks of a whole answer: reading the base may block.
async fn unpacked(
    answer: Answer,
    run: Run,
    file_bytes: u64,
    base: Arc<dyn Base>,
    refuses_base: Arc<AtomicBool>,
) -> Result<Vec<Result<(u64, Bytes), SourceError>>, SourceError> {
    let answer = answer.whole(run.count as usize * (BLOCK_BYTES as usize + HEADER_BYTES)).await?;
    let unpack = move || {
        let mut decoder = FrameDecoder::new(run.first, run.count, file_bytes).with_base(base);
        let mut blocks = Vec::with_capacity(run.count as usize);
        decoder.push(answer);
        while let Some(block) = decoder.next()? {
            blocks.push(Ok(block));
        }
        decoder.finish().map(|()| blocks)
    };
    let unpacked: Result<_, FrameError> = match tokio::task::spawn_blocking(unpack).await {
        Ok(unpacked) => unpacked,
        Err(error) => return Err(SourceError::Interrupted(error.to_string())),
    };
    unpacked.map_err(|error| {
        // Most likely the base is damaged here: it is asked for again, and without it.
        refuses_base.store(true, Ordering::Relaxed);
        SourceError::Interrupted(error.to_string())
    })
}

fn misframed(error: FrameError) -> SourceError {
    if error.is_permanent() {
        SourceError::Malformed(error.to_string())
    } else {
        SourceError::Interrupted(error.to_string())
    }
}
