//! Reads a SentencePiece model in the protocol buffers format. Only the fields that determine ids are read.
//!
//! Source: SentencePiece's `sentencepiece_model.proto`. Every length is checked against the remaining bytes, and no
//! memory is reserved from a number in the file.

use super::TokenizerError;

/// Types of pieces (SentencePiece's word for tokens), in the order of the numbers 1 to 6 in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One piece with its score.
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: PieceType,
}

/// The fields of a SentencePiece model.
pub(super) struct ModelFile {
    pub pieces: Vec<Piece>,
    /// 1 is Unigram, 2 is BPE, 3 is words, 4 is characters.
    pub model_type: u64,
    pub byte_fallback: bool,
    /// True if the space of `add_dummy_prefix` is added after the text and not before it
    /// (`treat_whitespace_as_suffix`).
    pub suffix: bool,
    pub bos: String,
    pub eos: String,
    pub pad: String,
    /// Compiled normalization rules (`precompiled_charsmap`); empty if there are no rules.
    pub charsmap: Vec<u8>,
    /// True if a space is added before the text (or after it, see `suffix`).
    pub add_dummy_prefix: bool,
    /// True if spaces at both ends are removed, and repeated spaces become one space.
    pub remove_extra_whitespaces: bool,
    /// True if a space is spelled `▁`.
    pub escape_whitespaces: bool,
}

/// The value of a field. `Other` is a 64-bit value; no field here has such a value.
enum Value<'a> {
    Number(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Other,
}

/// Reads fields in sequence. `bytes` are the remaining bytes, and `offset` is their offset in the file.
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn bad(&self, found: &str) -> TokenizerError {
        let expected = format!("a SentencePiece model in protocol buffers, at offset {}", self.offset);
        TokenizerError::key("protocol buffers", expected, found)
    }

    fn varint(&mut self) -> Result<u64, TokenizerError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((byte, rest)) = self.bytes.split_first() else { return Err(self.bad("the file's end")) };
            self.bytes = rest;
            self.offset += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.bad("a number of more than 64 bits"))
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], TokenizerError> {
        let split = usize::try_from(count).ok().and_then(|count| self.bytes.split_at_checked(count));
        let Some((taken, rest)) = split else {
            return Err(self.bad(&format!("{count} bytes announced, {} left", self.bytes.len())));
        };
        self.bytes = rest;
        self.offset += taken.len();
        Ok(taken)
    }

    /// Reads the number and the value of the next field; returns `None` at the end of the message.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, TokenizerError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            other => return Err(self.bad(&format!("a field of wire type {other}"))),
        };
        Ok(Some((tag >> 3, value)))
    }

    /// Calls `take` with every field of a message: its number, its value, and its offset in the file for errors.
    /// `offset` is the offset of the message in the file.
    fn fields(
        bytes: &'a [u8],
        offset: usize,
        take: &mut dyn FnMut(u64, Value<'a>, usize) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        let mut reader = Reader { bytes, offset };
        while let Some((number, value)) = reader.next()? {
            let start = match &value {
                Value::Bytes(bytes) => reader.offset - bytes.len(),
                _ => reader.offset,
            };
            take(number, value, start)?;
        }
        Ok(())
    }
}

fn text(bytes: &[u8], offset: usize) -> Result<String, TokenizerError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        TokenizerError::key("protocol buffers", format!("UTF-8 at offset {offset}"), "other bytes")
    })
}

impl ModelFile {
    pub fn read(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let mut model = Self {
            pieces: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            suffix: false,
            bos: "<s>".into(),
            eos: "</s>".into(),
            pad: "<pad>".into(),
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        Reader::fields(bytes, 0, &mut |number, value, offset| {
            match (number, value) {
                (1, Value::Bytes(bytes)) => model.pieces.push(piece(bytes, offset)?),
                (2, Value::Bytes(bytes)) => model.trainer(bytes, offset)?,
                (3, Value::Bytes(bytes)) => model.normalizer(bytes, offset)?,
                _ => {}
            }
            Ok(())
        })?;
        if model.pieces.is_empty() || model.pieces.len() > super::LARGEST_ID as usize {
            return Err(TokenizerError::key("pieces", "1 to 2^22", model.pieces.len().to_string()));
        }
        Ok(model)
    }

    /// Reads the fields of the message `TrainerSpec`.
    fn trainer(&mut self, bytes: &[u8], offset: usize) -> Result<(), TokenizerError> {
        Reader::fields(bytes, offset, &mut |number, value, offset| {
            match (number, value) {
                (3, Value::Number(n)) => self.model_type = n,
                (24, Value::Number(n)) => self.suffix = n != 0,
                (35, Value::Number(n)) => self.byte_fallback = n != 0,
                (46, Value::Bytes(bytes)) => self.bos = text(bytes, offset)?,
                (47, Value::Bytes(bytes)) => self.eos = text(bytes, offset)?,
                (48, Value::Bytes(bytes)) => self.pad = text(bytes, offset)?,
                _ => {}
            }
            Ok(())
        })
    }

    /// Reads the fields of the message `NormalizerSpec`.
    fn normalizer(&mut self, bytes: &[u8], offset: usize) -> Result<(), TokenizerError> {
        Reader::fields(bytes, offset, &mut |number, value, _| {
            match (number, value) {
                (2, Value::Bytes(bytes)) => self.charsmap = bytes.to_vec(),
                (3, Value::Number(n)) => self.add_dummy_prefix = n != 0,
                (4, Value::Number(n)) => self.remove_extra_whitespaces = n != 0,
                (5, Value::Number(n)) => self.escape_whitespaces = n != 0,
                _ => {}
            }
            Ok(())
        })
    }
}

/// Reads the fields of the message `SentencePiece`, one piece.
fn piece(bytes: &[u8], offset: usize) -> Result<Piece, TokenizerError> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceType::Normal };
    Reader::fields(bytes, offset, &mut |number, value, offset| {
        match (number, value) {
            (1, Value::Bytes(bytes)) => piece.text = text(bytes, offset)?,
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Number(n)) => {
                piece.kind = match n {
                    1 => PieceType::Normal,
                    2 => PieceType::Unknown,
                    3 => PieceType::Control,
                    4 => PieceType::UserDefined,
                    5 => PieceType::Unused,
                    6 => PieceType::Byte,
                    other => {
                        let expected = format!("1 to 6 at offset {offset}");
                        return Err(TokenizerError::key("pieces.type", expected, other.to_string()));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}
