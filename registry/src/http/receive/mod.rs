//! Taking bodies from the connection, past actix.
//!
//! actix reads a body into a buffer of its own in small pieces, copies, wakes, and hands it over
//! piece by piece: of a push that costs as much as the hash. Here the stream that actix reads from
//! finds each request's head ([`Front`]). When a body of some size follows, actix is given the head
//! with the field that announces the body blanked, and takes the request for one without a body.
//! The handler gets the body as a [`Direct`]: it waits for the socket to be readable on the
//! worker, and the pool reads, hashes and writes without handing bytes around.
//!
//! A head is given to actix when the request before it has its answer: actix would decode it early
//! and then answer by the wrong one.
//!
//! Only heads in one plain form are treated so, see [`head`]; whatever else a client sends goes to
//! actix as it came, and so does all that follows it on that connection. A client that pipelines
//! behind such a head gets what actix makes of it: its GET loses its body to a HEAD behind it.

mod body;
mod chunked;
pub(super) mod edge;
mod front;
mod head;

pub(crate) use body::{Direct, lock};
pub(crate) use front::Front;
pub(super) use front::Handover;
