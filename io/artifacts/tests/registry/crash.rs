//! What a crash leaves, full disks, and folders that are not what they seem.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use io_artifacts::serve::{ServeError, Settings, StoreError, listen};
use machines::oci::{Digest, media};

use crate::client::{Server, ask, bytes, image, names, push_image, soon};

/// Serves in a process of its own, for the tests that start and kill it; without them there is nothing to serve.
#[test]
fn registry_in_a_process_of_its_own() {
    let Ok(folder) = std::env::var("REGISTRY_TEST_FOLDER") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let serving = listen(
        "127.0.0.1:0".parse().unwrap(),
        Settings::new(folder),
        |address| println!("\nlistening on {address}"),
        std::future::pending(),
    );
    runtime.block_on(serving).unwrap();
}

struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Runs behind `before`, a line of shell.
    fn start(folder: &Path, before: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{before} exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "crash::registry_in_a_process_of_its_own", "--nocapture"])
            .env("REGISTRY_TEST_FOLDER", folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
        let Some(address) = told else {
            let mut cause = String::new();
            child.stderr.take().unwrap().read_to_string(&mut cause).unwrap();
            panic!("the registry does not start: {cause}");
        };
        Self { child, address: address.parse().unwrap() }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_what_was_answered_is_there_and_nothing_is_half() {
    let folder = tempfile::tempdir().unwrap();
    let registry = folder.path().join("registry");
    let answered = Arc::new(AtomicU32::new(0));
    let mut first = 0;
    for round in 0..12_u64 {
        let process = Process::start(&registry, "");
        let address = process.address;
        check_all(address, &registry, answered.load(Ordering::SeqCst)).await;
        first = answered.load(Ordering::SeqCst).max(first);
        let pushing = tokio::spawn({
            let answered = Arc::clone(&answered);
            async move {
                for n in first.. {
                    if push_image(address, "a", "latest", &layer(n), None).await.is_err() {
                        return;
                    }
                    answered.store(n + 1, Ordering::SeqCst);
                }
            }
        });
        // Every other time something is answered first, however slow the disk.
        if round % 2 == 1 {
            soon(|| answered.load(Ordering::SeqCst) > first).await;
        }
        tokio::time::sleep(Duration::from_millis(5 + round * 17 % 90)).await;
        process.kill();
        pushing.await.unwrap();
    }
    assert!(answered.load(Ordering::SeqCst) >= 6, "something was pushed");
    let process = Process::start(&registry, "");
    check_all(process.address, &registry, answered.load(Ordering::SeqCst)).await;
    process.kill();
}

fn layer(n: u32) -> Vec<u8> {
    [&bytes(100_000, 1)[..], &n.to_be_bytes()].concat()
}

async fn check_all(address: SocketAddr, registry: &Path, answered: u32) {
    assert!(names(&registry.join("uploads")).is_empty(), "what was left over is removed at start");
    for hex in names(&registry.join("blobs/sha256")) {
        let bytes = std::fs::read(registry.join("blobs/sha256").join(&hex)).unwrap();
        assert_eq!(Digest::of(&bytes).hex(), hex, "whatever has a name is whole");
    }
    for n in 0..answered {
        let manifest = image(&layer(n), None).to_bytes();
        let path = format!("/v2/a/manifests/{}", Digest::of(&manifest));
        let reply = ask(address, "GET", &path, &[], "").await.unwrap();
        assert!(reply.status == 200 && reply.body == manifest, "push {n} was answered");
        let path = format!("/v2/a/blobs/{}", Digest::of(&layer(n)));
        assert_eq!(ask(address, "HEAD", &path, &[], "").await.unwrap().status, 200, "push {n} was answered");
    }
    if answered > 0 {
        let tagged = ask(address, "GET", "/v2/a/manifests/latest", &[], "").await.unwrap();
        let last = Digest::of(&image(&layer(answered - 1), None).to_bytes()).to_string();
        let next = Digest::of(&image(&layer(answered), None).to_bytes()).to_string();
        let digest = tagged.header("docker-content-digest");
        assert!(digest == last || digest == next, "the tag names the last one answered or the one under way");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_between_two_steps_is_made_good() {
    let server = Server::start().await;
    let digest = server.push_image("a", "v1", b"layer", None).await;
    let folder = server.stop().await.unwrap();
    let registry = folder.path().join("registry");
    // In the middle of an upload; after the rename of a blob and before its repository has it; after a manifest and before
    // its tag.
    std::fs::write(registry.join("uploads/0123456789abcdef0123456789abcdef"), "half").unwrap();
    let nameless = Digest::of(b"nameless");
    std::fs::write(registry.join("blobs/sha256").join(nameless.hex()), "nameless").unwrap();
    let next = image(b"layer", None);
    let next = {
        let mut next = next;
        next.artifact_type = Some("application/next".into());
        next.to_bytes()
    };
    let untagged = Digest::of(&next);
    std::fs::write(registry.join("blobs/sha256").join(untagged.hex()), &next).unwrap();
    std::fs::write(registry.join("repositories/a/_manifests").join(untagged.hex()), media::IMAGE_MANIFEST).unwrap();

    let server = Server::of(Settings::new(&registry)).await.unwrap();
    assert!(names(&registry.join("uploads")).is_empty());
    assert!(!names(&registry.join("blobs/sha256")).contains(&nameless.hex()));
    assert_eq!(server.get(&format!("/v2/a/blobs/{nameless}")).await.status, 404);
    assert_eq!(server.get("/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef").await.status, 404);
    assert_eq!(server.get("/v2/a/manifests/v1").await.header("docker-content-digest"), digest.to_string());
    let path = "/v2/a/manifests/v1";
    let again = server.ask("PUT", path, &[("content-type", media::IMAGE_MANIFEST)], next).await;
    assert_eq!(again.status, 201, "the push is repeated and completes");
    assert_eq!(server.get(path).await.header("docker-content-digest"), untagged.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d07_a_full_disk_is_said_and_nothing_half_is_visible() {
    let folder = tempfile::tempdir().unwrap();
    let registry = folder.path().join("registry");
    // A bound on the size of files stands in for a disk that is full.
    let process = Process::start(&registry, "trap '' XFSZ; ulimit -f 2048;");
    let blob = bytes(8 << 20, 1);
    let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::of(&blob));
    let reply = ask(process.address, "POST", &path, &[], blob.clone()).await;
    // The answer may come before all was sent, and the connection with it to an end.
    if let Ok(reply) = reply {
        assert_eq!((reply.status, reply.code().as_str()), (507, "UNKNOWN"), "{reply:?}");
    }
    let started = ask(process.address, "POST", "/v2/a/blobs/uploads/", &[], "").await.unwrap();
    let at = started.header("location").to_owned();
    let half = ask(process.address, "PATCH", &at, &[], blob[..1_000_000].to_vec()).await.unwrap();
    assert_eq!(half.status, 202);
    let mut over = 0;
    for _ in 0..4 {
        over = ask(process.address, "PATCH", &at, &[], blob[..100_000].to_vec()).await.unwrap().status;
        if over != 202 {
            break;
        }
    }
    assert_eq!(over, 507);
    assert_eq!(ask(process.address, "GET", &at, &[], "").await.unwrap().status, 404, "the session is over");
    for folder in ["uploads", "blobs/sha256", "repositories"] {
        assert!(names(&registry.join(folder)).is_empty(), "{folder}");
    }
    push_image(process.address, "a", "v1", b"small", None).await.unwrap();
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_links_in_the_folder_lead_nowhere() {
    let server = Server::start().await;
    server.push_image("a", "v1", b"layer", None).await;
    let registry = server.path();
    let outside = registry.parent().unwrap().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();

    // A blob's bytes, a tag, a repository and the folder of uploads become links.
    let digest = Digest::of(b"layer");
    let bytes = registry.join("blobs/sha256").join(digest.hex());
    std::fs::remove_file(&bytes).unwrap();
    symlink(outside.join("secret"), &bytes).unwrap();
    let reply = server.get(&format!("/v2/a/blobs/{digest}")).await;
    assert_eq!((reply.status, reply.code().as_str()), (500, "UNKNOWN"));
    symlink(outside.join("secret"), registry.join("repositories/a/_tags/link")).unwrap();
    assert_eq!(server.get("/v2/a/manifests/link").await.status, 500);
    symlink(&outside, registry.join("repositories/b")).unwrap();
    let reply = server.ask("POST", &format!("/v2/b/c/blobs/uploads/?digest={}", Digest::of(b"x")), &[], "x").await;
    assert_eq!(reply.status, 500);
    std::fs::rename(registry.join("uploads"), registry.join("old")).unwrap();
    symlink(&outside, registry.join("uploads")).unwrap();
    assert_eq!(server.ask("POST", "/v2/a/blobs/uploads/", &[], "").await.status, 500);
    assert_eq!(names(&outside), ["secret"]);
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_folder_that_others_may_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let registry = folder.path().join("registry");
    std::fs::create_dir(&registry).unwrap();
    for mode in [0o770, 0o757, 0o1777] {
        std::fs::set_permissions(&registry, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = Server::of(Settings::new(&registry)).await.err().unwrap();
        assert!(matches!(refused, ServeError::Store(StoreError::Open(..))), "{mode:o}: {refused}");
    }
    std::fs::set_permissions(&registry, std::fs::Permissions::from_mode(0o755)).unwrap();
    let server = Server::of(Settings::new(&registry)).await.unwrap();
    push_image(server.address, "a", "v1", b"layer", None).await.unwrap();
    for path in ["blobs", "repositories/a/_tags", "uploads"] {
        assert_eq!(std::fs::metadata(registry.join(path)).unwrap().permissions().mode() & 0o777, 0o700, "{path}");
    }
    let file = registry.join("repositories/a/_tags/v1");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_something_else_or_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    std::fs::write(layout.join("blobs/sha256").join(Digest::of(b"x").hex()), "x").unwrap();
    let refused = Server::of(Settings::new(&layout)).await.err().unwrap();
    assert!(matches!(refused, ServeError::Store(StoreError::Foreign(_))), "{refused}");
    assert_eq!(names(&layout.join("blobs/sha256")).len(), 1, "an image layout keeps its blobs");

    let link = folder.path().join("link");
    symlink(&layout, &link).unwrap();
    assert!(matches!(Server::of(Settings::new(&link)).await, Err(ServeError::Store(StoreError::Io(..)))));

    let server = Server::start().await;
    let mut settings = Settings::new(server.path());
    let refused = Server::of(settings.clone()).await.err().unwrap();
    assert!(matches!(refused, ServeError::Store(StoreError::Held(_))), "{refused}");
    settings.read_only = true;
    assert!(matches!(Server::of(settings).await, Err(ServeError::Store(StoreError::Held(_)))));

    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(other.join("registry"), "autonomy registry 2\n").unwrap();
    assert!(matches!(Server::of(Settings::new(&other)).await, Err(ServeError::Store(StoreError::Version(..)))));
    let mut settings = Settings::new(folder.path().join("missing"));
    settings.read_only = true;
    assert!(Server::of(settings).await.is_err(), "to be read only it must be there");
    assert!(!folder.path().join("missing").exists());
}
