import { NEAR } from './duplicates.ts';
import { similarity, sketch } from './sketch.ts';

/**
 * The model's own output must not come back as a document: a model trained on itself drifts without an error to see.
 * Whole texts are compared; an article that quotes an answer in passing is an article.
 */

/** Answers of fewer shingles ("Yes.", "You're welcome!") are what anybody writes. */
const SHORTEST = 20;
/** Of two texts as similar as NEAR, the chance that none of the 8 smallest hashes is shared is below (1 - 0.85)^8 = 3e-7. */
const INDEXED = 8;

/** The most recent answers, findable by similarity. */
export class OwnOutputs {
  readonly #byHash = new Map<number, Set<string>>();
  readonly #sketches = new Map<string, Uint32Array>();
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  add(responseId: string, output: string): void {
    if (this.#sketches.has(responseId)) return;
    const values = sketch(output);
    if (values.length < SHORTEST) return;
    this.#sketches.set(responseId, values);
    for (const hash of values.subarray(0, INDEXED)) {
      const ids = this.#byHash.get(hash);
      if (ids) ids.add(responseId);
      else this.#byHash.set(hash, new Set([responseId]));
    }
    if (this.#sketches.size > this.#most) this.#forget(this.#sketches.keys().next().value!);
  }

  #forget(responseId: string): void {
    for (const hash of this.#sketches.get(responseId)!.subarray(0, INDEXED)) {
      const ids = this.#byHash.get(hash)!;
      ids.delete(responseId);
      if (ids.size === 0) this.#byHash.delete(hash);
    }
    this.#sketches.delete(responseId);
  }

  /** Does a text with this sketch equal or nearly equal one of the answers? */
  resembles(values: Uint32Array): boolean {
    if (values.length < SHORTEST) return false;
    const candidates = new Set<string>();
    for (const hash of values.subarray(0, INDEXED)) for (const id of this.#byHash.get(hash) ?? []) candidates.add(id);
    return [...candidates].some(id => similarity(this.#sketches.get(id)!, values) >= NEAR);
  }
}
