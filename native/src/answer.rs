//! An upstream's answer: its head (RFC 9112, section 4), how long its body is (section 6.3), its chunks (section 7.1).

use std::fmt::Write as _;

use crate::headers::{trim, words, Headers};

pub const MAX_HEAD: usize = 256 * 1024;
const BEGIN: &[u8] = b"HTTP/1.";
/// How much more than that the bytes of a head may be that are no name and no value.
const AROUND: usize = 64 * 1024;
const MAX_TRAILER: usize = 64 * 1024;

/// Why an answer is not taken. The numbers are those of the C interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fault {
    BeforeAnswer = 1,
    InAnswer = 2,
    NotHttp = 3,
    HeadTooLarge = 4,
    Encoding = 5,
    NoEnd = 6,
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// An answer's head, and `length`, how many bytes of what arrived it is.
pub struct Head {
    pub status: u16,
    pub headers: Headers,
    pub framing: Framing,
    /// No body comes whatever the headers say.
    pub no_body: bool,
    pub keep_alive: bool,
    pub length: usize,
}

/// Reads a head from the beginning of what arrived; `None` while it is not whole. Interim answers are skipped.
pub fn read_head(data: &[u8], head_only: bool) -> Result<Option<Head>, Fault> {
    let mut begin = 0;
    loop {
        match read_one(&data[begin..], head_only)? {
            None if data.len() > MAX_HEAD + AROUND => return Err(Fault::HeadTooLarge),
            None => return Ok(None),
            Some(head) if head.status == 101 => return Err(Fault::NotHttp),
            Some(head) if head.status < 200 => begin += head.length,
            Some(mut head) => {
                head.length += begin;
                return Ok(Some(head));
            }
        }
    }
}

fn read_one(data: &[u8], head_only: bool) -> Result<Option<Head>, Fault> {
    let Some(length) = end_of(data)? else { return Ok(None) };
    let mut lines =
        data[..length - 2].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (status, version) = lines.next().and_then(first_line).ok_or(Fault::NotHttp)?;
    let (mut headers, mut bytes) = (Headers::with_room(length), 0);
    let (mut size, mut chunked, mut keep_alive) = (None, false, version == b'1');
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = header(line).ok_or(Fault::NotHttp)?;
        bytes += name.len() + value.len() + 4;
        if bytes > MAX_HEAD {
            return Err(Fault::HeadTooLarge);
        }
        match headers.push(name, value) {
            b"content-length" => {
                let read = number(value).ok_or(Fault::NotHttp)?;
                if size.replace(read).is_some() {
                    return Err(Fault::NotHttp);
                }
            }
            b"transfer-encoding" => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Encoding);
                }
                chunked = true;
            }
            b"connection" if words(value).any(|word| word.eq_ignore_ascii_case(b"close")) => keep_alive = false,
            _ => {}
        }
    }
    if chunked && (size.is_some() || version == b'0') {
        return Err(Fault::NotHttp);
    }
    let no_body = head_only || status == 204 || status == 304;
    let framing = match (no_body, size) {
        (true, _) => Framing::Length(0),
        (_, Some(size)) => Framing::Length(size),
        _ if chunked => Framing::Chunked,
        _ => Framing::UntilClose,
    };
    // After an answer to HEAD nobody knows whether a body comes all the same.
    let keep_alive = keep_alive && framing != Framing::UntilClose && !head_only;
    Ok(Some(Head { status, headers, framing, no_body, keep_alive, length }))
}

/// Whether a head can be whole that grew from `before` bytes on. Looks at those alone, so that one that comes byte by
/// byte is not read from its beginning for each.
pub fn may_be_whole(data: &[u8], before: usize) -> Result<bool, Fault> {
    if before == 0 {
        return Ok(true);
    }
    let bare = |at: &usize| data[*at] == b'\n' && data[at - 1] != b'\r';
    if (before..data.len()).any(|at| bare(&at)) {
        return Err(Fault::NotHttp);
    }
    if data[before.saturating_sub(3)..].windows(4).any(|window| window == b"\r\n\r\n") {
        return Ok(true);
    }
    if data.len() > MAX_HEAD + AROUND {
        Err(Fault::HeadTooLarge)
    } else {
        Ok(before < BEGIN.len())
    }
}

/// How long the head is that these bytes begin with, `None` while it is not whole. That it is not one is said as soon as
/// it can be known.
fn end_of(data: &[u8]) -> Result<Option<usize>, Fault> {
    if !data.iter().zip(BEGIN).all(|(one, other)| one == other) {
        return Err(Fault::NotHttp);
    }
    let mut line = 0;
    for at in (0..data.len()).filter(|at| data[*at] == b'\n') {
        if at == 0 || data[at - 1] != b'\r' {
            return Err(Fault::NotHttp);
        }
        if at - line == 1 {
            return Ok(Some(at + 1));
        }
        line = at + 1;
    }
    Ok(None)
}

/// The status, and the second digit of the version.
fn first_line(line: &[u8]) -> Option<(u16, u8)> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (version, rest) = rest.split_first()?;
    let digits = rest.strip_prefix(b" ")?;
    if !matches!(version, b'0' | b'1') || digits.len() < 3 || !digits[..3].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let status = digits[..3].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let reason = &digits[3..];
    let is_clean = reason.is_empty() || (reason[0] == b' ' && reason.iter().copied().all(is_text));
    (status >= 100 && is_clean).then_some((status, *version))
}

/// A name, and its value without the space around it.
fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().copied().all(is_token) || !value.iter().copied().all(is_text) {
        return None;
    }
    Some((name, trim(value)))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Adds one chunk.
pub fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    let mut size = String::with_capacity(10);
    let _ = write!(size, "{:x}\r\n", data.len());
    out.extend_from_slice(size.as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Takes a body out of what arrives.
pub enum Body {
    Length(u64),
    UntilClose,
    Chunked(Chunks),
    Whole,
}

impl Body {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Whole,
            Framing::Length(size) => Self::Length(size),
            Framing::UntilClose => Self::UntilClose,
            Framing::Chunked => Self::Chunked(Chunks::default()),
        }
    }

    /// Adds to `out` what of `data` is body; returns how many bytes of `data` were used.
    pub fn feed(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<usize, Fault> {
        match self {
            Self::Whole => Ok(0),
            Self::UntilClose => {
                out.extend_from_slice(data);
                Ok(data.len())
            }
            Self::Length(left) => {
                let used = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                out.extend_from_slice(&data[..used]);
                *left -= used as u64;
                if *left == 0 {
                    *self = Self::Whole;
                }
                Ok(used)
            }
            Self::Chunked(chunks) => {
                let used = chunks.feed(data, out)?;
                if chunks.state == Chunk::End {
                    *self = Self::Whole;
                }
                Ok(used)
            }
        }
    }

    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Chunk {
    #[default]
    Size,
    Name,
    Value,
    Quoted,
    Escaped,
    QuotedEnd,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    Trailer,
    TrailerEnd,
    End,
}

/// A chunked body, byte by byte where it is not data. Extensions and trailers have to be well-formed, and are dropped.
#[derive(Default)]
pub struct Chunks {
    state: Chunk,
    left: u64,
    digits: u8,
    /// How many bytes there were of what is being read of an extension.
    word: usize,
    line: Vec<u8>,
    unread: usize,
}

impl Chunks {
    fn feed(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<usize, Fault> {
        let mut at = 0;
        while at < data.len() && self.state != Chunk::End {
            if self.state == Chunk::Data {
                let used = (data.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                out.extend_from_slice(&data[at..at + used]);
                self.left -= used as u64;
                at += used;
                if self.left == 0 {
                    self.state = Chunk::DataReturn;
                }
                continue;
            }
            self.state = match self.state {
                Chunk::Size => self.size(data[at])?,
                Chunk::Name | Chunk::Value | Chunk::Quoted | Chunk::Escaped | Chunk::QuotedEnd => {
                    self.extension(data[at])?
                }
                _ => self.line(data[at])?,
            };
            at += 1;
        }
        Ok(at)
    }

    fn size(&mut self, byte: u8) -> Result<Chunk, Fault> {
        match (byte as char).to_digit(16) {
            Some(digit) if self.digits < 15 => {
                self.left = self.left << 4 | u64::from(digit);
                self.digits += 1;
                Ok(Chunk::Size)
            }
            None if byte == b'\r' && self.digits > 0 => Ok(Chunk::SizeEnd),
            None if byte == b';' && self.digits > 0 => self.word(Chunk::Name),
            _ => Err(Fault::NotHttp),
        }
    }

    fn extension(&mut self, byte: u8) -> Result<Chunk, Fault> {
        self.count()?;
        match (self.state, byte) {
            (Chunk::Name | Chunk::Value, byte) if is_token(byte) => {
                self.word += 1;
                Ok(self.state)
            }
            (Chunk::Name, b'=') if self.word > 0 => self.word(Chunk::Value),
            (Chunk::Value, b'"') if self.word == 0 => Ok(Chunk::Quoted),
            (Chunk::Quoted, b'"') => Ok(Chunk::QuotedEnd),
            (Chunk::Quoted, b'\\') => Ok(Chunk::Escaped),
            (Chunk::Quoted | Chunk::Escaped, byte) if is_text(byte) && byte.is_ascii() => Ok(Chunk::Quoted),
            (Chunk::Name | Chunk::Value, b';') if self.word > 0 => self.word(Chunk::Name),
            (Chunk::Name | Chunk::Value, b'\r') if self.word > 0 => Ok(Chunk::SizeEnd),
            (Chunk::QuotedEnd, b';') => self.word(Chunk::Name),
            (Chunk::QuotedEnd, b'\r') => Ok(Chunk::SizeEnd),
            _ => Err(Fault::NotHttp),
        }
    }

    fn line(&mut self, byte: u8) -> Result<Chunk, Fault> {
        match (self.state, byte) {
            (Chunk::SizeEnd, b'\n') => {
                self.digits = 0;
                Ok(if self.left == 0 { Chunk::Trailer } else { Chunk::Data })
            }
            (Chunk::DataReturn, b'\r') => Ok(Chunk::DataEnd),
            (Chunk::DataEnd, b'\n') => {
                self.unread = 0;
                Ok(Chunk::Size)
            }
            (Chunk::Trailer, b'\r') => Ok(Chunk::TrailerEnd),
            (Chunk::Trailer, byte) if byte != b'\n' => {
                self.count()?;
                self.line.push(byte);
                Ok(Chunk::Trailer)
            }
            (Chunk::TrailerEnd, b'\n') if self.line.is_empty() => Ok(Chunk::End),
            (Chunk::TrailerEnd, b'\n') => {
                let (name, _) = header(&self.line).ok_or(Fault::NotHttp)?;
                if [&b"content-length"[..], b"transfer-encoding"].iter().any(|each| name.eq_ignore_ascii_case(each)) {
                    return Err(Fault::NotHttp);
                }
                self.line.clear();
                Ok(Chunk::Trailer)
            }
            _ => Err(Fault::NotHttp),
        }
    }

    fn word(&mut self, state: Chunk) -> Result<Chunk, Fault> {
        self.word = 0;
        Ok(state)
    }

    /// What is neither data nor an end is bounded.
    fn count(&mut self) -> Result<(), Fault> {
        self.unread += 1;
        if self.unread > MAX_TRAILER {
            Err(Fault::NoEnd)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
#[path = "answer_test.rs"]
mod tests;
