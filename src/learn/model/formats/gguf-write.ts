import { LearndError } from '../../../base/errors.ts';
import { type WrittenFile, writeAtomically } from './atomic-file.ts';
import { bytesOf, GGML, type GgmlType } from './ggml.ts';
import {
  ARRAY_ID,
  type GgufMetadata,
  type GgufScalar,
  type GgufScalarType,
  type GgufValue,
  SCALAR_BYTES,
  SCALAR_ID,
} from './gguf-value.ts';

/** A tensor to write: its bytes are asked for when its turn comes, so one tensor at a time is in memory. */
export interface GgufTensorPlan {
  readonly name: string;
  /** Row-major: the innermost dimension last. */
  readonly shape: readonly number[];
  readonly type: GgmlType;
  /** Exactly the bytes that type and shape say. */
  bytes(): Uint8Array;
}

const ALIGNMENT = 32;
const encoder = new TextEncoder();

const PUT: Record<Exclude<GgufScalarType, 'string'>, (view: DataView, at: number, value: GgufScalar) => void> = {
  uint8: (view, at, value) => view.setUint8(at, Number(value)),
  int8: (view, at, value) => view.setInt8(at, Number(value)),
  uint16: (view, at, value) => view.setUint16(at, Number(value), true),
  int16: (view, at, value) => view.setInt16(at, Number(value), true),
  uint32: (view, at, value) => view.setUint32(at, Number(value), true),
  int32: (view, at, value) => view.setInt32(at, Number(value), true),
  float32: (view, at, value) => view.setFloat32(at, Number(value), true),
  float64: (view, at, value) => view.setFloat64(at, Number(value), true),
  bool: (view, at, value) => view.setUint8(at, value ? 1 : 0),
  uint64: (view, at, value) => view.setBigUint64(at, BigInt(value), true),
  int64: (view, at, value) => view.setBigInt64(at, BigInt(value), true),
};

/** Grows by doubling; metadata of 50,000 tokens is about 2 MB. */
class Bytes {
  #buffer = new Uint8Array(1 << 16);
  #view = new DataView(this.#buffer.buffer);
  length = 0;

  #room(n: number): number {
    const at = this.length;
    if (at + n > this.#buffer.length) {
      const grown = new Uint8Array(Math.max(this.#buffer.length * 2, at + n));
      grown.set(this.#buffer);
      this.#buffer = grown;
      this.#view = new DataView(grown.buffer);
    }
    this.length = at + n;
    return at;
  }

  scalar(type: GgufScalarType, value: GgufScalar): void {
    if (type === 'string') this.string(String(value));
    else {
      const at = this.#room(SCALAR_BYTES[type]);
      PUT[type](this.#view, at, value);
    }
  }

  string(text: string): void {
    const bytes = encoder.encode(text);
    this.scalar('uint64', bytes.length);
    const at = this.#room(bytes.length);
    this.#buffer.set(bytes, at);
  }

  /** The type, then the value. */
  value(value: GgufValue): void {
    this.scalar('uint32', value.type === 'array' ? ARRAY_ID : SCALAR_ID[value.type]);
    this.#body(value);
  }

  #body(value: GgufValue): void {
    if (value.type !== 'array') {
      this.scalar(value.type, value.value);
      return;
    }
    this.scalar('uint32', value.of === 'array' ? ARRAY_ID : SCALAR_ID[value.of]);
    this.scalar('uint64', value.value.length);
    if (value.of === 'array') for (const inner of value.value) this.#body(inner);
    else for (const item of value.value) this.scalar(value.of, item);
  }

  done(): Uint8Array {
    return this.#buffer.subarray(0, this.length);
  }
}

const padding = (length: number): number => (ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT;

function header(metadata: GgufMetadata, tensors: readonly GgufTensorPlan[]): Uint8Array {
  const out = new Bytes();
  out.scalar('uint32', 0x46554747);
  out.scalar('uint32', 3);
  out.scalar('uint64', tensors.length);
  out.scalar('uint64', metadata.size);
  for (const [key, value] of metadata) {
    out.string(key);
    out.value(value);
  }
  let offset = 0;
  for (const { name, shape, type } of tensors) {
    out.string(name);
    out.scalar('uint32', shape.length);
    for (const n of shape.toReversed()) out.scalar('uint64', n);
    out.scalar('uint32', GGML[type].id);
    out.scalar('uint64', offset);
    const bytes = bytesOf(type, shape);
    offset += bytes + padding(bytes);
  }
  return out.done();
}

function* chunks(metadata: GgufMetadata, tensors: readonly GgufTensorPlan[]): Generator<Uint8Array> {
  const head = header(metadata, tensors);
  yield head;
  yield new Uint8Array(padding(head.length));
  for (const tensor of tensors) {
    const bytes = tensor.bytes();
    const wanted = bytesOf(tensor.type, tensor.shape);
    if (bytes.length !== wanted) {
      throw new LearndError('internal', `${tensor.name}: ${bytes.length} bytes for a tensor of ${wanted}`);
    }
    yield bytes;
    yield new Uint8Array(padding(wanted));
  }
}

/** Writes a GGUF version 3 file (alignment 32) by temporary file, flush and rename; returns its sha256. */
export function writeGguf(
  path: string,
  metadata: GgufMetadata,
  tensors: readonly GgufTensorPlan[],
): Promise<WrittenFile> {
  const kept = new Map(metadata);
  kept.delete('general.alignment'); // the source's may differ; this file uses the default
  return writeAtomically(path, chunks(kept, tensors));
}
