/**
 * Training that distrusts itself: what must hold of a training whatever the data were, checked before anything of it is kept. Each
 * check has a name, and a training that fails one is refused by it. None looks at private data: gradients and losses are those of
 * public sentences, and the noise is looked at only where it is added.
 */
import { createHash } from 'node:crypto';
import { LearndError } from '../../base/errors.ts';
import type { EngineAdapter, EngineModel } from '../model/engine/model.ts';
import { parameterOf } from '../model/engine/model.ts';
import { scoreTokens } from '../model/engine/score.ts';
import { disposeGradients } from '../model/engine/sinks.ts';
import { clippedUnitGradients, type Example, type Trainable } from '../model/engine/units.ts';
import type { Finding } from '../privacy/audit/finding.ts';
import { norm } from '../privacy/audit/finding.ts';
import type { DpPlan, SecureStream } from '../privacy/index.ts';
import { type Tensor, tensorflow } from '../tensor/backend.ts';

export type { Finding } from '../privacy/audit/finding.ts';

/** @throws LearndError('corrupt') naming every check that failed */
export function requireAll(findings: readonly Finding[]): void {
  const failed = findings.filter(finding => !finding.ok);
  if (failed.length > 0)
    throw new LearndError(
      'corrupt',
      `the training's own check failed: ${failed.map(({ check, detail }) => `${check} (${detail})`).join('; ')}`,
      { retriable: false },
    );
}

/** What a step released. */
export interface Release {
  /** Length of the noised sum, and of its noise alone. */
  readonly norm: number;
  readonly noise: number;
  /** Of so many numbers. */
  readonly numbers: number;
  /** Units drawn. */
  readonly drawn: number;
}

/** 6 standard deviations of the length of noise: a false alarm in 1e-9 of looks. */
const NOISE_SIGMAS = 6;

/**
 * Whether the noise is as large as was accounted for, and in the release: this is at least as long as the noise alone (what the units
 * gave does not make it shorter than chance allows), and at most that and every unit's full contribution.
 */
export function releaseFinding({ norm, noise, numbers, drawn }: Release, plan: DpPlan): Finding {
  const std = plan.gradientNoise * plan.sensitivity;
  const expected = std * Math.sqrt(numbers);
  const spread = (NOISE_SIGMAS * std) / Math.SQRT2;
  const least = Math.max(0, expected - spread);
  const most = expected + spread;
  const longest = most + 1.001 * plan.sensitivity * drawn;
  return {
    check: 'noise of a step',
    ok: noise >= least && noise <= most && norm >= least && norm <= longest,
    detail:
      `the noise is ${noise.toPrecision(4)} long, accounted for is ${least.toPrecision(4)} to ${most.toPrecision(4)}; ` +
      `the noised sum is ${norm.toPrecision(4)} long, at most ${longest.toPrecision(4)}`,
  };
}

/** Of tensors that are the parts of one sum. */
export function lengthOf(parts: Iterable<Tensor>): { norm: number; numbers: number } {
  const tf = tensorflow();
  let squares = 0;
  let numbers = 0;
  for (const part of parts) {
    squares += tf.tidy(() => tf.sum(tf.square(part)).dataSync()[0]!);
    numbers += part.size;
  }
  return { norm: Math.sqrt(squares), numbers };
}

/** sha256 of every weight, and of the adapter's where it stays as it is. SmolLM2-135M: about a second. */
export function fingerprints(model: EngineModel, adapter?: EngineAdapter): Map<string, string> {
  const found = new Map<string, string>();
  const add = (key: string, tensor: Tensor): void => {
    const data = tensor.dataSync();
    found.set(
      key,
      createHash('sha256')
        .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
        .digest('hex'),
    );
  };
  for (const name of model.parameterNames()) add(name, model.parameter(name));
  for (const [name, { a, b }] of adapter?.pairs ?? []) {
    add(`${name}.lora_a`, a);
    add(`${name}.lora_b`, b);
  }
  return found;
}

/** What was trained has changed, every part of it; what was frozen is the same to the last bit. */
export function changeFindings(
  before: ReadonlyMap<string, string>,
  after: ReadonlyMap<string, string>,
  trained: ReadonlySet<string>,
): Finding[] {
  const still = [...trained].filter(key => after.get(key) === undefined || before.get(key) === after.get(key));
  const moved = [...before].filter(([key, hash]) => !trained.has(key) && after.get(key) !== hash).map(([key]) => key);
  const some = (keys: readonly string[]): string => `${keys.length}: ${keys.slice(0, 3).join(', ')}`;
  return [
    {
      check: 'trained weights have changed',
      ok: still.length === 0,
      detail: still.length === 0 ? `all ${trained.size}` : `unchanged are ${some(still)}`,
    },
    {
      check: 'frozen weights are unchanged',
      ok: moved.length === 0,
      detail: moved.length === 0 ? `all ${before.size - trained.size}` : `changed are ${some(moved)}`,
    },
  ];
}

/** Worse than guessing by this much, and than before by that much, nats a token. */
const EXPLODED = { chance: 1, before: 0.5 } as const;

/** Loss on fixed public sentences: a number, and neither far worse than it was nor than chance. */
export function probeFinding(before: number, after: number, choices: number): Finding {
  const most = Math.max(before + EXPLODED.before, Math.log(choices) + EXPLODED.chance);
  return {
    check: 'loss on the public probe',
    ok: Number.isFinite(after) && after <= most,
    detail: `${after.toFixed(4)} nats, before ${before.toFixed(4)}, at most ${most.toFixed(4)} is let through`,
  };
}

export interface GradientCheck {
  readonly model: EngineModel;
  /** As it was trained: keys, adapter, lowest block. */
  readonly trainable: Trainable;
  /** One public example. */
  readonly example: Example;
  readonly tokenBias?: Float32Array;
  /** Chooses the tensor and the directions. */
  readonly stream: SecureStream;
  /** What is checked. Default: the private path of the deployed training. */
  readonly gradients?: typeof clippedUnitGradients;
}

/** Nats that the loss is moved by along the gradient; the share of a tensor's length that this, and a random step, may be. */
const ALONG = 4e-3;
const FARTHEST_ALONG = 0.1;
const ACROSS = 0.12;
const RANDOM_DIRECTIONS = 3;
const MOST_HALVINGS = 8;
/**
 * Of the gradient's length; and of the expected size of a random direction's part of it. A part that is missing is off by about that
 * size itself; at .1, the curvature of a sharp little model failed a sound training in one of some fifty.
 */
const TOLERANCE = { along: 0.03, across: 0.3 } as const;
/** Halving a step is to change a slope by no more than this share of what the slope is looked at for. */
const SETTLED = { along: 0.009, across: 0.03 } as const;
/** float32 rounding of a loss, nats. */
const ROUNDING = 2e-7;

/**
 * The private path's gradient of one example for one trained tensor of a random block, against finite differences of the loss that
 * the scoring path computes: along the gradient, which shows a wrong size, and along random directions, which shows a part that is
 * missing. The weights are put back bit for bit. Also: the norm that clipping would see is the length of that gradient.
 */
export async function gradientFindings(check: GradientCheck): Promise<Finding[]> {
  const { model, trainable, example, stream, tokenBias, gradients: compute = clippedUnitGradients } = check;
  const key = chooseKey(trainable, stream);
  const one: Trainable = {
    ...trainable,
    // An adapter's two matrices come together.
    keys: new Set(/\.lora_[ab]$/.test(key) ? [key.replace(/.$/, 'a'), key.replace(/.$/, 'b')] : [key]),
    size: parameterOf(model, trainable.adapter, key).size * 2,
    vocabulary: trainable.vocabulary && /embed_tokens|lm_head/.test(key),
  };
  const bias = tokenBias === undefined ? undefined : tensorflow().tensor1d(tokenBias);
  const { gradients, norms } = await compute(model, [[example]], one, () => 1, {
    maxTokens: Math.max(1024, example.tokens.length),
    tokenBias: bias,
  });
  bias?.dispose();
  const gradient = Float64Array.from(gradients.get(key)!.dataSync());
  const both = Math.hypot(...[...gradients.values()].map(of => norm(of.dataSync())));
  disposeGradients(gradients);
  const length = norm(gradient);
  const start = Float32Array.from(parameterOf(model, trainable.adapter, key).dataSync());
  const loss = (): number => {
    const score = scoreTokens(model, [example.tokens], {
      ...(trainable.adapter && { adapter: trainable.adapter }),
      tokenBias,
    })[0]!;
    return score.nll / score.tokens;
  };
  const difference = (direction: Float64Array, step: number): number => {
    const at = (sign: number): number => {
      put(
        model,
        trainable.adapter,
        key,
        start.map((x, i) => x + sign * step * direction[i]!),
      );
      return loss();
    };
    return (at(1) - at(-1)) / (2 * step);
  };
  /** Derivative along a direction, and how far rounding may have moved it: steps shrink until halving one changes little. */
  const slope = (direction: Float64Array, first: number, little: number): { value: number; rounding: number } => {
    let step = first;
    let whole = difference(direction, step);
    for (let tries = 0; ; tries++) {
      const half = difference(direction, step / 2);
      const rounding = (2 * ROUNDING) / step;
      if (Math.abs(whole - half) <= little + rounding || tries === MOST_HALVINGS)
        return { value: (4 * half - whole) / 3, rounding };
      step /= 2;
      whole = half;
    }
  };
  const weight = Math.max(norm(start), 1e-3);
  const findings: Finding[] = [];
  try {
    const unit = gradient.map(x => x / length);
    const step = Math.min(ALONG / length, FARTHEST_ALONG * weight);
    const { value: along, rounding } = slope(unit, step, SETTLED.along * length);
    findings.push({
      check: `gradient of ${key}`,
      ok: Number.isFinite(length) && length > 0 && Math.abs(along - length) <= TOLERANCE.along * length + rounding,
      detail: `${length.toPrecision(5)} long, by differences of the loss ${along.toPrecision(5)}`,
    });
    const size = length / Math.sqrt(gradient.length);
    const far = ACROSS * weight;
    let worst = 0;
    for (let i = 0; i < RANDOM_DIRECTIONS; i++) {
      const random = Float64Array.from(stream.normal(gradient.length));
      const scale = norm(random);
      const direction = random.map(x => x / scale);
      const expected = direction.reduce((sum, x, j) => sum + x * gradient[j]!, 0);
      const found = slope(direction, far, SETTLED.across * size);
      worst = Math.max(worst, Math.abs(found.value - expected) - found.rounding);
    }
    findings.push({
      check: `gradient of ${key}, all of it`,
      ok: worst <= TOLERANCE.across * size,
      detail: `along random directions off by up to ${worst.toPrecision(3)}, where ${size.toPrecision(3)} is usual`,
    });
  } finally {
    put(model, trainable.adapter, key, start);
  }
  findings.push({
    check: `norm of an example in ${key}`,
    ok: Math.abs(norms[0]! - both) <= 1e-3 * both,
    detail: `${norms[0]!.toPrecision(5)} for clipping, the gradient is ${both.toPrecision(5)} long`,
  });
  return findings;
}

/** A random block first, so that small tensors are not passed over for the many of a large block; then a tensor of it. */
function chooseKey({ keys }: Trainable, stream: SecureStream): string {
  const blocks = new Map<string, string[]>();
  for (const key of keys) {
    const block = /^model\.layers\.\d+\./.exec(key)?.[0] ?? 'rest';
    blocks.set(block, [...(blocks.get(block) ?? []), key]);
  }
  const inBlocks = [...blocks].filter(([block]) => block !== 'rest');
  const from = (inBlocks.length > 0 ? inBlocks : [...blocks]).map(([, of]) => of);
  const block = from[stream.below(from.length)]!;
  return block[stream.below(block.length)]!;
}

function put(model: EngineModel, adapter: EngineAdapter | undefined, key: string, data: Float32Array): void {
  const tf = tensorflow();
  const value = tf.keep(tf.tensor(data, [...parameterOf(model, adapter, key).shape]));
  const match = /^(.*)\.lora_([ab])$/.exec(key);
  if (match === null) {
    model.setParameter(key, value);
    return;
  }
  const pair = adapter!.pairs.get(match[1]!)!;
  const side = match[2] as 'a' | 'b';
  pair[side].dispose();
  pair[side] = value;
}
