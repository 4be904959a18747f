/**
 * The skew-normal distribution (Azzalini 1985): density 2 / scale phi(z) Phi(shape z), z = (x - location) / scale. Fitted by maximum
 * likelihood, and its distribution function's logarithm far into the tail.
 */
import { invalid } from '../../../base/errors.ts';
import { logNormalCdf } from '../special.ts';

export interface SkewNormal {
  readonly shape: number;
  readonly location: number;
  readonly scale: number;
}

const HALF_LOG_2PI = 0.5 * Math.log(2 * Math.PI);
/** What is this much below the largest value of a log-density adds nothing in float64. */
const NOTHING = 45;
/** Half of a normal distribution, to the eye: the likelihood of few values may rise for ever towards it. */
const MOST_SHAPE = 200;

/** Log-density of the standardised variable. Concave. */
const logDensity = (z: number, shape: number): number =>
  Math.LN2 - HALF_LOG_2PI - 0.5 * z * z + logNormalCdf(shape * z);

/** log P[X <= x], 1e-9 relative in the probability. */
export function logSkewNormalCdf(x: number, { shape, location, scale }: SkewNormal): number {
  const z = (x - location) / scale;
  if (shape === 0) return logNormalCdf(z);
  const log = (t: number): number => logDensity(t, shape);
  const mode = modeOf(shape);
  const top = log(Math.min(z, mode));
  const from = Math.min(z, mode);
  // As steep as a normal density with the shape's factor is there, at most.
  let width = 1 / (1 + (1 + shape * shape) * Math.abs(from));
  while (log(from - width) > top - NOTHING) width *= 1.5;
  const density = (t: number): number => Math.exp(log(t) - top);
  // In the thin tail all of the mass is beside z.
  const tolerance = 1e-11 + 1e-15 * Math.abs(top);
  const mass = integral(density, from - width, z, tolerance);
  return Math.min(0, top + Math.log(mass));
}

/** By ternary search: the log-density is concave, and its mode within a standard deviation. */
function modeOf(shape: number): number {
  let [low, high] = [-1.5, 1.5];
  for (let i = 0; i < 80; i++) {
    const third = (high - low) / 3;
    if (logDensity(low + third, shape) < logDensity(high - third, shape)) low += third;
    else high -= third;
  }
  return (low + high) / 2;
}

const PIECES = 48;

/** Adaptive Simpson's rule, of a function whose largest value is about 1 and which is known to `tolerance`. */
function integral(f: (t: number) => number, from: number, to: number, tolerance: number): number {
  const step = (to - from) / PIECES;
  let sum = 0;
  const refine = (a: number, b: number, fa: number, fm: number, fb: number, whole: number, depth: number): number => {
    const m = (a + b) / 2;
    const [left, right] = [f((a + m) / 2), f((m + b) / 2)];
    const halves = [((m - a) / 6) * (fa + 4 * left + fm), ((b - m) / 6) * (fm + 4 * right + fb)] as const;
    const off = halves[0] + halves[1] - whole;
    if (depth === 0 || Math.abs(off) <= tolerance * (b - a)) return halves[0] + halves[1] + off / 15;
    return refine(a, m, fa, left, fm, halves[0], depth - 1) + refine(m, b, fm, right, fb, halves[1], depth - 1);
  };
  for (let i = 0; i < PIECES; i++) {
    const [a, b] = [from + i * step, from + (i + 1) * step];
    const [fa, fm, fb] = [f(a), f((a + b) / 2), f(b)];
    sum += refine(a, b, fa, fm, fb, (step / 6) * (fa + 4 * fm + fb), 16);
  }
  return sum;
}

/** Azzalini and Arellano-Valle (2013): what the penalised likelihood takes off, so that few values do not give a sharp edge. */
const penalty = (shape: number): number => 0.87591 * Math.log1p(0.85625 * shape * shape);

/**
 * @param values at least 8, not all the same
 * @param options.few By penalised likelihood: the likelihood alone may have its maximum at an infinite shape, all the more often the
 *   fewer values there are.
 */
export function fitSkewNormal(values: readonly number[], { few = false }: { few?: boolean } = {}): SkewNormal {
  const n = values.length;
  if (n < 8) throw invalid('references', `needs at least 8 values to fit a distribution to, not ${n}`);
  if (!values.every(Number.isFinite)) throw invalid('references', 'must be finite');
  const mean = values.reduce((a, b) => a + b, 0) / n;
  const deviation = Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / n);
  if (!(deviation > 0)) throw invalid('references', 'are all the same: nothing can be told from their spread');
  const data = values.map(x => (x - mean) / deviation);
  const cost = ([shape, location, logScale]: readonly number[]): number => {
    const scale = Math.exp(logScale!);
    const held = Math.max(-MOST_SHAPE, Math.min(MOST_SHAPE, shape!));
    let sum = 0;
    for (const x of data) sum -= logDensity((x - location!) / scale, held);
    return sum / n + logScale! + (few ? penalty(held) / n : 0);
  };
  const skew = data.reduce((sum, x) => sum + x ** 3, 0) / n;
  let best: { at: readonly number[]; cost: number } | undefined;
  for (const start of [momentStart(skew), momentStart(-skew), [3 * Math.sign(skew), 0, 0]]) {
    const found = descend(cost, descend(cost, start).at);
    if (best === undefined || found.cost < best.cost) best = found;
  }
  const [shape, location, logScale] = best!.at;
  return {
    shape: Math.max(-MOST_SHAPE, Math.min(MOST_SHAPE, shape!)),
    location: mean + deviation * location!,
    scale: deviation * Math.exp(logScale!),
  };
}

/** Shape, location and log scale of the standardised moments; a skewness beyond the family's is held inside. */
function momentStart(skewness: number): number[] {
  const g = Math.min(0.95, Math.abs(skewness)) ** (2 / 3);
  const delta = Math.sign(skewness) * Math.sqrt(((Math.PI / 2) * g) / (g + ((4 - Math.PI) / 2) ** (2 / 3)));
  const scale = 1 / Math.sqrt(1 - (2 * delta * delta) / Math.PI);
  return [delta / Math.sqrt(1 - delta * delta), -scale * delta * Math.sqrt(2 / Math.PI), Math.log(scale)];
}

/** Nelder and Mead's simplex (1965) in three dimensions. */
function descend(
  cost: (at: readonly number[]) => number,
  start: readonly number[],
): { at: readonly number[]; cost: number } {
  const of = (at: readonly number[]) => ({ at, cost: cost(at) });
  let simplex = [of(start), ...start.map((value, i) => of(start.with(i, value + 0.3 + 0.1 * Math.abs(value))))];
  for (let step = 0; step < 600; step++) {
    simplex.sort((a, b) => a.cost - b.cost);
    const [best, , second, worst] = simplex as [Point, Point, Point, Point];
    const size = Math.max(...worst.at.map((x, i) => Math.abs(x - best.at[i]!)));
    if (size < 1e-9 && worst.cost - best.cost < 1e-13) break;
    const centre = start.map((_, i) => (simplex[0]!.at[i]! + simplex[1]!.at[i]! + simplex[2]!.at[i]!) / 3);
    const along = (factor: number) => of(centre.map((c, i) => c + factor * (worst.at[i]! - c)));
    const mirrored = along(-1);
    if (mirrored.cost < best.cost) {
      const further = along(-2);
      simplex[3] = further.cost < mirrored.cost ? further : mirrored;
    } else if (mirrored.cost < second.cost) simplex[3] = mirrored;
    else {
      const nearer = along(mirrored.cost < worst.cost ? -0.5 : 0.5);
      if (nearer.cost < Math.min(mirrored.cost, worst.cost)) simplex[3] = nearer;
      else simplex = simplex.map(point => (point === best ? best : of(point.at.map((x, i) => (x + best.at[i]!) / 2))));
    }
  }
  return simplex.reduce((a, b) => (a.cost <= b.cost ? a : b));
}

interface Point {
  readonly at: readonly number[];
  readonly cost: number;
}
