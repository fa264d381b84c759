//! What a session has to send: commands of its own, and content that is not copied for it.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;

/// Own octets kept at most once all of the output is sent.
const KEPT_MAX: usize = 128 * 1024;
/// Sent octets at the front of `own` that are worth moving the rest for.
const SENT_MAX: usize = 64 * 1024;

/// Octets to send. Those of the session's own making stand in one buffer; shared ones are noted with the place
/// in that buffer before which they go.
#[derive(Debug, Default)]
pub(super) struct Output {
    own: Vec<u8>,
    /// How much of `own` is sent. Never past the place of a shared piece that is not.
    own_sent: usize,
    shared: VecDeque<(usize, Bytes)>,
    shared_len: usize,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.own.len() - self.own_sent + self.shared_len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where to append.
    pub(super) fn own(&mut self) -> &mut Vec<u8> {
        &mut self.own
    }

    /// Appends octets that stay where they are until they are sent.
    pub(super) fn share(&mut self, octets: Bytes) {
        if !octets.is_empty() {
            self.shared_len += octets.len();
            self.shared.push_back((self.own.len(), octets));
        }
    }

    /// All of it in order; no piece is empty.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let befores = self.shared.iter().map(|(place, _)| *place);
        let starts = std::iter::once(self.own_sent).chain(befores.clone());
        let ends = befores.chain(std::iter::once(self.own.len()));
        let shared = self.shared.iter().map(|(_, octets)| &octets[..]).chain(std::iter::once(&[][..]));
        starts
            .zip(ends)
            .zip(shared)
            .flat_map(|((start, end), shared)| [&self.own[start..end], shared])
            .filter(|piece| !piece.is_empty())
    }

    /// Takes away the first `count` octets.
    pub(super) fn advance(&mut self, count: usize) {
        let mut left = count;
        loop {
            let until = self.shared.front().map_or(self.own.len(), |(place, _)| *place);
            let step = left.min(until - self.own_sent);
            self.own_sent += step;
            left -= step;
            let Some((_, octets)) = self.shared.front_mut().filter(|_| left > 0) else { break };
            let step = left.min(octets.len());
            octets.advance(step);
            self.shared_len -= step;
            left -= step;
            if octets.is_empty() {
                self.shared.pop_front();
            }
        }
        assert!(left == 0, "no more is sent than there was");
        if self.is_empty() {
            self.clear();
        } else if self.own_sent > SENT_MAX {
            let sent = std::mem::take(&mut self.own_sent);
            self.own.drain(..sent);
            self.shared.iter_mut().for_each(|(place, _)| *place -= sent);
        }
    }

    /// Forgets all of it.
    pub(super) fn clear(&mut self) {
        self.own.clear();
        if self.own.capacity() > KEPT_MAX {
            self.own = Vec::new();
        }
        self.own_sent = 0;
        self.shared.clear();
        self.shared_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_come_out_in_the_order_they_went_in_whatever_is_taken_at_once() {
        for step in 1..40 {
            let (mut output, mut wanted, mut got) = (Output::default(), Vec::new(), Vec::new());
            let mut round = 0u8;
            while round < 60 || !output.is_empty() {
                if round < 60 {
                    let octets = vec![round; usize::from(round) % 7];
                    wanted.extend_from_slice(&octets);
                    match round % 3 {
                        0 => output.share(octets.into()),
                        _ => output.own().extend_from_slice(&octets),
                    }
                    round += 1;
                }
                let all: Vec<u8> = output.pieces().flatten().copied().collect();
                assert!(output.pieces().all(|piece| !piece.is_empty()));
                assert_eq!(all.len(), output.len());
                let taken = step.min(all.len());
                got.extend_from_slice(&all[..taken]);
                output.advance(taken);
            }
            assert_eq!(got, wanted, "by {step}");
        }
    }

    #[test]
    fn what_is_sent_is_not_kept_although_the_output_is_never_empty() {
        let mut output = Output::default();
        output.own().extend_from_slice(b"x");
        for _ in 0..1000 {
            output.own().extend_from_slice(&[b'y'; 500]);
            output.share(Bytes::from_static(b"zzz"));
            output.own().push(b'x');
            output.advance(504);
            assert_eq!(output.pieces().flatten().copied().collect::<Vec<_>>(), b"x");
        }
        assert!(output.own.len() <= SENT_MAX + 1000);
    }
}
