//! A repository on a disk that has gone, rotted or been tampered with.

use std::path::Path;

use futures_util::TryStreamExt;
use icbd_fetch::{DirectorySource, Source, SourceError, TimeOuts};

use crate::support::Fixture;

fn source(fixture: &Fixture, repository: &Path) -> DirectorySource {
    DirectorySource::new(repository, fixture.memory.current_listing(), TimeOuts::default())
}

async fn first_blocks(fixture: &Fixture, source: &DirectorySource) -> Result<usize, SourceError> {
    Ok(source.blocks(&fixture.request(0, 20)).await?.try_collect::<Vec<_>>().await?.len())
}

#[tokio::test]
async fn a_directory_that_is_gone_has_nothing() {
    let fixture = Fixture::new();
    let repository = tempfile::tempdir().unwrap();
    let source = source(&fixture, repository.path());
    assert_eq!(source.listing(None).await.unwrap_err(), SourceError::Absent);
    assert_eq!(source.head(fixture.root()).await, Err(SourceError::Absent));
    assert_eq!(first_blocks(&fixture, &source).await, Err(SourceError::Absent));
}

#[tokio::test]
async fn files_that_are_not_what_they_were_are_errors() {
    let fixture = Fixture::new();
    let repository = tempfile::tempdir().unwrap();
    fixture.write(repository.path()).await;
    let source = source(&fixture, repository.path());
    assert_eq!(first_blocks(&fixture, &source).await, Ok(20));
    let disk = repository.path().join("versions/debian/1/disk.raw");
    let check = async |says: &str| {
        let error = first_blocks(&fixture, &source).await.unwrap_err();
        assert!(error.to_string().contains(says) && !error.is_permanent(), "{error}");
    };
    std::fs::File::options().write(true).open(&disk).unwrap().set_len(70_000).unwrap();
    check("fill whole buffer").await;
    std::fs::remove_file(&disk).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &disk).unwrap();
    check("not a regular file").await;
    std::fs::remove_file(&disk).unwrap();
    std::os::unix::net::UnixListener::bind(&disk).unwrap();
    check("not a regular file").await;
    std::fs::remove_file(&disk).unwrap();
    assert_eq!(first_blocks(&fixture, &source).await, Err(SourceError::Absent));
}

#[tokio::test]
async fn a_head_that_rotted_is_not_followed() {
    let fixture = Fixture::new();
    let repository = tempfile::tempdir().unwrap();
    fixture.write(repository.path()).await;
    let path = repository.path().join(format!("manifests/{}.head", fixture.root()));
    let mut head = std::fs::read(&path).unwrap();
    head[100] ^= 1;
    std::fs::write(&path, head).unwrap();
    let error = first_blocks(&fixture, &source(&fixture, repository.path())).await.unwrap_err();
    assert!(matches!(error, SourceError::WrongContent(_)), "{error}");
}
