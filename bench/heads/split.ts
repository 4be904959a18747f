import { SecureStream } from '../../src/learn/privacy/noise.ts';
import type { HeadUnit } from '../../src/learn/training/head.ts';
import type { FeatureSet } from './features.ts';

export interface Task {
  readonly labels: readonly string[];
  readonly users: readonly HeadUnit[];
  /** Rows of the training part, by user: for a peer that reads the same features. */
  readonly rows: readonly (readonly number[])[];
  /** Labels of the whole set that the task has, in the order of `labels`. */
  readonly kept: readonly number[];
  readonly test: { readonly features: readonly Float32Array[]; readonly labels: readonly number[] };
}

export const PER_USER = 5;

/** `intents` drawn by the seed (all where there are no more), `users` of five rows each, drawn without regard to intent. */
export function taskOf(set: FeatureSet, options: { intents: number; users: number; seed: number }): Task {
  const stream = new SecureStream(new Uint8Array(32).fill(options.seed + 1));
  const shuffle = (n: number): number[] => {
    const order = Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = stream.below(i + 1);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return order;
  };
  const kept = shuffle(set.labels.length)
    .slice(0, options.intents)
    .sort((a, b) => a - b);
  const place = new Map(kept.map((label, i) => [label, i]));
  const own = set.train.labels.flatMap((label, i) => (place.has(label) ? [i] : []));
  const order = shuffle(own.length).map(i => own[i]!);
  const rows = Array.from({ length: options.users }, (_, u) => order.slice(u * PER_USER, (u + 1) * PER_USER));
  const test = set.test.labels.flatMap((label, i) => (place.has(label) ? [i] : []));
  return {
    kept,
    rows,
    labels: kept.map(label => set.labels[label]!),
    users: rows.map((of, u) => ({
      user: `u${u}`,
      examples: of.map(i => ({ feature: set.train.features[i]!, label: place.get(set.train.labels[i]!)! })),
    })),
    test: {
      features: test.map(i => set.test.features[i]!),
      labels: test.map(i => place.get(set.test.labels[i]!)!),
    },
  };
}
