import { BoundedFile, type Cursor, corrupt, Cursor as FileCursor } from './bounded-file.ts';
import { dequantizeInto } from './dequantize.ts';
import { bytesOf, elementsOf, GGML, type GgmlType, ggmlTypeOf } from './ggml.ts';
import {
  ARRAY_ID,
  type GgufMetadata,
  type GgufScalar,
  type GgufScalarType,
  type GgufValue,
  plain,
  SCALAR_BYTES,
  SCALAR_OF,
} from './gguf-value.ts';

export interface GgufTensorInfo {
  readonly name: string;
  /** Row-major: the innermost dimension last (the reverse of the file's order). */
  readonly shape: readonly number[];
  readonly type: GgmlType;
  /** From the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** A key, a token or a chat template is never this long; a longer length is a lie or an attack. */
const MAX_STRING = 64 << 20;
const MAX_ARRAY = 1 << 22;
const MAX_KEY = 65_535;
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/**
 * A GGUF file, version 2 or 3, little-endian. The header is read once and checked against the file's size (every count,
 * length, dimension and offset); tensors are read when asked for.
 * Throws LearndError('corrupt') naming file, field and offset.
 */
export class GgufFile {
  readonly path: string;
  readonly version: number;
  readonly metadata: GgufMetadata;
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
  readonly #file: BoundedFile;

  constructor(path: string) {
    this.path = path;
    this.#file = new BoundedFile(path);
    const cursor = new FileCursor(this.#file);
    const magic = cursor.u32('magic');
    if (magic !== 0x46554747) throw corrupt(path, 'magic', 0, 'not a GGUF file');
    this.version = cursor.u32('version');
    if (this.version !== 2 && this.version !== 3) {
      throw corrupt(path, 'version', 4, `version ${this.version} is not 2 or 3 (little-endian)`);
    }
    // A tensor takes at least 8+1+4+8+4+8 bytes of header, a key at least 8+1+4+1.
    const tensorCount = cursor.count('tensor_count', Math.floor(this.#file.size / 33));
    const keyCount = cursor.count('kv_count', Math.floor(this.#file.size / 14));
    const metadata = new Map<string, GgufValue>();
    for (let i = 0; i < keyCount; i++) {
      const key = readString(cursor, `metadata key ${i}`, MAX_KEY);
      if (metadata.has(key)) throw cursor.fail(`metadata.${key}`, 'the key stands twice');
      metadata.set(key, readValue(cursor, cursor.u32(`metadata.${key}.type`), `metadata.${key}`, 0));
    }
    this.metadata = metadata;
    this.tensors = readTensorInfos(cursor, tensorCount, alignmentOf(metadata, cursor), this.#file);
  }

  /** The plain values by key. */
  plainMetadata(): Record<string, unknown> {
    return Object.fromEntries([...this.metadata].map(([key, value]) => [key, plain(value)]));
  }

  info(name: string): GgufTensorInfo {
    const info = this.tensors.get(name);
    if (info === undefined) throw corrupt(this.path, name, 0, 'the tensor is not in the file');
    return info;
  }

  /** The stored bytes. */
  raw(name: string): Uint8Array {
    const info = this.info(name);
    return this.#file.read(info.offset, info.bytes, name);
  }

  /** Dequantized, row-major, in the file's own row order; into an array of exactly that many weights where one is given. */
  float(name: string, into?: Float32Array): Float32Array {
    return this.floatRows(name, 0, into ?? new Float32Array(elementsOf(this.info(name).shape)));
  }

  /** As many rows as `out` holds, from one on. */
  floatRows(name: string, row: number, out: Float32Array): Float32Array {
    const { type, shape, offset } = this.info(name);
    return dequantizeInto(out, type, this.#file, offset + row * bytesOf(type, shape.slice(-1)), name);
  }
}

function readString(cursor: Cursor, field: string, limit = MAX_STRING): string {
  const length = cursor.count(`${field}.length`, Math.min(cursor.remaining, limit));
  return decoder.decode(cursor.bytes(length, field));
}

function scalarReader(cursor: Cursor, type: GgufScalarType, field: string): () => GgufScalar {
  const narrow = (v: bigint): number | bigint =>
    v >= BigInt(Number.MIN_SAFE_INTEGER) && v <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(v) : v;
  switch (type) {
    case 'uint8':
      return () => cursor.u8(field);
    case 'int8':
      return () => cursor.i8(field);
    case 'uint16':
      return () => cursor.u16(field);
    case 'int16':
      return () => cursor.i16(field);
    case 'uint32':
      return () => cursor.u32(field);
    case 'int32':
      return () => cursor.i32(field);
    case 'float32':
      return () => cursor.f32(field);
    case 'float64':
      return () => cursor.f64(field);
    case 'uint64':
      return () => narrow(cursor.u64(field));
    case 'int64':
      return () => narrow(cursor.i64(field));
    case 'string':
      return () => readString(cursor, field);
    case 'bool':
      return () => {
        const byte = cursor.u8(field);
        if (byte > 1) throw cursor.fail(field, `${byte} is not a boolean`);
        return byte === 1;
      };
  }
}

function readValue(cursor: Cursor, typeId: number, field: string, depth: number): GgufValue {
  if (typeId !== ARRAY_ID) {
    const type = SCALAR_OF.get(typeId);
    if (type === undefined) throw cursor.fail(`${field}.type`, `${typeId} is not a metadata type`);
    return { type, value: scalarReader(cursor, type, field)() };
  }
  if (depth > 3) throw cursor.fail(field, 'arrays are nested too deep');
  const elementId = cursor.u32(`${field}.element_type`);
  const scalar = SCALAR_OF.get(elementId);
  if (scalar === undefined && elementId !== ARRAY_ID) {
    throw cursor.fail(`${field}.element_type`, `${elementId} is not a metadata type`);
  }
  const least = scalar === undefined ? 12 : SCALAR_BYTES[scalar];
  const left = cursor.remaining - 8;
  const count = cursor.count(`${field}.length`, Math.min(Math.floor(left / least), MAX_ARRAY));
  if (scalar === undefined) {
    const value: GgufValue[] = [];
    for (let i = 0; i < count; i++) value.push(readValue(cursor, ARRAY_ID, field, depth + 1));
    return { type: 'array', of: 'array', value };
  }
  const read = scalarReader(cursor, scalar, field);
  const value: GgufScalar[] = [];
  for (let i = 0; i < count; i++) value.push(read());
  return { type: 'array', of: scalar, value };
}

function alignmentOf(metadata: GgufMetadata, cursor: Cursor): number {
  const entry = metadata.get('general.alignment');
  if (entry === undefined) return 32;
  const value = entry.value;
  if (entry.type !== 'uint32' || typeof value !== 'number' || value < 8 || value % 8 !== 0 || value > 1 << 20) {
    throw cursor.fail('metadata.general.alignment', `${String(value)} is not a uint32 multiple of 8`);
  }
  return value;
}

function readTensorInfos(
  cursor: Cursor,
  count: number,
  alignment: number,
  file: BoundedFile,
): ReadonlyMap<string, GgufTensorInfo> {
  const found: Array<{ name: string; shape: number[]; type: GgmlType; relative: number; at: number }> = [];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const at = cursor.offset;
    const name = readString(cursor, `tensor ${i} name`, MAX_KEY);
    if (names.has(name)) throw corrupt(file.path, name, at, 'the tensor stands twice');
    names.add(name);
    const rank = cursor.u32(`${name}.n_dims`);
    if (rank < 1 || rank > 4) throw cursor.fail(`${name}.n_dims`, `${rank} is not 1 to 4`);
    const shape: number[] = [];
    for (let d = 0; d < rank; d++) shape.unshift(cursor.count(`${name}.dims[${d}]`, 2 ** 40));
    if (shape.some(n => n < 1)) throw cursor.fail(`${name}.dims`, 'a dimension is 0');
    const id = cursor.u32(`${name}.type`);
    const type = ggmlTypeOf(id);
    if (type === undefined) {
      throw cursor.fail(
        `${name}.type`,
        `ggml type ${id} is not one that learnd reads (${Object.keys(GGML).join(', ')})`,
      );
    }
    if ((shape.at(-1) ?? 0) % GGML[type].block !== 0) {
      throw cursor.fail(`${name}.dims`, `a row of ${shape.at(-1)} is not a multiple of ${type}'s block`);
    }
    found.push({ name, shape, type, relative: cursor.count(`${name}.offset`, file.size), at });
  }
  const start = Math.ceil(cursor.offset / alignment) * alignment;
  const tensors = new Map<string, GgufTensorInfo>();
  for (const { name, shape, type, relative, at } of found) {
    const bytes = bytesOf(type, shape);
    const offset = start + relative;
    if (relative % alignment !== 0) throw corrupt(file.path, `${name}.offset`, at, `${relative} is not aligned`);
    if (!(offset + bytes <= file.size)) {
      throw corrupt(file.path, `${name}.offset`, at, `data ends at ${offset + bytes}, the file at ${file.size}`);
    }
    tensors.set(name, { name, shape, type, offset, bytes });
  }
  return tensors;
}
