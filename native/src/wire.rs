//! Connections and what passes over them, for one event loop. A request is known by its bytes: what is to be done with
//! one that was not seen before is asked of Python, which remembers its answer here as a `Plan`. Nothing here decides,
//! and nothing goes to an upstream before Python says `go`.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::TcpListener;
use std::os::fd::RawFd;
use std::time::Instant;

use crate::events::{Event, Plans, SILENT, STRANGE, TOO_LONG};
use crate::kept::Kept;
use crate::sockets::{self, News, Watch};
use crate::table::{Client, Destination, Slot, Socket, State, Upstream};

pub(crate) const PIECE: usize = 64 * 1024;
const MAX_ACCEPTED: usize = 64;
const SECOND: u64 = 1_000_000_000;
/// How long the body of a request is waited for, when its head is there: after that it goes up as it comes.
const BODY_SILENCE: u64 = SECOND / 50;
const IDLE: u64 = 75 * SECOND;
pub(crate) const UPSTREAM_IDLE: u64 = 4 * SECOND;
/// ENOMEM, ENFILE, EMFILE, ENOBUFS: the system has no more to give at the moment.
const TOO_MANY: [i32; 4] = [12, 23, 24, 105];
const LISTENER: u64 = 1 << 63;

pub struct Wire {
    pub(crate) watch: Watch,
    pub(crate) began: Instant,
    pub(crate) now: u64,
    pub(crate) slots: Vec<Slot>,
    pub(crate) free: Vec<usize>,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) plans: Plans,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) calls: u32,
    pub(crate) events: VecDeque<Event>,
    /// By the call, which may be over.
    pub(crate) kept: HashMap<u64, Kept>,
    pub(crate) again: Vec<usize>,
    pub(crate) news: Vec<News>,
    /// Where requests are read to, and where answers are: an answer that ends brings the next request.
    pub(crate) piece: Vec<u8>,
    pub(crate) answer_piece: Vec<u8>,
    pub(crate) status_lines: HashMap<u16, Vec<u8>>,
    pub(crate) date: Vec<u8>,
    pub(crate) draining: bool,
    resting: bool,
    pub(crate) more: bool,
    pub open: usize,
}

impl Wire {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            watch: Watch::new()?,
            began: Instant::now(),
            now: 0,
            slots: Vec::new(),
            free: Vec::new(),
            listeners: Vec::new(),
            plans: Plans::default(),
            destinations: Vec::new(),
            calls: 0,
            events: VecDeque::new(),
            kept: HashMap::new(),
            again: Vec::new(),
            news: Vec::new(),
            piece: vec![0; PIECE],
            answer_piece: vec![0; PIECE],
            status_lines: HashMap::new(),
            date: Vec::new(),
            draining: false,
            resting: false,
            more: false,
            open: 0,
        })
    }

    pub fn fd(&self) -> RawFd {
        self.watch.fd()
    }

    /// Takes connections from a listening socket, which it owns from now on.
    pub fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        self.watch.add_listener(&listener, LISTENER | self.listeners.len() as u64)?;
        self.listeners.push(listener);
        Ok(())
    }

    pub fn status_line(&mut self, status: u16, line: &[u8]) {
        self.status_lines.insert(status, line.to_vec());
    }

    pub fn date(&mut self, line: &[u8]) {
        self.date = line.to_vec();
    }

    /// A place to send requests to; its number.
    pub fn destination(&mut self) -> u32 {
        self.destinations.push(Destination::default());
        self.destinations.len() as u32 - 1
    }

    /// Keeps no connection to a place any more.
    pub fn retire(&mut self, destination: u32) {
        let Some(place) = self.destinations.get_mut(destination as usize) else { return };
        place.retired = true;
        for slot in std::mem::take(&mut place.idle) {
            self.drop_slot(slot);
        }
    }

    /// One look at all sockets.
    pub fn turn(&mut self) {
        self.tick();
        let again = std::mem::take(&mut self.again);
        let mut news = std::mem::take(&mut self.news);
        self.more = self.watch.look(&mut news);
        for each in &news {
            self.hear(*each);
        }
        news.clear();
        self.news = news;
        for slot in again {
            if matches!(self.slots[slot].socket, Socket::Upstream(_)) {
                self.pump(slot);
            }
        }
    }

    /// Whether there is more to be done than what sockets will tell of.
    pub fn more(&self) -> bool {
        self.more || !self.again.is_empty() || !self.events.is_empty()
    }

    pub fn events(&mut self, out: &mut [Event]) -> usize {
        let count = out.len().min(self.events.len());
        for (place, event) in out.iter_mut().zip(self.events.drain(..count)) {
            *place = event;
        }
        count
    }

    pub(crate) fn tick(&mut self) {
        self.now = self.began.elapsed().as_nanos() as u64;
    }

    pub(crate) fn hear(&mut self, news: News) {
        if news.token & LISTENER != 0 {
            self.accept((news.token & !LISTENER) as usize);
            return;
        }
        let (slot, life) = ((news.token & 0xffff_ffff) as usize, (news.token >> 32) as u32);
        let place = &mut self.slots[slot];
        if place.life & 0x7fff_ffff != life {
            return;
        }
        match &mut place.socket {
            Socket::Free => {}
            Socket::Client(client) => {
                client.readable |= news.readable;
                client.over |= news.over;
                self.go_on(slot);
            }
            Socket::Upstream(upstream) => {
                upstream.readable |= news.readable;
                upstream.over |= news.over;
                if upstream.client.is_some() {
                    self.pump(slot);
                } else if upstream.readable {
                    // Nothing was asked for.
                    self.forget_idle(slot);
                    self.drop_slot(slot);
                }
            }
        }
    }

    pub(crate) fn accept(&mut self, number: usize) {
        for _ in 0..MAX_ACCEPTED {
            let (stream, address) = match self.listeners[number].accept() {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if TOO_MANY.contains(&error.raw_os_error().unwrap_or(0)) => {
                    // It would be told again at once.
                    self.resting |= self.watch.remove(&self.listeners[number]).is_ok();
                    return;
                }
                Err(_) => continue,
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let _ = stream.set_nodelay(true);
            let client = Client {
                stream,
                peer: sockets::peer_of(address.ip()),
                call: 0,
                state: State::Reading,
                input: Vec::new(),
                head: 0,
                plan: None,
                upstream: None,
                extra: Vec::new(),
                out: Vec::new(),
                written: 0,
                readable: false,
                over: false,
                close: false,
                started: false,
                chunked: false,
                status: 0,
                sent: 0,
                since: self.now,
                began: self.now,
            };
            self.open += 1;
            self.put_new(Socket::Client(Box::new(client)));
        }
        self.more = true;
    }

    pub(crate) fn put_new(&mut self, socket: Socket) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { life: 0, socket: Socket::Free });
            self.slots.len() - 1
        });
        let place = &mut self.slots[slot];
        place.life = place.life.wrapping_add(1);
        let token = u64::from(place.life & 0x7fff_ffff) << 32 | slot as u64;
        let added = match &socket {
            Socket::Client(client) => self.watch.add(&client.stream, token),
            Socket::Upstream(upstream) => self.watch.add(&upstream.stream, token),
            Socket::Free => Ok(()),
        };
        place.socket = socket;
        if added.is_err() {
            self.drop_slot(slot);
        }
        slot
    }

    /// Closes what is there, and lets go of it.
    pub(crate) fn drop_slot(&mut self, slot: usize) {
        match std::mem::replace(&mut self.slots[slot].socket, Socket::Free) {
            Socket::Free => return,
            Socket::Client(_) => self.open -= 1,
            Socket::Upstream(_) => {}
        }
        self.free.push(slot);
    }

    pub(crate) fn client(&mut self, slot: usize) -> Option<&mut Client> {
        match &mut self.slots.get_mut(slot)?.socket {
            Socket::Client(client) => Some(client),
            _ => None,
        }
    }

    pub(crate) fn upstream(&mut self, slot: usize) -> Option<&mut Upstream> {
        match &mut self.slots.get_mut(slot)?.socket {
            Socket::Upstream(upstream) => Some(upstream),
            _ => None,
        }
    }

    /// The slot of a call that is still under way.
    pub(crate) fn slot_of(&mut self, call: u64) -> Option<usize> {
        let slot = (call & 0xffff_ffff) as usize;
        (self.client(slot)?.call == (call >> 32) as u32).then_some(slot)
    }

    /// The number of the call that a client makes.
    pub(crate) fn call_of(&mut self, slot: usize) -> u64 {
        let number = self.client(slot).map_or(0, |client| client.call);
        u64::from(number) << 32 | slot as u64
    }

    pub(crate) fn tell(&mut self, slot: usize, kind: u32, a: u64, b: u64) {
        let call = self.call_of(slot);
        let Some(client) = self.client(slot) else { return };
        let plan = client.plan.as_ref().map_or(0, |plan| plan.id);
        self.events.push_back(Event { kind, plan, call, a, b });
    }

    /// Looks for silence.
    pub fn sweep(&mut self) {
        self.tick();
        let now = self.now;
        if std::mem::take(&mut self.resting) {
            for (number, listener) in self.listeners.iter().enumerate() {
                // One that is watched already stays so.
                let _ = self.watch.add_listener(listener, LISTENER | number as u64);
            }
        }
        for slot in 0..self.slots.len() {
            match &self.slots[slot].socket {
                Socket::Free => {}
                Socket::Upstream(upstream) => {
                    if upstream.client.is_none() && now - upstream.since >= UPSTREAM_IDLE {
                        self.forget_idle(slot);
                        self.drop_slot(slot);
                    }
                }
                Socket::Client(client) => {
                    let silent = now.saturating_sub(client.since);
                    let (timeout, most) =
                        client.plan.as_ref().map_or((u64::MAX, u64::MAX), |plan| (plan.timeout, plan.most));
                    match client.state {
                        State::Reading if client.head > 0 && silent > BODY_SILENCE => {
                            self.begin(slot, State::Asked, STRANGE);
                        }
                        State::Reading if client.head == 0 && silent > IDLE => self.drop_slot(slot),
                        State::Flushing if silent > IDLE => self.drop_slot(slot),
                        state if state.is_under_way() && silent > timeout => self.fail(slot, SILENT),
                        state if state.is_under_way() && now - client.began > most => self.fail(slot, TOO_LONG),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Takes no more connections; those that wait for a request are closed, others after their answer.
    pub fn drain(&mut self) {
        self.draining = true;
        self.listeners.clear();
        for slot in 0..self.slots.len() {
            match &self.slots[slot].socket {
                Socket::Client(client) if client.state == State::Reading && client.head > 0 => {
                    self.begin(slot, State::Asked, STRANGE);
                }
                Socket::Client(client) if client.state == State::Reading => self.drop_slot(slot),
                _ => {}
            }
        }
    }
}
