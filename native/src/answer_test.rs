use super::*;

type Told = Result<Option<(u16, Framing, bool)>, Fault>;

fn head(data: &[u8]) -> Told {
    Ok(read_head(data, false)?.map(|head| (head.status, head.framing, head.keep_alive)))
}

fn body(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), Fault> {
    let (mut body, mut out, mut used) = (Body::new(framing), Vec::new(), 0);
    for piece in pieces {
        used += body.feed(piece, &mut out)?;
    }
    Ok((out, used, body.is_whole()))
}

#[test]
fn heads() {
    let ok = |framing, keep| Ok(Some((200, framing, keep)));
    let found: Vec<(&[u8], Told)> = vec![
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", ok(Framing::Length(5), true)),
        (b"HTTP/1.1 200\r\nContent-Length:5  \r\n\r\n", ok(Framing::Length(5), true)),
        (b"HTTP/1.1 200 OK\r\n\r\n", ok(Framing::UntilClose, false)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", ok(Framing::Chunked, true)),
        (b"HTTP/1.1 200 OK\r\nContent-LENGTH: 5\r\nCONNECTION: close\r\n\r\n", ok(Framing::Length(5), false)),
        (b"HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n", ok(Framing::Length(0), false)),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", ok(Framing::Length(1), false)),
        (b"HTTP/1.1 103 x\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n", ok(Framing::Length(1), true)),
        (b"HTTP/1.1 204 x\r\ncontent-length: 7\r\n\r\n", Ok(Some((204, Framing::Length(0), true)))),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000000000\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Err(Fault::Encoding)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", Err(Fault::Encoding)),
        (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 101 x\r\nupgrade: y\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\ncontent-length: 5\n\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\na : b\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\na: b\0\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 99 OK\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1 2000 OK\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/1.1  200 OK\r\n\r\n", Err(Fault::NotHttp)),
        (b"HTTP/2.0 200 OK\r\n\r\n", Err(Fault::NotHttp)),
        (b"hello", Err(Fault::NotHttp)),
        (b"HTTP/1.", Ok(None)),
    ];
    for (data, wanted) in found {
        assert_eq!(head(data), wanted, "{}", String::from_utf8_lossy(data));
    }
}

#[test]
fn a_head_is_whole_at_its_last_byte_and_not_before() {
    let data = b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\ncontent-length: 5\r\n\r\n";
    for length in 0..data.len() {
        assert_eq!(head(&data[..length]), Ok(None), "{length}");
    }
    let found = read_head(data, false).unwrap().unwrap();
    let headers: Vec<(&[u8], &[u8])> = found.headers.iter().collect();
    assert_eq!((found.length, headers), (data.len(), vec![(&b"a"[..], &b"b"[..]), (b"content-length", b"5")]));
}

#[test]
fn a_head_that_comes_byte_by_byte_is_read_when_it_may_be_whole() {
    let data = b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\n";
    let read: Vec<usize> = (1..=data.len()).filter(|to| may_be_whole(&data[..*to], to - 1).unwrap()).collect();
    assert_eq!(read, [1, 2, 3, 4, 5, 6, 7, 18, data.len()]);
    assert_eq!(may_be_whole(b"HTTP/1.1 200 OK\n", 15), Err(Fault::NotHttp));
    let most = MAX_HEAD + AROUND;
    let long = [b"HTTP/1.1 200 OK\r\na: ".as_slice(), &vec![b'x'; most]].concat();
    assert_eq!(may_be_whole(&long[..=most], most), Err(Fault::HeadTooLarge));
    assert_eq!(may_be_whole(&long[..most], most - 1), Ok(false));
}

#[test]
fn limits_of_a_head() {
    let of = |bytes: usize| [b"HTTP/1.1 200 OK\r\na: ", vec![b'x'; bytes].as_slice(), b"\r\n\r\n"].concat();
    let room = MAX_HEAD - 5;
    assert!(head(&of(room)).is_ok());
    assert_eq!(head(&of(room + 1)), Err(Fault::HeadTooLarge));
    assert_eq!(head(&of(MAX_HEAD + AROUND)[..=MAX_HEAD + AROUND]), Err(Fault::HeadTooLarge));
}

#[test]
fn bodies() {
    let chunked = |data: &[u8]| body(Framing::Chunked, &[data]);
    assert_eq!(body(Framing::Length(3), &[b"abcd"]), Ok((b"abc".to_vec(), 3, true)));
    assert_eq!(body(Framing::Length(3), &[b"ab"]), Ok((b"ab".to_vec(), 2, false)));
    assert_eq!(body(Framing::UntilClose, &[b"ab", b"c"]), Ok((b"abc".to_vec(), 3, false)));
    assert_eq!(chunked(b"0\r\n\r\nrest"), Ok((vec![], 5, true)));
    assert_eq!(chunked(b"3;x=\"y\"\r\nabc\r\n00\r\nT: u\r\n\r\n"), Ok((b"abc".to_vec(), 26, true)));
    for wrong in
        ["x\r\n", "\r\n", "3\nabc", "3\r\nabcd", "3\r\nabc\n0\r\n\r\n", "-1\r\n", " 3\r\n", "0\r\n\n", "0x3\r\n"]
    {
        assert_eq!(chunked(wrong.as_bytes()), Err(Fault::NotHttp), "{wrong:?}");
    }
    assert!(chunked(b"fffffffffffffff\r\n").is_ok());
    assert_eq!(chunked(b"ffffffffffffffff\r\n"), Err(Fault::NotHttp));
    let trailer = |bytes: usize| [b"0\r\nt:", vec![b't'; bytes - 2].as_slice(), b"\r\n\r\n"].concat();
    assert!(chunked(&trailer(MAX_TRAILER)).is_ok());
    assert_eq!(chunked(&trailer(MAX_TRAILER + 1)), Err(Fault::NoEnd));
    assert_eq!(chunked(b"0\r\nContent-Length: 1\r\n\r\n"), Err(Fault::NotHttp));
}

#[test]
fn a_chunked_body_is_the_same_however_it_is_cut() {
    let data = b"4\r\nWiki\r\n6;a=b;c;d=\"e\\\"f\"\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nA: b\r\nC: d\r\n\r\n";
    let wanted = Ok((b"Wikipedia in \r\n\r\nchunks.".to_vec(), data.len(), true));
    for one in 0..=data.len() {
        for other in one..=data.len() {
            assert_eq!(body(Framing::Chunked, &[&data[..one], &data[one..other], &data[other..]]), wanted);
        }
    }
}

#[test]
fn what_goes_on_to_the_client() {
    let mut headers = Headers::default();
    for (name, value) in
        [("A", "1"), ("keep-alive", "x"), ("transfer-encoding", "chunked"), ("tolsey-cost", "0"), ("b", "")]
    {
        headers.push(name.as_bytes(), value.as_bytes());
    }
    assert!(headers.are_plain());
    let mut out = Vec::new();
    headers.write_plain(&mut out);
    assert_eq!(out, b"a: 1\r\nb: \r\n");
    for (name, value) in [("location", "/x"), ("connection", "close, x-secret")] {
        let mut headers = Headers::default();
        headers.push(name.as_bytes(), value.as_bytes());
        assert!(!headers.are_plain());
    }
}
