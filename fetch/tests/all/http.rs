//! What a server can do wrong, and what is said of it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::TryStreamExt;
use icbd_fetch::{HttpSource, Source, SourceError, SourceUrlError, TimeOuts, WrongContent};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::parrot::{OCTETS, Parrot, response};
use crate::support::Fixture;

/// Silence is noticed after this in these tests. The clock is the real one: the network is, too.
const SILENCE: Duration = Duration::from_millis(200);

fn source(parrot: &Parrot) -> HttpSource {
    HttpSource::new(&parrot.url, TimeOuts::default()).unwrap()
}

/// What is said of a source that gives `answer` for two blocks and for a listing, by its beginning.
async fn check(answer: impl Into<Vec<u8>>, closes: bool, says: &str) {
    let parrot = Parrot::start(answer, closes).await;
    let silent = TimeOuts { first_byte: SILENCE, stall: SILENCE, ..TimeOuts::default() };
    // Only who is to be silent is given so little time: a busy machine may need more.
    let time_outs = if closes { TimeOuts::default() } else { silent };
    let source = HttpSource::new(&parrot.url, time_outs).unwrap();
    let error = blocks(&source).await.unwrap_err();
    assert!(error.to_string().contains(says), "{error} does not say {says:?}");
    let error = source.listing(None).await.unwrap_err();
    assert!(!error.to_string().is_empty());
}

/// Asks for the first two blocks of the fixture's kernel: 65536 and 34464 bytes.
async fn blocks(source: &dyn Source) -> Result<usize, SourceError> {
    let run = icbd_image::Run {
        root: icbd_image::Root::from_bytes([1; 32]),
        file: icbd_image::FileIndex::ROOT,
        first: 0,
        count: 2,
    };
    let request = icbd_fetch::BlockRequest {
        run,
        file_bytes: 100_000,
        way: icbd_fetch::Way::By(icbd_wire::Codec::None),
        urgency: icbd_fetch::Urgency::Readahead,
        check: icbd_wire::Check::Receiver,
    };
    let blocks: Vec<_> = source.blocks(&request).await?.try_collect().await?;
    Ok(blocks.len())
}

/// One zero frame of two blocks.
const ZEROS: [u8; 8] = [2, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn what_is_no_icbd_is_told() {
    let html = "Content-Type: text/html; charset=utf-8\r\n";
    check(response("200 OK", html, b"<html>Log in"), true, "answers HTML: is this an icbd master?").await;
    check(response("404 Not Found", html, b"<html>"), true, "answers HTML").await;
    check(response("200 OK", "Content-Type: text/plain\r\n", &ZEROS), true, "content type \"text/plain\"").await;
    check(response("200 OK", "", &ZEROS), true, "content type \"\"").await;
    let elsewhere = "Location: http://other.example/\r\n";
    check(response("302 Found", elsewhere, b""), true, "redirects to \"http://other.example/\"").await;
    check(response("204 No Content", "", b""), true, "status 204").await;
    check("SSH-2.0-OpenSSH_9.2\r\n", true, "cannot be reached: invalid HTTP version").await;
}

#[tokio::test]
async fn refusals_and_failures_keep_their_text() {
    check(response("403 Forbidden", "", b"10.9.9.9 is not\nallowed\n"), true, "status 403: 10.9.9.9 is not allowed")
        .await;
    check(response("500 Oops", "", &[b'x'; 100_000]), true, &format!("status 500: {}", "x".repeat(500))).await;
    check(response("404 Not Found", "", b""), true, "no such thing").await;
}

#[tokio::test]
async fn damaged_bodies_are_refused() {
    check(response("200 OK", OCTETS, &ZEROS[..4]), true, "ended before block 0").await;
    check(response("200 OK", OCTETS, &[ZEROS, ZEROS].concat()), true, "bytes follow").await;
    check(response("200 OK", OCTETS, &[1, 1, 0, 0, 255, 255, 255, 255]), true, "claims 4294967295 bytes").await;
    let mut cut = response("200 OK", OCTETS, &ZEROS);
    cut.truncate(cut.len() - 3);
    check(cut, true, "its answer broke off").await;
    check("", true, "cannot be reached: connection closed").await;
}

#[tokio::test]
async fn silence_has_an_end() {
    check("", false, "it answered nothing within 0.2 s").await;
    let mut cut = response("200 OK", OCTETS, &ZEROS);
    cut.truncate(cut.len() - 3);
    check(cut, false, "no byte came within 0.2 s").await;
}

#[tokio::test]
async fn long_bodies_are_not_read() {
    let root = icbd_image::Root::from_bytes([1; 32]);
    let claims = format!("HTTP/1.1 200 OK\r\n{OCTETS}Content-Length: 99999999999\r\n\r\n");
    let parrot = Parrot::start(claims, false).await;
    let page = source(&parrot).page(root, icbd_image::FileIndex::ROOT, 0).await.unwrap_err();
    assert!(page.to_string().contains("more than 65536 bytes"), "{page}");
    let head = source(&parrot).head(root).await.unwrap_err();
    assert!(head.to_string().contains("more than 268435456 bytes"), "{head}");
    // Without a length it is read up to the limit.
    let endless = [format!("HTTP/1.1 200 OK\r\n{OCTETS}\r\n").as_bytes(), &vec![7; 1 << 20]].concat();
    let page = source(&Parrot::start(endless, true).await).page(root, icbd_image::FileIndex::ROOT, 0).await;
    assert!(matches!(page, Err(SourceError::Malformed(_))), "{page:?}");
}

#[tokio::test]
async fn packed_pages_are_unpacked_up_to_their_size() {
    async fn page(body: &[u8]) -> Result<Vec<u8>, SourceError> {
        let headers = format!("{OCTETS}Content-Encoding: zstd\r\n");
        let parrot = Parrot::start(response("200 OK", &headers, body), true).await;
        let root = icbd_image::Root::from_bytes([1; 32]);
        source(&parrot).page(root, icbd_image::FileIndex::ROOT, 0).await.map(|page| page.to_vec())
    }
    let plain = vec![7; 65536];
    let packed = icbd_wire::coding::pack(&plain).unwrap();
    assert!(packed.len() < 1000 && page(&packed).await.unwrap() == plain);
    // A bit that flipped on the way is right the second time: it is no answer for ever.
    let bomb = icbd_wire::coding::pack(&vec![7; 65537]).unwrap();
    for wrong in [&bomb, &packed[..packed.len() - 1], b"nothing packed"] {
        let error = page(wrong).await.unwrap_err();
        assert!(matches!(error, SourceError::WrongContent(WrongContent::Packed { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn nobody_there() {
    // Bound and closed again: nobody listens on this port now.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = blocks(&HttpSource::new(&url, TimeOuts::default()).unwrap()).await.unwrap_err();
    assert!(matches!(&error, SourceError::Unreachable(why) if why.contains("refused")), "{error}");
}

#[tokio::test]
async fn a_connection_that_is_not_made_has_an_end() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts: when the queue is full, the kernel ignores those who knock, as a dead host does.
    let mut queue = Vec::new();
    while let Ok(connection) = tokio::time::timeout(SILENCE, TcpStream::connect(address)).await {
        queue.push(connection.unwrap());
    }
    let time_outs = TimeOuts { connect: SILENCE, ..TimeOuts::default() };
    let error = blocks(&HttpSource::new(&format!("http://{address}"), time_outs).unwrap()).await.unwrap_err();
    assert_eq!(error, SourceError::Timeout { what: "no connection was made", after: SILENCE });
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let parrot = Parrot::start(response("200 OK", OCTETS, &ZEROS), false).await;
    let source = source(&parrot);
    for _ in 0..10 {
        assert_eq!(blocks(&source).await, Ok(2));
    }
    assert_eq!(parrot.connections.load(Ordering::Relaxed), 1);
    assert_eq!(source.received_bytes(), 80);
}

#[tokio::test]
async fn a_url_with_a_folder_and_a_slash() {
    let fixture = Fixture::new();
    let server = crate::support::Server::start(fixture.memory.clone()).await;
    let source = HttpSource::new(&format!("{}/", server.url), TimeOuts::default()).unwrap();
    assert_eq!(source.name(), server.url);
    assert!(source.listing(None).await.unwrap().is_some());
    let source = HttpSource::new(&format!("{}/mirror/", server.url), TimeOuts::default()).unwrap();
    assert!(matches!(source.listing(None).await, Err(SourceError::Refused { status: 400, .. })));
}

#[test]
fn urls_that_are_refused_and_why() {
    let check = |url: &str, says: &str| {
        let error: SourceUrlError = HttpSource::new(url, TimeOuts::default()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    };
    check("", "write http://HOST:PORT");
    check("img.example", "write http://HOST:PORT");
    check("img.example:7070", "must begin with http://");
    check("http://user:secret@img.example", "no user");
    check("http://img.example/?x", "query");
    check("file:///srv/icbd", "must begin with http://");
}
