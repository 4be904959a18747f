import type { HostTensor, WeightSource } from '../types.ts';
import { textChunk, type WrittenFile, writeAtomically } from './atomic-file.ts';
import { bytesOf } from './ggml.ts';
import { quantize } from './quantize-blocks.ts';

export type FloatType = 'f32' | 'f16' | 'bf16';

const DTYPE = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const;

interface Source {
  names(): string[];
  shape(name: string): readonly number[];
  read(name: string): HostTensor;
}

const ofMap = (tensors: ReadonlyMap<string, HostTensor>): Source => ({
  names: () => [...tensors.keys()],
  shape: name => tensors.get(name)!.shape,
  read: name => tensors.get(name)!,
});

/** Writes tensors as one safetensors file, one at a time, by temporary file, flush and rename; `metadata` goes into the header. */
export function writeSafetensorsFile(
  path: string,
  tensors: ReadonlyMap<string, HostTensor> | WeightSource,
  type: FloatType,
  options: { readonly metadata?: Readonly<Record<string, string>>; readonly mode?: number } = {},
): Promise<WrittenFile> {
  const source: Source = tensors instanceof Map ? ofMap(tensors) : (tensors as WeightSource);
  const names = source.names();
  const header: Record<string, unknown> = { __metadata__: { format: 'pt', ...options.metadata } };
  let offset = 0;
  for (const name of names) {
    const shape = source.shape(name);
    const end = offset + bytesOf(type, shape);
    header[name] = { dtype: DTYPE[type], shape, data_offsets: [offset, end] };
    offset = end;
  }
  let json = JSON.stringify(header);
  const bytes = Buffer.byteLength(json);
  json += ' '.repeat((8 - (bytes % 8)) % 8); // the data starts on a multiple of 8
  return writeAtomically(
    path,
    (function* () {
      const [text] = textChunk(json);
      const length = new Uint8Array(8);
      new DataView(length.buffer).setBigUint64(0, BigInt(text!.length), true);
      yield length;
      yield text!;
      for (const name of names) yield quantize(type, source.read(name).data);
    })(),
    options.mode,
  );
}
