//! The headers of an answer, and what of them goes on to the client.

/// How many headers an answer has, mostly.
const USUAL: usize = 16;

/// Names in lower case with their values, all in one piece of memory: every answer has several.
#[derive(Default)]
pub struct Headers {
    text: Vec<u8>,
    /// Where each name ends, and where its value does.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    /// Has room for so many bytes of names and values: what grows is copied.
    pub fn with_room(bytes: usize) -> Self {
        Headers { text: Vec::with_capacity(bytes), ends: Vec::with_capacity(USUAL) }
    }

    /// Adds one; what comes back is its name as it is kept.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> &[u8] {
        let begin = self.text.len();
        self.text.extend_from_slice(name);
        let middle = self.text.len();
        self.text[begin..].make_ascii_lowercase();
        self.text.extend_from_slice(value);
        self.ends.push((middle, self.text.len()));
        &self.text[begin..middle]
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut begin = 0;
        self.ends.iter().map(move |&(middle, end)| {
            let header = (&self.text[begin..middle], &self.text[middle..end]);
            begin = end;
            header
        })
    }

    /// Whether these go on by the few rules that are known here. Of any others Python is asked.
    pub fn are_plain(&self) -> bool {
        self.iter().all(|(name, value)| match name {
            b"location" => false,
            b"connection" => words(value).all(|word| {
                word.is_empty() || word.eq_ignore_ascii_case(b"close") || word.eq_ignore_ascii_case(b"keep-alive")
            }),
            _ => true,
        })
    }

    /// Adds the lines of plain headers that go on to the client.
    pub fn write_plain(&self, out: &mut Vec<u8>) {
        for (name, value) in self.iter() {
            let dropped = matches!(
                name,
                b"connection"
                    | b"keep-alive"
                    | b"proxy-authenticate"
                    | b"proxy-authorization"
                    | b"proxy-connection"
                    | b"te"
                    | b"trailer"
                    | b"transfer-encoding"
                    | b"upgrade"
                    | b"http2-settings"
            );
            if !dropped && !name.starts_with(b"tolsey-") {
                write_header(name, value, out);
            }
        }
    }
}

pub fn write_header(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What stands between the commas of a value.
pub fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

/// Without the space around it.
pub fn trim(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(begin, |at| at + 1);
    &value[begin..end]
}
