import { openModel } from './open.ts';
import type { WeightSource } from './types.ts';

export interface ModelFacts {
  readonly parameters: number;
  /** What most of its weights are stored as: q4_1, f16 … */
  readonly quantization: string;
}

/** Size and storage of a model, from its header alone. */
export async function describeModel(path: string): Promise<ModelFacts> {
  const { weights } = await openModel(path);
  const typed = weights as WeightSource & { storedType?: (name: string) => string | undefined };
  const counts = new Map<string, number>();
  let parameters = 0;
  for (const name of weights.names()) {
    const shape = weights.shape(name);
    const size = shape.reduce((a, b) => a * b, 1);
    parameters += size;
    const type = typed.storedType?.(name) ?? 'f32';
    if (shape.length > 1) counts.set(type, (counts.get(type) ?? 0) + size);
  }
  return { parameters, quantization: [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))[0] };
}
