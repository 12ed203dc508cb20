//! `snapshim export`: clients of NBD read the bytes of one instant, or an error; nothing is left behind.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::stamps::Writer;
use crate::common::{Scratch, are_installed, command, program, run, run_ok, skip, text, wait_until};

/// Of a file that the writer writes: 64 MiB.
const BLOCKS: &str = "16384";

/// Whether the tools are there; says so if one is not.
fn has(test: &str, tools: &[&str]) -> bool {
    let can_use_fuse = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !can_use_fuse {
        skip(test, "/dev/fuse cannot be opened");
    }
    can_use_fuse && are_installed(test, tools)
}

fn export(scratch: &Scratch, source: &str, address: &str) -> Command {
    let mut export = Command::new(command());
    export.args(["export", source, "--nbd", address]).current_dir(&scratch.path).stdin(Stdio::null());
    export.env("SNAPSHIM_DIR", scratch.table()).env("SNAPSHIM_TIMEOUT_MS", "60000");
    export
}

/// An export that listens.
fn start(scratch: &Scratch, source: &str) -> Child {
    let child = export(scratch, source, "unix:socket").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("a socket", || scratch.file("socket").exists());
    child
}

fn uri(scratch: &Scratch) -> String {
    format!("nbd+unix:///?socket={}", scratch.file("socket").display())
}

/// Ends it by a signal; what it said, with its status.
fn end(child: Child, signal: i32) -> (Option<i32>, String) {
    // SAFETY: kill(2) of our own child, which has not been waited for.
    unsafe { libc::kill(child.id() as i32, signal) };
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output))
}

#[test]
fn clients_read_the_bytes_of_one_instant() {
    if !has("clients_read_the_bytes_of_one_instant", &["nbdkit", "nbdcopy", "nbdinfo", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    let writer = Writer::start(&scratch, BLOCKS, &["image"]);
    let child = start(&scratch, "image");
    let about = run_ok(scratch.native("nbdinfo").arg(uri(&scratch)));
    assert!(about.contains("is_read_only: true") && about.contains(&format!("export-size: {}", 64 << 20)), "{about}");
    run_ok(scratch.native("nbdcopy").args([&uri(&scratch), "copied"]));
    run_ok(scratch.native("qemu-img").args(["convert", "-O", "raw", &uri(&scratch), "converted"]));
    let last = run_ok(scratch.native(program("command/stamps")).args(["check", BLOCKS, "copied"]));
    println!("as after write {}", last.trim());
    run_ok(scratch.native("cmp").args(["copied", "converted"]));
    assert_eq!(end(child, libc::SIGINT), (Some(0), String::new()));
    assert!(!scratch.file("socket").exists());
    writer.end();
}

/// Of two that are started at once one listens, and goes on to be found.
#[test]
fn one_that_cannot_listen_takes_no_socket_away() {
    if !has("one_that_cannot_listen_takes_no_socket_away", &["nbdkit", "nbdinfo"]) {
        return;
    }
    for _ in 0..4 {
        let scratch = Scratch::on_tmpfs();
        fs::write(scratch.file("image"), vec![7; 1 << 20]).unwrap();
        let begin = || export(&scratch, "image", "unix:socket").stderr(Stdio::piped()).spawn().unwrap();
        let mut children = [begin(), begin()];
        let has_ended = |child: &mut Child| child.try_wait().unwrap().is_some();
        let ended = loop {
            match children.iter_mut().position(has_ended) {
                Some(ended) => break ended,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let [first, second] = children;
        let left = if ended == 0 { second } else { first };
        wait_until("a socket", || scratch.file("socket").exists());
        run_ok(scratch.native("nbdinfo").arg(uri(&scratch)));
        assert_eq!(end(left, libc::SIGTERM), (Some(0), String::new()));
        assert!(!scratch.file("socket").exists());
    }
}

/// The server opens the file for each client anew.
#[test]
fn an_image_that_is_replaced_is_served_as_it_was() {
    if !has("an_image_that_is_replaced_is_served_as_it_was", &["nbdkit", "nbdcopy"]) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("image"), vec![7; 1 << 20]).unwrap();
    let child = start(&scratch, "image");
    for change in ["head -c 1048576 /dev/zero >new; mv new image", "rm image"] {
        run_ok(scratch.shimmed("sh", "auto").args(["-c", change]));
        run_ok(scratch.native("nbdcopy").args([&uri(&scratch), "copied"]));
        assert!(fs::read(scratch.file("copied")).unwrap().iter().all(|byte| *byte == 7), "after {change}");
    }
    assert_eq!(end(child, libc::SIGTERM), (Some(0), String::new()));
}

/// The holes of an image are not read by clients that ask for them.
#[test]
fn holes_are_told() {
    if !has("holes_are_told", &["nbdkit", "nbdinfo"]) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    run_ok(
        scratch
            .native("sh")
            .args(["-c", "truncate -s 16M image; head -c 1M /dev/urandom | dd of=image seek=8 bs=1M conv=notrunc"]),
    );
    let child = start(&scratch, "image");
    // What is filled later was a hole at the instant.
    run_ok(scratch.shimmed("dd", "auto").args(["if=/dev/urandom", "of=image", "bs=1M", "count=2", "conv=notrunc"]));
    let map = run_ok(scratch.native("nbdinfo").args(["--map", &uri(&scratch)]));
    let data: Vec<_> = map.lines().filter(|line| line.ends_with("data")).collect();
    let is_told = data.iter().any(|line| line.split_whitespace().take(2).eq(["8388608", "1048576"]));
    assert!(is_told && map.contains("hole,zero"), "{map}");
    assert_eq!(end(child, libc::SIGTERM), (Some(0), String::new()));
}

#[test]
fn what_was_lost_is_an_error_of_the_client() {
    if !has("what_was_lost_is_an_error_of_the_client", &["nbdkit", "nbdcopy"]) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("image"), vec![7; 8 << 20]).unwrap();
    let child = start(&scratch, "image");
    run_ok(scratch.native("truncate").args(["-s", "1M", "image"]));
    let output = run(scratch.native("nbdcopy").args([&uri(&scratch), "copied"]));
    assert!(!output.status.success() && text(&output).contains("Input/output error"), "{}", text(&output));
    let (status, said) = end(child, libc::SIGTERM);
    assert_eq!(status, Some(4), "{said}");
    assert!(said.contains("error: the snapshot of "), "{said}");
    assert!(!scratch.file("socket").exists());
}

/// Its bytes may be newer ones: a client has nothing but the error to know that by.
#[test]
fn what_is_doubtful_is_an_error_of_the_client() {
    if !has("what_is_doubtful_is_an_error_of_the_client", &["nbdkit", "nbdcopy"]) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("image"), vec![7; 8 << 20]).unwrap();
    let log = fs::File::create(scratch.file("log")).unwrap();
    let child = export(&scratch, "image", "unix:socket").stderr(log).spawn().unwrap();
    wait_until("a socket", || scratch.file("socket").exists());
    run_ok(scratch.native("dd").args(["if=/dev/zero", "of=image", "bs=4096", "count=1", "conv=notrunc"]));
    let output = run(scratch.native("nbdcopy").args([&uri(&scratch), "copied"]));
    assert!(!output.status.success() && text(&output).contains("Input/output error"), "{}", text(&output));
    let said = || fs::read_to_string(scratch.file("log")).unwrap();
    wait_until("a word about it", || said().contains("its readers get errors (EIO) from now on"));
    assert!(said().contains("/image is doubtful: a program without the library changed it\n"), "{}", said());
    assert_eq!(end(child, libc::SIGTERM).0, Some(4), "{}", said());
}

#[test]
fn it_listens_where_it_is_told() {
    if !has("it_listens_where_it_is_told", &["nbdkit", "nbdinfo"]) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("image"), vec![7; 4096]).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = export(&scratch, "image", &format!("tcp:127.0.0.1:{port}")).stderr(Stdio::piped()).spawn().unwrap();
    let size = || run(scratch.native("nbdinfo").args(["--size", &format!("nbd://127.0.0.1:{port}")]));
    wait_until("an answer", || size().stdout == b"4096\n");
    assert_eq!(end(child, libc::SIGTERM).0, Some(0));
}

#[test]
fn what_cannot_be_exported_is_said() {
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("image"), "bytes").unwrap();
    fs::write(scratch.file("taken"), "").unwrap();
    let refused = |source: &str, address: &str, path: Option<&str>| {
        let mut export = export(&scratch, source, address);
        export.envs(path.map(|path| ("PATH", path)));
        let output = run(&mut export);
        (output.status.code(), text(&output))
    };
    for (source, address, status, why) in [
        ("nowhere", "unix:socket", 1, "no such file or directory"),
        (".", "unix:socket", 1, "it is a directory"),
        ("/dev/null", "unix:socket", 1, "cannot export /dev/null: it is neither"),
        ("image", "socket", 2, "it begins neither with unix: nor with tcp:"),
        ("image", "tcp:localhost", 2, "invalid socket address"),
    ] {
        let (code, said) = refused(source, address, None);
        assert!(code == Some(status) && said.contains(why), "{source} {address}: {said}");
    }
    let has_server = ["/usr/sbin/nbdkit", "/usr/local/sbin/nbdkit"].iter().any(|path| fs::exists(path).unwrap());
    if !has_server {
        let (code, said) = refused("image", "unix:socket", Some("/nowhere"));
        assert!(
            code == Some(1) && said.contains("nbdkit is not installed") && said.contains("help: install it"),
            "{said}"
        );
    }
    if has("a socket that is there", &["nbdkit"]) {
        let (code, said) = refused("image", "unix:taken", None);
        assert!(code == Some(1) && said.contains("taken is there already"), "{said}");
    }
    assert!(!scratch.file("socket").exists());
}
