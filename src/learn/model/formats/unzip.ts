import { createReadStream } from 'node:fs';
import { createInflateRaw } from 'node:zlib';
import { BoundedFile, corrupt } from './bounded-file.ts';

export interface ZipEntry {
  readonly name: string;
  readonly method: number;
  readonly compressed: number;
  readonly size: number;
  /** Of the local header, from the start of the file. */
  readonly offset: number;
}

const END = 0x06054b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;

/** The entries of a zip file without ZIP64 (wheels are below 4 GiB), from its central directory. */
export function zipEntries(path: string): ZipEntry[] {
  const file = new BoundedFile(path);
  const tailAt = Math.max(0, file.size - 65_557); // the end record and the longest comment
  const tail = file.read(tailAt, file.size - tailAt, 'zip end record');
  const view = new DataView(tail.buffer);
  let end = tail.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end--;
  if (end < 0) throw corrupt(path, 'zip end record', tailAt, 'not found: not a zip file, or an incomplete one');
  const count = view.getUint16(end + 10, true);
  const at = view.getUint32(end + 16, true);
  const directory = file.read(at, view.getUint32(end + 12, true), 'zip directory');
  const entries: ZipEntry[] = [];
  const records = new DataView(directory.buffer);
  for (let i = 0, p = 0; i < count; i++) {
    if (p + 46 > directory.length || records.getUint32(p, true) !== CENTRAL) {
      throw corrupt(path, `zip entry ${i}`, at + p, 'not a directory record');
    }
    const nameLength = records.getUint16(p + 28, true);
    entries.push({
      name: new TextDecoder().decode(directory.subarray(p + 46, p + 46 + nameLength)),
      method: records.getUint16(p + 10, true),
      compressed: records.getUint32(p + 20, true),
      size: records.getUint32(p + 24, true),
      offset: records.getUint32(p + 42, true),
    });
    p += 46 + nameLength + records.getUint16(p + 30, true) + records.getUint16(p + 32, true);
  }
  return entries;
}

/** The content of one entry, stored or deflated, as a stream of chunks. */
export async function* unzipEntry(path: string, entry: ZipEntry): AsyncGenerator<Uint8Array> {
  const file = new BoundedFile(path);
  const local = new DataView(file.read(entry.offset, 30, entry.name).buffer);
  if (local.getUint32(0, true) !== LOCAL) throw corrupt(path, entry.name, entry.offset, 'not a local header');
  if (entry.method !== 0 && entry.method !== 8) {
    throw corrupt(path, entry.name, entry.offset, `compression method ${entry.method} is not stored or deflated`);
  }
  const start = entry.offset + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  if (start + entry.compressed > file.size) throw corrupt(path, entry.name, start, 'the entry ends after the file');
  const stream = createReadStream(path, { start, end: start + entry.compressed - 1, highWaterMark: 1 << 20 });
  const inflate = createInflateRaw({ chunkSize: 1 << 20 });
  const chunks = entry.method === 0 ? stream : stream.on('error', e => inflate.destroy(e)).pipe(inflate);
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += (chunk as Uint8Array).length;
    if (bytes > entry.size) throw corrupt(path, entry.name, start, `more than the ${entry.size} bytes announced`);
    yield chunk as Uint8Array;
  }
  if (bytes !== entry.size) throw corrupt(path, entry.name, start, `${bytes} bytes, ${entry.size} were announced`);
}
