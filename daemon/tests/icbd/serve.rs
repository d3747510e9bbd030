//! The read-only TCP plane.

use std::io::{Read, Write};
use std::net::TcpStream;

use icbd_image::{FileIndex, Head, Run};
use icbd_wire::{Codec, FrameDecoder, Resource, coding, listing};

use crate::lab::Lab;

fn check_range(master: &crate::lab::Master, range: &str, status: u16, expected: &[u8], content_range: &str) {
    let answer = master.ask("GET", "/files/lab/1/disk.raw", &[&format!("Range: bytes={range}")]);
    assert_eq!((answer.status, answer.header("content-range")), (status, Some(content_range)), "{range}");
    assert!(answer.body == expected || status == 416, "{range}");
}

/// A file is read by those who know no icbd: whole, in part, and again only if it changed.
#[test]
fn files_are_served_as_curl_qemu_and_ipxe_ask() {
    let (lab, content) = (Lab::new(), Lab::content());
    lab.ok(&["image", "publish", "lab", "tree", "--deploy", "--repo", "repo"]);
    let master = lab.master("repo");
    let whole = master.get("/files/lab/1/disk.raw");
    assert!(whole.status == 200 && whole.body == content);
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("content-type"), Some("application/octet-stream"));
    assert!(whole.header("cache-control").unwrap().contains("immutable, no-transform"));
    assert!(whole.header("last-modified").is_some());
    assert_eq!(master.get("/files/lab/current/disk.raw").body, content);
    assert_eq!(master.get("/files/lab/1/empty").header("content-length"), Some("0"));

    let len = content.len();
    check_range(&master, "0-0", 206, &content[..1], &format!("bytes 0-0/{len}"));
    check_range(&master, "65530-65541", 206, &content[65530..65542], &format!("bytes 65530-65541/{len}"));
    check_range(&master, "300000-", 206, &content[300_000..], &format!("bytes 300000-{}/{len}", len - 1));
    check_range(&master, "-5", 206, &content[len - 5..], &format!("bytes {}-{}/{len}", len - 5, len - 1));
    check_range(&master, &format!("{len}-"), 416, b"", &format!("bytes */{len}"));

    let head = master.ask("HEAD", "/files/lab/1/disk.raw", &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(&*len.to_string()));
    let tag = format!("If-None-Match: {}", whole.header("etag").unwrap());
    assert_eq!(master.ask("GET", "/files/lab/1/disk.raw", &[&tag]).status, 304);
    let other = ["If-Range: \"other\"", "Range: bytes=0-0"];
    assert_eq!(master.ask("GET", "/files/lab/1/disk.raw", &other).status, 200);
}

/// What a cache asks for: listing, head, blocks; the counter counts blocks of block requests only.
#[test]
fn a_version_is_served_block_by_block() {
    let (lab, content) = (Lab::new(), Lab::content());
    lab.ok(&["image", "publish", "lab", "tree", "--repo", "repo"]);
    let master = lab.master("repo");
    let answer = master.get("/v1/images");
    let list = listing::decode(&answer.body).unwrap();
    let root = list.images[0].versions[0].root();
    let tag = format!("If-None-Match: {}", answer.header("etag").unwrap());
    assert_eq!(master.ask("GET", "/v1/images", &[&tag]).status, 304);
    lab.ok(&["image", "publish", "lab", "tree", "--socket", &master.socket]);
    assert_eq!(master.ask("GET", "/v1/images", &[&tag]).status, 200);
    assert_eq!(master.get("/v1/images/lab/versions/1").status, 200);

    let head = Head::parse_expecting(master.get(&Resource::Head(root).to_string()).body.into(), &root).unwrap();
    let file = head.resolve(b"disk.raw").unwrap();
    let page = master.get(&Resource::Page { root, file, page: 0 }.to_string());
    assert_eq!(page.body.len(), content.len().div_ceil(65536) * 32);
    for (codec, first, count) in [(Codec::Lz4, 3, 1), (Codec::None, 5, 12), (Codec::Zstd, 0, 21)] {
        let run = Run { root, file, first, count };
        let answer = master.get(&Resource::Blocks { run, codec }.to_string());
        assert_eq!(answer.status, 200);
        let mut decoder = FrameDecoder::new(first, count, content.len() as u64);
        decoder.push(answer.body.clone().into());
        for block in run.blocks() {
            let (index, bytes) = decoder.next().unwrap().unwrap();
            let start = block as usize * 65536;
            assert!(index == block && content[start..].starts_with(&bytes) && !bytes.is_empty(), "{block}");
        }
    }
    let run = Resource::Blocks { run: Run { root, file, first: 0, count: 21 }, codec: Codec::None };
    let asked = master.ask("HEAD", &run.to_string(), &[]);
    assert_eq!((asked.status, asked.body.len()), (200, 0));
    let sent = &master.status(&lab)["sent"];
    assert_eq!(sent["blocks"], 1 + 12 + 21, "what was only asked about was not sent");
    assert!(sent["bytes"].as_u64().unwrap() > 0 && sent["requests"].as_u64().unwrap() >= 8);
    let past = Resource::Blocks { run: Run { root, file, first: 20, count: 2 }, codec: Codec::None };
    assert_eq!(master.get(&past.to_string()).status, 404);
    let nobody = Run { root, file: FileIndex::new(99).unwrap(), first: 0, count: 1 };
    assert_eq!(master.get(&Resource::Blocks { run: nobody, codec: Codec::None }.to_string()).status, 404);
}

/// Most of a page may be hashes of zero blocks: they travel packed to whoever can unpack them, and only then.
#[test]
fn pages_travel_packed_to_who_unpacks_them() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("sparse")).unwrap();
    let disk = std::fs::File::create(lab.path("sparse/disk.raw")).unwrap();
    (&disk).write_all(&Lab::content()).unwrap();
    disk.set_len(64 << 20).unwrap();
    lab.ok(&["image", "publish", "lab", "sparse", "--repo", "repo"]);
    let master = lab.master("repo");
    let root = listing::decode(&master.get("/v1/images").body).unwrap().images[0].versions[0].root();
    let head = Head::parse_expecting(master.get(&Resource::Head(root).to_string()).body.into(), &root).unwrap();
    let path = Resource::Page { root, file: head.resolve(b"disk.raw").unwrap(), page: 0 }.to_string();
    let page = master.get(&path);
    assert_eq!((page.header("content-encoding"), page.body.len()), (None, 1024 * 32));
    let packed = master.ask("GET", &path, &["Accept-Encoding: gzip, zstd"]);
    assert_eq!((packed.header("content-encoding"), packed.header("vary")), (Some("zstd"), Some("accept-encoding")));
    assert!(packed.header("etag") != page.header("etag") && packed.body.len() < 1000, "{}", packed.body.len());
    assert!(coding::unpack(&packed.body, page.body.len()) == Some(page.body));
}

/// TCP changes nothing, and what is not there is told in plain text.
#[test]
fn everything_else_is_refused_in_plain_text() {
    let lab = Lab::new();
    lab.ok(&["image", "publish", "lab", "tree", "--repo", "repo"]);
    let master = lab.master("repo");
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = master.ask(method, "/v1/images", &[]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("get, head")), "{method}");
    }
    for path in [
        "/",
        "/v1",
        "/v1/publish",
        "/v1/status",
        "/v1/heads/12",
        "/files/lab/2/disk.raw",
        "/files/lab/1/none",
        "/files/lab/1/../1/disk.raw",
        "/files/lab/1/%2e%2e/repository.lock",
        "/files/lab/current/disk.raw",
        "/files/other/1/x",
    ] {
        let answer = master.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("text/plain; charset=utf-8")), "{path}");
        assert!(answer.text().ends_with('\n') && answer.text().len() > 10, "{path}: {}", answer.text());
    }
    assert_eq!(master.stop(), 0);
}

/// A connection is used for request after request, also by those who do not wait for the answers.
#[test]
fn requests_that_come_at_once_are_answered_in_order() {
    let (lab, content) = (Lab::new(), Lab::content());
    lab.ok(&["image", "publish", "lab", "tree", "--repo", "repo"]);
    let master = lab.master("repo");
    let mut stream = TcpStream::connect(master.address).unwrap();
    let get = |first, last, end| {
        format!("GET /files/lab/1/disk.raw HTTP/1.1\r\nHost: x\r\nRange: bytes={first}-{last}\r\n{end}\r\n")
    };
    let requests = [get(0, 0, ""), get(7, 1_200_000, ""), get(9, 9, "Connection: close\r\n")].concat();
    stream.write_all(requests.as_bytes()).unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    let end_of_head = |bytes: &[u8]| bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let mut rest = answers.as_slice();
    for expected in [&content[..1], &content[7..=1_200_000], &content[9..10]] {
        rest = &rest[end_of_head(rest)..];
        assert!(rest.starts_with(expected));
        rest = &rest[expected.len()..];
    }
    assert!(rest.is_empty());
}

/// Headers that do not end are not kept in memory.
#[test]
fn endless_headers_are_cut_off() {
    let lab = Lab::new();
    let master = lab.master("repo");
    let mut stream = TcpStream::connect(master.address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nEndless: ").unwrap();
    let mut written = 0;
    while written < 16 << 20 && stream.write_all(&[b'x'; 4096]).is_ok() {
        written += 4096;
    }
    assert!(written < 16 << 20, "16 MiB of a header were taken");
    assert_eq!(master.get("/v1/images").status, 200);
}
