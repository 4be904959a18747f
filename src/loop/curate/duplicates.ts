import { similarity } from './sketch.ts';

/**
 * Duplicates within one unit. Never across units: there one person's data would decide whether another's is trained on,
 * which no noise covers (algorithms: outside the optimizer).
 */

/** Estimated Jaccard similarity from which two texts of one unit are one. */
export const NEAR = 0.85;

export interface Fingerprint {
  /** What must be equal for a near duplicate: kind, task and label. The same text under another label says something else. */
  readonly class: string;
  /** Hash of everything that is compared for an exact duplicate, hex. */
  readonly hash: string;
  readonly sketch: Uint32Array;
}

export type Repeat = 'duplicate' | 'near_duplicate';

/** What each unit of a batch has already said. */
export class UnitMemory {
  readonly #said = new Map<string, Fingerprint[]>();

  add(unit: string, row: Fingerprint): void {
    const rows = this.#said.get(unit);
    if (rows) rows.push(row);
    else this.#said.set(unit, [row]);
  }

  /** Is `row` a repetition of what the unit said before? */
  judge(unit: string, row: Fingerprint): Repeat | undefined {
    const rows = this.#said.get(unit) ?? [];
    if (rows.some(other => other.hash === row.hash)) return 'duplicate';
    const near = rows.some(other => other.class === row.class && similarity(other.sketch, row.sketch) >= NEAR);
    return near ? 'near_duplicate' : undefined;
  }
}
