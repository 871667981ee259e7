//! A client's connection, from its beginning to its end.
//!
//! One task reads a request's head, runs its handler, sends the answer, and begins again. It is
//! always in one [`State`], and each state has an end: [`State::limit`] is the one place that says
//! when, and one timer per connection watches it ([`watch`]).
//!
//! ```text
//!   accepted ──▶ Handshake ── fails ──────────────┐
//!      │ (plain)     │                            │
//!      ▼             ▼                            │
//!    Silent ◀────────┘                            │
//!      │ a byte                                   │
//!      ▼                                          │
//! ┌─▶ Head ── is none ────────────────┐           │
//! │    │ whole                        │           │
//! │    ▼                              │           │
//! │  Working ◀──▶ Receiving           │ 400       │
//! │    │          (its body)          │           │
//! │    ▼                              │           │
//! │  Sending ◀────────────────────────┘           │
//! │    │    └── the last answer ──▶ Parting ◀─────┘
//! │    ▼                               │
//! └─ Resting                           ▼
//!      └──────── its end ─────────▶ closed
//! ```
//!
//! Nothing is read while a request is answered but the body that its handler asks for, so answers
//! come in order and a client that does not read its own cannot pile up work. Heads are read by
//! actix's decoder, once [`head`] has found where they end and that they can be read in one way
//! only; everything else on a connection is done here, where bytes stay where they are: a body is
//! read where it is hashed ([`receive`]), a file goes by sendfile(2) ([`send`]), and an answer in
//! memory is sent from where it is cached.
//!
//! What the task and the handler tell each other meets in one cell, the [`Link`].

mod chunked;
mod crowd;
pub(super) mod edge;
mod encode;
mod head;
mod link;
mod receive;
mod requests;
mod send;
mod serve;
mod socket;
mod watch;

use std::time::Duration;

pub(crate) use link::Link;
pub(crate) use receive::{Direct, lock};
pub(super) use serve::{JOINED_BYTES, Worker};

use super::server::Limits;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A TLS client's part of the handshake.
    Handshake,
    /// The first byte.
    Silent,
    /// The rest of a head.
    Head,
    /// The server itself: a handler.
    Working,
    /// The next bytes of a body, which a handler asks for.
    Receiving,
    /// The client, to take its answer.
    Sending,
    /// The next request.
    Resting,
    /// The client, to take the last answer and to close.
    Parting,
}

/// How long the server may be busy with one request without asking anything of its client. Only a
/// disk that has hung takes so long, and then the connection is not worth keeping either.
const WORKING: Duration = Duration::from_secs(3600);

impl State {
    /// How long a connection may stand still in this state. The time of a first head begins with the
    /// connection.
    fn limit(self, limits: &Limits) -> Duration {
        match self {
            Self::Handshake | Self::Silent | Self::Head => limits.head,
            Self::Working => WORKING,
            Self::Receiving => limits.body,
            Self::Sending => limits.write,
            Self::Resting => limits.idle,
            Self::Parting => limits.disconnect,
        }
    }
}
