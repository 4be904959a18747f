/** LoRA adapters as values: read from GGUF, stacked (merging: merge.ts). */
import { LearndError } from '../../base/errors.ts';
import { GgufFile } from './formats/gguf-read.ts';
import { hfName, permutesRope, rotatedHeads, unrotateRows } from './formats/llama-layout.ts';
import type { HostTensor, LoraAdapter, ModelConfig } from './types.ts';

/**
 * Reads an adapter that llama.cpp loads (what `writeLoraGguf` wrote); rows of B for q and k back in rotate-half order.
 * @throws LearndError('corrupt') when the file is no LoRA or does not fit the model.
 */
export function readLoraGguf(path: string, config: ModelConfig): LoraAdapter {
  const file = new GgufFile(path);
  const value = (key: string): unknown => file.metadata.get(key)?.value;
  const bad = (what: string): LearndError => new LearndError('corrupt', `${path}: ${what}`, { retriable: false });
  const alpha = value('adapter.lora.alpha');
  if (value('adapter.type') !== 'lora' || typeof alpha !== 'number') throw bad('is not a LoRA adapter');
  const permuted = permutesRope(String(value('general.architecture')));
  const pairs = new Map<string, { a: HostTensor; b: HostTensor }>();
  let rank: number | undefined;
  for (const stored of file.tensors.keys()) {
    if (!stored.endsWith('.lora_a')) continue;
    const base = stored.slice(0, -'.lora_a'.length);
    const name = hfName(base);
    if (name === undefined || !file.tensors.has(`${base}.lora_b`)) throw bad(`${stored} has no counterpart`);
    const read = (side: 'a' | 'b'): HostTensor => ({
      shape: file.info(`${base}.lora_${side}`).shape,
      data: file.float(`${base}.lora_${side}`),
    });
    const a = read('a');
    const b = read('b');
    rank ??= a.shape[0]!;
    if (a.shape[0] !== rank || b.shape[1] !== rank) throw bad(`${base} has another rank than ${rank}`);
    const heads = permuted ? rotatedHeads(name, config) : undefined;
    const rows = heads === undefined ? b.data : unrotateRows(b.data, heads, config.headDim);
    pairs.set(name, { a, b: { shape: b.shape, data: rows } });
  }
  if (rank === undefined) throw bad('holds no LoRA pairs');
  return { rank, alpha, pairs };
}

/** Float32 copy times a factor. */
const scaled = (values: Float32Array, factor: number): Float32Array =>
  factor === 1 ? values : values.map(value => value * factor);

/**
 * Two adapters as one of the sum of their ranks, which does exactly what both do together: A = [A1; A2], B = [s1 B1, s2 B2] with
 * scale 1. A weight that only one of them has gets zeros for the other.
 */
export function stackAdapters(first: LoraAdapter, second: LoraAdapter): LoraAdapter {
  const rank = first.rank + second.rank;
  const pairs = new Map<string, { a: HostTensor; b: HostTensor }>();
  for (const name of new Set([...first.pairs.keys(), ...second.pairs.keys()])) {
    const some = (first.pairs.get(name) ?? second.pairs.get(name))!;
    const inputs = some.a.shape[1]!;
    const out = some.b.shape[0]!;
    const a = new Float32Array(rank * inputs);
    const b = new Float32Array(out * rank);
    let at = 0;
    for (const adapter of [first, second]) {
      const pair = adapter.pairs.get(name);
      if (pair) {
        a.set(pair.a.data, at * inputs);
        const rows = scaled(pair.b.data, adapter.alpha / adapter.rank);
        for (let row = 0; row < out; row++)
          b.set(rows.subarray(row * adapter.rank, (row + 1) * adapter.rank), row * rank + at);
      }
      at += adapter.rank;
    }
    pairs.set(name, { a: { shape: [rank, inputs], data: a }, b: { shape: [out, rank], data: b } });
  }
  return { rank, alpha: rank, pairs };
}
