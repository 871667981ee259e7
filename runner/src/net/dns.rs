//! Messages of the domain name system: what is read of a question, and how one is answered.
//! Source: RFC 1035, section 4; RFC 6895 for the numbers.

use std::net::Ipv4Addr;

const HEADER_BYTES: usize = 12;
/// A label's length above it is a pointer: there is nothing before a question to point to.
const LABEL_BYTES_MAX: usize = 63;
const NAME_BYTES_MAX: usize = 255;
/// Answers by UDP without the extension that allows more.
const UDP_BYTES_MAX: usize = 512;
/// By TCP a length of 16 bits stands before each message.
const TCP_BYTES_MAX: usize = u16::MAX as usize;
/// Containers come and go.
const TTL_SECONDS: u32 = 10;
const IN: u16 = 1;
const ANSWER: u16 = 1 << 15;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_WANTED: u16 = 1 << 8;
const RECURSION_THERE: u16 = 1 << 7;
const OPERATION: u16 = 0xf << 11;
const SERVER_FAILED: u16 = 2;

pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
pub(super) const ANY: u16 = 255;

/// The one question of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// In lower case, without the dot at the end.
    pub(super) name: String,
    pub(super) kind: u16,
    /// Where the question ends in the message.
    end: usize,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Address(Ipv4Addr),
    Name(String),
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The message's number, by which an answer is known.
pub(super) fn id(message: &[u8]) -> Option<u16> {
    number(message, 0)
}

pub(super) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

impl Question {
    /// The question of an ordinary query; `None`: nothing that can be answered here.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let flags = number(message, 2)?;
        if flags & (ANSWER | OPERATION) != 0 || number(message, 4)? != 1 {
            return None;
        }
        let mut at = HEADER_BYTES;
        let mut name = String::new();
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            match length {
                0 => break,
                1..=LABEL_BYTES_MAX => {}
                _ => return None,
            }
            let label = message.get(at..at + length)?;
            at += length;
            if !name.is_empty() {
                name.push('.');
            }
            // Names of hosts are ASCII; others are nobody's here, and asked elsewhere as they are.
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            if name.len() > NAME_BYTES_MAX {
                return None;
            }
        }
        let kind = number(message, at)?;
        (number(message, at + 2)? == IN).then_some(Self { name, kind, end: at + 4 })
    }

    /// Whether `answer` is one to this question, which was asked under the number `id`.
    pub(super) fn is_answered_by(&self, answer: &[u8], id: u16) -> bool {
        let is_answer = number(answer, 2).is_some_and(|flags| flags & ANSWER != 0);
        let mut question = answer.to_vec();
        // As a query, to be read as one.
        if let Some(flags) = question.get_mut(2) {
            *flags &= !(1 << 7);
        }
        is_answer
            && self::id(answer) == Some(id)
            && Self::read(&question)
                .is_some_and(|theirs| theirs.name == self.name && theirs.kind == self.kind)
    }

    /// The answer to `query`, which is this question. What has no room is left out, and said so.
    pub(super) fn answer(&self, query: &[u8], records: &[Record], by_udp: bool) -> Vec<u8> {
        let most = if by_udp { UDP_BYTES_MAX } else { TCP_BYTES_MAX };
        let mut message = self.head(query, AUTHORITATIVE);
        let mut count: u16 = 0;
        for record in records {
            let (kind, data) = match record {
                Record::Address(address) => (A, address.octets().to_vec()),
                Record::Name(name) => (PTR, encoded(name)),
            };
            // Its name is the question's: a pointer to it.
            let mut bytes = vec![0xc0, HEADER_BYTES as u8];
            bytes.extend(kind.to_be_bytes());
            bytes.extend(IN.to_be_bytes());
            bytes.extend(TTL_SECONDS.to_be_bytes());
            bytes.extend(u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
            bytes.extend(data);
            if message.len() + bytes.len() > most {
                message[2] |= (TRUNCATED >> 8) as u8;
                break;
            }
            message.extend(bytes);
            count += 1;
        }
        message[6..8].copy_from_slice(&count.to_be_bytes());
        message
    }

    /// That it could not be found out.
    pub(super) fn failed(&self, query: &[u8]) -> Vec<u8> {
        self.head(query, SERVER_FAILED)
    }

    fn head(&self, query: &[u8], more: u16) -> Vec<u8> {
        let mut message = query.get(..self.end).unwrap_or_default().to_vec();
        let wanted = number(query, 2).unwrap_or_default() & RECURSION_WANTED;
        let flags = ANSWER | RECURSION_THERE | wanted | more;
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[4..HEADER_BYTES].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        message
    }

    /// The address whose name is asked for: `2.0.64.10.in-addr.arpa`.
    pub(super) fn reverse(&self) -> Option<Ipv4Addr> {
        let digits = self.name.strip_suffix(".in-addr.arpa")?;
        let address: Ipv4Addr = digits.parse().ok()?;
        let [a, b, c, d] = address.octets();
        Some([d, c, b, a].into())
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(LABEL_BYTES_MAX)];
        #[expect(clippy::cast_possible_truncation, reason = "63 at most")]
        bytes.push(label.len() as u8);
        bytes.extend(label);
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(encoded(name));
        bytes.extend([kind.to_be_bytes(), IN.to_be_bytes()].concat());
        bytes
    }

    #[test]
    fn questions_and_answers() {
        let asked = query("DB.App", A);
        let question = Question::read(&asked).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("db.app", A));
        let answer = question.answer(&asked, &[Record::Address([10, 1, 2, 3].into())], true);
        assert!(question.is_answered_by(&answer, 0xabcd));
        assert!(!question.is_answered_by(&answer, 0xabce));
        assert!(!question.is_answered_by(&asked, 0xabcd));
        assert!(!Question::read(&query("other", A)).unwrap().is_answered_by(&answer, 0xabcd));
        assert_eq!(answer[..12], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[asked.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4, 10, 1, 2, 3]);
        let many: Vec<Record> = (0..99).map(|n| Record::Address([10, 0, 0, n].into())).collect();
        let short = question.answer(&asked, &many, true);
        assert!(short.len() <= 512 && short[2] & 2 != 0, "{}", short.len());
        assert_eq!(question.answer(&asked, &many, false)[6..8], [0, 99]);
        assert_eq!(question.failed(&asked)[3] & 0xf, 2);
        let reverse = query("2.0.64.10.in-addr.arpa", PTR);
        let reverse = Question::read(&reverse).unwrap();
        assert_eq!(reverse.reverse(), Some([10, 64, 0, 2].into()));
    }

    #[test]
    fn what_is_malformed_is_not_read() {
        let whole = query("db", A);
        for end in 0..whole.len() {
            assert_eq!(Question::read(&whole[..end]), None, "{end}");
        }
        for (at, byte) in [(2, 0x80), (2, 0x10), (5, 2), (12, 0xc0), (12, 64)] {
            let mut bad = whole.clone();
            bad[at] = byte;
            assert_eq!(Question::read(&bad), None, "{at}");
        }
        let long = vec!["a".repeat(60); 5].join(".");
        assert_eq!(Question::read(&query(&long, A)), None);
    }
}
