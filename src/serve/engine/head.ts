/** A head as served: softmax over frozen features, from the same feature file and arithmetic it was trained with. */
import { readFile } from 'node:fs/promises';
import { LearndError } from '../../base/errors.ts';
import type { FeatureExtractor } from '../../learn/llama/features.ts';

type Tensors = Map<string, Float32Array>;

/** Float32 tensors of a small safetensors file. Throws 'not_found' / 'corrupt'. */
async function readTensors(path: string): Promise<Tensors> {
  const bytes = await readFile(path).catch(cause => {
    throw new LearndError('not_found', `head file not found: ${path}`, { cause });
  });
  try {
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
      string,
      { dtype: string; data_offsets: [number, number] }
    >;
    const tensors: Tensors = new Map();
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') continue;
      if (entry.dtype !== 'F32') throw new Error(`${name} is ${entry.dtype}, not F32`);
      const [from, to] = entry.data_offsets;
      const data = bytes.subarray(8 + length + from, 8 + length + to);
      if (data.length !== to - from) throw new Error(`${name} is cut short`);
      tensors.set(name, new Float32Array(new Uint8Array(data).buffer));
    }
    return tensors;
  } catch (cause) {
    throw new LearndError('corrupt', `head file cannot be read: ${path}: ${(cause as Error).message}`, { cause });
  }
}

export class LoadedHead {
  readonly #labels: readonly string[];
  readonly #extractor: FeatureExtractor;
  readonly #weight: Float32Array;
  readonly #bias: Float32Array;
  readonly #mean: Float32Array;
  readonly #scale: Float32Array;

  constructor(labels: readonly string[], extractor: FeatureExtractor, tensors: Tensors, path: string) {
    const take = (name: string, length: number): Float32Array => {
      const tensor = tensors.get(name);
      if (tensor?.length === length) return tensor;
      const said = tensor === undefined ? 'is missing' : `has ${tensor.length} values, not ${length}`;
      throw new LearndError('corrupt', `head file ${path}: ${name} ${said}`);
    };
    this.#labels = labels;
    this.#extractor = extractor;
    this.#weight = take('weight', labels.length * extractor.hidden);
    this.#bias = take('bias', labels.length);
    this.#mean = take('mean', extractor.hidden);
    this.#scale = take('scale', extractor.hidden);
  }

  covers(labels: readonly string[]): boolean {
    return labels.every(label => this.#labels.includes(label));
  }

  /** [texts][labels]: softmax over the labels asked for; a label the head never learned gets 0. */
  async classify(texts: readonly string[], labels: readonly string[], signal?: AbortSignal): Promise<Float32Array[]> {
    const rows = labels.map(label => this.#labels.indexOf(label));
    const features = await this.#extractor.features(texts, signal);
    return features.map(feature => {
      const x = this.#normalize(feature);
      return softmax(rows.map(row => (row < 0 ? Number.NEGATIVE_INFINITY : this.#logit(row, x))));
    });
  }

  /** Standardised by public statistics, then scaled to length 1. */
  #normalize(feature: Float32Array): Float32Array {
    const x = feature.map((value, i) => (value - this.#mean[i]!) / this.#scale[i]!);
    const norm = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
    return norm > 0 ? x.map(value => value / norm) : x;
  }

  #logit(row: number, x: Float32Array): number {
    const start = row * x.length;
    let sum = this.#bias[row]!;
    for (let i = 0; i < x.length; i++) sum += this.#weight[start + i]! * x[i]!;
    return sum;
  }
}

export function softmax(logits: readonly number[]): Float32Array {
  const top = Math.max(...logits);
  if (!Number.isFinite(top)) return new Float32Array(logits.length).fill(1 / logits.length);
  const powers = logits.map(logit => Math.exp(logit - top));
  const total = powers.reduce((sum, p) => sum + p, 0);
  return Float32Array.from(powers, p => p / total);
}

export async function loadHead(
  path: string,
  labels: readonly string[],
  extractor: FeatureExtractor,
): Promise<LoadedHead> {
  return new LoadedHead(labels, extractor, await readTensors(path), path);
}
