//! The socket of the balancer's owner: the admin interface for commands of the same user or of root, without
//! a token, and out of reach of all other processes. Its file is in `state_dir`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use crate::config::Config;
use crate::os::private_socket;

/// Maximum time to connect.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// The socket of the balancer of this configuration. The port of the admin interface names it, as it names
/// the token; without an admin interface the first address of the first pool does.
pub fn socket_path(config: &Config) -> PathBuf {
    let name = match config.admin.listen {
        Some(addr) => format!("admin-{}.sock", addr.port()),
        None => format!("admin-{}.sock", config.pools[0].listen()[0]),
    };
    config.state_dir.join(name)
}

/// Whether a balancer listens at this path, and this user may connect.
pub(super) fn is_there(path: &Path) -> bool {
    private_socket::connect(path, CONNECT_TIME_MAX).is_ok()
}

/// An HTTP client over the socket at this path.
pub(super) fn agent(config: ureq::config::Config, path: &Path) -> ureq::Agent {
    ureq::Agent::with_parts(config, OwnerConnector(path.to_owned()), NoNames)
}

/// Connects to the socket, whatever the host of the address is.
#[derive(Debug)]
struct OwnerConnector(PathBuf);

impl Connector for OwnerConnector {
    type Out = OwnerTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<OwnerTransport>, ureq::Error> {
        let stream = private_socket::connect(&self.0, CONNECT_TIME_MAX)?;
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(OwnerTransport { stream, buffers: LazyBuffers::new(input, output) }))
    }
}

/// A connection over the socket.
#[derive(Debug)]
struct OwnerTransport {
    stream: UnixStream,
    buffers: LazyBuffers,
}

/// The time that a call may take.
fn time(timeout: &NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|time| *time)
}

fn ended(error: io::Error, timeout: &NextTimeout) -> ureq::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => ureq::Error::Io(error),
    }
}

impl Transport for OwnerTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.set_write_timeout(time(&timeout))?;
        let sent = self.stream.write_all(&self.buffers.output()[..amount]);
        sent.map_err(|error| ended(error, &timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.set_read_timeout(time(&timeout))?;
        let read = loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let count = read.map_err(|error| ended(error, &timeout))?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        false // each call opens a connection
    }
}

/// Looks up nothing: there is one place to connect to.
#[derive(Debug)]
struct NoNames;

impl Resolver for NoNames {
    fn resolve(
        &self,
        _: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addrs = self.empty();
        addrs.push(([127, 0, 0, 1], 0).into());
        Ok(addrs)
    }
}
