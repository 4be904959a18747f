/**
 * Constraints as part of the objective: an augmented Lagrangian with dual ascent (Nocedal & Wright, ch. 17). Each constraint's gradient
 * enters with a multiplier that grows while it is violated and falls while it is not, plus a penalty while it is violated. Gradients
 * are put on the scale of the step's own (which is noised, so its length is free to use): a multiplier of 1 pulls as hard as the data,
 * whatever the method, the clipping and the units of the constraint.
 */
import { disposeGradients, type Gradients } from '../../model/engine/sinks.ts';
import type { Example } from '../../model/engine/units.ts';
import { type Tensor, tensorflow } from '../../tensor/backend.ts';
import type { Beside, BesidePass, Drawn } from '../beside.ts';
import type { Item } from '../objectives/objective.ts';
import {
  type Anchor,
  addScaled,
  divergenceGradient,
  logProbabilityGradient,
  measureDivergence,
  norm,
  replayGradient,
  scale,
  type TermGradient,
} from '../public-terms.ts';
import type { ItemFacts } from './counts.ts';
import { Multiplier, Steering } from './duals.ts';
import { probeProbabilities } from './forbidden.ts';
import {
  type ConstraintReport,
  type ConstraintSpec,
  isCounted,
  isMet,
  isPublic,
  type PatternProbe,
  type PublicConstraint,
  reportOf,
} from './spec.ts';

export interface TermsRequest {
  /** Public text replayed: `share` of a step's gradient (5% is usual for a weak shift, 2403.08763). */
  readonly replay?: { readonly share: number; readonly sequences: readonly (readonly number[])[] };
  /** KL to the base as a penalty of fixed weight, in the scale of the step's gradient. */
  readonly kl?: { readonly weight: number };
  /** Public text with the base's distributions; for `kl` and kl_to_base. */
  readonly anchors?: readonly Anchor[];
  readonly constraints?: readonly ConstraintSpec[];
  /** Scored sequences of each forbidden constraint, in the order of `constraints`. */
  readonly probes?: ReadonlyMap<ConstraintSpec, readonly Example[]>;
  /** The likeliest texts of a form under the weights as they are; needed where a constraint has patterns. */
  readonly search?: (pass: BesidePass, pattern: PatternProbe) => Promise<readonly Example[]>;
  /** Of the items of a label choice, for recall and gaps. */
  readonly facts?: ReadonlyMap<Item, ItemFacts>;
  /** Public sequences looked at in a step. Default 8. */
  readonly perStep?: number;
}

/** Steps on public data alone after the last one of the training, each of this share of the way from the start. */
const REPAIRS = 10;
const REPAIR_SHARE = 0.15;
/** Full KL is kept this far below its bound, so that storing the weights does not cross it. */
const KL_MARGIN = 0.98;

export class Terms implements Beside {
  readonly name: string;
  readonly #request: TermsRequest;
  readonly #constraints: readonly ConstraintSpec[];
  readonly #steering: Steering | undefined;
  readonly #multipliers: ReadonlyMap<PublicConstraint, Multiplier>;
  readonly #before = new Map<ConstraintSpec, number>();
  readonly #after = new Map<ConstraintSpec, number>();
  readonly #start = new Map<string, Tensor>();
  /** Sequences of each forbidden constraint: what is written out, and what was found of its forms. */
  readonly #probes = new Map<ConstraintSpec, readonly Example[]>();

  constructor(request: TermsRequest) {
    const { constraints = [], replay, kl, facts, probes } = request;
    this.#request = request;
    for (const [constraint, of] of probes ?? []) this.#probes.set(constraint, of);
    this.#constraints = constraints;
    this.#multipliers = new Map(constraints.filter(isPublic).map(constraint => [constraint, new Multiplier()]));
    const counted = constraints.filter(isCounted);
    this.#steering = counted.length === 0 ? undefined : new Steering(counted, facts ?? new Map());
    this.name = JSON.stringify({ constraints, replay: replay?.share, kl });
  }

  /** A constraint looks at the units drawn: the plan must have noise for it. */
  get counts(): boolean {
    return this.#steering !== undefined;
  }

  /** What is likely changes with the weights: what was found before is kept beside what is found now. */
  async #search(pass: BesidePass): Promise<void> {
    for (const constraint of this.#constraints) {
      if (constraint.kind !== 'forbidden') continue;
      const known = new Map((this.#probes.get(constraint) ?? []).map(probe => [probe.tokens.join(), probe]));
      for (const pattern of constraint.patterns ?? [])
        for (const found of await this.#request.search!(pass, pattern)) known.set(found.tokens.join(), found);
      this.#probes.set(constraint, [...known.values()]);
    }
  }

  async begin(pass: BesidePass): Promise<void> {
    await this.#search(pass);
    for (const constraint of this.#constraints.filter(isPublic))
      this.#before.set(constraint, await this.#measure(pass, constraint));
    if (this.#before.size === 0) return;
    const tf = tensorflow();
    for (const key of pass.parameters.keys())
      this.#start.set(
        key,
        tf.tidy(() => tf.keep(tf.add(pass.parameters.get(key), 0))),
      );
  }

  itemFactor = (item: Item): number => this.#steering?.weight(item) ?? 1;

  unitFactor = (outcomes: Drawn['outcomes'][number]): number =>
    this.#steering?.unitFactor(outcomes.map(({ item }) => item)) ?? 1;

  async step(gradients: Gradients, pass: BesidePass, drawn: Drawn): Promise<void> {
    const { replay, kl, anchors = [] } = this.#request;
    const own = norm(gradients);
    if (replay !== undefined && replay.share > 0) {
      const { gradients: more } = await replayGradient(pass, this.#some(replay.sequences, drawn.step));
      scale(gradients, 1 - replay.share);
      addScaled(gradients, more, replay.share);
    }
    if (kl !== undefined && kl.weight > 0 && drawn.step > 0) {
      const { gradients: more } = await divergenceGradient(pass, this.#some(anchors, drawn.step));
      addScaled(gradients, more, kl.weight);
    }
    for (const [constraint, multiplier] of this.#multipliers) {
      const factor = multiplier.ascend(constraint, await this.#measure(pass, constraint, drawn.step));
      if (factor === 0) continue;
      const { gradients: more } = await this.#gradient(pass, constraint, drawn.step);
      const length = norm(more);
      addScaled(gradients, more, length > 0 ? (factor * own) / length : 0);
    }
    this.#steering?.count(pass.plan, drawn.step, drawn.outcomes);
  }

  /** A part of the public data, another one each step; the same for a step that is replayed. */
  #some<T>(all: readonly T[], step: number): T[] {
    const count = Math.min(all.length, this.#request.perStep ?? 8);
    return Array.from({ length: count }, (_, i) => all[(step * count + i) % all.length]!);
  }

  /** On all public text, or on a step's part of it. */
  async #measure(pass: BesidePass, constraint: PublicConstraint, step?: number): Promise<number> {
    const { anchors = [] } = this.#request;
    if (constraint.kind === 'kl_to_base')
      return await measureDivergence(pass, step === undefined ? anchors : this.#some(anchors, step));
    return Math.max(...(await probeProbabilities(pass, this.#probes.get(constraint)!)));
  }

  async #gradient(pass: BesidePass, constraint: PublicConstraint, step?: number): Promise<TermGradient> {
    const { anchors = [] } = this.#request;
    if (constraint.kind === 'kl_to_base')
      return await divergenceGradient(pass, step === undefined ? anchors : this.#some(anchors, step));
    const all = this.#probes.get(constraint)!;
    const found = await probeProbabilities(pass, all);
    const above = all.filter((_, i) => found[i]! > constraint.atMost / 2);
    return { gradients: await logProbabilityGradient(pass, above.length > 0 ? above : all), value: Math.max(...found) };
  }

  /**
   * On public data alone: steps down the gradients of what is still violated, and for the KL at last the longest part of the way from
   * the start that keeps it (at the start of a base's first round it is zero).
   */
  async end(pass: BesidePass): Promise<void> {
    const constraints = this.#constraints.filter(isPublic);
    if (constraints.length === 0) return;
    await this.#search(pass);
    const values = new Map<PublicConstraint, number>();
    const violated = async (): Promise<PublicConstraint[]> => {
      for (const constraint of constraints) values.set(constraint, await this.#measure(pass, constraint));
      return constraints.filter(constraint => !kept(constraint, values.get(constraint)!));
    };
    let wrong = await violated();
    for (let repair = 0; repair < REPAIRS && wrong.length > 0; repair++) {
      let direction: Gradients | undefined;
      for (const constraint of wrong) {
        const { gradients } = await this.#gradient(pass, constraint);
        scale(gradients, 1 / Math.max(1e-30, norm(gradients)));
        if (direction === undefined) direction = gradients;
        else addScaled(direction, gradients, 1);
      }
      const length = norm(direction!);
      const size = REPAIR_SHARE * 0.95 ** repair * this.#distance(pass);
      if (length > 0) this.#move(pass, direction!, -size / length);
      disposeGradients(direction!);
      wrong = await violated();
    }
    const kl = wrong.find(constraint => constraint.kind === 'kl_to_base');
    if (kl !== undefined) await this.#shorten(pass, kl, violated);
    for (const [constraint, value] of values) this.#after.set(constraint, value);
  }

  /** The longest part of the way from the start (of eighths halved twice) on which the KL is kept. */
  async #shorten(pass: BesidePass, kl: PublicConstraint, violated: () => Promise<PublicConstraint[]>): Promise<void> {
    const tf = tensorflow();
    const reached = new Map(
      [...pass.parameters.keys()].map(key => [key, tf.tidy(() => tf.keep(tf.add(pass.parameters.get(key), 0)))]),
    );
    const go = async (share: number): Promise<boolean> => {
      for (const [key, end] of reached) {
        const start = this.#start.get(key)!;
        const at = tf.tidy(() => tf.keep(tf.add(start, tf.mul(tf.sub(end, start), share))));
        pass.parameters.set(key, at);
      }
      return !(await violated()).includes(kl);
    };
    let [low, high] = [0, 1];
    for (let halving = 0; halving < 6; halving++) {
      const middle = (low + high) / 2;
      if (await go(middle)) low = middle;
      else high = middle;
    }
    // Where no part keeps it, the shortest is left: nothing would have been learned, and the report says that the bound is not met.
    await go(low > 0 ? low : high);
    for (const tensor of reached.values()) tensor.dispose();
  }

  #distance({ parameters }: BesidePass): number {
    const tf = tensorflow();
    let square = 0;
    for (const [key, start] of this.#start)
      square += tf.tidy(() => tf.sum(tf.square(tf.sub(parameters.get(key), start))).dataSync()[0]!);
    return Math.sqrt(square);
  }

  #move({ parameters }: BesidePass, direction: Gradients, factor: number): void {
    const tf = tensorflow();
    for (const [key, along] of direction)
      parameters.set(
        key,
        tf.tidy(() => tf.keep(tf.add(parameters.get(key), tf.mul(along, factor)))),
      );
  }

  /** Public constraints with what they were before and after; recall and gaps are for held-out users to say. */
  report(): ConstraintReport[] {
    return this.#constraints
      .filter(isPublic)
      .map(constraint => reportOf(constraint, this.#before.get(constraint), this.#after.get(constraint)));
  }

  /** Estimates of recall and gaps from the noised counts; for tests and progress. */
  estimates(): (number | undefined)[] {
    return this.#steering?.estimates() ?? [];
  }

  state(): number[] {
    return [...[...this.#multipliers.values()].map(({ value }) => value), ...(this.#steering?.state() ?? [])];
  }

  restore(state: readonly number[]): void {
    [...this.#multipliers.values()].forEach((multiplier, i) => {
      multiplier.value = state[i] ?? 0;
    });
    this.#steering?.restore(state.slice(this.#multipliers.size));
  }

  dispose(): void {
    for (const tensor of this.#start.values()) tensor.dispose();
    this.#start.clear();
  }
}

const kept = (constraint: PublicConstraint, value: number): boolean =>
  constraint.kind === 'kl_to_base' ? value <= constraint.atMost * KL_MARGIN : isMet(constraint, value) === true;
