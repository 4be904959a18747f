import { invalid } from '../../base/errors.ts';
import { EditedWeights } from './formats/raw-weights.ts';
import type { HostTensor, LoraAdapter, WeightSource } from './types.ts';

/** Weights with the adapter added into them: W + (alpha / rank) B A. Made one at a time as they are read. */
export function mergeLora(weights: WeightSource, adapter: LoraAdapter): EditedWeights {
  const known = new Set(weights.names());
  for (const [name, { a, b }] of adapter.pairs) {
    const shape = known.has(name) ? weights.shape(name) : [];
    if (shape[0] !== b.shape[0] || shape[1] !== a.shape[1] || a.shape[0] !== b.shape[1]) {
      throw invalid('adapter', `${name}: A [${a.shape}] and B [${b.shape}] do not fit [${shape}]`);
    }
  }
  return EditedWeights.made(weights, name => {
    const pair = adapter.pairs.get(name);
    if (pair === undefined) return undefined;
    return () => addProduct(weights.read(name), pair.a, pair.b, adapter.alpha / adapter.rank);
  });
}

function addProduct(weight: HostTensor, a: HostTensor, b: HostTensor, scale: number): HostTensor {
  const [rows, columns] = weight.shape as [number, number];
  const rank = a.shape[0]!;
  const data = new Float32Array(weight.data);
  const delta = new Float64Array(columns);
  for (let r = 0; r < rows; r++) {
    delta.fill(0);
    for (let k = 0; k < rank; k++) {
      const factor = scale * b.data[r * rank + k]!;
      for (let c = 0; c < columns; c++) delta[c]! += factor * a.data[k * columns + c]!;
    }
    for (let c = 0; c < columns; c++) data[r * columns + c]! += delta[c]!;
  }
  return { shape: weight.shape, data };
}
