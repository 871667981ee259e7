//! The server: actix's workers, and our own connections on them (see [`super::connection`]).

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_server::ServerHandle;
use actix_service::{fn_factory, fn_service};
use tokio::net::TcpStream;

use super::connection::Worker;
use super::{Listener, State};
use crate::tls::Tls;

/// What bounds connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From a request's first byte, or a connection's beginning, to the end of the head. The TLS
    /// handshake is part of it.
    pub head: Duration,
    /// For a client to send the next 4 KiB of a body, or its end.
    pub body: Duration,
    /// Between two requests on one connection.
    pub idle: Duration,
    /// For a client to take any byte of its answer; twice as long at the most.
    pub write: Duration,
    /// After the last answer, for the client to take it and close.
    pub disconnect: Duration,
    /// Connections at once. When there are more, those that have rested the longest give way.
    pub connections: usize,
    /// From the signal to stop until requests that still run are cut.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            // Copies between registries pause while their source does, scanners while they scan.
            body: Duration::from_secs(300),
            // Load balancers keep theirs for up to 600 s, and must be the ones who close.
            idle: Duration::from_secs(620),
            // As with bodies: who copies on may have to wait.
            write: Duration::from_secs(300),
            disconnect: Duration::from_secs(5),
            connections: 20_000,
            drain: Duration::from_secs(25),
        }
    }
}

/// Connections that the kernel holds until a worker accepts them.
const BACKLOG: i32 = 2048;

/// How often an address that somebody else holds is tried again.
const BIND_RETRY: Duration = Duration::from_millis(100);

/// Connections of each worker beyond those that have places: for probes, and for those that come while
/// others go.
const SPARE: usize = 256;

/// Threads of each worker for blocking work: enough that 64 pushes at once do not queue behind
/// one slow sync, few enough that their stacks stay small.
const BLOCKING_THREADS: usize = 48;

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {source}")]
    Bind { address: String, source: io::Error },
    #[error("the sockets that the service manager hands over (LISTEN_FDS): {0}")]
    Given(String),
    #[error("the server failed: {0}")]
    Run(#[source] io::Error),
}

/// A socket that has its address. Clients are refused until [`Server::start`] listens on it.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
}

impl Bound {
    /// Takes `address`: `host:port`, or `:port` for all addresses.
    ///
    /// # Errors
    /// [`ServerError::Bind`].
    pub fn new(address: &str) -> Result<Self, ServerError> {
        let wide = address.strip_prefix(':').map(|port| format!("[::]:{port}"));
        let listener = bind(wide.as_deref().unwrap_or(address))
            // Hosts without IPv6.
            .or_else(|error| match address.strip_prefix(':') {
                Some(port) => bind(&format!("0.0.0.0:{port}")),
                None => Err(error),
            });
        match listener {
            Ok(listener) => Ok(Self { listener }),
            Err(source) => Err(ServerError::Bind { address: address.to_owned(), source }),
        }
    }

    /// [`Bound::new`], which waits as long as `patience` for another process to let go of the
    /// address.
    ///
    /// # Errors
    /// [`ServerError::Bind`].
    pub fn patiently(address: &str, patience: Duration) -> Result<Self, ServerError> {
        let deadline = std::time::Instant::now() + patience;
        loop {
            match Self::new(address) {
                Err(ServerError::Bind { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse
                        && std::time::Instant::now() < deadline =>
                {
                    std::thread::sleep(BIND_RETRY);
                }
                bound => return bound,
            }
        }
    }

    /// A socket that a service manager has bound, under its name there.
    ///
    /// # Errors
    /// [`ServerError::Given`] when it is no listening TCP socket.
    pub(crate) fn given(socket: OwnedFd, name: &str) -> Result<Self, ServerError> {
        use rustix::net::sockopt::socket_acceptconn;
        let listens = socket_acceptconn(&socket).is_ok_and(|listens| listens);
        let bound = Self { listener: TcpListener::from(socket) };
        match bound.address() {
            Ok(_) if listens => Ok(bound),
            Ok(_) | Err(_) => {
                let what = "is no TCP socket that listens (ListenStream=HOST:PORT)";
                Err(ServerError::Given(format!("{name:?} {what}")))
            }
        }
    }

    /// The address, with the port that the kernel chose if it was asked to.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// As the standard library does, but for listening.
fn bind(target: &str) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "this name has no address");
    for address in target.to_socket_addrs()? {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket =
            rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        match rustix::net::bind(&socket, &address) {
            Ok(()) => return Ok(TcpListener::from(socket)),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// Connections to the debug listener at once: probes and scrapers.
const DEBUG_CONNECTIONS: usize = 256;

/// A running server.
pub struct Server {
    running: actix_server::Server,
    debug: Option<actix_server::Server>,
}

impl Server {
    /// Serves on each of `bound`, with TLS if it is given, with `workers` threads; metrics and health on
    /// `debug`, without TLS, with a thread of its own. Must be called, and awaited, on an actix
    /// runtime. Each thread shows by `pulse` that it gets on.
    ///
    /// # Errors
    /// [`ServerError::Run`]; [`ServerError::Bind`] if somebody else listens there meanwhile.
    pub fn start(
        state: &Arc<State>,
        bound: Vec<Bound>,
        debug: Option<Bound>,
        tls: Option<Arc<Tls>>,
        (limits, workers): (Limits, usize),
        pulse: &Pulse,
    ) -> Result<Self, ServerError> {
        let debug_limits = Limits { connections: DEBUG_CONNECTIONS, ..limits };
        let debug = debug
            .map(|bound| {
                listen(state, Listener::Debug, vec![bound], None, (debug_limits, 1), pulse)
            })
            .transpose()?;
        let running = listen(state, Listener::Registry, bound, tls, (limits, workers), pulse)?;
        Ok(Self { running, debug })
    }

    /// For stopping the server from elsewhere.
    pub fn handle(&self) -> ServerHandle {
        self.running.handle()
    }

    /// Until it is stopped.
    ///
    /// # Errors
    /// [`ServerError::Run`].
    pub async fn wait(self) -> Result<(), ServerError> {
        let debug = self.debug.map(|debug| (debug.handle(), actix_rt::spawn(debug)));
        let ended = self.running.await;
        // Last: whoever asks there while the registry drains must be told so.
        if let Some((handle, running)) = debug {
            handle.stop(false).await;
            let _ = running.await;
        }
        ended.map_err(ServerError::Run)
    }
}

/// A server on these sockets.
fn listen(
    state: &Arc<State>,
    listener: Listener,
    bound: Vec<Bound>,
    tls: Option<Arc<Tls>>,
    (limits, workers): (Limits, usize),
    pulse: &Pulse,
) -> Result<actix_server::Server, ServerError> {
    let name = match listener {
        Listener::Registry => "registry",
        Listener::Debug => "debug",
    };
    let each = limits.connections.div_ceil(workers * bound.len().max(1));
    let mut builder = actix_server::Server::build()
        .workers(workers)
        .max_concurrent_connections(each + SPARE)
        .worker_max_blocking_threads(BLOCKING_THREADS)
        .shutdown_timeout(limits.drain.as_secs())
        .disable_signals();
    let stop = builder.graceful_shutdown_signal();
    for bound in bound {
        rustix::net::listen(&bound.listener, BACKLOG).map_err(|error| {
            let address = bound.address().map_or_else(|_| String::new(), |it| it.to_string());
            ServerError::Bind { address, source: error.into() }
        })?;
        let (state, tls, stop, pulse) =
            (Arc::clone(state), tls.clone(), stop.clone(), pulse.clone());
        let serve = move || {
            let (state, tls, stop, pulse) =
                (Arc::clone(&state), tls.clone(), stop.clone(), pulse.clone());
            fn_factory(move || {
                pulse.beat();
                let worker = Worker::new(Arc::clone(&state), listener, tls.clone(), limits, each);
                let (worker, stop) = (Rc::new(worker), stop.clone());
                let stopping = Rc::clone(&worker);
                actix_rt::spawn(async move {
                    stop.notified().await;
                    stopping.stop();
                });
                let serve = fn_service(move |tcp: TcpStream| {
                    let worker = Rc::clone(&worker);
                    // What takes a future and waits for it has room for it twice.
                    Box::pin(async move {
                        worker.serve(tcp).await;
                        Ok::<_, Infallible>(())
                    })
                });
                async move { Ok::<_, ()>(serve) }
            })
        };
        builder = builder.listen(name, bound.listener, serve).map_err(ServerError::Run)?;
    }
    Ok(builder.run())
}

/// Shows that the threads that answer get on.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    every: Option<Duration>,
    beats: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}

impl Pulse {
    /// One that beats so often; without, never.
    pub(crate) fn new(every: Option<Duration>) -> Self {
        Self { every, beats: Arc::default() }
    }

    /// Beats as long as this thread's loop turns.
    fn beat(&self) {
        let Some(every) = self.every else { return };
        let beats = Arc::new(AtomicBool::new(true));
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&beats));
        actix_rt::spawn(async move {
            loop {
                beats.store(true, Ordering::Relaxed);
                tokio::time::sleep(every).await;
            }
        });
    }

    /// Whether every thread has beaten since this was last asked.
    pub(crate) fn all_beat(&self) -> bool {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        beats.iter().fold(true, |all, beats| all & beats.swap(false, Ordering::Relaxed))
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}
