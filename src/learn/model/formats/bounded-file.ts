import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { LearndError } from '../../../base/errors.ts';

/** A file that is not what it claims to be: names the file, the field and the byte offset. */
export function corrupt(path: string, field: string, offset: number, what: string): LearndError {
  return new LearndError('corrupt', `${path}: ${field} at byte ${offset}: ${what}`, {
    field,
    hint: 'The file is damaged or incomplete: fetch or export it again.',
    retriable: false,
    data: { path, offset },
  });
}

interface Identity {
  readonly size: number;
  readonly mtimeMs: number;
  readonly ino: number;
}

/**
 * Reads pieces of one file by offset. The file is opened for each read (microseconds beside the read itself), so nothing
 * has to be closed; its size, inode and time must stay what they were when it was first seen.
 */
export class BoundedFile {
  readonly path: string;
  readonly size: number;
  readonly #identity: Identity;

  constructor(path: string) {
    this.path = path;
    this.#identity = this.#with((_, identity) => identity);
    this.size = this.#identity.size;
  }

  #with<T>(use: (fd: number, identity: Identity) => T): T {
    let fd: number;
    try {
      fd = openSync(this.path, 'r');
    } catch (cause) {
      const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
      throw new LearndError(
        missing ? 'not_found' : 'dependency',
        `cannot open ${this.path}: ${(cause as Error).message}`,
        {
          cause,
          retriable: false,
        },
      );
    }
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile()) throw corrupt(this.path, 'file', 0, 'not a regular file');
      return use(fd, { size: stat.size, mtimeMs: stat.mtimeMs, ino: stat.ino });
    } finally {
      closeSync(fd);
    }
  }

  /** Exactly `length` bytes from `offset`; `field` names what is being read, for the error. */
  read(offset: number, length: number, field: string): Uint8Array {
    this.#check(offset, length, field);
    return this.readInto(offset, new Uint8Array(length), field);
  }

  #check(offset: number, length: number, field: string): void {
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw corrupt(this.path, field, offset, `needs ${length} bytes, the file has ${this.size}`);
    }
  }

  /** Fills `out` from `offset`, and returns it. */
  readInto(offset: number, out: Uint8Array, field: string): Uint8Array {
    const { length } = out;
    this.#check(offset, length, field);
    return this.#with((fd, now) => {
      const was = this.#identity;
      if (now.size !== was.size || now.mtimeMs !== was.mtimeMs || now.ino !== was.ino) {
        throw corrupt(this.path, field, offset, 'the file was changed while it was in use');
      }
      let done = 0;
      while (done < length) {
        const n = readSync(fd, out, done, length - done, offset + done);
        if (n === 0) throw corrupt(this.path, field, offset + done, 'the file ended early');
        done += n;
      }
      return out;
    });
  }
}

/** Little-endian values one after another, through a window, each checked against the end of the file. */
export class Cursor {
  readonly #file: BoundedFile;
  #window: Uint8Array = new Uint8Array(0);
  #view = new DataView(this.#window.buffer, this.#window.byteOffset, this.#window.byteLength);
  #windowAt = 0;
  offset: number;

  constructor(file: BoundedFile, offset = 0) {
    this.#file = file;
    this.offset = offset;
  }

  get remaining(): number {
    return this.#file.size - this.offset;
  }

  fail(field: string, what: string): LearndError {
    return corrupt(this.#file.path, field, this.offset, what);
  }

  /** Makes `length` bytes available at the cursor; returns their index in the window and moves on. */
  #take(length: number, field: string): number {
    if (length > this.remaining) {
      throw this.fail(field, `needs ${length} bytes, ${this.remaining} are left`);
    }
    let at = this.offset - this.#windowAt;
    if (at < 0 || at + length > this.#window.length) {
      const size = Math.min(Math.max(length, 1 << 20), this.remaining);
      this.#window = this.#file.read(this.offset, size, field);
      this.#view = new DataView(this.#window.buffer, this.#window.byteOffset, this.#window.byteLength);
      this.#windowAt = this.offset;
      at = 0;
    }
    this.offset += length;
    return at;
  }

  /** Moves past `length` bytes and hands the window to `get` (which must be looked up after the window has moved). */
  #get<T>(length: number, field: string, get: (view: DataView, at: number) => T): T {
    const at = this.#take(length, field);
    return get(this.#view, at);
  }

  u8 = (field: string): number => this.#get(1, field, (view, at) => view.getUint8(at));
  i8 = (field: string): number => this.#get(1, field, (view, at) => view.getInt8(at));
  u16 = (field: string): number => this.#get(2, field, (view, at) => view.getUint16(at, true));
  i16 = (field: string): number => this.#get(2, field, (view, at) => view.getInt16(at, true));
  u32 = (field: string): number => this.#get(4, field, (view, at) => view.getUint32(at, true));
  i32 = (field: string): number => this.#get(4, field, (view, at) => view.getInt32(at, true));
  f32 = (field: string): number => this.#get(4, field, (view, at) => view.getFloat32(at, true));
  f64 = (field: string): number => this.#get(8, field, (view, at) => view.getFloat64(at, true));
  u64 = (field: string): bigint => this.#get(8, field, (view, at) => view.getBigUint64(at, true));
  i64 = (field: string): bigint => this.#get(8, field, (view, at) => view.getBigInt64(at, true));

  /** A 64-bit count or offset that must fit in the file (and so in a double). */
  count(field: string, limit: number): number {
    const at = this.offset;
    const value = this.u64(field);
    if (value > BigInt(limit)) {
      this.offset = at;
      throw this.fail(field, `${value} is more than the file can hold (${limit})`);
    }
    return Number(value);
  }

  bytes(length: number, field: string): Uint8Array {
    const at = this.#take(length, field);
    return this.#window.subarray(at, at + length);
  }
}
