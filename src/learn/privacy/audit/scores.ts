/** Scores of canaries that took part and of those that did not, and what a threshold on them tells apart. */
import { invalid } from '../../../base/errors.ts';

export interface Canary {
  /** Higher: more like having taken part. Any function of what was released and of the canary. */
  readonly score: number;
  /** Whether it took part: a fair coin, tossed before and looked at after the score. */
  readonly in: boolean;
}

/** Counts at a threshold: canaries scoring at least it are taken to have been in. */
export interface Point {
  readonly threshold: number;
  readonly truePositives: number;
  readonly falsePositives: number;
}

export interface Curve {
  readonly ins: number;
  readonly outs: number;
  /** Vertices of the concave hull of the ROC curve, from the lowest threshold (all taken to be in) to infinity (none). */
  readonly hull: readonly Point[];
}

/** @throws LearndError('invalid') without canaries of both kinds, or with a score that is not a number */
export function rocCurve(canaries: readonly Canary[]): Curve {
  const bad = canaries.findIndex(({ score }) => Number.isNaN(score));
  if (bad >= 0) throw invalid('canaries', `the score of canary ${bad} is not a number`);
  const ins = canaries.reduce((n, c) => n + (c.in ? 1 : 0), 0);
  const outs = canaries.length - ins;
  if (ins === 0 || outs === 0)
    throw invalid('canaries', 'an audit needs canaries that took part and canaries that did not');
  const sorted = [...canaries].sort((a, b) => a.score - b.score);
  const hull: Point[] = [];
  let below = { ins: 0, outs: 0 };
  const add = (threshold: number): void => {
    const point = { threshold, truePositives: ins - below.ins, falsePositives: outs - below.outs };
    while (hull.length >= 2 && !turnsRight(hull[hull.length - 2]!, hull[hull.length - 1]!, point)) hull.pop();
    hull.push(point);
  };
  for (let i = 0; i < sorted.length; ) {
    const { score } = sorted[i]!;
    add(score);
    for (; i < sorted.length && sorted[i]!.score === score; i++)
      below = sorted[i]!.in ? { ...below, ins: below.ins + 1 } : { ...below, outs: below.outs + 1 };
  }
  add(Number.POSITIVE_INFINITY);
  return { ins, outs, hull };
}

/** Whether the middle point lies strictly above the line of the others (in true against false negatives). */
const turnsRight = (a: Point, b: Point, c: Point): boolean =>
  (a.falsePositives - b.falsePositives) * (b.truePositives - c.truePositives) >
  (b.falsePositives - c.falsePositives) * (a.truePositives - b.truePositives);

/** Area under the hull of the ROC curve: 1/2 where nothing can be told apart. */
export function auroc({ ins, outs, hull }: Curve): number {
  let area = 0;
  for (let i = 1; i < hull.length; i++) {
    const [a, b] = [hull[i - 1]!, hull[i]!];
    area += ((a.falsePositives - b.falsePositives) / outs) * ((a.truePositives + b.truePositives) / 2 / ins);
  }
  return area;
}

/** Largest true positive rate at a false positive rate, mixing two thresholds where it lies between. */
export function tprAtFpr({ ins, outs, hull }: Curve, fpr: number): number {
  if (!(fpr >= 0 && fpr <= 1)) throw invalid('fpr', `must be a rate from 0 to 1, not ${fpr}`);
  const wanted = fpr * outs;
  // From no guesses upwards; of several points with the same false positives the last has the most true ones.
  const points = [...hull].reverse();
  const at = points.findIndex(point => point.falsePositives > wanted);
  if (at === -1) return 1;
  const [a, b] = [points[at - 1]!, points[at]!];
  const share = (wanted - a.falsePositives) / (b.falsePositives - a.falsePositives);
  return (a.truePositives + share * (b.truePositives - a.truePositives)) / ins;
}
