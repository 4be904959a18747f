import { invalid } from '../../../base/errors.ts';
import type { HostTensor, WeightSource } from '../types.ts';
import type { GgmlType } from './ggml.ts';
import { gatherRows } from './llama-layout.ts';
import { quantize } from './quantize-blocks.ts';

/** A tensor as stored: whole rows of blocks, in Hugging Face row order, so it can be copied without requantizing. */
export interface RawTensor {
  readonly type: GgmlType;
  readonly shape: readonly number[];
  bytes(): Uint8Array;
}

/** Weights that may also be had as they are stored. */
export interface RawWeightSource extends WeightSource {
  /** undefined where the stored form cannot be copied (another file format, a tensor that changed). */
  raw(name: string): RawTensor | undefined;
  /** How the tensor, or the one it was made in place of, is stored: what 'keep' encodes a changed tensor to. */
  storedType(name: string): GgmlType | undefined;
}

const hasRaw = (source: WeightSource): source is RawWeightSource => 'raw' in source;

export const rawOf = (source: WeightSource, name: string): RawTensor | undefined =>
  hasRaw(source) ? source.raw(name) : undefined;

export const storedTypeOf = (source: WeightSource, name: string): GgmlType | undefined =>
  hasRaw(source) ? source.storedType(name) : undefined;

/** Where a tensor of an edited model comes from. */
export type Origin =
  | { readonly kind: 'same'; readonly name: string }
  | { readonly kind: 'rows'; readonly name: string; readonly rows: ArrayLike<number> }
  /** `count` new rows after the stored ones, made when they are read. */
  | { readonly kind: 'more'; readonly name: string; readonly count: number; readonly make: () => Float32Array }
  | {
      readonly kind: 'made';
      readonly shape: readonly number[];
      readonly make: () => HostTensor;
      readonly like?: string;
    };

/**
 * A model made of another one: tensors kept (under another name, or some of their rows) stay as stored and are copied raw on
 * export; only those made anew are ever encoded again.
 */
export class EditedWeights implements RawWeightSource {
  readonly #base: WeightSource;
  readonly #origins: ReadonlyMap<string, Origin>;

  constructor(base: WeightSource, origins: ReadonlyMap<string, Origin>) {
    this.#base = base;
    this.#origins = origins;
  }

  /** `changes` laid over `base`; everything else as it is. */
  static overlay(base: WeightSource, changes: ReadonlyMap<string, HostTensor>): EditedWeights {
    for (const [name, tensor] of changes) {
      if (base.shape(name).join() !== tensor.shape.join()) throw invalid(name, 'the new tensor has another shape');
    }
    return EditedWeights.made(base, name => {
      const tensor = changes.get(name);
      return tensor && (() => tensor);
    });
  }

  /** Like `overlay`, but each changed tensor is made when it is read; `maker` gives undefined for those kept. */
  static made(base: WeightSource, maker: (name: string) => (() => HostTensor) | undefined): EditedWeights {
    const origins = new Map<string, Origin>();
    for (const name of base.names()) {
      const make = maker(name);
      origins.set(name, make ? { kind: 'made', shape: base.shape(name), make, like: name } : { kind: 'same', name });
    }
    return new EditedWeights(base, origins);
  }

  #origin(name: string): Origin {
    const origin = this.#origins.get(name);
    if (origin === undefined) throw invalid(name, 'is not a tensor of this model');
    return origin;
  }

  names(): string[] {
    return [...this.#origins.keys()];
  }

  shape(name: string): readonly number[] {
    const origin = this.#origin(name);
    if (origin.kind === 'made') return origin.shape;
    const shape = this.#base.shape(origin.name);
    if (origin.kind === 'same') return shape;
    const rows = origin.kind === 'more' ? shape[0]! + origin.count : origin.rows.length;
    return [rows, ...shape.slice(1)];
  }

  read(name: string, into?: Float32Array): HostTensor {
    const origin = this.#origin(name);
    if (origin.kind === 'made') return origin.make();
    if (origin.kind === 'same') return this.#base.read(origin.name, into);
    const tensor = this.#base.read(origin.name);
    if (origin.kind === 'more') {
      const data = new Float32Array(this.shape(name).reduce((a, b) => a * b, 1));
      data.set(tensor.data);
      data.set(origin.make(), tensor.data.length);
      return { shape: this.shape(name), data };
    }
    return { shape: this.shape(name), data: gatherRows(tensor.data, origin.rows, tensor.shape[0]!) };
  }

  readRows(name: string, row: number, out: Float32Array): boolean {
    const origin = this.#origin(name);
    return origin.kind === 'same' && this.#base.readRows?.(origin.name, row, out) === true;
  }

  storedType(name: string): GgmlType | undefined {
    const origin = this.#origin(name);
    const from = origin.kind === 'made' ? origin.like : origin.name;
    return from === undefined ? undefined : storedTypeOf(this.#base, from);
  }

  raw(name: string): RawTensor | undefined {
    const origin = this.#origin(name);
    if (origin.kind === 'made') return undefined;
    const raw = rawOf(this.#base, origin.name);
    if (raw === undefined || origin.kind === 'same') return raw;
    if (origin.kind === 'more') {
      // Rows are whole blocks: old ones keep their bytes, new ones are encoded alike.
      const bytes = () => {
        const old = raw.bytes();
        const added = quantize(raw.type, origin.make(), name);
        const all = new Uint8Array(old.length + added.length);
        all.set(old);
        all.set(added, old.length);
        return all;
      };
      return { type: raw.type, shape: this.shape(name), bytes };
    }
    const rows = origin.rows;
    return {
      type: raw.type,
      shape: this.shape(name),
      bytes: () => gatherRows(raw.bytes(), rows, raw.shape[0]!),
    };
  }
}
