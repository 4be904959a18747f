import { invalid } from '../../../base/errors.ts';

/** ggml's tensor types that learnd reads and writes. Ids and sizes: ggml.h, gguf-py constants. */
export type GgmlType = 'f32' | 'f16' | 'bf16' | 'q4_0' | 'q4_1' | 'q5_0' | 'q5_1' | 'q8_0' | 'q4_k' | 'q5_k' | 'q6_k';

interface TypeFacts {
  readonly id: number;
  /** Weights in a block: rows are a whole number of blocks. */
  readonly block: number;
  /** Bytes in a block. */
  readonly bytes: number;
  /**
   * llama.cpp's `general.file_type` for a file quantized to this type (llama.h, enum llama_ftype). Of the k-quants it is the M mix, which
   * is what llama.cpp itself takes a file for that is mostly of the type (llama-model-loader.cpp).
   */
  readonly fileType: number;
}

export const GGML: Readonly<Record<GgmlType, TypeFacts>> = {
  f32: { id: 0, block: 1, bytes: 4, fileType: 0 },
  f16: { id: 1, block: 1, bytes: 2, fileType: 1 },
  q4_0: { id: 2, block: 32, bytes: 18, fileType: 2 },
  q4_1: { id: 3, block: 32, bytes: 20, fileType: 3 },
  q5_0: { id: 6, block: 32, bytes: 22, fileType: 8 },
  q5_1: { id: 7, block: 32, bytes: 24, fileType: 9 },
  q8_0: { id: 8, block: 32, bytes: 34, fileType: 7 },
  q4_k: { id: 12, block: 256, bytes: 144, fileType: 15 },
  q5_k: { id: 13, block: 256, bytes: 176, fileType: 17 },
  q6_k: { id: 14, block: 256, bytes: 210, fileType: 18 },
  bf16: { id: 30, block: 1, bytes: 2, fileType: 32 },
};

const BY_ID = new Map(Object.entries(GGML).map(([name, facts]) => [facts.id, name as GgmlType]));

export const ggmlTypeOf = (id: number): GgmlType | undefined => BY_ID.get(id);

export function isGgmlType(name: string): name is GgmlType {
  return Object.hasOwn(GGML, name);
}

export const elementsOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Bytes of a tensor whose innermost (last) dimension is a whole number of blocks. */
export function bytesOf(type: GgmlType, shape: readonly number[]): number {
  const { block, bytes } = GGML[type];
  const columns = shape.at(-1) ?? 1;
  if (columns % block !== 0) {
    throw invalid('type', `a row of ${columns} weights is not a multiple of ${type}'s block of ${block}`);
  }
  return (elementsOf(shape) / block) * bytes;
}
