//! The connections of both sides, each in a numbered slot.

use std::net::TcpStream;
use std::rc::Rc;

use crate::answer::{Body, Head};
use crate::events::Plan;
use crate::sockets::Peer;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Reading,
    Asked,
    Ready,
    Dialing,
    Exchanging,
    HeadAsked,
    Failed,
    Flushing,
}

impl State {
    /// Whether a call is on its way to its upstream, or back.
    pub(crate) fn is_under_way(self) -> bool {
        matches!(self, Self::Dialing | Self::Exchanging | Self::HeadAsked)
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) peer: Peer,
    pub(crate) call: u32,
    pub(crate) state: State,
    pub(crate) input: Vec<u8>,
    /// How long the first request's head is, 0 while that is not known.
    pub(crate) head: usize,
    pub(crate) plan: Option<Rc<Plan>>,
    pub(crate) upstream: Option<usize>,
    pub(crate) extra: Vec<u8>,
    pub(crate) out: Vec<u8>,
    pub(crate) written: usize,
    pub(crate) readable: bool,
    pub(crate) over: bool,
    pub(crate) close: bool,
    pub(crate) started: bool,
    pub(crate) chunked: bool,
    pub(crate) status: u16,
    pub(crate) sent: u64,
    pub(crate) since: u64,
    pub(crate) began: u64,
}

pub(crate) struct Upstream {
    pub(crate) stream: TcpStream,
    pub(crate) upstream: u32,
    pub(crate) client: Option<usize>,
    pub(crate) out: Vec<u8>,
    pub(crate) written: usize,
    pub(crate) readable: bool,
    pub(crate) over: bool,
    pub(crate) input: Vec<u8>,
    pub(crate) head: Option<Head>,
    pub(crate) body: Body,
    pub(crate) piece: Vec<u8>,
    pub(crate) whole: bool,
    pub(crate) surplus: bool,
    pub(crate) since: u64,
}

pub(crate) enum Socket {
    Free,
    Client(Box<Client>),
    Upstream(Box<Upstream>),
}

pub(crate) struct Slot {
    pub(crate) life: u32,
    pub(crate) socket: Socket,
}

#[derive(Default)]
pub(crate) struct Destination {
    pub(crate) idle: Vec<usize>,
    pub(crate) retired: bool,
}

/// What an event says of a call that ends early.
pub(crate) fn stands(client: &Client) -> u64 {
    let sent = matches!(client.state, State::Exchanging | State::HeadAsked);
    u64::from(client.started) << 8 | u64::from(sent) << 9 | u64::from(client.status) << 16
}
