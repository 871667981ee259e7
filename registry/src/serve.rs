//! Putting the parts together and running them until a signal.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_server::ServerHandle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin;
use crate::auth::{Accounts, AccountsError};
use crate::config::{Config, Purge, Storage};
use crate::content::Content;
use crate::content::collect::Collector;
use crate::content::scrub::Scrub;
use crate::http::{Bound, Pulse, Server, ServerError, State};
use crate::observe::{self, Metrics};
use crate::open::{OpenError, Opened, open};
use crate::privileges::{self, PrivilegeError};
use crate::records::Records;
use crate::service::{self, Sockets};
use crate::tls::{self, Clients, Tls, TlsError};

/// Why the registry does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("the runtime failed: {0}")]
    Runtime(#[from] std::io::Error),
}

/// A registry that serves.
pub struct Started {
    pub address: SocketAddr,
    /// Where metrics and health are, if they have a listener of their own.
    pub debug_address: Option<SocketAddr>,
    pub state: Arc<State>,
    server: Server,
    pulse: Pulse,
    tls: Option<Arc<Tls>>,
    records: Arc<dyn Records>,
    collector: Arc<Collector>,
    scrub: Arc<Scrub>,
    /// Where there is a directory for its socket.
    admin: Option<Pin<Box<dyn Future<Output = ()>>>>,
    purge: Option<Purge>,
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Started").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Opens the store and begins to serve. Must be called on an actix runtime.
///
/// # Errors
/// See [`ServeError`].
pub fn start(config: &Config) -> Result<Started, ServeError> {
    start_on(config, Sockets::default())
}

/// Binds those of the configuration that were not handed over, while this process may still bind any
/// port. Waits for another registry to let go of them, as it will wait for the directory's lock.
fn bind_early(given: Sockets, config: &Config) -> Result<Sockets, ServeError> {
    let bind = |address: &String| Bound::patiently(address, config.store.wait_for_lock);
    let Sockets { mut registry, mut debug } = given;
    if let (None, Some(configured)) = (&debug, &config.http.debug) {
        debug = Some(bind(&configured.addr)?);
    }
    if registry.is_empty() {
        registry.push(bind(&config.addr)?);
    }
    Ok(Sockets { registry, debug })
}

/// [`start`], on these sockets, and on new ones for those that are not there.
fn start_on(config: &Config, sockets: Sockets) -> Result<Started, ServeError> {
    let descriptors = raise_descriptor_limit();
    warn_of_descriptors(descriptors, config.limits.connections);
    let tls = config.tls.clone().map(Tls::new).transpose()?.map(Arc::new);
    let accounts = config.accounts.clone().map(Accounts::open).transpose()?.map(Arc::new);
    for warning in accounts.iter().flat_map(|accounts| accounts.warnings()) {
        tracing::warn!("{warning}");
    }
    // The directory's lock before the port: while another process holds it, clients must be refused
    // at once instead of waiting in the queue of a port that nobody answers on.
    let Opened { store, records, upkeep } = open(config, config.store.wait_for_lock)?;
    let mut bound = sockets.registry;
    if bound.is_empty() {
        bound.push(Bound::new(&config.addr)?);
    }
    let address = bound[0].address()?;
    let debug = match (sockets.debug, &config.http.debug) {
        (None, Some(debug)) => Some(Bound::new(&debug.addr)?),
        (Some(_), None) => {
            let why = "one is called debug, and http.debug.addr is not set";
            return Err(ServerError::Given(why.to_owned()).into());
        }
        (bound, _) => bound,
    };
    let debug_address = debug.as_ref().map(Bound::address).transpose()?;
    let content = Content::new(store, Arc::clone(&records), upkeep, config.policy);
    let collector = Arc::new(Collector::new(content.clone(), config.gc));
    let scrub = Arc::new(Scrub::new(content.clone(), config.scrub));
    let mut metrics = Metrics::default();
    metrics.show_upkeep(collector.totals(), scrub.totals());
    metrics.show_storage(&content);
    if let Some(tls) = &tls {
        metrics.show_tls(tls);
        warn_about(tls);
    }
    let metrics = Arc::new(metrics);
    let state = State::new(
        content,
        accounts,
        config.rules.clone(),
        metrics,
        config.http.clone(),
        tls.is_some(),
    );
    let state = Arc::new(state);
    let workers = config
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
        .max(1);
    let store =
        admin::Store { content: state.content().clone(), collector: Arc::clone(&collector) };
    let admin: Option<Pin<Box<dyn Future<Output = ()>>>> = match config.storage {
        Storage::Directory => Some(Box::pin(admin::serve(&config.root, store)?)),
        Storage::Memory(_) => None,
    };
    let pulse = Pulse::new(service::pulse());
    let threads = (config.limits, workers);
    let server = Server::start(&state, bound, debug, tls.clone(), threads, &pulse)?;
    Ok(Started {
        address,
        debug_address,
        state,
        server,
        pulse,
        tls,
        records,
        collector,
        scrub,
        admin,
        purge: config.purge,
    })
}

impl Started {
    /// For stopping it from elsewhere.
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Serves until it is stopped, then closes the records.
    ///
    /// # Errors
    /// [`ServeError::Server`].
    pub async fn wait(self) -> Result<(), ServeError> {
        let purge = self.purge.map(|purge| {
            let state = Arc::clone(&self.state);
            actix_rt::spawn(async move { purge_forever(&state, purge).await })
        });
        let watch = self.tls.map(|tls| {
            let state = Arc::clone(&self.state);
            actix_rt::spawn(async move { watch_certificate(&state, &tls).await })
        });
        let users = Arc::clone(&self.state);
        let users = actix_rt::spawn(async move { watch_users(&users).await });
        let collecting = actix_rt::spawn(Arc::clone(&self.collector).run());
        let listening = self.admin.map(actix_rt::spawn);
        let living = actix_rt::spawn(service::show_life(self.pulse));
        let scrubbing = actix_rt::spawn(Arc::clone(&self.scrub).run());
        let ended = self.server.wait().await;
        self.scrub.stop();
        users.abort();
        living.abort();
        scrubbing.abort();
        collecting.abort();
        for task in [purge, watch, listening].into_iter().flatten() {
            task.abort();
        }
        self.state.content().store().settled().await;
        // Left as after a crash when a write has failed: the next start then looks for what that
        // write has left behind.
        if self.state.content().writes_refused().is_some() {
            tracing::warn!("the store is read-only: it is left as it is, for the next start");
        } else if let Err(error) = self.records.close().await {
            tracing::error!(%error, "the records could not be closed; nothing acknowledged is lost");
        }
        Ok(ended?)
    }
}

/// Runs the registry until SIGTERM or SIGINT, then lets running requests end. Calls `reload` at
/// every SIGHUP; its error is logged. `file` is the configuration's, which `reload` reads.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(
    config: &Config,
    file: Option<&Path>,
    reload: impl Fn() -> Result<(), String> + 'static,
) -> Result<(), ServeError> {
    // A port below 1024 wants root, and what is given up wants a process of one thread.
    let given = service::sockets()?;
    let sockets = match privileges::are_given_up() {
        true => bind_early(given, config)?,
        false => given,
    };
    let root = match config.storage {
        Storage::Directory => Some(config.root.as_path()),
        Storage::Memory(_) => None,
    };
    privileges::give_up(root, &files(config, file))?;
    observe::write_apart()?;
    actix_rt::System::new().block_on(async {
        // Before the wait for the lock: a closed terminal must not end a server that starts.
        let hangup = signal(SignalKind::hangup())?;
        let started = start_on(config, sockets)?;
        tracing::info!(
            address = %started.address,
            debug = started.debug_address.map(tracing::field::display),
            root = root.map(|root| tracing::field::display(root.display())),
            tls = started.tls.is_some(),
            version = env!("CARGO_PKG_VERSION"),
            "serving"
        );
        if !started.address.ip().is_loopback() {
            warn_of_strangers(
                config.tls.as_ref(),
                config.accounts.is_some() || config.rules.is_some(),
            );
        }
        stop_on_signal(&started)?;
        reload_on(hangup, Arc::clone(&started.state), started.tls.clone(), reload);
        service::ready();
        started.wait().await?;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Every file that is read again while the registry runs.
fn files(config: &Config, file: Option<&Path>) -> Vec<PathBuf> {
    let tls = config.tls.iter().flat_map(tls::Settings::files);
    let users = config.accounts.iter().map(|accounts| accounts.path.as_path());
    tls.map(PathBuf::as_path).chain(users).chain(file).map(Path::to_owned).collect()
}

fn warn_of_strangers(tls: Option<&tls::Settings>, asks: bool) {
    if tls.is_none() {
        tracing::warn!(
            "whoever is on the way to this address can read and change what is sent: http.tls is \
             not configured"
        );
    }
    let certified = tls.is_some_and(|tls| matches!(tls.clients, Clients::Certified(_)));
    if !certified && !asks {
        tracing::warn!(
            "anybody who reaches this address can push and delete: no accounts are configured"
        );
    }
}

fn stop_on_signal(started: &Started) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (state, handle) = (Arc::clone(&started.state), started.handle());
    actix_rt::spawn(async move {
        let graceful = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = graceful, "stopping: running requests may end");
        service::stopping();
        state.drain();
        let stopping = actix_rt::spawn(handle.stop(true));
        // Whoever asks twice does not want to wait.
        tokio::select! {
            _ = stopping => {}
            _ = interrupt.recv() => handle.stop(false).await,
        }
    });
    Ok(())
}

fn reload_on(
    mut hangup: Signal,
    state: Arc<State>,
    tls: Option<Arc<Tls>>,
    reload: impl Fn() -> Result<(), String> + 'static,
) {
    actix_rt::spawn(async move {
        while hangup.recv().await.is_some() {
            service::reloading();
            let reloaded = reload();
            let certificate = tls.as_ref().map_or(Ok(()), |tls| tls.reload());
            let users = state.accounts().map_or(Ok(()), Accounts::reload);
            state.metrics().reloaded(reloaded.is_ok() && certificate.is_ok() && users.is_ok());
            tell_users(&state, users);
            match reloaded {
                Ok(()) => tracing::info!(
                    "SIGHUP: the log's level was read again; other settings take a restart"
                ),
                Err(error) => tracing::error!(%error, "SIGHUP: the configuration stays as it was"),
            }
            if let Some(tls) = &tls {
                tell_certificate(tls, certificate);
            }
            service::ready();
        }
    });
}

/// How often the file of users is looked at.
const USERS_REFRESH: Duration = Duration::from_secs(10);

async fn watch_users(state: &State) {
    while let Some(accounts) = state.accounts() {
        tokio::time::sleep(USERS_REFRESH).await;
        if let Some(reloaded) = accounts.reload_if_changed() {
            state.metrics().reloaded(reloaded.is_ok());
            tell_users(state, reloaded);
        }
    }
}

fn tell_users(state: &State, reloaded: Result<(), AccountsError>) {
    let Some(accounts) = state.accounts() else { return };
    match reloaded {
        Ok(()) => {
            tracing::info!("the users were read again");
            accounts.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        Err(error) => tracing::error!(%error, "the users stay as they were"),
    }
}

async fn watch_certificate(state: &State, tls: &Tls) {
    loop {
        tokio::time::sleep(tls.settings().refresh).await;
        if let Some(reloaded) = tls.reload_if_changed() {
            state.metrics().reloaded(reloaded.is_ok());
            tell_certificate(tls, reloaded);
        }
    }
}

fn warn_about(tls: &Tls) {
    for warning in tls.warnings() {
        tracing::warn!("{warning}");
    }
}

fn tell_certificate(tls: &Tls, reloaded: Result<(), TlsError>) {
    let path = tls.settings().certificate.display();
    match reloaded {
        Ok(()) => {
            tracing::info!(%path, "new connections are shown the certificate as it is now");
            warn_about(tls);
        }
        Err(error) => tracing::error!(%error, "the certificate stays as it was"),
    }
}

async fn purge_forever(state: &State, purge: Purge) {
    // At start too: what a crash left behind is old already.
    let mut ticks = tokio::time::interval(purge.interval.max(Duration::from_secs(1)));
    loop {
        ticks.tick().await;
        match state.content().purge_uploads(purge.age).await {
            Ok(0) => {}
            Ok(purged) => tracing::info!(purged, "dropped uploads that nobody went on with"),
            Err(error) => tracing::warn!(%error, "could not look for abandoned uploads"),
        }
    }
}

/// Every connection, upload and download is a descriptor; the default soft limit is 1024. Gives the
/// limit that holds now, if there is one.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
    getrlimit(Resource::Nofile).current
}

/// Descriptors beside those of connections: the records and their readers, listeners, runtimes.
const OWN_DESCRIPTORS: u64 = 200;

fn warn_of_descriptors(limit: Option<u64>, connections: usize) {
    // Each connection may have the file of its blob or its upload open.
    let needed = 2 * connections as u64 + OWN_DESCRIPTORS;
    if let Some(limit) = limit.filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "the limit of open files is too low for limits.connections: raise it (ulimit -Hn, \
             LimitNOFILE=, --ulimit nofile=), or lower limits.connections to {}",
            limit.saturating_sub(OWN_DESCRIPTORS) / 2
        );
    }
}
