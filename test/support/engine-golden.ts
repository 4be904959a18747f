import { readFileSync } from 'node:fs';
import type { HostTensor, LoraAdapter, ModelConfig, WeightSource } from '../../src/learn/model/types.ts';

interface Packed {
  shape: number[];
  f32: string;
}
type PackedMap = Record<string, Packed>;
interface Units {
  norms: number[];
  bound: number;
  clipped: PackedMap;
}
export interface GoldenCase {
  config: ModelConfig;
  weights: PackedMap;
  logits: Packed[];
  nll: number[];
  first: number[];
  features1: Packed[];
  influence0: number;
  gradients: PackedMap;
  fullUnits: Units;
  normUnits: Units;
  adamw3: PackedMap;
  lora: {
    rank: number;
    alpha: number;
    pairs: Record<string, { a: Packed; b: Packed }>;
    nll: number[];
    gradients: PackedMap;
    units: Units;
  };
}
export interface EngineGolden {
  sequences: number[][];
  units: number[][];
  cases: Record<string, GoldenCase>;
}

export const engineGolden: EngineGolden = JSON.parse(
  readFileSync(new URL('../golden/engine.json', import.meta.url), 'utf8'),
);

export function unpack({ shape, f32 }: Packed): HostTensor {
  const bytes = Buffer.from(f32, 'base64');
  return { shape, data: new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)) };
}

export function weightSource(weights: PackedMap): WeightSource {
  return {
    names: () => Object.keys(weights),
    shape: name => weights[name]!.shape,
    read: name => unpack(weights[name]!),
  };
}

export function goldenAdapter(lora: GoldenCase['lora']): LoraAdapter {
  const pairs = Object.entries(lora.pairs).map(([name, { a, b }]) => [name, { a: unpack(a), b: unpack(b) }] as const);
  return { rank: lora.rank, alpha: lora.alpha, pairs: new Map(pairs) };
}

/** Largest |difference|, relative to the larger of 1e-3 and the expected array's largest magnitude. */
export function relativeError(found: Float32Array, expected: Float32Array): number {
  if (found.length !== expected.length) return Number.POSITIVE_INFINITY;
  let scale = 1e-3;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    scale = Math.max(scale, Math.abs(expected[i]!));
    const difference = Math.abs(found[i]! - expected[i]!);
    if (!(difference <= worst)) worst = difference;
  }
  return worst / scale;
}
