/** What must hold of a trained head whatever the data were: the checks of `self-check.ts`, for heads. Public features only. */
import { headScores } from '../model/head.ts';
import type { Head } from '../model/types.ts';
import { norm } from '../privacy/audit/finding.ts';
import type { SecureStream } from '../privacy/index.ts';
import { HeadGradients } from './head-kernels.ts';
import { publicStatistics, standardise } from './head-space.ts';
import type { Finding } from './self-check.ts';

export interface HeadCheck {
  readonly head: Head;
  /** As the training was given them. */
  readonly publicFeatures: readonly Float32Array[];
  readonly labelFeatures: readonly (readonly Float32Array[])[];
  /** L2 distance of the weights from their start. */
  readonly change: number;
  /** Chooses the example and the directions. */
  readonly stream: SecureStream;
}

/** Nats on the sentences made from the labels' names beyond which a head is no head. */
const EXPLODED = 10;
/** Share of the weights' length that a step of a difference is. */
const STEP = 1e-3;
const DIRECTIONS = 3;
const TOLERANCE = 0.02;

export function headFindings({ head, publicFeatures, labelFeatures, change, stream }: HeadCheck): Finding[] {
  const { mean, scale } = publicStatistics(publicFeatures);
  const same = (a: Float32Array, b: Float32Array): boolean => Buffer.compare(bytes(a), bytes(b)) === 0;
  const frozen = same(mean, head.mean) && same(scale, head.scale) && head.bias.every(x => x === 0);
  const losses = labelFeatures.flatMap((features, label) => features.map(f => -Math.log(headScores(head, f)[label]!)));
  const loss = losses.reduce((sum, x) => sum + x, 0) / losses.length;
  const most = Math.log(head.labels.length) + EXPLODED;
  return [
    {
      check: 'trained weights have changed',
      ok: Number.isFinite(change) && change > 0 && head.weight.every(Number.isFinite),
      detail: `by ${change.toPrecision(4)}`,
    },
    {
      check: 'frozen weights are unchanged',
      ok: frozen,
      detail: "the statistics are those of the public sentences, and no label's bias was moved",
    },
    {
      check: 'loss on the public probe',
      ok: Number.isFinite(loss) && loss <= most,
      detail: `${loss.toFixed(4)} nats on the labels' own sentences, at most ${most.toFixed(4)} is let through`,
    },
    ...gradientFindings(head, labelFeatures, stream),
  ];
}

const bytes = (of: Float32Array): Uint8Array => new Uint8Array(of.buffer, of.byteOffset, of.byteLength);

/** The training's gradient of one example against differences of the loss that the served head's own code gives. */
function gradientFindings(
  head: Head,
  labelFeatures: readonly (readonly Float32Array[])[],
  stream: SecureStream,
): Finding[] {
  const label = stream.below(labelFeatures.length);
  const feature = labelFeatures[label]![stream.below(labelFeatures[label]!.length)]!;
  const hidden = feature.length;
  const one = new HeadGradients(
    standardise(feature, head.mean, head.scale),
    Int32Array.of(label),
    [{ from: 0, to: 1 }],
    { hidden, labels: head.labels.length },
  );
  let seen = Number.NaN;
  const gradient = Float64Array.from(
    one.sum(Float64Array.from(head.weight), found => {
      seen = found;
      return 1;
    }).sum,
  );
  one.dispose();
  const length = norm(gradient);
  const step = STEP * norm(head.weight);
  const loss = (direction: Float64Array, sign: number): number => {
    const weight = head.weight.map((x, i) => x + sign * step * direction[i]!);
    return -Math.log(headScores({ ...head, weight }, feature)[label]!);
  };
  let worst = 0;
  // An example that the head is sure of has next to no gradient: then only rounding is left to compare.
  const rounding = 1e-6 / step;
  for (let i = 0; i < DIRECTIONS; i++) {
    const random = Float64Array.from(stream.normal(gradient.length));
    // Half along the gradient, half anywhere.
    const far = norm(random);
    const mixed = random.map((x, j) => x / far + (length > 0 ? gradient[j]! / length : 0));
    const size = norm(mixed);
    const direction = mixed.map(x => x / size);
    const expected = direction.reduce((sum, x, j) => sum + x * gradient[j]!, 0);
    const found = (loss(direction, 1) - loss(direction, -1)) / (2 * step);
    worst = Math.max(worst, Math.abs(found - expected));
  }
  return [
    {
      check: 'gradient of the head',
      ok: worst <= TOLERANCE * length + rounding,
      detail: `${length.toPrecision(4)} long, off by up to ${worst.toPrecision(2)} from differences of the loss`,
    },
    {
      check: 'norm of an example in the head',
      ok: Math.abs(seen - length) <= 1e-3 * length + 1e-6,
      detail: `${seen.toPrecision(5)} for clipping, the gradient is ${length.toPrecision(5)} long`,
    },
  ];
}
