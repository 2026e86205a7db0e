//! What passes between the wire and Python: events one way, plans the other.

use std::collections::hash_map::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::rc::Rc;

use crate::sockets::Peer;

/// What Python is told. `a` and `b` depend on the kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Event {
    pub kind: u32,
    pub plan: u32,
    pub call: u64,
    pub a: u64,
    pub b: u64,
}

/// A request that was not seen before; `remember` or `release` answers it.
pub const ASK: u32 = 1;
/// A whole request with a plan; `go`, `answer`, `remember` or `release` answers it.
pub const READY: u32 = 2;
/// A connection is wanted to the upstream `a`; `connected` or `answer` answers it.
pub const DIAL: u32 = 3;
/// An answer with the status `a` whose head is not plain; `head` answers it.
pub const HEAD: u32 = 4;
/// The call is over: status `a`, `b` bytes of body for the client.
pub const DONE: u32 = 5;
/// The call broke off: a `Fault` in the lowest byte of `a`, then a bit for whether the client has a part of the answer and
/// one for whether the upstream may have the request, then the status, 0 if there is none. `answer` or `abort` answers it.
pub const FAILED: u32 = 6;
/// The client is gone; `a` and `b` as for `FAILED`, without a fault.
pub const GONE: u32 = 7;
/// Something that is not a request in one piece; `release` answers it.
pub const STRANGE: u32 = 8;
/// A body is still to come; what does not come soon is `STRANGE` when it is swept.
pub const BODY: u32 = 9;
/// Much is there of a metered answer, of status `a`; `kept` takes it.
pub const KEPT: u32 = 10;

pub const SILENT: u8 = 20;
pub const TOO_LONG: u8 = 21;
pub const CUT: u8 = 22;

pub struct Plan {
    pub id: u32,
    pub upstream: u32,
    /// The request's head for the upstream.
    pub head: Vec<u8>,
    pub body: usize,
    pub head_only: bool,
    pub keep_alive: bool,
    /// What a status of 500 and above costs only Python knows.
    pub ask_on_failure: bool,
    /// Python reads the answer: a copy is kept for it.
    pub metered: bool,
    /// Nanoseconds of silence, and in all.
    pub timeout: u64,
    pub most: u64,
}

/// Plans by the client's address and the bytes of a request's head, which hold its token: what was looked up is
/// compared in constant time, under a hash whose key nobody knows.
#[derive(Default)]
pub(crate) struct Plans {
    pub(crate) hash: RandomState,
    pub(crate) known: HashMap<u64, (Peer, Vec<u8>, Rc<Plan>)>,
}

impl Plans {
    pub(crate) fn get(&self, peer: &Peer, head: &[u8]) -> Option<Rc<Plan>> {
        let (known_peer, known, plan) = self.known.get(&self.hash.hash_one((peer, head)))?;
        let differs = known.iter().zip(head).fold(0, |differs, (one, other)| differs | (one ^ other));
        (differs == 0 && known.len() == head.len() && known_peer == peer).then(|| Rc::clone(plan))
    }

    pub(crate) fn put(&mut self, peer: Peer, head: &[u8], plan: Rc<Plan>) {
        self.known.insert(self.hash.hash_one((&peer, head)), (peer, head.to_vec(), plan));
    }
}
