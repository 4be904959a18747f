import { BoundedFile, corrupt } from './bounded-file.ts';
import { dequantizeInto } from './dequantize.ts';
import { elementsOf } from './ggml.ts';

export interface SafetensorInfo {
  readonly shape: readonly number[];
  readonly dtype: 'F32' | 'F16' | 'BF16';
  /** From the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** The format's own limit on its header. */
const MAX_HEADER = 100_000_000;
const DTYPE = { F32: 'f32', F16: 'f16', BF16: 'bf16' } as const;

function isDtype(dtype: unknown): dtype is keyof typeof DTYPE {
  return typeof dtype === 'string' && Object.hasOwn(DTYPE, dtype);
}

const isCount = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;

/**
 * A safetensors file: an 8-byte header length, a JSON header, then the data. Tensors of dtype F32, F16 and BF16 can be read.
 * Throws LearndError('corrupt') naming file, field and offset.
 */
export class SafetensorsFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, SafetensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #file: BoundedFile;

  constructor(path: string) {
    this.path = path;
    this.#file = new BoundedFile(path);
    const head = this.#file.read(0, 8, 'header length');
    const length = new DataView(head.buffer).getBigUint64(0, true);
    if (length > BigInt(MAX_HEADER) || Number(length) > this.#file.size - 8) {
      throw corrupt(path, 'header length', 0, `${length} is more than the file can hold`);
    }
    const start = 8 + Number(length);
    const header = parseObject(path, 'header', this.#file.read(8, Number(length), 'header'));
    const tensors = new Map<string, SafetensorInfo>();
    let metadata: Record<string, string> = {};
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') {
        metadata = entry as Record<string, string>;
        continue;
      }
      tensors.set(name, checkEntry(path, name, entry, start, this.#file.size));
    }
    this.tensors = tensors;
    this.metadata = metadata;
  }

  /** Into an array of exactly that many weights where one is given. */
  float(name: string, into?: Float32Array): Float32Array {
    const info = this.tensors.get(name);
    if (info === undefined) throw corrupt(this.path, name, 0, 'the tensor is not in the file');
    return this.floatRows(name, 0, into ?? new Float32Array(elementsOf(info.shape)));
  }

  /** As many rows as `out` holds, from one on. */
  floatRows(name: string, row: number, out: Float32Array): Float32Array {
    const { dtype, shape, offset } = this.tensors.get(name)!;
    const skipped = row * (shape.at(-1) ?? 1) * (dtype === 'F32' ? 4 : 2);
    return dequantizeInto(out, DTYPE[dtype], this.#file, offset + skipped, name);
  }
}

function parseObject(path: string, field: string, bytes: Uint8Array): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (cause) {
    throw corrupt(path, field, 8, `not JSON: ${(cause as Error).message}`);
  }
  throw corrupt(path, field, 8, 'not a JSON object');
}

function checkEntry(path: string, name: string, entry: unknown, start: number, size: number): SafetensorInfo {
  const { dtype, shape, data_offsets: range } = (entry ?? {}) as Record<string, unknown>;
  if (!isDtype(dtype)) throw corrupt(path, `${name}.dtype`, 8, `${String(dtype)} is not F32, F16 or BF16`);
  if (!Array.isArray(shape) || shape.length > 8 || !shape.every(isCount)) {
    throw corrupt(path, `${name}.shape`, 8, 'not a list of counts');
  }
  if (!Array.isArray(range) || range.length !== 2 || !range.every(isCount)) {
    throw corrupt(path, `${name}.data_offsets`, 8, 'not two offsets');
  }
  const [from, to] = range as [number, number];
  const bytes = elementsOf(shape) * (dtype === 'F32' ? 4 : 2);
  if (to - from !== bytes) {
    throw corrupt(path, `${name}.data_offsets`, 8, `${to - from} bytes for shape [${shape.join(', ')}] of ${dtype}`);
  }
  if (start + to > size) {
    throw corrupt(path, `${name}.data_offsets`, 8, `data ends at ${start + to}, the file at ${size}`);
  }
  return { shape: shape as number[], dtype, offset: start + from, bytes };
}
