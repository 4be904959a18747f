/** Weighted F1 as scikit-learn computes it (average="weighted", zero_division=0): all at once, over a window, and decayed. */
import { invalid } from '../../base/errors.ts';

export interface ClassScore {
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
  /** Items whose true label this is (a decayed weight in a decayed table). */
  readonly support: number;
}

export interface F1 {
  /** Mean of the classes' F1 weighted by support; null without items. */
  readonly weighted: number | null;
  /** Every label that is true or predicted somewhere, sorted. */
  readonly perClass: Readonly<Record<string, ClassScore>>;
}

/** Counts as plain JSON. */
export interface Counts {
  readonly hits: readonly (readonly [string, number])[];
  readonly truths: readonly (readonly [string, number])[];
  readonly predictions: readonly (readonly [string, number])[];
}

/** Counts of (true, predicted) pairs, from which every score follows; weights may be removed again. */
export class Confusion {
  readonly #hits = new Map<string, number>();
  readonly #truths = new Map<string, number>();
  readonly #predictions = new Map<string, number>();

  add(truth: string, predicted: string, weight = 1): void {
    const bump = (map: Map<string, number>, key: string): void => {
      map.set(key, (map.get(key) ?? 0) + weight);
    };
    bump(this.#truths, truth);
    bump(this.#predictions, predicted);
    if (truth === predicted) bump(this.#hits, truth);
  }

  /** A copy with every weight multiplied. */
  scaled(factor: number): Confusion {
    const times = (pairs: readonly (readonly [string, number])[]) => pairs.map(([k, v]) => [k, v * factor] as const);
    const { hits, truths, predictions } = this.toJSON();
    return Confusion.fromJSON({ hits: times(hits), truths: times(truths), predictions: times(predictions) });
  }

  toJSON(): Counts {
    return { hits: [...this.#hits], truths: [...this.#truths], predictions: [...this.#predictions] };
  }

  static fromJSON(json: Counts): Confusion {
    const confusion = new Confusion();
    for (const [k, v] of json.hits) confusion.#hits.set(k, v);
    for (const [k, v] of json.truths) confusion.#truths.set(k, v);
    for (const [k, v] of json.predictions) confusion.#predictions.set(k, v);
    return confusion;
  }

  scores(): F1 {
    const labels = [...new Set([...this.#truths.keys(), ...this.#predictions.keys()])].sort();
    const perClass: Record<string, ClassScore> = {};
    let sum = 0;
    let total = 0;
    for (const label of labels) {
      const hits = this.#hits.get(label) ?? 0;
      const support = this.#truths.get(label) ?? 0;
      const predicted = this.#predictions.get(label) ?? 0;
      if (support === 0 && predicted === 0) continue;
      const precision = predicted === 0 ? 0 : hits / predicted;
      const recall = support === 0 ? 0 : hits / support;
      const f1 = (2 * hits) / (support + predicted);
      // A label may be called __proto__.
      Object.defineProperty(perClass, label, { value: { precision, recall, f1, support }, enumerable: true });
      sum += f1 * support;
      total += support;
    }
    return { weighted: total === 0 ? null : sum / total, perClass };
  }
}

export function weightedF1(truth: readonly string[], predicted: readonly string[]): F1 {
  if (truth.length !== predicted.length)
    throw invalid('predicted', `has ${predicted.length} labels for ${truth.length} true ones`);
  const confusion = new Confusion();
  truth.forEach((label, i) => {
    confusion.add(label, predicted[i]!);
  });
  return confusion.scores();
}

export interface Labelled {
  readonly truth: string;
  readonly predicted: string;
}

/** Weighted F1 of the last `size` items. */
export class WindowedF1 {
  readonly size: number;
  #items: Labelled[] = [];
  #confusion = new Confusion();

  constructor(size: number) {
    if (!(Number.isSafeInteger(size) && size >= 1))
      throw invalid('size', `must be a whole number above 0, not ${size}`);
    this.size = size;
  }

  get count(): number {
    return this.#items.length;
  }

  update(truth: string, predicted: string): void {
    this.#items.push({ truth, predicted });
    this.#confusion.add(truth, predicted);
    if (this.#items.length > this.size) {
      const old = this.#items.shift()!;
      this.#confusion.add(old.truth, old.predicted, -1);
    }
  }

  scores(): F1 {
    return this.#confusion.scores();
  }

  /** Null without items. */
  get value(): number | null {
    return this.scores().weighted;
  }

  snapshot(): readonly Labelled[] {
    return this.#items.slice();
  }

  restore(items: readonly Labelled[]): void {
    this.#items = [];
    this.#confusion = new Confusion();
    for (const { truth, predicted } of items) this.update(truth, predicted);
  }
}

/** Weighted F1 in which an item's weight halves every `halfLife` items. */
export class DecayedF1 {
  readonly halfLife: number;
  #confusion = new Confusion();
  /** New items weigh more instead of old ones less; rebuilt before it grows out of range. */
  #weight = 1;
  #items = 0;

  constructor(halfLife: number) {
    if (!(Number.isFinite(halfLife) && halfLife > 0)) throw invalid('halfLife', `must be above 0, not ${halfLife}`);
    this.halfLife = halfLife;
  }

  get count(): number {
    return this.#items;
  }

  update(truth: string, predicted: string): void {
    this.#items += 1;
    this.#weight *= 2 ** (1 / this.halfLife);
    if (this.#weight > 1e100) {
      this.#confusion = this.#confusion.scaled(1 / this.#weight);
      this.#weight = 1;
    }
    this.#confusion.add(truth, predicted, this.#weight);
  }

  scores(): F1 {
    return this.#confusion.scaled(1 / this.#weight).scores();
  }

  /** Null without items. */
  get value(): number | null {
    return this.#items === 0 ? null : this.#confusion.scores().weighted;
  }

  snapshot(): { items: number; counts: Counts } {
    return { items: this.#items, counts: this.#confusion.scaled(1 / this.#weight).toJSON() };
  }

  restore(state: { items: number; counts: Counts }): void {
    this.#items = state.items;
    this.#confusion = Confusion.fromJSON(state.counts);
    this.#weight = 1;
  }
}
