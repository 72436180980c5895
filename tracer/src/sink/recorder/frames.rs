//! zstd frames: each can be read without the others.

use std::io;

use zstd::{bulk::Compressor, zstd_safe};

/// 300 MB/s, and lines are a tenth as long.
const LEVEL: i32 = 3;

pub(super) struct Encoder {
    compressor: Compressor<'static>,
    frame: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        Ok(Self {
            compressor,
            frame: Vec::new(),
        })
    }

    pub(super) fn frame(&mut self, text: &[u8]) -> io::Result<&[u8]> {
        self.frame.clear();
        self.frame.reserve(zstd_safe::compress_bound(text.len()));
        self.compressor.compress_to_buffer(text, &mut self.frame)?;
        Ok(&self.frame)
    }
}

/// How many bytes whole frames have at the beginning.
pub(super) fn whole(bytes: &[u8]) -> usize {
    let mut end = 0;
    while end < bytes.len()
        && let Ok(length) = zstd_safe::find_frame_compressed_size(&bytes[end..])
    {
        end += length;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_whole_frames_is_found_wherever_it_was_torn() {
        let mut encoder = Encoder::new().unwrap();
        let one = encoder.frame(b"one\n").unwrap().to_vec();
        let two = encoder
            .frame("two\n".repeat(100).as_bytes())
            .unwrap()
            .to_vec();
        let both = [&one[..], &two].concat();
        assert_eq!(whole(&both), both.len());
        for torn in 0..both.len() {
            let expected = if torn < one.len() { 0 } else { one.len() };
            assert_eq!(whole(&both[..torn]), expected);
        }
        let text = zstd::decode_all(&both[..]).unwrap();
        assert_eq!(
            text,
            [b"one\n".to_vec(), "two\n".repeat(100).into()].concat()
        );
    }
}
