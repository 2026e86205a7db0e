//! The clients' side: requests as they come, and answers that are not an upstream's.

use std::io::{Read, Write};
use std::os::fd::{IntoRawFd, RawFd};
use std::rc::Rc;

use crate::events::{Plan, ASK, BODY, FAILED, GONE, READY, STRANGE};
use crate::exchanges::MAX_BUFFERED;
use crate::sockets::{self, Peer};
use crate::table::{stands, Socket, State};
use crate::wire::{Wire, PIECE};

/// A longer head is not taken.
const MAX_HEAD: usize = 64 * 1024;

impl Wire {
    /// Does with a client what can be done now.
    pub(crate) fn go_on(&mut self, slot: usize) {
        loop {
            let Some(client) = self.client(slot) else { return };
            match client.state {
                State::Reading if client.over && client.head > 0 => return self.begin(slot, State::Asked, STRANGE),
                State::Reading if client.over => return self.drop_slot(slot),
                State::Reading if client.readable => {
                    if !self.read(slot) {
                        return;
                    }
                }
                state if state.is_under_way() && client.over => return self.lose(slot),
                State::Exchanging => {
                    let waits = client.out.len() > MAX_BUFFERED;
                    let upstream = client.upstream;
                    self.flush(slot);
                    if let (true, Some(upstream)) = (waits, upstream) {
                        self.pump(upstream);
                    }
                    return;
                }
                State::Flushing if client.over => return self.drop_slot(slot),
                State::Flushing => {
                    if !self.flush(slot) || !self.next(slot) {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Reads what is there of a request; false where nothing more is to be done with this client now.
    pub(crate) fn read(&mut self, slot: usize) -> bool {
        let mut piece = std::mem::take(&mut self.piece);
        let now = self.now;
        let Some(client) = self.client(slot) else { return false };
        let read = sockets::once(|| client.stream.read(&mut piece));
        if let Ok(Some(count @ 1..)) = read {
            client.readable = count == piece.len();
            client.since = now;
            client.input.extend_from_slice(&piece[..count]);
        } else if matches!(read, Ok(None)) {
            client.readable = false;
        }
        self.piece = piece;
        match read {
            Ok(Some(1..)) => self.advance(slot),
            Ok(None) => false,
            _ => {
                if let Some(client) = self.client(slot) {
                    client.over = true;
                }
                true
            }
        }
    }

    /// Looks at what was read; false where something else has to happen first.
    pub(crate) fn advance(&mut self, slot: usize) -> bool {
        let draining = self.draining;
        let Some(client) = self.client(slot) else { return false };
        if client.input.is_empty() {
            return client.readable;
        }
        if client.head == 0 {
            match client.input.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) if at + 4 <= MAX_HEAD => client.head = at + 4,
                _ => {
                    self.begin(slot, State::Asked, STRANGE);
                    return false;
                }
            }
            let Socket::Client(client) = &mut self.slots[slot].socket else { return false };
            client.plan = self.plans.get(&client.peer, &client.input[..client.head]);
            if client.plan.is_none() {
                self.begin(slot, State::Asked, ASK);
                return false;
            }
        }
        let Some(client) = self.client(slot) else { return false };
        let Some(plan) = &client.plan else { return false };
        let wanted = client.head + plan.body;
        if client.input.len() < wanted && !client.over {
            // Many clients write head and body one after the other.
            self.tell(slot, BODY, 0, 0);
            return self.client(slot).is_some_and(|client| client.readable);
        }
        if client.input.len() != wanted {
            // A client that left in the middle, or a next request that did not wait.
            self.begin(slot, State::Asked, STRANGE);
            return false;
        }
        client.close = draining || !plan.keep_alive;
        self.begin(slot, State::Ready, READY);
        false
    }

    /// A call begins, or what may become one.
    pub(crate) fn begin(&mut self, slot: usize, state: State, kind: u32) {
        self.calls = self.calls.wrapping_add(1);
        let (call, now) = (self.calls, self.now);
        let Some(client) = self.client(slot) else { return };
        client.call = call;
        client.state = state;
        client.began = now;
        client.since = now;
        client.started = false;
        client.chunked = false;
        client.status = 0;
        client.sent = 0;
        self.tell(slot, kind, 0, 0);
    }

    /// The answer is written: on to the next request. False where there is none yet.
    pub(crate) fn next(&mut self, slot: usize) -> bool {
        let draining = self.draining;
        let Some(client) = self.client(slot) else { return false };
        if client.close || draining {
            self.drop_slot(slot);
            return false;
        }
        let used = client.head + client.plan.as_ref().map_or(0, |plan| plan.body);
        client.input.drain(..used.min(client.input.len()));
        client.head = 0;
        client.plan = None;
        client.state = State::Reading;
        if client.out.capacity() > PIECE {
            client.out.shrink_to(0);
        }
        if client.input.is_empty() && client.input.capacity() > PIECE {
            client.input.shrink_to(0);
        }
        self.advance(slot)
    }

    /// Writes what waits for a client; whether all of it is out.
    pub(crate) fn flush(&mut self, slot: usize) -> bool {
        let now = self.now;
        let Some(client) = self.client(slot) else { return false };
        while client.written < client.out.len() {
            match sockets::once(|| client.stream.write(&client.out[client.written..])) {
                Ok(Some(count)) => {
                    client.written += count;
                    client.since = now;
                }
                Ok(None) => {
                    client.out.drain(..client.written);
                    client.written = 0;
                    return false;
                }
                Err(_) => {
                    client.over = true;
                    client.written = client.out.len();
                }
            }
        }
        client.out.clear();
        client.written = 0;
        true
    }

    /// The client of a call under way is gone.
    pub(crate) fn lose(&mut self, slot: usize) {
        let Some(client) = self.client(slot) else { return };
        let (upstream, stands, sent) = (client.upstream.take(), stands(client), client.sent);
        if let Some(upstream) = upstream {
            self.drop_slot(upstream);
        }
        self.tell(slot, GONE, stands, sent);
        self.drop_slot(slot);
    }

    /// A call under way cannot go on.
    pub(crate) fn fail(&mut self, slot: usize, why: u8) {
        let Some(client) = self.client(slot) else { return };
        let (stands, sent) = (stands(client), client.sent);
        client.state = State::Failed;
        if !client.started {
            client.out.clear();
            client.written = 0;
        }
        let upstream = client.upstream.take();
        if let Some(upstream) = upstream {
            self.drop_slot(upstream);
        }
        self.tell(slot, FAILED, u64::from(why) | stands, sent);
    }

    /// The bytes of the request that a call begins with, and its client's address.
    pub fn input(&mut self, call: u64) -> Option<(&[u8], usize, Peer)> {
        let slot = self.slot_of(call)?;
        let client = self.client(slot)?;
        Some((&client.input, client.head, client.peer))
    }

    /// What is to be done with the request of a call, and with others like it unless this is for `once`.
    pub fn remember(&mut self, call: u64, plan: Plan, once: bool) {
        let Some(slot) = self.slot_of(call) else { return };
        let plan = Rc::new(plan);
        let Socket::Client(client) = &mut self.slots[slot].socket else { return };
        if !matches!(client.state, State::Asked | State::Ready) || client.head == 0 {
            return;
        }
        client.plan = Some(Rc::clone(&plan));
        client.state = State::Reading;
        if !once {
            self.plans.put(client.peer, &client.input[..client.head], plan);
        }
        if self.advance(slot) {
            self.go_on(slot);
        }
    }

    /// Forgets all plans; calls under way go on.
    pub fn forget(&mut self) {
        self.plans.known.clear();
    }

    /// Gives a connection away, with whatever was read from it.
    pub fn release(&mut self, call: u64) -> Option<RawFd> {
        let slot = self.slot_of(call)?;
        let Socket::Client(client) = std::mem::replace(&mut self.slots[slot].socket, Socket::Free) else { return None };
        self.free.push(slot);
        self.open -= 1;
        let _ = self.watch.remove(&client.stream);
        Some(client.stream.into_raw_fd())
    }

    /// Answers a call with these bytes, which are a whole answer.
    pub fn answer(&mut self, call: u64, data: &[u8]) {
        self.tick();
        let Some(slot) = self.slot_of(call) else { return };
        let Some(client) = self.client(slot) else { return };
        if !matches!(client.state, State::Ready | State::Dialing | State::Failed) {
            return;
        }
        client.out.extend_from_slice(data);
        client.state = State::Flushing;
        self.go_on(slot);
    }

    /// Whether the answer to a call will close its connection.
    pub fn closes(&mut self, call: u64) -> bool {
        let draining = self.draining;
        self.slot_of(call).and_then(|slot| self.client(slot)).is_none_or(|client| client.close || draining)
    }

    /// Breaks a connection off, so that nobody takes what was sent for a whole answer.
    pub fn abort(&mut self, call: u64) {
        if let Some(slot) = self.slot_of(call) {
            self.drop_slot(slot);
        }
    }
}
