//! Runtimes of users: their sockets belong to them, and root without privileges is anybody.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
};

use tracer_tests::{
    Context, Result, Tracer, ensure,
    janitor::OnDrop,
    live,
    raw::{RawContainer, Shape},
};

/// Nobody's on any host.
const UID: u32 = 64_999;

/// A directory as logind makes it, and the socket of Podman's service in it: only their user may
/// use them.
fn sockets() -> Result<(PathBuf, UnixListener)> {
    let run = Path::new("/run/user").join(UID.to_string());
    let path = run.join("podman/podman.sock");
    fs::create_dir_all(path.parent().context("a parent")?)?;
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660))?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
    for owned in [&run, &run.join("podman"), &path] {
        chown(owned, Some(UID), Some(UID))?;
    }
    Ok((run, listener))
}

/// Answers each question about a container as Podman does.
fn serve(stream: UnixStream) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut id = None;
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(path) = line.strip_prefix("GET ") {
                id = path.split('/').nth(4).map(str::to_owned);
            }
            if line == "\r\n" {
                break;
            }
        }
        let id = id.context("a question about nobody")?;
        let body =
            format!(r#"{{"Id":"{id}","Name":"web","Config":{{"Labels":{{"app":"shop"}}}}}}"#);
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
    }
}

#[test]
fn a_users_podman_is_asked_where_that_is_wanted() -> Result<()> {
    let _live = live!("cc");
    let (run, listener) = sockets()?;
    let _gone = OnDrop::new(|| drop(fs::remove_dir_all(&run)));
    thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("tracer.toml");
    fs::write(&config, "[runtimes]\nusers = true\n")?;
    let config = config.display().to_string();
    // Without the sandbox it needs no leave.
    for arguments in [&["--config", &config][..], &["--sandbox", "none"]] {
        let mut tracer = Tracer::start(arguments)?;
        let container = RawContainer::rootless_podman(UID)?;
        let mut running = container.spawn(Shape::Joined, &["/bin/cat"])?;
        let id = container.id().to_owned();
        let told = tracer.expect(&format!("labels of {id}"), |record| {
            record.container() == Some(&id) && record.at("container.label.app").is_some()
        })?;
        ensure!(told.text("container.name") == Some("web"), "{told:?}");
        running.close_stdin();
        running.finish(tracer_tests::wait::DEADLINE)?.ended(0)?;
        container.remove()?;
        tracer.expect_of(&id, "container.removed", 1)?;
        tracer.stop()?;
    }
    Ok(())
}
