//! What Python reads of a metered answer: copies of its head and of its body, until they are taken.

use crate::events::KEPT;
use crate::headers::write_header;
use crate::wire::Wire;

/// So many bytes are kept before Python is told to take them.
const MOST_KEPT: usize = 64 * 1024;

/// What of a metered answer Python has not seen: `head` bytes of its headers' lines, once, and then of its body.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) head: usize,
    pub(crate) data: Vec<u8>,
}

impl Wire {
    fn is_metered(&mut self, client: usize) -> bool {
        self.client(client).and_then(|each| each.plan.as_ref()).is_some_and(|plan| plan.metered)
    }

    /// Keeps a metered answer's headers for Python.
    pub(crate) fn keep_head(&mut self, slot: usize, client: usize) {
        if !self.is_metered(client) {
            return;
        }
        let call = self.call_of(client);
        let Some(head) = self.upstream(slot).and_then(|upstream| upstream.head.as_ref()) else { return };
        let mut kept = Kept::default();
        for (name, value) in head.headers.iter() {
            write_header(name, value, &mut kept.data);
        }
        kept.head = kept.data.len();
        self.kept.insert(call, kept);
    }

    /// Keeps a piece of its body, and tells Python where it should not wait for the end.
    pub(crate) fn keep_piece(&mut self, client: usize, piece: &[u8], is_whole: bool) {
        if !self.is_metered(client) {
            return;
        }
        let call = self.call_of(client);
        let kept = self.kept.entry(call).or_default();
        let before = kept.data.len();
        kept.data.extend_from_slice(piece);
        if before <= MOST_KEPT && kept.data.len() > MOST_KEPT && !is_whole {
            let status = self.client(client).map_or(0, |each| each.status);
            self.tell(client, KEPT, u64::from(status), 0);
        }
    }
}
