//! The fields of a record's body: little-endian integers, and texts behind their length.

use super::Invalid;

/// What of a body was not read yet.
pub(super) struct Fields<'a> {
    kind: u8,
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(kind: u8, body: &'a [u8]) -> Fields<'a> {
        Fields { kind, body, rest: body }
    }

    pub(super) fn kind(&self) -> u8 {
        self.kind
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Invalid> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(self.wrong_length())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(self.wrong_length())?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Invalid> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Invalid> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Invalid> {
        self.array().map(u64::from_le_bytes)
    }

    /// Its length (u16), then its bytes.
    pub(super) fn text(&mut self, longest: usize) -> Result<&'a str, Invalid> {
        let len = usize::from(self.u16()?);
        if len > longest {
            return Err(Invalid::Field { kind: self.kind, what: "a text is too long" });
        }
        let bytes = self.bytes(len)?;
        std::str::from_utf8(bytes).map_err(|_| Invalid::Field { kind: self.kind, what: "a text is not UTF-8" })
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Invalid> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong_length()) }
    }

    fn wrong_length(&self) -> Invalid {
        Invalid::Length { kind: self.kind, len: self.body.len() }
    }
}

/// Appends the text's length and the text, cut to `longest` bytes at most.
pub(super) fn put_text(text: &str, longest: usize, out: &mut Vec<u8>) {
    let mut len = text.len().min(longest);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    out.extend_from_slice(&(len as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..len]);
}
