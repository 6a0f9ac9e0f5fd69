//! Frames of `application/vnd.amazon.eventstream`:
//! <https://smithy.io/2.0/aws/amazon-eventstream.html>.
//!
//! ```text
//! u32 total length | u32 headers' length | u32 CRC-32 of these | headers | payload | u32 CRC-32 of all before
//! a header: u8 length, name, u8 7 (text), u16 length, value
//! ```
//! Numbers are big-endian.

/// Bytes of a payload; more go into several frames.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The type of a header that is text.
const TEXT: u8 = 7;

/// A part of a function's answer.
pub(super) fn chunk(payload: &[u8]) -> Vec<u8> {
    frame("PayloadChunk", "application/octet-stream", payload)
}

/// The end of an answer: JSON that says how it went.
pub(super) fn complete(payload: &[u8]) -> Vec<u8> {
    frame("InvokeComplete", "application/json", payload)
}

fn frame(event: &str, content: &str, payload: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [(":event-type", event), (":content-type", content), (":message-type", "event")] {
        headers.push(u8::try_from(name.len()).expect("names are short"));
        headers.extend_from_slice(name.as_bytes());
        headers.push(TEXT);
        headers.extend_from_slice(&u16::try_from(value.len()).expect("values are short").to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let length = |bytes: usize| u32::try_from(bytes).expect("a payload has a bound").to_be_bytes();
    let mut frame = Vec::with_capacity(16 + headers.len() + payload.len());
    frame.extend_from_slice(&length(16 + headers.len() + payload.len()));
    frame.extend_from_slice(&length(headers.len()));
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame.extend_from_slice(&headers);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8]) -> usize {
        u32::from_be_bytes(bytes.try_into().unwrap()) as usize
    }

    #[test]
    fn a_frame_has_its_lengths_and_checksums() {
        let frame = chunk(b"hello");
        let headers = number(&frame[4..8]);
        assert_eq!(number(&frame[..4]), frame.len());
        assert_eq!(number(&frame[8..12]), crc32fast::hash(&frame[..8]) as usize);
        assert_eq!(&frame[12 + headers..frame.len() - 4], b"hello");
        assert_eq!(number(&frame[frame.len() - 4..]), crc32fast::hash(&frame[..frame.len() - 4]) as usize);
        let expected =
            b"\x0b:event-type\x07\x00\x0cPayloadChunk\x0d:content-type\x07\x00\x18application/octet-stream";
        assert_eq!(&frame[12..12 + expected.len()], expected);
    }

    #[test]
    fn the_frame_of_the_specification_is_ours() {
        // The prelude's checksum of an empty message, from the specification's test vectors.
        let mut prelude = 16_u32.to_be_bytes().to_vec();
        prelude.extend_from_slice(&0_u32.to_be_bytes());
        assert_eq!(crc32fast::hash(&prelude), 0x05c2_48eb);
    }
}
