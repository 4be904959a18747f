import * as zlib from 'node:zlib';
import { LearndError } from '../../base/errors.ts';

/**
 * Decoders for the codecs that producers of other languages use by default and kafkajs lacks: without them one compressed batch
 * would block its partition. Formats: Snappy format description (google/snappy), its framing by snappy-java; LZ4 block and
 * frame format (lz4/lz4, as KIP-57 has Kafka use it). Checksums are not read: the record batch has a CRC of its own.
 */

/** No batch of a broker is this large; a length beyond it is damage, or a bomb. */
const LARGEST = 1 << 29;

const corrupt = (codec: string, what: string): LearndError =>
  new LearndError('corrupt', `a ${codec} compressed batch of Kafka is damaged: ${what}`);

/** Output that grows; matches may overlap what they produce. */
class Output {
  readonly #codec: string;
  #bytes: Buffer;
  length = 0;

  constructor(codec: string, expected: number) {
    this.#codec = codec;
    this.#bytes = Buffer.allocUnsafe(Math.min(1 << 24, Math.max(64, expected)));
  }

  #room(more: number): void {
    const needed = this.length + more;
    if (needed > LARGEST) throw corrupt(this.#codec, `more than ${LARGEST} bytes`);
    if (needed <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(needed, this.#bytes.length * 2));
    this.#bytes.copy(larger, 0, 0, this.length);
    this.#bytes = larger;
  }

  literal(from: Buffer, start: number, length: number): void {
    if (start + length > from.length) throw corrupt(this.#codec, 'it ends early');
    this.#room(length);
    from.copy(this.#bytes, this.length, start, start + length);
    this.length += length;
  }

  match(offset: number, length: number): void {
    if (offset === 0 || offset > this.length) throw corrupt(this.#codec, 'a reference before its beginning');
    this.#room(length);
    const start = this.length - offset;
    if (offset >= length) this.#bytes.copyWithin(this.length, start, start + length);
    else for (let i = 0; i < length; i++) this.#bytes[this.length + i] = this.#bytes[start + i]!;
    this.length += length;
  }

  done(): Buffer {
    return this.#bytes.subarray(0, this.length);
  }
}

const byteAt = (from: Buffer, at: number, codec: string): number => {
  const byte = from[at];
  if (byte === undefined) throw corrupt(codec, 'it ends early');
  return byte;
};

function snappyBlock(from: Buffer): Buffer {
  let at = 0;
  let expected = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = byteAt(from, at++, 'Snappy');
    expected += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) break;
    if (shift > 28) throw corrupt('Snappy', 'a length of more than 32 bits');
  }
  if (expected > LARGEST) throw corrupt('Snappy', `more than ${LARGEST} bytes`);
  const out = new Output('Snappy', expected);
  while (at < from.length) {
    const tag = from[at++]!;
    const kind = tag & 3;
    if (kind === 0) {
      let length = tag >> 2;
      if (length >= 60) {
        const bytes = length - 59;
        byteAt(from, at + bytes - 1, 'Snappy');
        length = from.readUIntLE(at, bytes);
        at += bytes;
      }
      out.literal(from, at, length + 1);
      at += length + 1;
    } else if (kind === 1) {
      out.match(((tag & 0xe0) << 3) | byteAt(from, at++, 'Snappy'), ((tag >> 2) & 7) + 4);
    } else {
      const bytes = kind === 2 ? 2 : 4;
      byteAt(from, at + bytes - 1, 'Snappy');
      out.match(from.readUIntLE(at, bytes), (tag >> 2) + 1);
      at += bytes;
    }
  }
  if (out.length !== expected) throw corrupt('Snappy', 'its length is not the one announced');
  return out.done();
}

const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0x00]);

/** Plain, or in the framing of snappy-java: an 8-byte magic, two versions, then blocks with their length before them. */
export function snappyDecode(from: Buffer): Buffer {
  if (!from.subarray(0, 8).equals(XERIAL)) return snappyBlock(from);
  const blocks: Buffer[] = [];
  for (let at = 16; at < from.length; ) {
    if (at + 4 > from.length) throw corrupt('Snappy', 'it ends early');
    const length = from.readUInt32BE(at);
    if (at + 4 + length > from.length) throw corrupt('Snappy', 'it ends early');
    blocks.push(snappyBlock(from.subarray(at + 4, at + 4 + length)));
    at += 4 + length;
  }
  return Buffer.concat(blocks);
}

function lz4Block(from: Buffer, out: Output): void {
  let at = 0;
  const extended = (length: number): number => {
    let total = length;
    if (length !== 15) return total;
    for (let byte = 255; byte === 255; ) {
      byte = byteAt(from, at++, 'LZ4');
      total += byte;
    }
    return total;
  };
  while (at < from.length) {
    const token = from[at++]!;
    const literals = extended(token >> 4);
    out.literal(from, at, literals);
    at += literals;
    // The last sequence of a block has no match.
    if (at === from.length) return;
    const offset = byteAt(from, at, 'LZ4') | (byteAt(from, at + 1, 'LZ4') << 8);
    at += 2;
    out.match(offset, extended(token & 15) + 4);
  }
}

export function lz4Decode(from: Buffer): Buffer {
  if (from.length < 7 || from.readUInt32LE(0) !== 0x184d2204) throw corrupt('LZ4', 'it is not an LZ4 frame');
  const flags = from[4]!;
  const blockChecksum = (flags & 0x10) !== 0;
  let at = 6 + ((flags & 0x08) !== 0 ? 8 : 0) + ((flags & 0x01) !== 0 ? 4 : 0) + 1;
  const out = new Output('LZ4', from.length * 3);
  for (;;) {
    if (at + 4 > from.length) throw corrupt('LZ4', 'it ends early');
    const word = from.readUInt32LE(at);
    at += 4;
    if (word === 0) return out.done();
    const length = word & 0x7fffffff;
    if (at + length > from.length) throw corrupt('LZ4', 'it ends early');
    // One output for all blocks: linked blocks refer back into the ones before.
    if (word >= 0x80000000) out.literal(from, at, length);
    else lz4Block(from.subarray(at, at + length), out);
    at += length + (blockChecksum ? 4 : 0);
  }
}

/** Node has Zstandard from 22.15 on. */
export function zstdDecode(from: Buffer): Buffer {
  const native = (zlib as { zstdDecompressSync?: (bytes: Buffer, options: { maxOutputLength: number }) => Buffer })
    .zstdDecompressSync;
  if (native === undefined)
    throw new LearndError('dependency', `a producer compresses with zstd, which Node ${process.version} cannot read`, {
      hint: 'Run learnd on Node 22.15 or later, or have producers use gzip, snappy or lz4',
      retriable: false,
    });
  return native(from, { maxOutputLength: LARGEST });
}
