//! The C interface, which `tolsey/gateway/native.py` is the other side of. Every function takes the `Wire` that
//! `tolsey_wire_new` made; all are called from one thread. Pointers that come back are good until the next call.

mod answer;
mod events;
mod exchanges;
mod headers;
mod kept;
mod requests;
mod sockets;
mod table;
mod wire;

use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd, RawFd};
use std::slice;

use events::{Event, Plan};
use wire::Wire;

/// # Safety
/// `data` points to `length` bytes.
unsafe fn bytes<'a>(data: *const u8, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe { slice::from_raw_parts(data, length) }
}

/// Copies what there is room for, all or nothing; how long it is.
///
/// # Safety
/// `out` has room for so many bytes.
unsafe fn copy(data: &[u8], out: *mut u8, room: usize) -> usize {
    if data.len() <= room {
        // SAFETY: as the caller says.
        unsafe { out.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    }
    data.len()
}

macro_rules! exported {
    ($(fn $name:ident($wire:ident: Wire $(, $argument:ident: $type:ty)*) $(-> $result:ty)? $body:block)*) => {$(
        /// # Safety
        /// `wire` came from `tolsey_wire_new`, and every pointer points to as much as its length says.
        #[no_mangle]
        pub unsafe extern "C" fn $name(wire: *mut Wire $(, $argument: $type)*) $(-> $result)? {
            // SAFETY: as the caller says.
            let $wire = unsafe { &mut *wire };
            $body
        }
    )*};
}

/// A new wire; null where the system has none to give.
#[no_mangle]
pub extern "C" fn tolsey_wire_new() -> *mut Wire {
    Wire::new().map_or(std::ptr::null_mut(), |wire| Box::into_raw(Box::new(wire)))
}

/// # Safety
/// `wire` came from `tolsey_wire_new` and is not used any more.
#[no_mangle]
pub unsafe extern "C" fn tolsey_wire_free(wire: *mut Wire) {
    // SAFETY: as the caller says.
    drop(unsafe { Box::from_raw(wire) });
}

exported! {
    fn tolsey_wire_fd(wire: Wire) -> RawFd { wire.fd() }

    fn tolsey_wire_listen(wire: Wire, fd: RawFd) -> bool {
        // SAFETY: the caller gives the descriptor of a listening socket away.
        wire.listen(unsafe { TcpListener::from_raw_fd(fd) }).is_ok()
    }

    fn tolsey_wire_status_line(wire: Wire, status: u16, line: *const u8, length: usize) {
        // SAFETY: as the caller says; so below.
        wire.status_line(status, unsafe { bytes(line, length) });
    }

    fn tolsey_wire_date(wire: Wire, line: *const u8, length: usize) {
        // SAFETY: as above.
        wire.date(unsafe { bytes(line, length) });
    }

    fn tolsey_wire_destination(wire: Wire) -> u32 { wire.destination() }

    fn tolsey_wire_retire(wire: Wire, destination: u32) { wire.retire(destination) }

    fn tolsey_wire_turn(wire: Wire) { wire.turn() }

    fn tolsey_wire_more(wire: Wire) -> bool { wire.more() }

    fn tolsey_wire_events(wire: Wire, out: *mut Event, most: usize) -> usize {
        // SAFETY: as above.
        wire.events(unsafe { slice::from_raw_parts_mut(out, most) })
    }

    fn tolsey_wire_input(wire: Wire, call: u64, length: *mut usize, head: *mut usize, peer: *mut u8) -> *const u8 {
        let Some((input, size, address)) = wire.input(call) else { return std::ptr::null() };
        // SAFETY: as above; a peer has room for sixteen bytes.
        unsafe {
            *length = input.len();
            *head = size;
            peer.copy_from_nonoverlapping(address.as_ptr(), address.len());
        }
        input.as_ptr()
    }

    fn tolsey_wire_remember(
        wire: Wire, call: u64, plan: u32, destination: u32, head: *const u8, length: usize, body: usize, flags: u32,
        timeout: u64, most: u64
    ) {
        // SAFETY: as above.
        let head = unsafe { bytes(head, length) }.to_vec();
        let plan = Plan {
            id: plan,
            upstream: destination,
            head,
            body,
            head_only: flags & 1 != 0,
            keep_alive: flags & 2 != 0,
            ask_on_failure: flags & 4 != 0,
            metered: flags & 16 != 0,
            timeout,
            most,
        };
        wire.remember(call, plan, flags & 8 != 0);
    }

    fn tolsey_wire_forget(wire: Wire) { wire.forget() }

    fn tolsey_wire_release(wire: Wire, call: u64) -> RawFd { wire.release(call).unwrap_or(-1) }

    fn tolsey_wire_go(
        wire: Wire, calls: *const u8, lengths: *const u8, count: usize, extras: *const u8, length: usize, went: *mut u8
    ) {
        // SAFETY: as above.
        let (calls, lengths, extras, went) = unsafe {
            let went = slice::from_raw_parts_mut(went, count);
            (bytes(calls, count * 8), bytes(lengths, count * 4), bytes(extras, length), went)
        };
        wire.go_all(calls, lengths, extras, went);
    }

    fn tolsey_wire_connected(wire: Wire, call: u64, destination: u32, fd: RawFd) {
        // SAFETY: the caller gives the descriptor of a connection away.
        wire.connected(call, destination, unsafe { TcpStream::from_raw_fd(fd) })
    }

    fn tolsey_wire_answer_head(wire: Wire, call: u64, out: *mut u8, room: usize) -> usize {
        // SAFETY: as above.
        unsafe { copy(&wire.answer_head(call).unwrap_or_default(), out, room) }
    }

    fn tolsey_wire_body(wire: Wire, call: u64, out: *mut u8, room: usize) -> usize {
        let body = wire.input(call).map_or(&[][..], |(input, head, _)| &input[head..]);
        // SAFETY: as above.
        unsafe { copy(body, out, room) }
    }

    fn tolsey_wire_kept(wire: Wire, call: u64, out: *mut u8, room: usize, head: *mut usize) -> usize {
        let Some(kept) = wire.kept.get(&call) else { return usize::MAX };
        // SAFETY: as above; a head is one number.
        let length = unsafe {
            *head = kept.head;
            copy(&kept.data, out, room)
        };
        if length <= room {
            wire.kept.remove(&call);
        }
        length
    }

    fn tolsey_wire_head(wire: Wire, call: u64, lines: *const u8, length: usize) {
        // SAFETY: as above.
        wire.head(call, unsafe { bytes(lines, length) });
    }

    fn tolsey_wire_answer(wire: Wire, call: u64, data: *const u8, length: usize) {
        // SAFETY: as above.
        wire.answer(call, unsafe { bytes(data, length) });
    }

    fn tolsey_wire_closes(wire: Wire, call: u64) -> bool { wire.closes(call) }

    fn tolsey_wire_abort(wire: Wire, call: u64) { wire.abort(call) }

    fn tolsey_wire_cut(wire: Wire, call: u64) { wire.cut(call) }

    fn tolsey_wire_sweep(wire: Wire) { wire.sweep() }

    fn tolsey_wire_drain(wire: Wire) { wire.drain() }

    fn tolsey_wire_open(wire: Wire) -> usize { wire.open }
}
