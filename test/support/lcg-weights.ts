import { expectedShapes } from '../../src/learn/model/engine/model.ts';
import type { HostTensor, ModelConfig, WeightSource } from '../../src/learn/model/types.ts';
import { mapSource } from '../../src/learn/training/pretrain.ts';

/** The weights of test/golden/make_pretrain.py and make_distill.py: a linear congruential generator over the names in order, scales 1, matrices uniform over `width`. */
export function lcgWeights(config: ModelConfig, seed: number, width = 0.16): WeightSource {
  const weights = new Map<string, HostTensor>();
  let x = seed;
  for (const [name, shape] of [...expectedShapes(config)].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const size = shape.reduce((product, n) => product * n, 1);
    const data = new Float32Array(size).fill(1);
    if (shape.length > 1)
      for (let i = 0; i < size; i++) {
        x = (Math.imul(1664525, x) + 1013904223) >>> 0;
        data[i] = (x / 2 ** 32 - 0.5) * width;
      }
    weights.set(name, { shape, data });
  }
  return mapSource(weights);
}
