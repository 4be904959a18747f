/** A head as served: softmax over frozen features, from the same feature file and arithmetic it was trained with. */
import { LearndError } from '../../base/errors.ts';
import { SafetensorsFile } from '../../learn/model/formats/safetensors-read.ts';
import type { FeatureExtractor } from './features.ts';

export class LoadedHead {
  readonly #labels: readonly string[];
  readonly #extractor: FeatureExtractor;
  readonly #weight: Float32Array;
  readonly #bias: Float32Array;
  readonly #mean: Float32Array;
  readonly #scale: Float32Array;

  constructor(labels: readonly string[], extractor: FeatureExtractor, file: SafetensorsFile) {
    const take = (name: string, length: number): Float32Array => {
      const tensor = file.float(name);
      if (tensor.length === length) return tensor;
      throw new LearndError('corrupt', `head file ${file.path}: ${name} has ${tensor.length} values, not ${length}`);
    };
    this.#labels = labels;
    this.#extractor = extractor;
    this.#weight = take('weight', labels.length * extractor.hidden);
    this.#bias = take('bias', labels.length);
    this.#mean = take('mean', extractor.hidden);
    this.#scale = take('scale', extractor.hidden);
  }

  /** Whether it takes its features from there. */
  reads(extractor: FeatureExtractor): boolean {
    return this.#extractor === extractor;
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

/** @throws 'not_found', 'corrupt' (tensors missing or of another size than labels and features have). */
export async function loadHead(
  path: string,
  labels: readonly string[],
  extractor: FeatureExtractor,
): Promise<LoadedHead> {
  return new LoadedHead(labels, extractor, new SafetensorsFile(path));
}
