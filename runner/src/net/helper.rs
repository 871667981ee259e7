//! The helper behind published ports: it carries what no rule serves, which is connections to
//! loopback, by IPv6, and while another program has flushed the rules. It answers for names too.
//!
//! The monitor holds the sockets and starts this program at the first connection: it parses
//! nothing that a client sends. One thread, one epoll. It has no capabilities and is nobody, and it
//! ends when the monitor does, which it hears on its standard input.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::Served;
use super::names::Names;
use super::ports::Protocol;
use super::resolver::{self, Answering, Resolver};
use crate::sys;
use crate::sys::clone::Forked;

/// The hidden verb: `net-helper ADDRESS PROTOCOL:PORT… [@names SERVER… @in NETWORK…]`, with the
/// sockets from descriptor 3 on: those of the ports, the resolver's two, and the directories of
/// the networks' names.
pub const VERB: &str = "net-helper";

/// Connections and clients at once; each costs six descriptors.
const CONNECTIONS_MAX: usize = 1024;

/// How long a connection to the container may take to be made.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// After that a client of UDP that has not sent anything is forgotten. Docker's.
const UDP_REST: Duration = Duration::from_secs(90);

/// Bytes that one call moves; a pipe's size.
const PIECE: usize = 64 << 10;

/// Where the sockets are found.
const FIRST_FD: RawFd = 3;

/// nobody, in every distribution.
const NOBODY: u32 = 65534;

/// What standard input is known by among the events.
const PARENT: u64 = 0;
const FIRST_SOCKET: u64 = 1;
/// Connections begin here, by number.
const FIRST_CONNECTION: u64 = 1 << 32;

/// Starts the helper of a container. It ends when what is answered is closed.
///
/// # Errors
/// When this process cannot be forked.
pub fn start(served: &Served) -> io::Result<OwnedFd> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut words = vec!["rrun".to_owned(), VERB.to_owned(), served.to.to_string()];
    words.extend(served.ports.iter().map(|(_, port)| format!("{}:{}", port.protocol, port.port)));
    let mut fds: Vec<BorrowedFd<'_>> = served.sockets().collect();
    if let Some(resolver) = &served.resolver {
        words.push(NAMES.to_owned());
        words.extend(resolver.servers.iter().map(ToString::to_string));
        words.push(IN.to_owned());
        words.extend(resolver.names.iter().map(|one| one.network.clone()));
        fds.extend(resolver.names.iter().map(|one| one.directory.as_fd()));
    }
    let words = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    match sys::clone::clone(0, None)? {
        Forked::Parent { .. } => Ok(ours),
        Forked::Child => {
            let _ = execute(&theirs, &fds, &words);
            sys::clone::exit_now(125)
        }
    }
}

/// Before the servers that the resolver asks, and before the networks that it knows: no network
/// is called so.
const NAMES: &str = "@names";
const IN: &str = "@in";

/// In the child: nothing but the descriptors comes along. The program is the sealed copy that the
/// monitor runs from.
fn execute(parent: &OwnedFd, fds: &[BorrowedFd<'_>], words: &[CString]) -> io::Result<()> {
    let count = fds.len() as RawFd;
    // Out of the way of the numbers that they are to have.
    let copies = fds.iter().map(|one| rustix::io::fcntl_dupfd_cloexec(one, FIRST_FD + count));
    let copies = copies.collect::<Result<Vec<OwnedFd>, _>>()?;
    rustix::stdio::dup2_stdin(parent)?;
    let fds: Vec<_> = copies.iter().map(OwnedFd::as_fd).collect();
    sys::process::hand_down(&fds, FIRST_FD)?;
    sys::process::close_from_on_exec(FIRST_FD + count)?;
    sys::process::reset_signals();
    Err(sys::process::execute(&c"/proc/self/exe".to_owned(), words, &[]))
}

/// A socket of a published port.
struct Listening {
    socket: OwnedFd,
    protocol: Protocol,
    target: SocketAddr,
}

/// `net-helper`
pub fn main(words: &[OsString]) -> u8 {
    match parse(words).and_then(|(sockets, resolver)| {
        give_up_privileges()?;
        Helper::new(sockets, resolver)?.run()
    }) {
        Ok(()) => 0,
        Err(_) => 125,
    }
}

fn parse(words: &[OsString]) -> io::Result<(Vec<Listening>, Option<Resolver>)> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
    let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
    let words = words.ok_or_else(wrong)?;
    let (address, words) = words.split_first().ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let mut parts = words.split(|word| *word == NAMES);
    let mut fds = FIRST_FD..;
    let mut inherited = || sys::process::inherited(fds.next().ok_or_else(wrong)?);
    let mut all = Vec::new();
    for port in parts.next().unwrap_or_default() {
        let (protocol, port) = port.split_once(':').ok_or_else(wrong)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        let port = port.parse().map_err(|_| wrong())?;
        let target = SocketAddrV4::new(address, port).into();
        all.push(Listening { socket: inherited()?, protocol, target });
    }
    let Some(of_names) = parts.next() else { return Ok((all, None)) };
    let end = of_names.iter().position(|word| *word == IN).ok_or_else(wrong)?;
    let (udp, tcp) = (inherited()?, inherited()?);
    let servers = of_names[..end].iter().map(|server| server.parse().map_err(|_| wrong()));
    let servers = servers.collect::<io::Result<Vec<IpAddr>>>()?;
    let mut names = Vec::new();
    for network in &of_names[end + 1..] {
        names.push(Names { directory: inherited()?, network: (*network).to_owned() });
    }
    Ok((all, Some(Resolver { udp, tcp, names, servers })))
}

fn give_up_privileges() -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.maximum.map_or(u64::MAX, |most| most.min(8 * CONNECTIONS_MAX as u64));
    sys::process::set_limit(0, 7, most, limit.maximum.unwrap_or(u64::MAX))?;
    sys::process::bound_capabilities(0)?;
    sys::process::set_ids(NOBODY, NOBODY, Some(&[]))?;
    sys::process::set_capabilities(0, 0, 0)?;
    sys::process::no_new_privileges()?;
    sys::process::set_dumpable(false)
}

/// One direction of a connection: bytes wait in a pipe, and never in this process.
struct Way {
    read: OwnedFd,
    write: OwnedFd,
    waiting: usize,
    /// The source has said its last word; the target knows.
    is_over: bool,
    is_told: bool,
}

impl Way {
    fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { read, write, waiting: 0, is_over: false, is_told: false })
    }

    /// Moves what goes. False: this direction is broken.
    fn pump(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            let mut moved = false;
            if !self.is_over && self.waiting < PIECE {
                match rustix::pipe::splice(from, None, &self.write, None, PIECE, flags) {
                    Ok(0) => self.is_over = true,
                    Ok(count) => {
                        self.waiting += count;
                        moved = true;
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(_) => return false,
                }
            }
            if self.waiting > 0 {
                match rustix::pipe::splice(&self.read, None, to, None, self.waiting, flags) {
                    Ok(count) => {
                        self.waiting -= count;
                        moved = count > 0;
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(_) => return false,
                }
            }
            if self.is_over && self.waiting == 0 && !self.is_told {
                self.is_told = true;
                let _ = rustix::net::shutdown(to, Shutdown::Write);
            }
            if !moved {
                return true;
            }
        }
    }
}

/// A connection by TCP.
struct Connection {
    client: OwnedFd,
    target: OwnedFd,
    out: Way,
    back: Way,
    /// Until when it has to be made; `None`: it is.
    made_by: Option<Instant>,
}

impl Connection {
    /// False: it is over.
    fn pump(&mut self) -> bool {
        if self.made_by.is_some() {
            match rustix::net::sockopt::socket_error(&self.target) {
                Ok(Ok(())) if rustix::net::getpeername(&self.target).is_ok() => {
                    self.made_by = None;
                }
                // Not yet.
                Ok(Ok(())) => return true,
                _ => return false,
            }
        }
        let (client, target) = (self.client.as_fd(), self.target.as_fd());
        let goes = self.out.pump(client, target) && self.back.pump(target, client);
        goes && !(self.out.is_told && self.back.is_told)
    }
}

/// A client by UDP, and the socket that it is in the container's eyes.
struct Session {
    socket: OwnedFd,
    listening: usize,
    client: SocketAddr,
    last: Instant,
}

struct Helper {
    epoll: OwnedFd,
    listening: Vec<Listening>,
    /// A full table: nobody is taken until one has ended.
    is_full: bool,
    next: u64,
    connections: HashMap<u64, Connection>,
    sessions: HashMap<u64, Session>,
    by_client: HashMap<(usize, SocketAddr), u64>,
    answering: Option<Answering>,
}

impl Helper {
    fn new(listening: Vec<Listening>, resolver: Option<Resolver>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(PARENT);
        epoll::add(&epoll, rustix::stdio::stdin(), data, EventFlags::IN | EventFlags::RDHUP)?;
        for (number, one) in (FIRST_SOCKET..).zip(&listening) {
            epoll::add(&epoll, &one.socket, EventData::new_u64(number), EventFlags::IN)?;
        }
        let answering = resolver.map(|one| Answering::new(one, &epoll)).transpose()?;
        Ok(Self {
            answering,
            epoll,
            listening,
            is_full: false,
            next: FIRST_CONNECTION,
            connections: HashMap::new(),
            sessions: HashMap::new(),
            by_client: HashMap::new(),
        })
    }

    /// Until the monitor has ended.
    fn run(&mut self) -> io::Result<()> {
        let mut space = [const { std::mem::MaybeUninit::<Event>::uninit() }; 64];
        let mut swept = Instant::now();
        loop {
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            let idle = self.connections.is_empty()
                && self.sessions.is_empty()
                && self.answering.as_ref().is_none_or(Answering::is_idle);
            let timeout = if idle { None } else { Some(&second) };
            let events: Vec<u64> = match epoll::wait(&self.epoll, &mut space, timeout) {
                Ok((events, _)) => events.iter().map(|event| event.data.u64()).collect(),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // Each connection once: both of its ends may have something to say.
            for number in events.into_iter().collect::<HashSet<_>>() {
                match number {
                    PARENT => return Ok(()),
                    resolver::FIRST.. => {
                        if let Some(answering) = &mut self.answering {
                            answering.serve(number, &self.epoll);
                        }
                    }
                    FIRST_CONNECTION.. => self.serve(number),
                    number => self.take((number - FIRST_SOCKET) as usize)?,
                }
            }
            if swept.elapsed() >= Duration::from_secs(1) {
                swept = Instant::now();
                self.sweep(swept)?;
            }
        }
    }

    fn count(&self) -> usize {
        self.connections.len() + self.sessions.len()
    }

    /// Takes what has come to a published port.
    fn take(&mut self, at: usize) -> io::Result<()> {
        loop {
            if self.count() >= CONNECTIONS_MAX {
                return self.listen(false);
            }
            let done = match self.listening[at].protocol {
                Protocol::Tcp => self.take_connection(at),
                Protocol::Udp => self.take_datagram(at),
            };
            match done {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client's or the container's trouble, or no descriptor is left: not the
                // others'. A connection that has just been taken is closed by this.
                Err(_) => return Ok(()),
            }
        }
    }

    /// Hears of new connections, or does not while the table is full.
    fn listen(&mut self, on: bool) -> io::Result<()> {
        if self.is_full != on {
            return Ok(());
        }
        let flags = if on { EventFlags::IN } else { EventFlags::empty() };
        for (number, one) in (FIRST_SOCKET..).zip(&self.listening) {
            epoll::modify(&self.epoll, &one.socket, EventData::new_u64(number), flags)?;
        }
        self.is_full = !on;
        Ok(())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn take_connection(&mut self, at: usize) -> io::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let client = rustix::net::accept_with(&self.listening[at].socket, flags)?;
        let target =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&target, &self.listening[at].target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        for socket in [&client, &target] {
            let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
        }
        let number = self.number();
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &client, EventData::new_u64(number), edges)?;
        epoll::add(&self.epoll, &target, EventData::new_u64(number), edges)?;
        let made_by = Some(Instant::now() + CONNECT_PATIENCE);
        let connection =
            Connection { client, target, out: Way::new()?, back: Way::new()?, made_by };
        self.connections.insert(number, connection);
        Ok(())
    }

    fn take_datagram(&mut self, at: usize) -> io::Result<()> {
        let mut bytes = [0; PIECE];
        let socket = &self.listening[at].socket;
        let (count, _, from) = rustix::net::recvfrom(socket, &mut bytes[..], RecvFlags::DONTWAIT)?;
        let Some(from) = from else { return Ok(()) };
        let from = SocketAddr::try_from(from)?;
        let number = match self.by_client.get(&(at, from)) {
            Some(number) => *number,
            None => self.new_session(at, from)?,
        };
        if let Some(session) = self.sessions.get_mut(&number) {
            session.last = Instant::now();
            // What cannot be sent is lost, as anywhere.
            let _ = rustix::net::send(&session.socket, &bytes[..count], SendFlags::DONTWAIT);
        }
        Ok(())
    }

    fn new_session(&mut self, at: usize, client: SocketAddr) -> io::Result<u64> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        rustix::net::connect(&socket, &self.listening[at].target)?;
        let number = self.number();
        epoll::add(&self.epoll, &socket, EventData::new_u64(number), EventFlags::IN)?;
        let session = Session { socket, listening: at, client, last: Instant::now() };
        self.sessions.insert(number, session);
        self.by_client.insert((at, client), number);
        Ok(number)
    }

    fn serve(&mut self, number: u64) {
        if let Some(connection) = self.connections.get_mut(&number) {
            if !connection.pump() {
                self.connections.remove(&number);
            }
            return;
        }
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let mut bytes = [0; PIECE];
        loop {
            match rustix::net::recv(&session.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((count, _)) => {
                    session.last = Instant::now();
                    let socket = &self.listening[session.listening].socket;
                    let flags = SendFlags::DONTWAIT;
                    let _ = rustix::net::sendto(socket, &bytes[..count], flags, &session.client);
                }
                // Nobody listens there: the error is taken, and the next datagram tries again.
                Err(Errno::CONNREFUSED | Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Ends what has not come about or has rested for long.
    fn sweep(&mut self, now: Instant) -> io::Result<()> {
        self.connections.retain(|_, one| one.made_by.is_none_or(|by| by > now));
        self.sessions.retain(|_, one| now.duration_since(one.last) < UDP_REST);
        if let Some(answering) = &mut self.answering {
            answering.sweep(now, &self.epoll);
        }
        let sessions = &self.sessions;
        self.by_client.retain(|_, number| sessions.contains_key(number));
        if self.count() < CONNECTIONS_MAX { self.listen(true) } else { Ok(()) }
    }
}
