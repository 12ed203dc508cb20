//! `snapshim export`: a file or a block device, as it was at one instant, for clients of NBD.
//!
//! nbdkit speaks the protocol. It finds the file in a view, as any program that `snapshim freeze` runs: it maps nothing, and a page
//! that could not be preserved is an error of its read, and so of the client's. So is each read once the snapshot is doubtful: the
//! protocol has no other word for it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::ExitCode;

use super::freeze;
use crate::cli::{Address, Export, Freeze};
use crate::failure::{Code, Failure, Outcome, shown};
use crate::view::nodes::Serves;

const SERVER: &str = "nbdkit";

/// Where the server, and it alone, finds the view. It opens the file for each client anew, and where the file's own path is renamed
/// or removed, the kernel takes a mount over it away: a client would read what is newer. This is a file's path in every /proc, and
/// leads to it as long as the machine runs.
const PLACE: &str = "/proc/version";

pub fn run(arguments: &Export) -> Outcome<ExitCode> {
    let found = freeze::source("export", &arguments.source)?;
    if found.is_dir() {
        return Err(Failure::failed(
            format!("cannot export {}: it is a directory", shown(&arguments.source)),
            "name an image or a block device; `snapshim mount` shows a directory",
        ));
    }
    let source =
        arguments.source.canonicalize().map_err(|error| Failure::of_file("export", &arguments.source, &error))?;
    let server = server()?;
    let mut command: Vec<OsString> = vec![server.into(), "--foreground".into(), "--readonly".into()];
    command.extend(listen(&arguments.nbd)?);
    command.extend(["file".into(), format!("file={PLACE}").into()]);
    let view = Freeze { at: Some(PLACE.into()), split: false, paths: vec![source], command };
    let done = freeze::show(&view, Serves::Exact);
    // A server that did not come to listen has made no socket: one that is there is another export's.
    let has_listened = match &done {
        Ok(code) => *code != ExitCode::FAILURE,
        Err(failure) => failure.code == Code::Inexact,
    };
    if let Address::Unix(path) = &arguments.nbd
        && has_listened
        && fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
    {
        _ = fs::remove_file(path);
    }
    done
}

/// Where the server is.
fn server() -> Outcome<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    // Debian has it among the programs of the administrator.
    let folders = env::split_paths(&folders).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(SERVER)).find(|path| path.is_file()).ok_or_else(|| {
        Failure::failed(
            format!("{SERVER} is not installed: it speaks NBD for this command"),
            "install it (the package nbdkit), or read the snapshot by `snapshim cat` or `snapshim freeze`",
        )
    })
}

/// The server's arguments for an address.
fn listen(address: &Address) -> Outcome<Vec<OsString>> {
    match address {
        Address::Unix(path) => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(Failure::new(Code::Failed, format!("{} is there already", shown(path)))
                    .helped_by("name a socket that is not there, or remove this one if no export serves it"));
            }
            let folder = env::current_dir().map_err(|error| Failure::of_file("find", ".".as_ref(), &error))?;
            Ok(vec!["--unix".into(), folder.join(path).into()])
        }
        Address::Tcp(address) => {
            let (host, port) = match address {
                SocketAddr::V4(four) => (four.ip().to_string(), four.port()),
                SocketAddr::V6(six) => (six.ip().to_string(), six.port()),
            };
            Ok(vec!["--ipaddr".into(), host.into(), "--port".into(), port.to_string().into()])
        }
    }
}
