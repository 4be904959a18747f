/**
 * Bottom-k MinHash (Broder, "On the resemblance and containment of documents", 1997): the k smallest hashes of a text's
 * shingles. The Jaccard similarity of two texts is estimated from the k smallest of the union; for texts of at most k
 * shingles it is exact, so short inquiries and long articles need one method only. O(n) to make, O(k) to compare, 256 bytes.
 */

/** Hashes kept: the estimate's standard error at similarity 0.85 is sqrt(0.85 * 0.15 / 64) = 0.045. */
const K = 64;
/** Characters in a shingle. Words would be too coarse for inquiries of eight words. */
const SHINGLE = 5;

/** What counts as the same text: compatibility forms, case, punctuation and spacing do not. */
export const normalize = (text: string): string =>
  text
    .normalize('NFKC')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .trim();

/** Ascending, distinct, at most K. */
function smallest(hashes: Uint32Array): Uint32Array {
  hashes.sort();
  const kept: number[] = [];
  for (const hash of hashes) {
    if (kept.at(-1) !== hash) kept.push(hash);
    if (kept.length === K) break;
  }
  return Uint32Array.from(kept);
}

/** The sketch of a text, ascending; empty for a text without letters and digits. */
export function sketch(text: string): Uint32Array {
  const normal = normalize(text);
  if (normal === '') return new Uint32Array(0);
  const padded = normal.length < SHINGLE ? normal.padEnd(SHINGLE) : normal;
  const hashes = new Uint32Array(padded.length - SHINGLE + 1);
  for (let at = 0; at < hashes.length; at++) {
    // FNV-1a over code units, then the finalizer of MurmurHash3, whose low bits are as good as its high ones.
    let hash = 0x811c9dc5;
    for (let i = at; i < at + SHINGLE; i++) hash = Math.imul(hash ^ padded.charCodeAt(i), 0x01000193);
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    hashes[at] = (hash ^ (hash >>> 16)) >>> 0;
  }
  return smallest(hashes);
}

/** Estimated Jaccard similarity of the shingle sets, 0 to 1; 0 when either is empty. */
export function similarity(a: Uint32Array, b: Uint32Array): number {
  if (a.length === 0 || b.length === 0) return 0;
  let i = 0;
  let j = 0;
  let union = 0;
  let both = 0;
  while (union < K && (i < a.length || j < b.length)) {
    const left = a[i] ?? Number.POSITIVE_INFINITY;
    const right = b[j] ?? Number.POSITIVE_INFINITY;
    // A full sketch says nothing about hashes above its largest: the union ends there.
    if ((i === a.length && a.length === K) || (j === b.length && b.length === K)) break;
    union++;
    if (left === right) both++;
    if (left <= right) i++;
    if (right <= left) j++;
  }
  return both / union;
}

export const sketchBytes = (values: Uint32Array): Buffer => {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [i, value] of values.entries()) bytes.writeUInt32LE(value, i * 4);
  return bytes;
};

export const sketchFrom = (bytes: Uint8Array): Uint32Array => {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Uint32Array.from({ length: bytes.byteLength / 4 }, (_, i) => view.readUInt32LE(i * 4));
};
