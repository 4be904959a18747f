/** A head as served: softmax over frozen features, from the same feature file and arithmetic it was trained with. */
import { stat } from 'node:fs/promises';
import { LearndError } from '../../base/errors.ts';
import { headScores, readHead } from '../model/head.ts';
import type { Head } from '../model/types.ts';
import type { FeatureExtractor } from './features.ts';

export class LoadedHead {
  readonly #head: Head;
  readonly #extractor: FeatureExtractor;

  constructor(head: Head, extractor: FeatureExtractor, path: string) {
    if (head.mean.length !== extractor.hidden)
      throw new LearndError(
        'corrupt',
        `head file ${path}: mean has ${head.mean.length} values, the feature model gives ${extractor.hidden}`,
      );
    this.#head = head;
    this.#extractor = extractor;
  }

  /** Whether it takes its features from there. */
  reads(extractor: FeatureExtractor): boolean {
    return this.#extractor === extractor;
  }

  covers(labels: readonly string[]): boolean {
    return labels.every(label => this.#head.labels.includes(label));
  }

  /** [texts][labels]: softmax over the labels asked for; a label the head never learned gets 0. */
  async classify(texts: readonly string[], labels: readonly string[], signal?: AbortSignal): Promise<Float32Array[]> {
    const places = labels.map(label => this.#head.labels.indexOf(label));
    const features = await this.#extractor.features(texts, signal);
    return features.map(feature => {
      const all = headScores(this.#head, feature);
      const asked = places.map(place => (place < 0 ? 0 : all[place]!));
      const total = asked.reduce((sum, p) => sum + p, 0);
      return Float32Array.from(asked, p => (total > 0 ? p / total : 1 / labels.length));
    });
  }
}

/** @throws LearndError('not_found'), ('corrupt') */
export async function loadHead(
  path: string,
  labels: readonly string[],
  extractor: FeatureExtractor,
): Promise<LoadedHead> {
  await stat(path).catch(cause => {
    throw new LearndError('not_found', `head file not found: ${path}`, { cause, retriable: false });
  });
  return new LoadedHead(readHead(path, { task: '', labels, features: '', layer: 0 }), extractor, path);
}
