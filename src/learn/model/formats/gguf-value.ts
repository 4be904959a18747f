/**
 * GGUF metadata with its stored types, so that a file can be written back exactly. Ids: the GGUF specification in ggml's
 * docs. 64-bit integers are numbers where exact, else bigint.
 */

export type GgufScalarType =
  | 'uint8'
  | 'int8'
  | 'uint16'
  | 'int16'
  | 'uint32'
  | 'int32'
  | 'float32'
  | 'bool'
  | 'string'
  | 'uint64'
  | 'int64'
  | 'float64';

export type GgufScalar = number | bigint | boolean | string;

export type GgufValue =
  | { readonly type: GgufScalarType; readonly value: GgufScalar }
  | { readonly type: 'array'; readonly of: GgufScalarType; readonly value: readonly GgufScalar[] }
  | { readonly type: 'array'; readonly of: 'array'; readonly value: readonly GgufValue[] };

export type GgufMetadata = ReadonlyMap<string, GgufValue>;

export const ARRAY_ID = 9;

export const SCALAR_ID: Readonly<Record<GgufScalarType, number>> = {
  uint8: 0,
  int8: 1,
  uint16: 2,
  int16: 3,
  uint32: 4,
  int32: 5,
  float32: 6,
  bool: 7,
  string: 8,
  uint64: 10,
  int64: 11,
  float64: 12,
};

/** The fewest bytes a value takes: a string has at least its length. */
export const SCALAR_BYTES: Readonly<Record<GgufScalarType, number>> = {
  uint8: 1,
  int8: 1,
  uint16: 2,
  int16: 2,
  uint32: 4,
  int32: 4,
  float32: 4,
  bool: 1,
  string: 8,
  uint64: 8,
  int64: 8,
  float64: 8,
};

export const SCALAR_OF = new Map(Object.entries(SCALAR_ID).map(([name, id]) => [id, name as GgufScalarType]));

export const u32 = (value: number): GgufValue => ({ type: 'uint32', value });
export const f32 = (value: number): GgufValue => ({ type: 'float32', value });
export const bool = (value: boolean): GgufValue => ({ type: 'bool', value });
export const str = (value: string): GgufValue => ({ type: 'string', value });
export const strings = (value: readonly string[]): GgufValue => ({ type: 'array', of: 'string', value });
export const i32s = (value: readonly number[]): GgufValue => ({ type: 'array', of: 'int32', value });

/** The bare value: what `Checkpoint.metadata` shows. */
export function plain(value: GgufValue): unknown {
  if (value.type === 'array' && value.of === 'array') return value.value.map(plain);
  return value.value;
}
