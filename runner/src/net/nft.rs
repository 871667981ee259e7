//! What of nf_tables is spoken here: tables, chains, sets, elements, and rules as the kernel's
//! machine has them. Source: linux/netfilter/nf_tables.h.
//!
//! Registers are of 4 bytes, numbered from [`R0`]; a name of an interface takes four of them.

use super::netlink::{ACK, CREATE, EXCL, Message};

pub(super) const NEWTABLE: u16 = 0xa00;
pub(super) const GETTABLE: u16 = 0xa01;
pub(super) const DELTABLE: u16 = 0xa02;
pub(super) const NEWCHAIN: u16 = 0xa03;
pub(super) const GETCHAIN: u16 = 0xa04;
pub(super) const NEWRULE: u16 = 0xa06;
pub(super) const GETRULE: u16 = 0xa07;
pub(super) const DELRULE: u16 = 0xa08;
pub(super) const NEWSET: u16 = 0xa09;
pub(super) const NEWSETELEM: u16 = 0xa0c;
pub(super) const DELSETELEM: u16 = 0xa0e;

pub(super) const INET: u8 = 1;
pub(super) const IPV4: u8 = 2;
pub(super) const IPV6: u8 = 10;

/// To the end of a chain.
pub(super) const APPEND: u16 = 0x800;

/// Verdicts. Source: linux/netfilter.h, nf_tables.h.
pub(super) const DROP: i32 = 0;
pub(super) const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const RETURN: i32 = -5;

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_USERDATA: u16 = 6;
pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;
pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
pub(super) const CMP_DATA: u16 = 3;
pub(super) const IMMEDIATE_DATA: u16 = 2;

/// The types that nft(8) shows keys and values as. Source: nftables, `include/datatype.h`; a
/// concatenation has six bits for each.
pub(super) const TYPE_IPV4: u32 = 7;
pub(super) const TYPE_PROTOCOL: u32 = 12;
pub(super) const TYPE_PORT: u32 = 13;
pub(super) const TYPE_IFNAME: u32 = 41;

/// The first register; an expression takes the next ones too where its value is longer.
pub(super) const R0: u32 = 8;

pub(super) const IFNAME_BYTES: usize = 16;

/// `struct nfgenmsg`
pub(super) fn message(kind: u16, flags: u16, family: u8) -> Message {
    Message::new(kind, flags).put(&[family, 0, 0, 0])
}

/// An interface's name as a key: 16 bytes.
pub(super) fn ifname(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(IFNAME_BYTES, 0);
    key
}

/// A comment where nft(8) looks for it: a type (0), a length, text with its NUL.
pub(super) fn comment(text: &str) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "ours are short")]
    let mut bytes = vec![0, text.len() as u8 + 1];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

/// What [`comment`] has made, if it is such.
pub(super) fn comment_of(userdata: &[u8]) -> Option<&str> {
    let (head, text) = userdata.split_at_checked(2)?;
    (head[0] == 0).then(|| super::netlink::text_of(text))
}

/// The conditions and the deed of one rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    expressions: Vec<Vec<u8>>,
}

/// What a packet has, loaded into registers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    InInterface,
    OutInterface,
    /// The version of IP, one byte.
    Family,
    /// The protocol above IP, one byte.
    Protocol,
    SourceIpv4,
    TargetIpv4,
    /// Its first byte.
    TargetIpv4Head,
    /// Of TCP and UDP alike.
    TargetPort,
    SourcePort,
    /// What the kernel thinks of the target: RTN_LOCAL is 2.
    TargetKind,
    ConnectionState,
    ConnectionStatus,
}

pub(super) const RTN_LOCAL: [u8; 4] = 2_u32.to_ne_bytes();
pub(super) const STATE_INVALID: u32 = 1;
pub(super) const STATE_OF_OLD: u32 = 2 | 4;
pub(super) const STATE_NEW: u32 = 8;
pub(super) const STATUS_DNAT: u32 = 1 << 5;

impl Rule {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn with(mut self, name: &str, data: impl FnOnce(Message) -> Message) -> Self {
        let whole = Message::new(0, 0).nest(LIST_ELEMENT, |element| {
            element.text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, data)
        });
        self.expressions.push(whole.into_body());
        self
    }

    pub(super) fn load(self, what: Load, register: u32) -> Self {
        let meta = |key: u32| move |data: Message| data.big(1, register).big(2, key);
        let payload = |base: u32, offset: u32, length: u32| {
            move |data: Message| data.big(1, register).big(2, base).big(3, offset).big(4, length)
        };
        let (network, transport) = (1, 2);
        match what {
            Load::InInterface => self.with("meta", meta(6)),
            Load::OutInterface => self.with("meta", meta(7)),
            Load::Family => self.with("meta", meta(15)),
            Load::Protocol => self.with("meta", meta(16)),
            Load::SourceIpv4 => self.with("payload", payload(network, 12, 4)),
            Load::TargetIpv4 => self.with("payload", payload(network, 16, 4)),
            Load::TargetIpv4Head => self.with("payload", payload(network, 16, 1)),
            Load::TargetPort => self.with("payload", payload(transport, 2, 2)),
            Load::SourcePort => self.with("payload", payload(transport, 0, 2)),
            // Result "type of address", of the target.
            Load::TargetKind => self.with("fib", |data| data.big(1, register).big(2, 3).big(3, 2)),
            Load::ConnectionState => self.with("ct", |data| data.big(1, register).big(2, 0)),
            Load::ConnectionStatus => self.with("ct", |data| data.big(1, register).big(2, 2)),
        }
    }

    fn compare(self, register: u32, operation: u32, value: &[u8]) -> Self {
        self.with("cmp", |data| {
            data.big(1, register)
                .big(2, operation)
                .nest(CMP_DATA, |data| data.attribute(DATA_VALUE, value))
        })
    }

    pub(super) fn is(self, register: u32, value: &[u8]) -> Self {
        self.compare(register, 0, value)
    }

    /// Any of these bits.
    pub(super) fn has(self, register: u32, bits: u32) -> Self {
        let value =
            |bits: u32| move |data: Message| data.attribute(DATA_VALUE, &bits.to_ne_bytes());
        let masked = self.with("bitwise", |data| {
            data.big(1, register).big(2, register).big(3, 4).nest(4, value(bits)).nest(5, value(0))
        });
        masked.compare(register, 1, &[0; 4])
    }

    pub(super) fn in_set(self, register: u32, set: &str) -> Self {
        self.with("lookup", |data| data.text(1, set).big(2, register))
    }

    pub(super) fn not_in_set(self, register: u32, set: &str) -> Self {
        self.with("lookup", |data| data.text(1, set).big(2, register).big(5, 1))
    }

    /// What a map has for the key in `register`, put there.
    pub(super) fn map(self, register: u32, map: &str) -> Self {
        self.with("lookup", |data| data.text(1, map).big(2, register).big(3, register))
    }

    /// To the IPv4 address in `register` and the port in the next one.
    pub(super) fn dnat_ipv4(self, register: u32) -> Self {
        self.with("nat", |data| {
            data.big(1, 1).big(2, u32::from(IPV4)).big(3, register).big(5, register + 1)
        })
    }

    /// Writes a port into the packet, `offset` bytes into its header above IP, which has a checksum
    /// at `checksum`.
    pub(super) fn write_port(self, offset: u32, port: u16, checksum: u32) -> Self {
        let loaded = self.with("immediate", |data| {
            data.big(1, R0)
                .nest(IMMEDIATE_DATA, |data| data.attribute(DATA_VALUE, &port.to_be_bytes()))
        });
        loaded.with("payload", |data| {
            // From the register, into the header above IP, with a checksum of the internet's kind.
            data.big(5, R0).big(2, 2).big(3, offset).big(4, 2).big(6, 1).big(7, checksum)
        })
    }

    pub(super) fn masquerade(self) -> Self {
        self.with("masq", |data| data)
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        self.with("immediate", |data| {
            data.big(1, 0).nest(IMMEDIATE_DATA, |data| {
                data.nest(DATA_VERDICT, |data| {
                    let data = data.big(VERDICT_CODE, code.cast_unsigned());
                    match chain {
                        Some(chain) => data.text(VERDICT_CHAIN, chain),
                        None => data,
                    }
                })
            })
        })
    }

    pub(super) fn accept(self) -> Self {
        self.verdict(ACCEPT, None)
    }

    pub(super) fn drop(self) -> Self {
        self.verdict(DROP, None)
    }

    pub(super) fn back(self) -> Self {
        self.verdict(RETURN, None)
    }

    pub(super) fn jump(self, chain: &str) -> Self {
        self.verdict(JUMP, Some(chain))
    }

    /// The message that puts it to the end of a chain, or to its head without [`APPEND`].
    pub(super) fn into(
        self,
        family: u8,
        table: &str,
        chain: &str,
        flags: u16,
        remark: Option<&str>,
    ) -> Message {
        let rule = message(NEWRULE, CREATE | flags, family)
            .text(RULE_TABLE, table)
            .text(RULE_CHAIN, chain)
            .nest(RULE_EXPRESSIONS, |list| {
                self.expressions.iter().fold(list, |list, expression| list.put(expression))
            });
        match remark {
            Some(remark) => rule.attribute(RULE_USERDATA, &comment(remark)),
            None => rule,
        }
    }
}

/// A chain that packets come by at a hook.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
}

/// Source: linux/netfilter.h.
pub(super) const PREROUTING: u32 = 0;
pub(super) const FORWARD: u32 = 2;
pub(super) const OUTPUT: u32 = 3;
pub(super) const POSTROUTING: u32 = 4;

pub(super) fn chain(table: &str, name: &str, hook: Option<Hook>) -> Message {
    let chain = message(NEWCHAIN, CREATE, INET).text(CHAIN_TABLE, table).text(CHAIN_NAME, name);
    match hook {
        None => chain,
        Some(hook) => chain
            .nest(CHAIN_HOOK, |all| {
                all.big(HOOK_NUMBER, hook.number).big(HOOK_PRIORITY, hook.priority.cast_unsigned())
            })
            .big(CHAIN_POLICY, ACCEPT.cast_unsigned())
            .text(CHAIN_TYPE, hook.kind),
    }
}

/// The shape of a set or map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) key_type: u32,
    pub(super) key_bytes: u32,
    /// Type and bytes of a map's values.
    pub(super) data: Option<(u32, u32)>,
    pub(super) is_interval: bool,
}

impl Set {
    /// `number` tells sets of one batch apart.
    pub(super) fn message(&self, table: &str, number: u32) -> Message {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        // Userdata of sets: key and data in network order (2) or the machine's (1).
        let order = |kind: u8, is_text: bool| {
            let mut bytes = vec![kind, 4];
            bytes.extend_from_slice(&u32::from(!is_text).wrapping_add(1).to_ne_bytes());
            bytes
        };
        let flags =
            if self.is_interval { INTERVAL } else { 0 } | if self.data.is_some() { MAP } else { 0 };
        let mut userdata = order(0, self.key_type & 0x3f == TYPE_IFNAME);
        let mut set = message(NEWSET, CREATE, INET)
            .text(1, table)
            .text(2, self.name)
            .big(3, flags)
            .big(4, self.key_type)
            .big(5, self.key_bytes)
            .big(10, number);
        if let Some((kind, bytes)) = self.data {
            set = set.big(6, kind).big(7, bytes);
            userdata.extend(order(1, false));
        }
        set.attribute(13, &userdata)
    }
}

/// One member of a set.
#[derive(Clone, Debug, Default)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) data: Option<Vec<u8>>,
    pub(super) ends_interval: bool,
    pub(super) comment: Option<String>,
}

impl Element {
    pub(super) fn of(key: Vec<u8>) -> Self {
        Self { key, ..Self::default() }
    }

    pub(super) fn put(&self, table: &str, set: &str) -> Message {
        self.message(NEWSETELEM, CREATE | EXCL, table, set)
    }

    pub(super) fn take(&self, table: &str, set: &str) -> Message {
        self.message(DELSETELEM, 0, table, set)
    }

    fn message(&self, kind: u16, flags: u16, table: &str, set: &str) -> Message {
        let value = |bytes: &[u8]| {
            let bytes = bytes.to_vec();
            move |data: Message| data.attribute(DATA_VALUE, &bytes)
        };
        message(kind, flags, INET).text(1, table).text(2, set).nest(3, |list| {
            list.nest(LIST_ELEMENT, |element| {
                let mut element = element.nest(1, value(&self.key));
                if self.ends_interval {
                    element = element.big(3, 1);
                }
                if let (Some(data), NEWSETELEM) = (&self.data, kind) {
                    element = element.nest(2, value(data));
                }
                match &self.comment {
                    Some(text) if kind == NEWSETELEM => element.attribute(6, &comment(text)),
                    _ => element,
                }
            })
        })
    }
}

/// A message that makes nothing new fail when it is there already.
pub(super) fn new_table(table: &str, remark: &str) -> Message {
    message(NEWTABLE, CREATE, INET)
        .text(TABLE_NAME, table)
        .attribute(TABLE_USERDATA, &comment(remark))
}

pub(super) fn delete_table(table: &str) -> Message {
    message(DELTABLE, 0, INET).text(TABLE_NAME, table)
}

pub(super) fn get_table(table: &str) -> Message {
    message(GETTABLE, ACK, INET).text(TABLE_NAME, table)
}
