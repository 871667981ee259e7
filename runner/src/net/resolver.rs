//! Names for a container: a resolver on its 127.0.0.11 that knows the members of its networks and
//! asks the host's servers, from the host's network, for everything else.
//!
//! The sockets lie in the container's network namespace under numbers of the kernel's choice, and
//! stateless rules there exchange these for port 53: a server of the container's own on `*:53`
//! works beside. The monitor makes them and reads nothing from them; the helper does.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::rand::GetRandomFlags;

use super::dns::{self, Question, Record};
use super::names::Names;
use super::netlink::Socket;
use super::nft::{self, APPEND, Hook, INET, IPV4, Load, OUTPUT, R0, Rule};
use crate::sys;

/// Where the container's resolv.conf sends it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const PORT: u16 = 53;

/// The numbers of its descriptors among the helper's events begin here.
pub(super) const FIRST: u64 = 1 << 48;
const UDP: u64 = FIRST;
const TCP: u64 = FIRST + 1;

/// Questions to other servers at once; each costs a descriptor. As Docker's, and some.
const QUESTIONS_MAX: usize = 256;

/// Conversations by TCP at once; each costs two descriptors.
const CONVERSATIONS_MAX: usize = 64;

/// How long one server may take. Docker's.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long a conversation by TCP may rest.
const REST: Duration = Duration::from_secs(10);

/// Largest message by UDP that is relayed.
const MESSAGE_BYTES: usize = 4096;

/// Servers that are asked one after the other; as resolv.conf(5).
const SERVERS_MAX: usize = 3;

/// The sockets of one container's resolver, and what answers are made from.
#[derive(Debug)]
pub struct Resolver {
    pub udp: OwnedFd,
    pub tcp: OwnedFd,
    pub(super) names: Vec<Names>,
    /// None: nothing leads outside.
    pub(super) servers: Vec<IpAddr>,
}

/// Makes the sockets in a container's network namespace, and the rules there. This process, which
/// has one thread, is in that namespace meanwhile.
///
/// # Errors
/// When the kernel refuses; this process is where it was.
pub(super) fn open(
    namespace: &File,
    names: Vec<Names>,
    servers: Vec<IpAddr>,
) -> io::Result<Resolver> {
    let own = File::open("/proc/self/ns/net")?;
    sys::clone::join(namespace.as_fd(), libc::CLONE_NEWNET)?;
    let made = make();
    // In the wrong namespace nothing can be done for anybody.
    if sys::clone::join(own.as_fd(), libc::CLONE_NEWNET).is_err() {
        sys::clone::exit_now(125);
    }
    let (udp, tcp) = made?;
    Ok(Resolver { udp, tcp, names, servers: servers.into_iter().take(SERVERS_MAX).collect() })
}

fn make() -> io::Result<(OwnedFd, OwnedFd)> {
    // The container's first process does so too, and may not have come to it yet.
    sys::process::loopback_up()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let bound = |kind| -> io::Result<(OwnedFd, u16)> {
        let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
        rustix::net::bind(&socket, &SocketAddr::new(ADDRESS.into(), 0))?;
        let at = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok((socket, at.port()))
    };
    let (udp, udp_port) = bound(SocketType::DGRAM)?;
    let (tcp, tcp_port) = bound(SocketType::STREAM)?;
    rustix::net::listen(&tcp, 16)?;
    let table = "rrun";
    let hook = Hook { kind: "filter", number: OUTPUT, priority: -300 };
    let mut batch =
        vec![nft::new_table(table, "rrun: names"), nft::chain(table, "output", Some(hook))];
    for (protocol, port, checksum) in
        [(libc::IPPROTO_UDP, udp_port, 6), (libc::IPPROTO_TCP, tcp_port, 16)]
    {
        let of = |what: Load| {
            Rule::new()
                .load(Load::OutInterface, R0)
                .is(R0, &nft::ifname("lo"))
                .load(Load::Family, R0)
                .is(R0, &[IPV4])
                .load(Load::Protocol, R0)
                .is(R0, &[protocol as u8])
                .load(what, R0)
                .is(R0, &ADDRESS.octets())
        };
        batch.push(
            of(Load::TargetIpv4)
                .load(Load::TargetPort, R0)
                .is(R0, &PORT.to_be_bytes())
                .write_port(2, port, checksum)
                .into(INET, table, "output", APPEND, None),
        );
        batch.push(
            of(Load::SourceIpv4)
                .load(Load::SourcePort, R0)
                .is(R0, &port.to_be_bytes())
                .write_port(0, PORT, checksum)
                .into(INET, table, "output", APPEND, None),
        );
    }
    Socket::netfilter()?.batch(batch)?;
    Ok((udp, tcp))
}

/// A question by UDP that another server has.
struct Pending {
    query: Vec<u8>,
    question: Question,
    client: SocketAddr,
    socket: OwnedFd,
    id: u16,
    server: usize,
    until: Instant,
}

/// A client by TCP: one question after the other.
struct Conversation {
    client: OwnedFd,
    heard: Vec<u8>,
    said: VecDeque<u8>,
    /// The server that has the question now, what it is to be sent, and what it has said.
    upstream: Option<(OwnedFd, VecDeque<u8>, Vec<u8>)>,
    until: Instant,
}

/// The helper's part.
pub(super) struct Answering {
    resolver: Resolver,
    next: u64,
    pending: HashMap<u64, Pending>,
    conversations: HashMap<u64, Conversation>,
}

impl Answering {
    pub(super) fn new(resolver: Resolver, epoll: &OwnedFd) -> io::Result<Self> {
        epoll::add(epoll, &resolver.udp, EventData::new_u64(UDP), EventFlags::IN)?;
        epoll::add(epoll, &resolver.tcp, EventData::new_u64(TCP), EventFlags::IN)?;
        Ok(Self {
            resolver,
            next: FIRST + 2,
            pending: HashMap::new(),
            conversations: HashMap::new(),
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.conversations.is_empty()
    }

    pub(super) fn serve(&mut self, number: u64, epoll: &OwnedFd) {
        match number {
            UDP => self.hear_questions(epoll),
            TCP => self.take_clients(epoll),
            number if self.pending.contains_key(&number) => self.hear_server(number),
            number => self.converse(number, epoll),
        }
    }

    /// Ends what has waited for too long, or asks the next server.
    pub(super) fn sweep(&mut self, now: Instant, epoll: &OwnedFd) {
        let late = self.pending.extract_if(|_, one| one.until <= now);
        let late: Vec<Pending> = late.map(|(_, one)| one).collect();
        for one in late {
            let Pending { query, question, client, server, .. } = one;
            self.ask(query, question, client, server + 1, epoll);
        }
        self.conversations.retain(|_, one| one.until > now);
    }

    /// What is known here of a question; `None`: ask elsewhere.
    fn known(&self, question: &Question) -> Option<Vec<Record>> {
        let names = &self.resolver.names;
        if question.kind == dns::PTR {
            let address = question.reverse()?;
            return names
                .iter()
                .find_map(|one| one.name_at(address))
                .map(|name| vec![Record::Name(name)]);
        }
        let mut addresses: Vec<Ipv4Addr> =
            names.iter().flat_map(|one| one.addresses(&question.name)).collect();
        if addresses.is_empty() {
            return None;
        }
        shuffle(&mut addresses);
        // A name that has nothing of that kind is there nevertheless.
        let tells = matches!(question.kind, dns::A | dns::ANY);
        Some(addresses.into_iter().filter(|_| tells).map(Record::Address).collect())
    }

    fn hear_questions(&mut self, epoll: &OwnedFd) {
        let mut bytes = [0; MESSAGE_BYTES];
        // A turn's worth: others want to be heard.
        for _ in 0..QUESTIONS_MAX {
            let heard =
                rustix::net::recvfrom(&self.resolver.udp, &mut bytes[..], RecvFlags::DONTWAIT);
            let Ok((count, _, Some(client))) = heard else { return };
            let Ok(client) = SocketAddr::try_from(client) else { continue };
            let query = &bytes[..count];
            let Some(question) = Question::read(query) else { continue };
            match self.known(&question) {
                Some(records) => self.say(&question.answer(query, &records, true), client),
                None => self.ask(query.to_vec(), question, client, 0, epoll),
            }
        }
    }

    /// What cannot be sent is lost, as anywhere.
    fn say(&self, answer: &[u8], client: SocketAddr) {
        let _ = rustix::net::sendto(&self.resolver.udp, answer, SendFlags::DONTWAIT, &client);
    }

    /// Hands a question to the server of this number or a later one.
    fn ask(
        &mut self,
        query: Vec<u8>,
        question: Question,
        client: SocketAddr,
        first: usize,
        epoll: &OwnedFd,
    ) {
        for server in first..self.resolver.servers.len() {
            if self.pending.len() >= QUESTIONS_MAX {
                break;
            }
            let Ok((socket, id)) = send_to(self.resolver.servers[server], &query) else { continue };
            self.next += 1;
            let data = EventData::new_u64(self.next);
            if epoll::add(epoll, &socket, data, EventFlags::IN).is_err() {
                break;
            }
            let until = Instant::now() + PATIENCE;
            let pending = Pending { query, question, client, socket, id, server, until };
            self.pending.insert(self.next, pending);
            return;
        }
        self.say(&question.failed(&query), client);
    }

    fn hear_server(&mut self, number: u64) {
        let Some(one) = self.pending.get_mut(&number) else { return };
        let mut bytes = [0; MESSAGE_BYTES];
        match rustix::net::recv(&one.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((count, _)) if one.question.is_answered_by(&bytes[..count], one.id) => {
                let answer = &mut bytes[..count];
                dns::set_id(answer, dns::id(&one.query).unwrap_or_default());
                let client = one.client;
                self.pending.remove(&number);
                self.say(&bytes[..count], client);
            }
            // Somebody else's, or a guess.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody listens there: the next one is asked at once.
            Err(_) => one.until = Instant::now(),
        }
    }

    fn take_clients(&mut self, epoll: &OwnedFd) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        for _ in 0..CONVERSATIONS_MAX {
            let Ok(client) = rustix::net::accept_with(&self.resolver.tcp, flags) else { return };
            if self.conversations.len() >= CONVERSATIONS_MAX {
                continue;
            }
            self.next += 1;
            if epoll::add(epoll, &client, EventData::new_u64(self.next), EDGES).is_ok() {
                let until = Instant::now() + REST;
                let (heard, said) = (Vec::new(), VecDeque::new());
                let one = Conversation { client, heard, said, upstream: None, until };
                self.conversations.insert(self.next, one);
            }
        }
    }

    fn converse(&mut self, number: u64, epoll: &OwnedFd) {
        let Some(mut one) = self.conversations.remove(&number) else { return };
        one.until = Instant::now() + REST;
        let is_over = !read_all(&one.client, &mut one.heard);
        if one.take_answer().is_err() {
            return;
        }
        while one.upstream.is_none() {
            let Some(query) = take_message(&mut one.heard) else { break };
            let Some(question) = Question::read(&query) else { return };
            let known = self.known(&question);
            match known.map(|records| question.answer(&query, &records, false)) {
                Some(answer) => one.say(&answer),
                None => {
                    let server = self.resolver.servers.first();
                    let socket = server.and_then(|server| connect(*server).ok());
                    let data = EventData::new_u64(number);
                    match socket.filter(|one| epoll::add(epoll, one, data, EDGES).is_ok()) {
                        Some(socket) => {
                            one.upstream = Some((socket, framed(&query), Vec::new()));
                        }
                        None => one.say(&question.failed(&query)),
                    }
                }
            }
        }
        let wrote = write_all(&one.client, &mut one.said);
        let waits = one.upstream.is_some() || !one.said.is_empty();
        if wrote && (!is_over || waits) {
            self.conversations.insert(number, one);
        }
    }
}

const EDGES: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

impl Conversation {
    fn say(&mut self, message: &[u8]) {
        self.said.extend(framed(message));
    }

    /// Moves what goes between this process and the server that has the question.
    fn take_answer(&mut self) -> io::Result<()> {
        let Some((socket, query, answer)) = &mut self.upstream else { return Ok(()) };
        let is_sent = write_all(socket, query);
        let goes_on = read_all(socket, answer);
        match take_message(answer) {
            Some(answer) => {
                self.upstream = None;
                self.say(&answer);
                Ok(())
            }
            None if is_sent && goes_on => Ok(()),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

fn framed(message: &[u8]) -> VecDeque<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    length.to_be_bytes().into_iter().chain(message.iter().copied()).collect()
}

/// The first whole message of a stream.
fn take_message(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    let end = 2 + usize::from(length);
    if bytes.len() < end {
        return None;
    }
    let rest = bytes.split_off(end);
    Some(std::mem::replace(bytes, rest).split_off(2))
}

/// Reads what there is, up to two messages' worth. False: there will be no more.
fn read_all(socket: &OwnedFd, bytes: &mut Vec<u8>) -> bool {
    let mut piece = [0; MESSAGE_BYTES];
    while bytes.len() <= 2 * usize::from(u16::MAX) {
        match rustix::net::recv(socket, &mut piece[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return false,
            Ok((count, _)) => bytes.extend_from_slice(&piece[..count]),
            Err(Errno::INTR) => {}
            // Not connected yet, too.
            Err(Errno::AGAIN | Errno::NOTCONN) => return true,
            Err(_) => return false,
        }
    }
    true
}

/// Writes what goes. False: nothing will any more.
fn write_all(socket: &OwnedFd, bytes: &mut VecDeque<u8>) -> bool {
    while !bytes.is_empty() {
        let (first, _) = bytes.as_slices();
        match rustix::net::send(socket, first, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => drop(bytes.drain(..count)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::NOTCONN) => return true,
            Err(_) => return false,
        }
    }
    true
}

fn family(server: IpAddr) -> AddressFamily {
    if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// A question under a number of its own, from a socket of its own: an answer has to guess both.
fn send_to(server: IpAddr, query: &[u8]) -> io::Result<(OwnedFd, u16)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family(server), SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddr::new(server, PORT))?;
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
    let id = u16::from_ne_bytes(bytes);
    let mut query = query.to_vec();
    dns::set_id(&mut query, id);
    rustix::net::send(&socket, &query, SendFlags::DONTWAIT)?;
    Ok((socket, id))
}

fn connect(server: IpAddr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family(server), SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddr::new(server, PORT)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Any order, so that the members of one name share the work.
fn shuffle(all: &mut [Ipv4Addr]) {
    for at in (1..all.len()).rev() {
        let mut bytes = [0; 8];
        if rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()).is_ok() {
            let chosen = u64::from_ne_bytes(bytes) % (at as u64 + 1);
            all.swap(at, usize::try_from(chosen).unwrap_or_default());
        }
    }
}
