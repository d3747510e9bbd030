//! What the tests share: a repository with known contents, in memory, on disk and behind HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use icbd_fetch::testing::MemorySource;
use icbd_fetch::{BlockRequest, ProfileAnswer, RunRequest, Source, Urgency, Way};
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Head, Page, Root, Run, block_len, is_zero};
use icbd_wire::{Check, Codec, FrameEncoder, Resource, encode_run, listing};
use tokio::task::JoinHandle;

/// A version with a paged disk of 2100 blocks (zeros in the middle, a short one at the end), a kernel
/// and an empty file.
pub(crate) struct Fixture {
    pub(crate) memory: Arc<MemorySource>,
    pub(crate) head: Head,
    pub(crate) disk: Bytes,
    pub(crate) disk_index: FileIndex,
    /// What is known of boots, as bytes: whoever carries them looks at none.
    pub(crate) profile: Bytes,
}

pub(crate) const DISK_BLOCKS: u64 = 2100;

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let disk = DISK.clone();
        let memory = Arc::new(MemorySource::new("memory"));
        let mut kernel = vec![0; 100_000];
        fill(&mut kernel, 9);
        let files = [("disk.raw", disk.clone()), ("empty", Bytes::new()), ("vmlinuz", Bytes::from(kernel))];
        let root = memory.publish("debian", &files).root();
        let head = memory.head_of(root);
        let disk_index = head.resolve(b"disk.raw").unwrap();
        let profile = Bytes::from_static(b"what boots read");
        memory.set_profile(root, profile.clone());
        Fixture { memory, head, disk, disk_index, profile }
    }

    pub(crate) fn root(&self) -> Root {
        self.head.root()
    }

    pub(crate) fn request(&self, first: u64, count: u32) -> BlockRequest {
        self.request_in(first, count, Codec::None)
    }

    /// The same for a list of sources.
    pub(crate) fn wish(&self, first: u64, count: u32) -> RunRequest {
        let BlockRequest { run, file_bytes, .. } = self.request(first, count);
        RunRequest { run, file_bytes, urgency: Urgency::Demand }
    }

    pub(crate) fn request_in(&self, first: u64, count: u32, codec: Codec) -> BlockRequest {
        let run = Run { root: self.root(), file: self.disk_index, first, count };
        BlockRequest {
            run,
            file_bytes: self.disk.len() as u64,
            way: Way::By(codec),
            urgency: Urgency::Demand,
            check: Check::Receiver,
        }
    }

    /// A block of the disk.
    pub(crate) fn block(&self, block: u64) -> Bytes {
        let start = (block * BLOCK_BYTES) as usize;
        self.disk.slice(start..start + block_len(self.disk.len() as u64, block))
    }

    pub(crate) fn hashes(&self, run: &Run) -> Vec<Hash> {
        run.blocks().map(|block| Hash::of(&self.block(block))).collect()
    }

    /// Writes the repository as a master lays it out.
    pub(crate) async fn write(&self, repository: &Path) {
        let version = repository.join("versions/debian/1");
        std::fs::create_dir_all(&version).unwrap();
        std::fs::create_dir_all(repository.join("manifests")).unwrap();
        let manifest = |extension: &str| repository.join(format!("manifests/{}.{extension}", self.root()));
        std::fs::write(manifest("head"), self.head.bytes()).unwrap();
        std::fs::create_dir(repository.join("profiles")).unwrap();
        std::fs::write(repository.join(format!("profiles/{}.profile", self.root())), &self.profile).unwrap();
        let pages = std::fs::File::create(manifest("pages")).unwrap();
        pages.set_len(self.head.paged_blocks() * Hash::BYTES as u64).unwrap();
        let disk = self.head.node(self.disk_index).unwrap();
        for page in 0..disk.pages() {
            let bytes = self.memory.page(self.root(), self.disk_index, page).await.unwrap();
            pages.write_all_at(&bytes, disk.page_offset(page).unwrap()).unwrap();
        }
        let file = std::fs::File::create(version.join("disk.raw")).unwrap();
        file.set_len(self.disk.len() as u64).unwrap();
        for block in (0..DISK_BLOCKS).filter(|block| !is_zero(&self.block(*block))) {
            file.write_all_at(&self.block(block), block * BLOCK_BYTES).unwrap();
        }
    }

    pub(crate) fn page(&self, page: u64, bytes: Bytes) -> Page {
        Page::verify(&self.head.node(self.disk_index).unwrap(), page, bytes).unwrap()
    }
}

static DISK: LazyLock<Bytes> = LazyLock::new(|| {
    let mut disk = vec![0; (DISK_BLOCKS * BLOCK_BYTES) as usize - 1000];
    for block in (0..40).chain(2046..DISK_BLOCKS) {
        let at = (block * BLOCK_BYTES) as usize;
        let block_bytes = block_len(disk.len() as u64, block);
        fill(&mut disk[at..at + block_bytes], block);
    }
    disk.into()
});

/// Bytes that do not compress to nothing and differ from block to block.
pub(crate) fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for (at, byte) in bytes.iter_mut().enumerate() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = if at % 3 == 0 { 0 } else { state as u8 };
    }
}

/// A master on loopback that serves what a memory source holds; ends when dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(memory: Arc<MemorySource>) -> Server {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(answer).with_state(memory);
        let listener = axum::serve::ListenerExt::tap_io(listener, |tcp| tcp.set_nodelay(true).unwrap());
        let task = tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
        Server { url: format!("http://{address}"), task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(memory): State<Arc<MemorySource>>, uri: Uri, headers: HeaderMap) -> Response {
    let octets = |bytes: Bytes| ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response();
    let absent = |_| StatusCode::NOT_FOUND.into_response();
    match Resource::parse(uri.path()) {
        Ok(Resource::Images) => {
            let bytes = listing::encode(&memory.current_listing());
            let tag = format!("\"{}\"", Hash::of(&bytes));
            if headers.get(header::IF_NONE_MATCH).is_some_and(|known| *known == tag) {
                return StatusCode::NOT_MODIFIED.into_response();
            }
            let headers = [(header::CONTENT_TYPE, "application/json".to_owned()), (header::ETAG, tag)];
            (headers, bytes).into_response()
        }
        Ok(Resource::Head(root)) => memory.head(root).await.map_or_else(absent, octets),
        Ok(Resource::Profile(root)) => match memory.profile(root, None).await {
            Ok(ProfileAnswer::Bytes(bytes)) => {
                let tag = format!("\"{}\"", Hash::of(&bytes));
                match headers.get(header::IF_NONE_MATCH).is_some_and(|known| *known == tag) {
                    true => StatusCode::NOT_MODIFIED.into_response(),
                    false => octets(bytes),
                }
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        },
        Ok(Resource::Page { root, file, page }) => memory.page(root, file, page).await.map_or_else(absent, octets),
        Ok(Resource::Blocks { run, codec }) => blocks(&memory, run, codec).await.unwrap_or_else(absent),
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// What is sent of an answer at a time.
const PIECE_BYTES: usize = 100_000;

async fn blocks(memory: &MemorySource, run: Run, codec: Codec) -> Result<Response, icbd_fetch::SourceError> {
    memory.head(run.root).await?;
    let head = memory.head_of(run.root);
    let file_bytes = head.node(run.file).map_or(0, |node| node.size());
    let blocks = memory
        .blocks(&BlockRequest {
            run,
            file_bytes,
            way: Way::By(codec),
            urgency: Urgency::Demand,
            check: Check::Receiver,
        })
        .await?;
    let blocks: Vec<Bytes> = blocks.map(|block| block.unwrap().1).collect().await;
    // Raw blocks cost no time to frame; packed ones do, but in a test that is nobody's trouble.
    let mut frames = Vec::new();
    let from = |block: u64| &blocks[(block - run.first) as usize..];
    let zero = |block| is_zero(&from(block)[0]);
    let read = |first, bytes: &mut [u8]| {
        let places = bytes.chunks_mut(BLOCK_BYTES as usize);
        places.zip(from(first)).for_each(|(place, block)| place.copy_from_slice(block));
        Ok::<_, Infallible>(())
    };
    let Ok(()) = encode_run(&mut FrameEncoder::new(), &run, file_bytes, codec, zero, read, &mut frames);
    // In pieces, as they come over a line.
    let pieces: Vec<_> = frames.chunks(PIECE_BYTES).map(|piece| Ok::<_, Infallible>(piece.to_vec())).collect();
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}
