//! The way of a call to its upstream and back.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::answer::{self, Body, Fault, Framing};
use crate::events::{CUT, DIAL, DONE, HEAD};
use crate::headers::write_header;
use crate::sockets;
use crate::table::{Socket, State, Upstream};
use crate::wire::{Wire, PIECE, UPSTREAM_IDLE};

/// A body that is announced to be no longer goes to the client in one write with its head.
const WHOLE: u64 = 64 * 1024;
/// How much of an answer waits for a slow client before the upstream waits too.
pub(crate) const MAX_BUFFERED: usize = 256 * 1024;
/// How many pieces of one answer are read in a turn, so that others have theirs.
const PIECES: usize = 16;
const MOST_IDLE: usize = 256;

impl Wire {
    /// Sends calls upstream; the client of each gets the lines with the answer that stand in `extras`, as many bytes as
    /// `lengths` says. What becomes 0 in `went` is a call whose client is gone.
    pub fn go_all(&mut self, calls: &[u8], lengths: &[u8], extras: &[u8], went: &mut [u8]) {
        self.tick();
        let mut rest = extras;
        for ((call, length), went) in calls.chunks_exact(8).zip(lengths.chunks_exact(4)).zip(went) {
            let call = u64::from_ne_bytes(call.try_into().unwrap_or_default());
            let length = u32::from_ne_bytes(length.try_into().unwrap_or_default()) as usize;
            let (extra, behind) = rest.split_at(length.min(rest.len()));
            rest = behind;
            *went = u8::from(self.go(call, extra));
        }
    }

    fn go(&mut self, call: u64, extra: &[u8]) -> bool {
        let Some(slot) = self.slot_of(call) else { return false };
        let now = self.now;
        let Some(client) = self.client(slot) else { return false };
        if client.over || client.state != State::Ready {
            self.drop_slot(slot);
            return false;
        }
        client.since = now;
        client.extra.clear();
        client.extra.extend_from_slice(extra);
        let Some(destination) = client.plan.as_ref().map(|plan| plan.upstream) else { return false };
        client.state = State::Dialing;
        match self.idle(destination) {
            Some(upstream) => self.exchange(slot, upstream),
            None => self.tell(slot, DIAL, u64::from(destination), 0),
        }
        true
    }

    /// The connection to a place that was used last, unless it has been idle for too long.
    pub(crate) fn idle(&mut self, destination: u32) -> Option<usize> {
        while let Some(slot) = self.destinations[destination as usize].idle.pop() {
            let now = self.now;
            if self.upstream(slot).is_some_and(|kept| !kept.over && now - kept.since < UPSTREAM_IDLE) {
                return Some(slot);
            }
            self.drop_slot(slot);
        }
        None
    }

    pub(crate) fn forget_idle(&mut self, slot: usize) {
        for place in &mut self.destinations {
            place.idle.retain(|kept| *kept != slot);
        }
    }

    /// A connection for a call, or for another if that is over already.
    pub fn connected(&mut self, call: u64, destination: u32, stream: TcpStream) {
        self.tick();
        let _ = stream.set_nodelay(true);
        let upstream = Upstream {
            stream,
            upstream: destination,
            client: None,
            out: Vec::new(),
            written: 0,
            readable: false,
            over: false,
            input: Vec::new(),
            head: None,
            body: Body::Whole,
            piece: Vec::new(),
            whole: false,
            surplus: false,
            since: self.now,
        };
        let upstream = self.put_new(Socket::Upstream(Box::new(upstream)));
        match self.slot_of(call) {
            Some(slot) if self.client(slot).is_some_and(|client| client.state == State::Dialing) => {
                self.exchange(slot, upstream);
            }
            _ => self.keep(upstream),
        }
    }

    /// Sends the request.
    pub(crate) fn exchange(&mut self, slot: usize, upstream: usize) {
        let Some(client) = self.client(slot) else { return };
        client.state = State::Exchanging;
        client.upstream = Some(upstream);
        let Some(plan) = client.plan.clone() else { return };
        let Some(connection) = self.upstream(upstream) else { return self.fail(slot, Fault::BeforeAnswer as u8) };
        let mut request = std::mem::take(&mut connection.out);
        request.clear();
        request.extend_from_slice(&plan.head);
        let Some(client) = self.client(slot) else { return };
        request.extend_from_slice(&client.input[client.head..client.head + plan.body]);
        let Some(connection) = self.upstream(upstream) else { return };
        connection.client = Some(slot);
        connection.out = request;
        connection.written = 0;
        connection.input.clear();
        connection.head = None;
        connection.piece.clear();
        connection.surplus = false;
        self.pump(upstream);
    }

    /// Sends what is left of a request, and takes what has arrived of its answer.
    pub(crate) fn pump(&mut self, slot: usize) {
        let now = self.now;
        let Some(upstream) = self.upstream(slot) else { return };
        let Some(client) = upstream.client else { return };
        let mut broken = false;
        while upstream.written < upstream.out.len() && !broken {
            match sockets::once(|| upstream.stream.write(&upstream.out[upstream.written..])) {
                Ok(Some(count)) => upstream.written += count,
                Ok(None) => break,
                // It may have answered before.
                Err(_) => broken = true,
            }
        }
        for _ in 0..PIECES {
            let asked = self.client(client).is_none_or(|each| each.state != State::Exchanging);
            let waits = self.client(client).is_none_or(|each| each.out.len() - each.written > MAX_BUFFERED);
            let Some(upstream) = self.upstream(slot) else { return };
            if asked || waits || upstream.client != Some(client) {
                return;
            }
            if self.client(client).is_some_and(|each| each.over) {
                return self.lose(client);
            }
            let Some(upstream) = self.upstream(slot) else { return };
            if !upstream.readable {
                if broken {
                    self.fail(client, Fault::BeforeAnswer as u8);
                }
                return;
            }
            let mut piece = std::mem::take(&mut self.answer_piece);
            let Some(upstream) = self.upstream(slot) else { return };
            let read = sockets::once(|| upstream.stream.read(&mut piece));
            let count = match read {
                Ok(Some(count)) => count,
                _ => 0,
            };
            upstream.readable = matches!(read, Ok(Some(count)) if count == piece.len() || upstream.over);
            if let Some(client) = self.client(client) {
                client.since = now;
            }
            let taken = match read {
                Ok(None) => Ok(()),
                Ok(Some(0)) => self.end(slot, client),
                Ok(Some(_)) => self.take(slot, client, &piece[..count]),
                Err(_) => Err(self.broken(slot)),
            };
            self.answer_piece = piece;
            if let Err(fault) = taken {
                self.fail(client, fault as u8);
                return;
            }
        }
        self.again.push(slot);
    }

    pub(crate) fn broken(&mut self, slot: usize) -> Fault {
        match self.upstream(slot) {
            Some(upstream) if upstream.head.is_some() => Fault::InAnswer,
            _ => Fault::BeforeAnswer,
        }
    }

    /// The upstream closed its side.
    pub(crate) fn end(&mut self, slot: usize, client: usize) -> Result<(), Fault> {
        let fault = self.broken(slot);
        let Some(upstream) = self.upstream(slot) else { return Ok(()) };
        upstream.surplus = true;
        if !matches!(upstream.body, Body::UntilClose) || fault == Fault::BeforeAnswer {
            return Err(fault);
        }
        upstream.body = Body::Whole;
        self.deliver(slot, client);
        Ok(())
    }

    /// Bytes of the answer.
    pub(crate) fn take(&mut self, slot: usize, client: usize, data: &[u8]) -> Result<(), Fault> {
        let head_only = self.client(client).and_then(|each| each.plan.as_ref()).is_some_and(|plan| plan.head_only);
        let Some(upstream) = self.upstream(slot) else { return Ok(()) };
        if upstream.head.is_some() {
            return self.feed(slot, client, data);
        }
        let before = upstream.input.len();
        upstream.input.extend_from_slice(data);
        if !answer::may_be_whole(&upstream.input, before)? {
            return Ok(());
        }
        let Some(head) = answer::read_head(&upstream.input, head_only)? else { return Ok(()) };
        upstream.input.drain(..head.length);
        upstream.body = Body::new(head.framing);
        upstream.whole = matches!(head.framing, Framing::Length(size) if size <= WHOLE);
        let (status, plain) = (head.status, head.headers.are_plain());
        upstream.head = Some(head);
        self.keep_head(slot, client);
        let Some(each) = self.client(client) else { return Ok(()) };
        each.status = status;
        let asks = status >= 500 && each.plan.as_ref().is_some_and(|plan| plan.ask_on_failure);
        if !plain || asks {
            each.state = State::HeadAsked;
            self.tell(client, HEAD, u64::from(status), 0);
            return Ok(());
        }
        self.write_head(slot, client, None);
        self.feed_rest(slot, client)
    }

    /// Writes the answer's head: its plain lines and the call's own ones, or those that Python made.
    pub(crate) fn write_head(&mut self, slot: usize, client: usize, lines: Option<&[u8]>) {
        let draining = self.draining;
        let Socket::Upstream(upstream) = &self.slots[slot].socket else { return };
        let Some(head) = &upstream.head else { return };
        let mut out = Vec::with_capacity(512);
        match self.status_lines.get(&head.status) {
            Some(line) => out.extend_from_slice(line),
            None => out.extend_from_slice(format!("HTTP/1.1 {} \r\n", head.status).as_bytes()),
        }
        let begin = out.len();
        match lines {
            Some(lines) => out.extend_from_slice(lines),
            None => head.headers.write_plain(&mut out),
        }
        if head.status == 204 {
            out = without_length(&out[..begin], &out[begin..]);
        }
        let (sized, dated) = (has(&out[begin..], b"content-length:"), has(&out[begin..], b"date:"));
        if lines.is_none() {
            if let Socket::Client(each) = &self.slots[client].socket {
                out.extend_from_slice(&each.extra);
            }
        }
        if !dated {
            out.extend_from_slice(&self.date);
        }
        let chunked = !sized && !head.no_body;
        if chunked {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        let Some(each) = self.client(client) else { return };
        each.close |= draining;
        if each.close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        each.chunked = chunked;
        each.out.append(&mut out);
    }

    /// Takes what of the bytes is body, and hands it on.
    pub(crate) fn feed(&mut self, slot: usize, client: usize, data: &[u8]) -> Result<(), Fault> {
        let Some(upstream) = self.upstream(slot) else { return Ok(()) };
        let used = upstream.body.feed(data, &mut upstream.piece);
        // What came before a fault is the client's.
        upstream.surplus |= !matches!(used, Ok(used) if used == data.len());
        self.deliver(slot, client);
        used.map(|_| ())
    }

    /// The same with what came along with the head.
    fn feed_rest(&mut self, slot: usize, client: usize) -> Result<(), Fault> {
        let mut input = self.upstream(slot).map(|upstream| std::mem::take(&mut upstream.input)).unwrap_or_default();
        let fed = self.feed(slot, client, &input);
        input.clear();
        if input.capacity() <= PIECE {
            if let Some(upstream) = self.upstream(slot) {
                upstream.input = input;
            }
        }
        fed
    }

    /// Hands on what is there of the body, and ends the call if it is whole.
    pub(crate) fn deliver(&mut self, slot: usize, client: usize) {
        let Some(upstream) = self.upstream(slot) else { return };
        let is_whole = upstream.body.is_whole();
        if upstream.whole && !is_whole {
            return;
        }
        let mut piece = std::mem::take(&mut upstream.piece);
        self.keep_piece(client, &piece, is_whole);
        let Some(each) = self.client(client) else { return };
        each.started = true;
        each.sent += piece.len() as u64;
        if !each.chunked {
            each.out.extend_from_slice(&piece);
        } else if !piece.is_empty() {
            answer::write_chunk(&piece, &mut each.out);
        }
        if each.chunked && is_whole {
            each.out.extend_from_slice(b"0\r\n\r\n");
        }
        piece.clear();
        if let Some(upstream) = self.upstream(slot) {
            upstream.piece = piece;
        }
        if is_whole {
            self.finish(slot, client);
        } else {
            self.flush(client);
        }
    }

    pub(crate) fn finish(&mut self, slot: usize, client: usize) {
        let Some(each) = self.client(client) else { return };
        each.upstream = None;
        each.state = State::Flushing;
        let (status, sent) = (u64::from(each.status), each.sent);
        self.tell(client, DONE, status, sent);
        let Some(upstream) = self.upstream(slot) else { return };
        upstream.client = None;
        let kept = upstream.head.as_ref().is_some_and(|head| head.keep_alive);
        if kept && !upstream.surplus && !upstream.readable && !upstream.over && upstream.written == upstream.out.len() {
            self.keep(slot);
        } else {
            self.drop_slot(slot);
        }
        self.go_on(client);
    }

    /// A connection that came to a clean end waits for the next call.
    pub(crate) fn keep(&mut self, slot: usize) {
        let now = self.now;
        let Some(upstream) = self.upstream(slot) else { return };
        upstream.since = now;
        if upstream.piece.capacity() > PIECE {
            upstream.piece = Vec::new();
        }
        let destination = upstream.upstream as usize;
        let place = &mut self.destinations[destination];
        if place.retired || place.idle.len() >= MOST_IDLE {
            self.drop_slot(slot);
        } else {
            place.idle.push(slot);
        }
    }

    /// The upstream's head of a call whose answer is not plain: lines of name and value.
    pub fn answer_head(&mut self, call: u64) -> Option<Vec<u8>> {
        let slot = self.slot_of(call)?;
        let upstream = self.client(slot)?.upstream?;
        let mut lines = Vec::new();
        for (name, value) in self.upstream(upstream)?.head.as_ref()?.headers.iter() {
            write_header(name, value, &mut lines);
        }
        Some(lines)
    }

    /// The lines of that head for the client.
    pub fn head(&mut self, call: u64, lines: &[u8]) {
        self.tick();
        let Some(slot) = self.slot_of(call) else { return };
        let Some(client) = self.client(slot) else { return };
        let Some(upstream) = client.upstream else { return };
        if client.state != State::HeadAsked {
            return;
        }
        client.state = State::Exchanging;
        self.write_head(upstream, slot, Some(lines));
        match self.feed_rest(upstream, slot) {
            Err(fault) => self.fail(slot, fault as u8),
            Ok(()) => self.pump(upstream),
        }
    }

    /// Ends a call under way from this side.
    pub fn cut(&mut self, call: u64) {
        let Some(slot) = self.slot_of(call) else { return };
        if self.client(slot).is_some_and(|client| client.state.is_under_way()) {
            self.fail(slot, CUT);
        }
    }
}

/// Whether there is a header whose line begins so.
fn has(headers: &[u8], name: &[u8]) -> bool {
    headers.split_inclusive(|byte| *byte == b'\n').any(|header| header.starts_with(name))
}

fn without_length(line: &[u8], headers: &[u8]) -> Vec<u8> {
    let mut kept = line.to_vec();
    for header in headers.split_inclusive(|byte| *byte == b'\n') {
        if !header.starts_with(b"content-length:") {
            kept.extend_from_slice(header);
        }
    }
    kept
}
